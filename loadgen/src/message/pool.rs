//! Text that bodies are cut from, made once per seed, so that a message costs a copy and not a generator.

use chasqui_runtime::SeededRng;

/// Octets of a pool before dot-stuffing. Small enough to stay in a core's second-level cache.
pub(super) const POOL_OCTETS: usize = 256 * 1024;
/// Longest line without its CRLF (RFC 5322, 2.1.1: 998; the rest is room for a stuffed dot).
const LINE_OCTETS_MAX: usize = 990;
/// A body's last line fills up to the wanted size; it is at most two lines long.
const FILLER: [u8; 2 * (LINE_OCTETS_MAX + 2)] = [b'x'; 2 * (LINE_OCTETS_MAX + 2)];

const WORDS: [&str; 24] = [
    "runner",
    "relay",
    "station",
    "message",
    "mountain",
    "bridge",
    "valley",
    "quipu",
    "knot",
    "cord",
    "the",
    "of",
    "and",
    "to",
    "from",
    "before",
    "after",
    "dawn",
    "=20",
    "=",
    "--",
    "<tag>",
    "100%",
    "\"quoted\"",
];
const WORDS_8BIT: [&str; 6] = ["mañana", "Ñandú", "über", "日本語", "привет", "🏃"];
/// Lines that software on the way is known to stumble over.
const AWKWARD: [&str; 8] = [
    ".",
    "..",
    ".leading dot",
    "From the start of an mbox entry",
    "X-Chasqui-Stamp: v=1; run=0000000000000000; seq=0; hdr=00000000; hlen=0; body=00000000; blen=0",
    "",
    "trailing spaces   ",
    "\ttab\t",
];

/// Lines of text, before dot-stuffing and in wire form.
#[derive(Debug)]
pub(super) struct Pool {
    raw: Vec<u8>,
    wire: Vec<u8>,
    /// Where each line starts in `raw`, and the end.
    raw_starts: Vec<usize>,
    /// Where each line starts in `wire`, and the end.
    wire_starts: Vec<usize>,
    crc: u32,
}

/// A body as pieces of a pool: a run of lines, the whole pool some times, another run, and a last line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cut {
    first: (usize, usize),
    repeats: u64,
    last: (usize, usize),
    filler: usize,
}

impl Pool {
    /// The pool of a seed; with `eight_bit`, about every fourth line has characters outside ASCII.
    pub(super) fn new(seed: u64, eight_bit: bool) -> Self {
        let mut rng = SeededRng::new(seed);
        let mut pool = Self {
            raw: Vec::with_capacity(POOL_OCTETS + LINE_OCTETS_MAX),
            wire: Vec::with_capacity(POOL_OCTETS + POOL_OCTETS / 32),
            raw_starts: vec![0],
            wire_starts: vec![0],
            crc: 0,
        };
        while pool.raw.len() < POOL_OCTETS {
            let line = make_line(&mut rng, eight_bit);
            pool.push(&line);
        }
        pool.crc = crc32c::crc32c(&pool.raw);
        pool
    }

    fn push(&mut self, line: &str) {
        if line.starts_with('.') {
            self.wire.push(b'.');
        }
        for bytes in [&mut self.raw, &mut self.wire] {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        self.raw_starts.push(self.raw.len());
        self.wire_starts.push(self.wire.len());
    }

    fn lines(&self) -> usize {
        self.raw_starts.len() - 1
    }

    /// A body of exactly `octets` before stuffing (0, or 2 and more), from a random line on.
    pub(super) fn cut(&self, octets: u64, rng: &mut SeededRng) -> Cut {
        debug_assert!(octets != 1, "a line has at least its CRLF");
        let start = rng.below(self.lines() as u64) as usize;
        let left = (self.raw.len() - self.raw_starts[start]) as u64;
        let whole = self.raw.len() as u64;
        let mut cut = Cut { first: (start, start), ..Cut::default() };
        let rest = if octets <= left {
            octets
        } else {
            cut.first.1 = self.lines();
            cut.repeats = (octets - left) / whole;
            (octets - left) % whole
        };
        let run = if octets <= left { &mut cut.first } else { &mut cut.last };
        let (from, rest) = (run.0, rest as usize);
        let limit = self.raw_starts[from] + rest;
        // The last line start at or before the limit; one line less where a single octet would remain.
        run.1 = from + self.raw_starts[from..].partition_point(|&offset| offset <= limit) - 1;
        if limit - self.raw_starts[run.1] == 1 {
            if run.1 > from {
                run.1 -= 1;
            } else if cut.repeats > 0 {
                cut.repeats -= 1;
                cut.last = (0, self.lines() - 1);
                cut.filler = 1 + self.line_octets(self.lines() - 1);
                return cut;
            } else {
                // `last` is empty and one octet is left: the filler takes the last line of `first` as well.
                cut.first.1 -= 1;
                cut.filler = 1 + self.line_octets(self.lines() - 1);
                return cut;
            }
        }
        cut.filler = limit - self.raw_starts[run.1];
        cut
    }

    fn line_octets(&self, line: usize) -> usize {
        self.raw_starts[line + 1] - self.raw_starts[line]
    }

    /// CRC32C of a body before stuffing.
    pub(super) fn crc(&self, cut: &Cut) -> u32 {
        let raw = |run: (usize, usize)| &self.raw[self.raw_starts[run.0]..self.raw_starts[run.1]];
        let mut crc = crc32c::crc32c(raw(cut.first));
        for _ in 0..cut.repeats {
            crc = crc32c::crc32c_combine(crc, self.crc, self.raw.len());
        }
        crc = crc32c::crc32c_append(crc, raw(cut.last));
        let (fill, line_end) = filler(cut.filler);
        crc32c::crc32c_append(crc32c::crc32c_append(crc, fill), line_end)
    }

    /// The wire form of a body from piece `index` on; `None` after the last.
    pub(super) fn piece(&self, cut: &Cut, index: u64) -> Option<&[u8]> {
        let wire = |run: (usize, usize)| &self.wire[self.wire_starts[run.0]..self.wire_starts[run.1]];
        match index.checked_sub(1) {
            None => Some(wire(cut.first)),
            Some(index) if index < cut.repeats => Some(&self.wire),
            Some(index) => match index - cut.repeats {
                0 => Some(wire(cut.last)),
                1 => Some(filler(cut.filler).0),
                2 => Some(filler(cut.filler).1),
                _ => None,
            },
        }
    }
}

/// A line of this many octets, its CRLF included.
fn filler(octets: usize) -> (&'static [u8], &'static [u8]) {
    if octets == 0 { (b"", b"") } else { (&FILLER[..octets - 2], b"\r\n") }
}

fn make_line(rng: &mut SeededRng, eight_bit: bool) -> String {
    if rng.below(12) == 0 {
        return AWKWARD[rng.below(AWKWARD.len() as u64) as usize].to_owned();
    }
    let target = match rng.below(64) {
        0 => 200 + rng.below(LINE_OCTETS_MAX as u64 - 200) as usize,
        _ => 20 + rng.below(55) as usize,
    };
    let eight_bit = eight_bit && rng.below(4) == 0;
    let mut line = String::with_capacity(target);
    loop {
        let word = if eight_bit && rng.below(3) == 0 {
            WORDS_8BIT[rng.below(WORDS_8BIT.len() as u64) as usize]
        } else {
            WORDS[rng.below(WORDS.len() as u64) as usize]
        };
        if line.len() + 1 + word.len() > target {
            return line;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chasqui_protocol::stamp::Digest;

    /// Bodies of every size from 0 past several pool lengths have that size, end in CRLF, carry the right
    /// checksum, and their wire form is the stuffed form of what the checksum is over.
    #[test]
    fn cuts() {
        let rng = &mut SeededRng::new(3);
        for eight_bit in [false, true] {
            let pool = Pool::new(9, eight_bit);
            let whole = pool.raw.len() as u64;
            let sizes =
                [0, 2, 3, 4, 80, 2048, 65_536, whole - 1, whole, whole + 1, 3 * whole + 1, 5 * whole - 1];
            let many = (0..2000).map(|_| 2 + SeededRng::new(whole).below(3000));
            for size in sizes.into_iter().chain(many).chain((0..500).map(|step| whole - 250 + step)) {
                let cut = pool.cut(size, rng);
                let mut wire = Vec::new();
                for index in 0.. {
                    let Some(piece) = pool.piece(&cut, index) else { break };
                    wire.extend_from_slice(piece);
                }
                let text = String::from_utf8(wire).expect("the pool is UTF-8");
                assert!(text.is_empty() || text.ends_with("\r\n"));
                let unstuffed: String =
                    text.split_inclusive("\r\n").map(|line| line.strip_prefix('.').unwrap_or(line)).collect();
                assert_eq!(Digest::of(unstuffed.as_bytes()), Digest { crc: pool.crc(&cut), length: size });
                assert!(!text.contains("\r\n.\r\n") && !text.starts_with(".\r\n"));
            }
        }
    }

    /// A pool has what it is for: dots at line starts, long lines, and 8-bit text only where it is wanted.
    #[test]
    fn content() {
        let (seven, eight) = (Pool::new(1, false), Pool::new(1, true));
        assert!(seven.raw.is_ascii() && !eight.raw.is_ascii());
        for pool in [seven, eight] {
            assert!(pool.wire.len() > pool.raw.len() + 100);
            let lines: Vec<usize> = (0..pool.lines()).map(|line| pool.line_octets(line) - 2).collect();
            assert!(lines.iter().all(|octets| *octets <= LINE_OCTETS_MAX));
            let long = lines.iter().filter(|octets| **octets > 78).count();
            assert!(long > 10 && long < lines.len() / 10, "{long} of {}", lines.len());
        }
    }
}
