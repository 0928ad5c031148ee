//! Sequence sets as sorted ranges of numbers.

use imap_codec::imap_types::sequence::{SeqOrUid, Sequence, SequenceSet};

/// The numbers of a sequence set as inclusive ranges, sorted and disjoint; `*` is `largest`, the highest number in
/// use (RFC 3501 section 9, `seq-number`). With `largest` 0 there is no message for `*` to mean: such elements are
/// left out.
pub fn ranges(set: &SequenceSet, largest: u32) -> Vec<(u32, u32)> {
    let number = |element: &SeqOrUid| match element {
        SeqOrUid::Value(value) => Some(value.get()),
        SeqOrUid::Asterisk if largest > 0 => Some(largest),
        SeqOrUid::Asterisk => None,
    };
    let mut found: Vec<(u32, u32)> = Vec::with_capacity(set.0.as_ref().len());
    for sequence in set.0.as_ref() {
        let (first, last) = match sequence {
            Sequence::Single(element) => (number(element), number(element)),
            Sequence::Range(first, last) => (number(first), number(last)),
        };
        if let (Some(first), Some(last)) = (first, last) {
            found.push((first.min(last), first.max(last)));
        }
    }
    found.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::with_capacity(found.len());
    for (first, last) in found {
        match merged.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// Whether sorted, disjoint ranges contain a number.
pub fn contains(ranges: &[(u32, u32)], number: u32) -> bool {
    let after = ranges.partition_point(|range| range.0 <= number);
    after > 0 && ranges[after - 1].1 >= number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, largest: u32) -> Vec<(u32, u32)> {
        ranges(&text.parse().unwrap(), largest)
    }

    /// Overlapping, reversed and open ranges come out sorted and disjoint.
    #[test]
    fn ranges_are_normal() {
        assert_eq!(parsed("5,1:3,4", 9), [(1, 5)]);
        assert_eq!(parsed("9:7,2,2", 9), [(2, 2), (7, 9)]);
        assert_eq!(parsed("559:*", 10), [(10, 559)]);
        assert_eq!(parsed("*", 10), [(10, 10)]);
        assert_eq!(parsed("1:*,3", 0), [(3, 3)]);
        assert_eq!(parsed("4294967295,1:4294967294", 3), [(1, u32::MAX)]);
    }

    /// Membership at every border.
    #[test]
    fn contains_is_exact() {
        let ranges = parsed("2:4,7", 9);
        let members: Vec<u32> = (0..10).filter(|&number| contains(&ranges, number)).collect();
        assert_eq!(members, [2, 3, 4, 7]);
    }
}
