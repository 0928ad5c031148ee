//! Command lines out of pieces of input.

use memchr::memchr;

use super::Session;
use crate::foreign;

/// Octets of a line over the limit that are read for its end; at more the session ends.
const LINE_EXCESS_MAX: usize = 128 << 10;

/// A command line taken from the input.
pub(super) enum Line {
    Partial,
    /// The line is in the input, up to here and without its LF.
    Whole(usize),
    /// The line is in `Session::line`, without its LF.
    Joined,
    TooLong,
    /// It has no end.
    Endless,
    /// It begins as no line of SMTP does.
    Foreign,
}

impl Session {
    /// Takes the next line out of the input, keeping at most the allowed length of one that is incomplete.
    pub(super) fn take_line(&mut self, input: &[u8]) -> (usize, Line) {
        let begins = self.line.is_empty() && !self.overlong;
        if begins && input.first().is_some_and(|&octet| !foreign::can_begin_line(octet)) {
            return (input.len(), Line::Foreign);
        }
        let end = memchr(b'\n', input);
        let part = end.unwrap_or(input.len());
        // The line feed that is there or still to come counts.
        let fits = !self.overlong && self.line.len() + part < self.line_max();
        let Some(end) = end else {
            if fits {
                self.line.extend_from_slice(input);
            } else {
                self.overlong = true;
                self.line.clear();
                self.excess += input.len();
            }
            let endless = self.excess > LINE_EXCESS_MAX;
            return (input.len(), if endless { Line::Endless } else { Line::Partial });
        };
        (self.overlong, self.excess) = (false, 0);
        let line = if !fits {
            self.line.clear();
            Line::TooLong
        } else if self.line.is_empty() {
            Line::Whole(end)
        } else {
            self.line.extend_from_slice(&input[..end]);
            Line::Joined
        };
        (end + 1, line)
    }
}
