//! Hash maps with a seed that the runtime controls: random per process against crafted keys, fixed by the
//! simulator so that iteration order repeats.

use std::hash::BuildHasher;
use std::sync::OnceLock;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

/// `std::collections::HashMap` with the runtime's seeded hasher.
pub type HashMap<K, V> = std::collections::HashMap<K, V, Seeded>;
/// `std::collections::HashSet` with the runtime's seeded hasher.
pub type HashSet<K> = std::collections::HashSet<K, Seeded>;

static SEED: OnceLock<(u64, SharedSeed)> = OnceLock::new();

/// The hasher state of [`HashMap`] and [`HashSet`]: one seed per process.
#[derive(Clone, Copy, Debug)]
pub struct Seeded(&'static (u64, SharedSeed));

impl Default for Seeded {
    fn default() -> Self {
        Self(SEED.get_or_init(|| {
            let seed = crate::rng::entropy();
            (seed, SharedSeed::from_u64(seed.rotate_left(32)))
        }))
    }
}

impl BuildHasher for Seeded {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> FoldHasher<'static> {
        FoldHasher::with_seed(self.0.0, &self.0.1)
    }
}
