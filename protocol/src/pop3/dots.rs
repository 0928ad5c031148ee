//! Byte-stuffing of multi-line responses: a line that begins with `.` gets another one, `.` CR LF ends the response.

use memchr::memchr;

/// The end of a multi-line response whose last line ended in CR LF.
pub const TERMINATOR: &[u8] = b".\r\n";

/// Stuffs a message on its way to a client. Lines end in CR LF; a lone CR or LF does not begin a line.
#[derive(Debug)]
pub struct Stuffer {
    line_start: bool,
    carriage_return: bool,
}

impl Default for Stuffer {
    fn default() -> Self {
        Stuffer { line_start: true, carriage_return: false }
    }
}

impl Stuffer {
    /// Appends the stuffed form of `piece` to `output`.
    pub fn push(&mut self, piece: &[u8], output: &mut Vec<u8>) {
        let mut rest = piece;
        while let Some(&first) = rest.first() {
            if self.line_start && first == b'.' {
                output.push(b'.');
            }
            self.line_start = false;
            let Some(newline) = memchr(b'\n', rest) else {
                self.carriage_return = rest.last() == Some(&b'\r');
                output.extend_from_slice(rest);
                return;
            };
            let before = if newline == 0 { self.carriage_return } else { rest[newline - 1] == b'\r' };
            self.line_start = before;
            self.carriage_return = false;
            output.extend_from_slice(&rest[..=newline]);
            rest = &rest[newline + 1..];
        }
    }

    /// Appends the terminator, on a line of its own.
    pub fn finish(self, output: &mut Vec<u8>) {
        if !self.line_start {
            output.extend_from_slice(b"\r\n");
        }
        output.extend_from_slice(TERMINATOR);
    }
}

/// What [`Unstuffer::next_piece`] found at the front of its input.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// All input is used up.
    NeedInput,
    /// Bytes of the message.
    Bytes(&'a [u8]),
    /// The terminator: the message is complete.
    End,
}

/// Takes the stuffing off a multi-line response, piece by piece and without a copy.
#[derive(Debug, Default)]
pub struct Unstuffer {
    state: UnstuffState,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum UnstuffState {
    #[default]
    LineStart,
    /// A dot at the start of a line is held back: stuffing or the terminator.
    Dot,
    /// After the held dot a CR.
    DotCarriageReturn,
    Line {
        carriage_return: bool,
    },
}

impl Unstuffer {
    /// Returns how many bytes of `input` are used up and what they are. After [`Piece::End`] the rest of the input
    /// belongs to the next response.
    pub fn next_piece<'a>(&mut self, input: &'a [u8]) -> (usize, Piece<'a>) {
        let mut position = 0;
        while let Some(&byte) = input.get(position) {
            match self.state {
                UnstuffState::LineStart if byte == b'.' => {
                    self.state = UnstuffState::Dot;
                    position += 1;
                }
                UnstuffState::Dot if byte == b'\r' => {
                    self.state = UnstuffState::DotCarriageReturn;
                    position += 1;
                }
                UnstuffState::DotCarriageReturn if byte == b'\n' => {
                    self.state = UnstuffState::LineStart;
                    return (position + 1, Piece::End);
                }
                UnstuffState::DotCarriageReturn => {
                    self.state = UnstuffState::Line { carriage_return: true };
                    return (position, Piece::Bytes(b"\r"));
                }
                UnstuffState::LineStart | UnstuffState::Dot => {
                    self.state = UnstuffState::Line { carriage_return: false };
                }
                UnstuffState::Line { carriage_return } => {
                    let end = self.scan_line(input, position, carriage_return);
                    return (end, Piece::Bytes(&input[position..end]));
                }
            }
        }
        (position, Piece::NeedInput)
    }

    /// Finds the end of the bytes that can be passed on as they are: up to a dot at the start of a line.
    fn scan_line(&mut self, input: &[u8], start: usize, carriage_return: bool) -> usize {
        let mut position = start;
        while let Some(offset) = memchr(b'\n', &input[position..]) {
            let newline = position + offset;
            let before = if newline == start { carriage_return } else { input[newline - 1] == b'\r' };
            position = newline + 1;
            let next = input.get(position);
            if before && (next.is_none() || next == Some(&b'.')) {
                self.state = UnstuffState::LineStart;
                return position;
            }
        }
        self.state = UnstuffState::Line { carriage_return: input.last() == Some(&b'\r') };
        input.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuff(pieces: &[&[u8]]) -> Vec<u8> {
        let mut stuffer = Stuffer::default();
        let mut output = Vec::new();
        for piece in pieces {
            stuffer.push(piece, &mut output);
        }
        stuffer.finish(&mut output);
        output
    }

    /// Whatever the split of the input, what was stuffed comes back unchanged, and bytes after the end are left.
    #[test]
    fn round_trip_at_every_split() {
        let messages: &[&[u8]] = &[
            b"",
            b".\r\n",
            b"..\r\n.\r\n",
            b"a\r\n.b\r\n..c\r\n\r\n",
            b".\rx\r\n",
            b"a\n.b\r.c\r\n",
            b"a\r\r\n.\r\r\n",
            b".\r.\r\n",
        ];
        for message in messages {
            for split in 0..=message.len() {
                let mut wire = stuff(&[&message[..split], &message[split..]]);
                assert_eq!(wire, stuff(&[message]));
                wire.extend_from_slice(b"+OK");
                for cut in 0..=wire.len() {
                    let mut unstuffer = Unstuffer::default();
                    let mut seen = Vec::new();
                    let mut left = Vec::new();
                    let mut ended = false;
                    for part in [&wire[..cut], &wire[cut..]] {
                        let mut rest = part;
                        while !ended {
                            let (used, piece) = unstuffer.next_piece(rest);
                            rest = &rest[used..];
                            match piece {
                                Piece::NeedInput => break,
                                Piece::Bytes(bytes) => seen.extend_from_slice(bytes),
                                Piece::End => ended = true,
                            }
                        }
                        left.extend_from_slice(rest);
                    }
                    assert_eq!(&seen, message, "split {split} cut {cut}");
                    assert_eq!(left, b"+OK");
                }
            }
        }
    }

    /// A message whose last line has no end gets one, because the terminator needs a line of its own.
    #[test]
    fn unfinished_line_is_ended() {
        assert_eq!(stuff(&[b"abc"]), b"abc\r\n.\r\n");
        assert_eq!(stuff(&[b"abc\r", b"\n"]), b"abc\r\n.\r\n");
    }
}
