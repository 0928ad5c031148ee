//! Randomness: a generator per shard, and seeded ones for scenarios that must repeat.

use crate::shard::with_core;

/// xoshiro256++ (Blackman and Vigna, 2019), seeded through splitmix64. Not for secrets.
#[derive(Clone, Debug)]
pub struct SeededRng([u64; 4]);

impl SeededRng {
    /// The generator whose whole sequence follows from `seed`.
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        }))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in `0..bound`, or 0 when `bound` is 0 (Lemire's multiplication; bias below 2^-64 · bound).
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Fills `bytes` with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Handle on the generator of the shard it is used on.
#[derive(Clone, Copy, Debug)]
pub struct Rng(());

/// The generator of this shard. Panics off the shards.
pub fn rng() -> Rng {
    Rng(())
}

impl Rng {
    fn with<T>(f: impl FnOnce(&mut SeededRng) -> T) -> T {
        with_core(|core| f(&mut core.rng.borrow_mut()))
    }

    /// The next 64 random bits.
    pub fn next_u64(self) -> u64 {
        Self::with(SeededRng::next_u64)
    }

    /// A number in `0..bound`, or 0 when `bound` is 0.
    pub fn below(self, bound: u64) -> u64 {
        Self::with(|rng| rng.below(bound))
    }

    /// A number in `[0, 1)`.
    pub fn unit(self) -> f64 {
        Self::with(SeededRng::unit)
    }

    /// Fills `bytes` with random bytes.
    pub fn fill(self, bytes: &mut [u8]) {
        Self::with(|rng| rng.fill(bytes));
    }
}

/// Octets that nobody can guess, the kernel's: for nonces, salts and keys. They follow from no seed, also in the simulator.
pub fn secret<const N: usize>() -> [u8; N] {
    const { assert!(N <= 256, "getrandom may be interrupted when it is asked for more") }
    let mut bytes = [0u8; N];
    // SAFETY: the pointer and length describe the local array, which the call only writes.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(
        usize::try_from(got),
        Ok(N),
        "getrandom gives up to 256 bytes whole once the pool is initialised"
    );
    bytes
}

/// 64 bits of the kernel's entropy.
pub(crate) fn entropy() -> u64 {
    u64::from_le_bytes(secret())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ() {
        // Proves: what the kernel gives fills the array, and is another each time.
        let (one, other) = (secret::<18>(), secret::<18>());
        assert_ne!(one, other);
        assert!([one, other].iter().all(|bytes| bytes.iter().any(|byte| *byte != bytes[0])));
    }

    /// The same seed gives the same sequence, and `below` stays below its bound.
    #[test]
    fn sequences_repeat() {
        let (mut a, mut b) = (SeededRng::new(7), SeededRng::new(7));
        for bound in 1..1000 {
            assert_eq!(a.next_u64(), b.next_u64());
            assert!(a.below(bound) < bound);
            b.below(bound);
            assert!((0.0..1.0).contains(&a.unit()));
            b.unit();
        }
    }
}
