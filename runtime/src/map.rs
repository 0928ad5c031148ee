//! Hash maps with a seed that the runtime controls: random per process against crafted keys, fixed by the
//! simulator so that iteration order repeats.

use std::hash::BuildHasher;
use std::sync::OnceLock;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

use crate::sim;

/// `std::collections::HashMap` with the runtime's seeded hasher.
pub type HashMap<K, V> = std::collections::HashMap<K, V, Seeded>;
/// `std::collections::HashSet` with the runtime's seeded hasher.
pub type HashSet<K> = std::collections::HashSet<K, Seeded>;

static SEED: OnceLock<(u64, SharedSeed)> = OnceLock::new();
static SIMULATED: SharedSeed = SharedSeed::from_u64(1);

/// The hasher state of [`HashMap`] and [`HashSet`]: one seed per process, or per simulation.
#[derive(Clone, Copy, Debug)]
pub struct Seeded {
    seed: u64,
    shared: &'static SharedSeed,
}

impl Default for Seeded {
    fn default() -> Self {
        if let Some(seed) = sim::map_seed() {
            return Self { seed, shared: &SIMULATED };
        }
        let (seed, shared) = SEED.get_or_init(|| {
            let seed = crate::rng::entropy();
            (seed, SharedSeed::from_u64(seed.rotate_left(32)))
        });
        Self { seed: *seed, shared }
    }
}

impl BuildHasher for Seeded {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> FoldHasher<'static> {
        FoldHasher::with_seed(self.seed, self.shared)
    }
}
