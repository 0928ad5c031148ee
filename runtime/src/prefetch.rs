//! Bringing memory into the cache before it is needed.

/// Begins to fetch the first `LINES` lines of 64 octets from where `place` is. Harmless wherever that is.
#[inline(always)]
pub(crate) fn prefetch<const LINES: usize, T: ?Sized>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..LINES {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint: it reads nothing, and addresses without memory are ignored.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast::<i8>().wrapping_add(line * 64)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
