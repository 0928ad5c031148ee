//! The body of DATA: finding its end, dot-stuffing and its inverse (RFC 5321 section 4.5.2).
//!
//! *Wire form* is what stands between the reply 354 and the line with the single dot: lines end in CRLF, and
//! those that start with a dot have a second one in front of it.

use memchr::memmem;
use wide::u8x16;

/// Octets a line may have without its CRLF (RFC 5321 section 4.5.3.1.6).
pub const LINE_MAX: u64 = 998;

/// Octets over the size limit that a message is read on for its end, so that a client hears why.
pub const EXCESS_MAX: u64 = 1 << 20;

/// What to do with a CR or LF that stands alone in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BareNewline {
    /// Read the message to its true end, then refuse it. The default: such bytes smuggle messages past relays
    /// that disagree about where a message ends.
    #[default]
    Refuse,
    /// Make it CRLF. It never ends the message, and a dot after it stays part of the text.
    Repair,
}

/// What to do with lines over [`LINE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LongLines {
    /// Read the message to its true end, then refuse it.
    #[default]
    Refuse,
    /// Let them pass.
    Allow,
}

/// What to do with NUL, which no text has (RFC 2045 section 2.7): some programs take a text to end there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NulOctets {
    /// Read the message to its true end, then refuse it.
    #[default]
    Refuse,
    /// Make it a blank. To leave it out could make an end of what is none.
    Repair,
    /// Let it pass.
    Allow,
}

/// Why a body was refused, in the order of their weight: of several, the first is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// CR or LF alone.
    BareNewline,
    /// NUL.
    Nul,
    /// More unstuffed octets than allowed.
    TooLarge,
    /// A line over [`LINE_MAX`].
    LongLine,
}

/// What the scanner lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Unstuffed octets of a body.
    pub max_size: u64,
    /// Of CR and LF alone.
    pub bare_newline: BareNewline,
    /// Of long lines.
    pub long_lines: LongLines,
    /// Of NUL.
    pub nul_octets: NulOctets,
}

/// How the octets of a body stand where they are kept or sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyForm {
    /// In wire form, as DATA takes them.
    Lines {
        /// Whether the wire form differs from the body by stuffed dots.
        stuffed: bool,
    },
    /// As they are, as BDAT takes them (RFC 3030). Nothing sends, takes or stores this form yet: whoever is given it refuses it.
    Raw,
}

impl BodyForm {
    /// Whether the octets are those of the body only when dots are taken away.
    pub fn is_stuffed(self) -> bool {
        self == BodyForm::Lines { stuffed: true }
    }
}

impl Default for BodyForm {
    fn default() -> Self {
        BodyForm::Lines { stuffed: false }
    }
}

/// A body that has been read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyInfo {
    /// Unstuffed octets.
    pub size: u64,
    /// Whether an octet is above 127.
    pub eight_bit: bool,
    /// How its pieces stand.
    pub form: BodyForm,
}

/// A step of the scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan<'a> {
    /// The next bytes of the body in wire form: a slice of the input, or a few bytes held back or repaired.
    Piece(&'a [u8]),
    /// The body is over and in order.
    End(BodyInfo),
    /// The body is over and must be refused; forget its pieces.
    Refused(Violation),
    /// The body exceeds the size limit by more than [`EXCESS_MAX`]; its end is not looked for. Nothing can follow.
    CutOff(Violation),
    /// All input is used.
    NeedInput,
}

/// Splits a byte stream into body and what follows it. Only CR LF . CR LF ends a body, and . CR LF at its start.
///
/// What it finds does not depend on how the stream is cut into pieces. No bytes are copied: at most the dot and
/// CR at a line's start are held back until it is known whether they end the body.
#[derive(Debug, Clone)]
pub struct Scanner {
    limits: Limits,
    at: At,
    /// Octets of the current line so far, without the stuffed dot.
    line_size: u64,
    /// Octets of wire form seen.
    wire_size: u64,
    /// Dots of those that stuffing added.
    stuffing: u64,
    eight_bit: bool,
    bare_newline: bool,
    nul: bool,
    too_large: bool,
    long_line: bool,
}

/// Where in a line the stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// After CRLF, or at the body's start.
    LineStart,
    /// After a line's first dot, which is held back.
    Dot,
    /// After a line's first dot and a CR, which are held back.
    DotCr,
    /// Within a line.
    Line,
    /// After a CR within a line.
    Cr,
    /// After a repaired line end: a dot here is text, and is stuffed.
    RepairedStart,
}

impl Scanner {
    /// A scanner at a body's start.
    pub fn new(limits: Limits) -> Scanner {
        Scanner {
            limits,
            at: At::LineStart,
            line_size: 0,
            wire_size: 0,
            stuffing: 0,
            eight_bit: false,
            bare_newline: false,
            nul: false,
            too_large: false,
            long_line: false,
        }
    }

    /// The next step, and how much of the input it used. Call again with the rest until all input is used or the
    /// body is over.
    pub fn scan<'a>(&mut self, input: &'a [u8]) -> (usize, Scan<'a>) {
        let mut used = 0;
        loop {
            let (step, scan) = self.step(&input[used..]);
            used += step;
            match scan {
                Scan::Piece(piece) => {
                    self.count(piece);
                    if self.too_large
                        && self.size() > self.limits.max_size.saturating_add(EXCESS_MAX)
                        && let Some(violation) = self.violation()
                    {
                        return (used, Scan::CutOff(violation));
                    }
                    if self.violation().is_none() && !piece.is_empty() {
                        return (used, scan);
                    }
                }
                Scan::End(_) | Scan::Refused(_) | Scan::CutOff(_) | Scan::NeedInput => return (used, scan),
            }
        }
    }

    /// Why the body will be refused, as far as is known.
    pub fn violation(&self) -> Option<Violation> {
        if self.bare_newline && self.limits.bare_newline == BareNewline::Refuse {
            Some(Violation::BareNewline)
        } else if self.nul && self.limits.nul_octets == NulOctets::Refuse {
            Some(Violation::Nul)
        } else if self.too_large {
            Some(Violation::TooLarge)
        } else if self.long_line && self.limits.long_lines == LongLines::Refuse {
            Some(Violation::LongLine)
        } else {
            None
        }
    }

    fn count(&mut self, piece: &[u8]) {
        self.wire_size += piece.len() as u64;
        self.too_large |= self.size() > self.limits.max_size;
        self.eight_bit = self.eight_bit || !piece.is_ascii();
    }

    /// Unstuffed octets so far.
    fn size(&self) -> u64 {
        self.wire_size - self.stuffing
    }

    /// Whether NUL matters: not where it passes, and of a body that is refused for one no more.
    fn heeds_nul(&self) -> bool {
        match self.limits.nul_octets {
            NulOctets::Refuse => !self.nul,
            NulOctets::Repair => true,
            NulOctets::Allow => false,
        }
    }

    /// Like `scan`, but yields pieces of refused bodies, and empty ones, too.
    fn step<'a>(&mut self, input: &'a [u8]) -> (usize, Scan<'a>) {
        let Some(&first) = input.first() else { return (0, Scan::NeedInput) };
        match (self.at, first) {
            (At::LineStart, b'.') if !is_stuffed(input) => {
                self.at = At::Dot;
                (1, Scan::Piece(b""))
            }
            (At::Dot, b'\r') => {
                self.at = At::DotCr;
                (1, Scan::Piece(b""))
            }
            (At::DotCr, b'\n') => (1, self.end()),
            // The dot was stuffing, and the line is empty but for a bare LF or CR. Repaired, it must lose the dot:
            // with it, it would end the message for the next hop.
            (At::Dot, b'\n') => (1, self.repaired(b"\r\n")),
            (At::DotCr, _) => (0, self.repaired(b"\r\n")),
            (At::Dot, _) => {
                self.stuffing += 1;
                self.at = At::Line;
                (0, Scan::Piece(b"."))
            }
            (At::Cr, b'\n') => {
                self.end_line();
                let (used, piece) = self.lines(input, 1);
                (used, piece)
            }
            (At::Cr, _) => (0, self.repaired(b"\n")),
            (At::RepairedStart, b'.') => {
                self.stuffing += 1;
                self.at = At::Line;
                (0, Scan::Piece(b"."))
            }
            (At::Line | At::RepairedStart, b'\n') => (1, self.repaired(b"\r\n")),
            (At::LineStart, b'\n') => (1, self.repaired(b"\r\n")),
            (At::LineStart | At::Line | At::RepairedStart, 0) if self.heeds_nul() => self.nul_octets(input),
            (At::LineStart | At::Line | At::RepairedStart, _) => self.lines(input, 0),
        }
    }

    /// Scans whole lines in one go, from `from`, up to what needs a closer look.
    fn lines<'a>(&mut self, input: &'a [u8], from: usize) -> (usize, Scan<'a>) {
        let mut position = from;
        loop {
            let after_cr;
            (position, after_cr) = self.blocks(input, position);
            let (passed, rest) = input.split_at(position);
            match rest.first() {
                _ if after_cr => self.at = At::Cr,
                // The stuffed dot is not part of the line.
                Some(b'.') if is_stuffed(rest) => {
                    self.stuffing += 1;
                    self.at = At::Line;
                    position += 1;
                    continue;
                }
                // A bare LF.
                Some(b'\n') => self.at = At::Line,
                Some(_) | None => {}
            }
            return (position, Scan::Piece(passed));
        }
    }

    /// Goes from `from` up to a dot at a line's start, a bare LF, what follows a bare CR, or the end; says where that is,
    /// and whether a CR stands before it whose LF is not seen.
    ///
    /// Lines are short: a search for each end costs more than what it finds. So 64 octets are looked at together, and the
    /// lines in them count for nothing as long as all is in order.
    fn blocks(&mut self, input: &[u8], from: usize) -> (usize, bool) {
        let mut line_start = u64::from(self.at == At::LineStart);
        let mut after_cr = 0;
        // Where the line begins, which may be before the input.
        let mut origin = (from as u64).wrapping_sub(self.line_size);
        let mut position = from;
        let heeds_nul = self.heeds_nul();
        loop {
            let block = Block::of(&input[position..]);
            let nul = if block.has_nul && heeds_nul { nul_bits(&input[position..]) } else { 0 };
            let behind_cr = block.cr << 1 | after_cr;
            let starts = block.lf << 1 | line_start;
            let odd = (behind_cr ^ block.lf) | (block.dot & starts) | nul | block.end;
            // What is before the first odd one; everything, if there is none.
            let clean = (odd & odd.wrapping_neg()).wrapping_sub(1);
            let ends = block.lf & clean;
            if ends != 0 {
                let first = position as u64 + u64::from(ends.trailing_zeros());
                self.long_line |= first.wrapping_sub(origin) > LINE_MAX + 1; // its CR counts
                origin = position as u64 + u64::from(u64::BITS - ends.leading_zeros());
            }
            if odd != 0 {
                let octets = odd.trailing_zeros();
                let stop = position + octets as usize;
                let after_cr = behind_cr >> octets & 1;
                self.line_size = (stop as u64).wrapping_sub(origin) - after_cr;
                self.long_line |= self.line_size > LINE_MAX;
                if stop > from {
                    self.at = if self.line_size == 0 { At::LineStart } else { At::Line };
                }
                return (stop, after_cr == 1);
            }
            after_cr = block.cr >> (u64::BITS - 1);
            line_start = block.lf >> (u64::BITS - 1);
            position += Block::OCTETS;
        }
    }

    /// NUL at the start of the input, and those behind it.
    fn nul_octets<'a>(&mut self, input: &'a [u8]) -> (usize, Scan<'a>) {
        const BLANKS: &[u8; Block::OCTETS] = &[b' '; Block::OCTETS];
        let count = input.iter().take(BLANKS.len()).take_while(|&&octet| octet == 0).count();
        self.nul = true;
        self.at = At::Line;
        self.line_size += count as u64;
        self.long_line |= self.line_size > LINE_MAX;
        (count, Scan::Piece(&BLANKS[..count]))
    }

    fn end_line(&mut self) {
        self.line_size = 0;
        self.at = At::LineStart;
    }

    /// A bare CR or LF: what stands for it in the repaired body.
    fn repaired(&mut self, replacement: &'static [u8]) -> Scan<'static> {
        self.bare_newline = true;
        self.line_size = 0;
        self.at = match self.limits.bare_newline {
            BareNewline::Repair => At::RepairedStart,
            BareNewline::Refuse => At::Line,
        };
        Scan::Piece(replacement)
    }

    fn end(&self) -> Scan<'static> {
        match self.violation() {
            Some(violation) => Scan::Refused(violation),
            None => Scan::End(BodyInfo {
                size: self.size(),
                eight_bit: self.eight_bit,
                form: BodyForm::Lines { stuffed: self.stuffing > 0 },
            }),
        }
    }
}

/// Up to 64 octets, a bit for each.
struct Block {
    cr: u64,
    lf: u64,
    dot: u64,
    has_nul: bool,
    /// The bit behind the input's last octet, if that is in the block.
    end: u64,
}

impl Block {
    const OCTETS: usize = 64;

    /// Of the first octets of an input.
    fn of(input: &[u8]) -> Block {
        let mut padded = [b' '; Block::OCTETS];
        let (octets, end) = match input.first_chunk() {
            Some(octets) => (octets, 0),
            None => {
                padded[..input.len()].copy_from_slice(input);
                (&padded, 1 << input.len())
            }
        };
        let (quarters, []) = octets.as_chunks() else { unreachable!("64 is four times 16") };
        let mut block = Block { cr: 0, lf: 0, dot: 0, has_nul: false, end };
        // The least octet of each place tells whether any is NUL: one comparison for four.
        let mut least = u8x16::splat(u8::MAX);
        for quarter in quarters.iter().rev() {
            let quarter = u8x16::new(*quarter);
            let bits = |octet| u64::from(quarter.simd_eq(u8x16::splat(octet)).to_bitmask());
            block.cr = block.cr << 16 | bits(b'\r');
            block.lf = block.lf << 16 | bits(b'\n');
            block.dot = block.dot << 16 | bits(b'.');
            least = least.min(quarter);
        }
        block.has_nul = least.simd_eq(u8x16::ZERO).any();
        block
    }
}

/// A bit for each NUL of the first octets of an input.
#[cold]
fn nul_bits(input: &[u8]) -> u64 {
    let octets = input.iter().take(Block::OCTETS).enumerate();
    octets.fold(0, |bits, (place, &octet)| bits | u64::from(octet == 0) << place)
}

/// Whether a dot at a line's start is seen to be stuffing. If not, it may be the end, or more input may tell.
fn is_stuffed(line: &[u8]) -> bool {
    line.get(1).is_some_and(|byte| !matches!(byte, b'\r' | b'\n'))
}

/// Where [`unstuff`] stands between two pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unstuff {
    /// At a line's start; at the body's start too.
    #[default]
    LineStart,
    /// Within a line.
    Line,
    /// After a CR.
    Cr,
}

/// Appends the next piece of a wire form to `out`, without the stuffed dots.
pub fn unstuff(state: &mut Unstuff, wire: &[u8], out: &mut Vec<u8>) {
    unstuff_with(state, wire, |piece| out.extend_from_slice(piece));
}

/// Gives the next piece of a wire form, without the stuffed dots, as slices of it: [`unstuff`] without the copy.
pub fn unstuff_with(state: &mut Unstuff, wire: &[u8], mut each: impl FnMut(&[u8])) {
    let Some(&last) = wire.last() else { return };
    let mut start = match (*state, wire) {
        (Unstuff::LineStart, [b'.', ..]) => 1,
        (Unstuff::Cr, [b'\n', b'.', ..]) => {
            each(b"\n");
            2
        }
        _ => 0,
    };
    let searched = start;
    for found in memmem::find_iter(&wire[searched..], b"\r\n.") {
        each(&wire[start..searched + found + 2]);
        start = searched + found + 3;
    }
    if start < wire.len() {
        each(&wire[start..]);
    }
    let before_last = match wire.len() {
        1 => *state == Unstuff::Cr,
        length => wire[length - 2] == b'\r',
    };
    *state = match last {
        b'\r' => Unstuff::Cr,
        b'\n' if before_last => Unstuff::LineStart,
        _ => Unstuff::Line,
    };
}

/// Appends the wire form of a body to `out`. The body's lines, the last one too, must end in CRLF.
pub fn stuff(body: &[u8], out: &mut Vec<u8>) {
    debug_assert!(body.is_empty() || body.ends_with(b"\r\n"), "a body in wire form ends in CRLF");
    if body.first() == Some(&b'.') {
        out.push(b'.');
    }
    let mut start = 0;
    for found in memmem::find_iter(body, b"\r\n.") {
        out.extend_from_slice(&body[start..found + 2]);
        out.push(b'.');
        start = found + 2;
    }
    out.extend_from_slice(&body[start..]);
}
