//! Which sites have lately taken mail, also those that are forgotten between two messages.

use std::hash::BuildHasher;
use std::time::Duration;

use chasqui_runtime::{HashSet, Instant};

use crate::route::SiteKey;

/// Sites of a generation; there are two.
const GENERATION_MAX: usize = 32_768;
/// How long a generation grows.
const GENERATION_LIFE: Duration = Duration::from_secs(1800);

/// Sites that have taken mail within the last half to whole hour, or that were the last 32,768 to 65,536 of them: by a hash of
/// eight octets under a seed that nobody else knows.
#[derive(Debug)]
pub(super) struct Proven {
    young: HashSet<u64>,
    old: HashSet<u64>,
    since: Instant,
}

impl Default for Proven {
    fn default() -> Self {
        Proven { young: HashSet::default(), old: HashSet::default(), since: Instant::from_nanos(0) }
    }
}

impl Proven {
    pub(super) fn add(&mut self, site: &SiteKey, now: Instant) {
        if now - self.since > GENERATION_LIFE || self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
            self.since = now;
        }
        let hash = self.hash(site);
        self.young.insert(hash);
    }

    pub(super) fn contains(&self, site: &SiteKey) -> bool {
        let hash = self.hash(site);
        self.young.contains(&hash) || self.old.contains(&hash)
    }

    pub(super) fn remove(&mut self, site: &SiteKey) {
        let hash = self.hash(site);
        self.young.remove(&hash);
        self.old.remove(&hash);
    }

    fn hash(&self, site: &SiteKey) -> u64 {
        self.young.hasher().hash_one(site)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A site is remembered for half an hour at least, whatever else is, and not for ever.
    #[test]
    fn sites_are_remembered_for_a_while() {
        let (mut proven, at) = (Proven::default(), |s: u64| Instant::from_nanos(s * 1_000_000_000));
        let key = |name: String| SiteKey::from(name.as_str());
        proven.add(&key("a".into()), at(10_000));
        proven.add(&key("b".into()), at(11_700));
        assert!(proven.contains(&key("a".into())) && proven.contains(&key("b".into())));
        assert!(!proven.contains(&key("c".into())));
        proven.add(&key("c".into()), at(13_500));
        proven.add(&key("d".into()), at(15_400));
        assert!(!proven.contains(&key("a".into())), "it has not taken mail for long");
        assert!(proven.contains(&key("c".into())));
        for other in 0..3 * GENERATION_MAX {
            proven.add(&key(other.to_string()), at(15_401));
        }
        assert!(proven.young.len() + proven.old.len() <= 2 * GENERATION_MAX);
        proven.add(&key("e".into()), at(15_402));
        proven.remove(&key("e".into()));
        assert!(!proven.contains(&key("e".into())));
    }
}
