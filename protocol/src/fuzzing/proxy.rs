//! Headers of the PROXY protocol.

use crate::proxy::{Header, HeaderError, HeaderReader};

/// Octets of the longest header of each version, as haproxy's text and this reader have them.
const V1_MAX: usize = 107;
const V2_MAX: usize = 2048;

/// The first byte says how the rest is cut. Whatever it is: pieces say the same as the whole, nothing behind a header is taken, and
/// nothing behind it changes what it says.
pub fn proxy(input: &[u8]) {
    let Some((cut, octets)) = input.split_first() else { return };
    let whole = read(octets.chunks(octets.len().max(1)));
    assert_eq!(read(octets.chunks(usize::from(*cut) + 1)), whole, "cut into pieces");
    assert_eq!(read(octets.chunks(1)), whole, "octet by octet");
    if octets.len() <= 300 {
        for split in 1..octets.len() {
            let (first, second) = octets.split_at(split);
            assert_eq!(read([first, second].into_iter()), whole, "split at {split}");
        }
    }
    let Ok(Some((length, header))) = whole else { return };
    let longest = if octets.starts_with(b"PROXY ") { V1_MAX } else { V2_MAX };
    assert!(length <= longest.min(octets.len()));
    let alone = &octets[..length];
    assert_eq!(read([alone].into_iter()), Ok(Some((length, header))), "alone");
    assert_eq!(read([&alone[..length - 1]].into_iter()), Ok(None), "an octet is missing");
    let other = [alone, b"PROXY TCP4 \r\n\r\n\0\r\nQUIT\n"].concat();
    assert_eq!(read([other.as_slice()].into_iter()), Ok(Some((length, header))), "with other octets behind");
}

/// How many octets the header has, and what it says; none: it is not complete.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Option<(usize, Header)>, HeaderError> {
    let mut reader = HeaderReader::default();
    let mut taken = 0;
    for piece in pieces {
        let (used, header) = reader.handle_input(piece)?;
        assert!(used <= piece.len());
        taken += used;
        if let Some(header) = header {
            return Ok(Some((taken, header)));
        }
        assert_eq!(used, piece.len(), "what is not complete takes all");
    }
    Ok(None)
}
