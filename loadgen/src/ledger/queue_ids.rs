//! The ids under which servers queued what they accepted, for the messages that do not end as they should.
//!
//! A message takes the octets of its id and [`HEADER`] more, in chunks that are allocated whole. Beyond [`CHUNKS_MAX`]
//! the oldest chunk gives up the ids of what was delivered since; where that frees little, new ids are not kept for a while.

use std::collections::VecDeque;

/// Octets of a chunk.
const CHUNK: usize = 64 * 1024;
/// Chunks of a shard: 64 MiB, some 2.5 million ids of 20 octets.
const CHUNKS_MAX: usize = 1024;
/// Octets in front of an id: its message's number in the shard's ledger, and its length.
const HEADER: usize = 5;
/// Octets of an id that are kept.
const ID_MAX: usize = 64;
/// Ids that are not kept after a chunk had no room to give: no message pays for looking again and again.
const PASSED_OVER: u32 = 4_096;
/// What stands before the id, as Chasqui, Postfix and Haraka, Stalwart, Exchange, KumoMTA, Exim say it.
const BEFORE: [&str; 5] = ["queued as ", "queued with id ", "InternalId=", "ids=", "id="];
/// What stands behind it, as Sendmail and OpenSMTPD say it.
const BEHIND: &str = " Message accepted for delivery";

/// Queue ids of the messages of one shard.
#[derive(Debug)]
pub(crate) struct QueueIds {
    chunks: VecDeque<Vec<u8>>,
    chunks_max: usize,
    pass_over: u32,
}

impl Default for QueueIds {
    fn default() -> Self {
        Self { chunks: VecDeque::new(), chunks_max: CHUNKS_MAX, pass_over: 0 }
    }
}

impl QueueIds {
    /// Keeps the id that the text of an accepting reply gives to `message`. Nobody asks for those that `is_settled`.
    pub(crate) fn add(&mut self, message: u32, text: &str, is_settled: impl Fn(u32) -> bool) {
        let id = queue_id(text);
        let octets = HEADER + id.len();
        if self.room() < octets && !self.make_room(octets, is_settled) {
            return;
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.extend_from_slice(&message.to_le_bytes());
            chunk.push(id.len() as u8);
            chunk.extend_from_slice(id.as_bytes());
        }
    }

    /// Octets held.
    pub(crate) fn bytes(&self) -> u64 {
        (self.chunks.len() * CHUNK) as u64
    }

    /// Gives every id, with its message, in no order.
    pub(crate) fn each(&self, mut of: impl FnMut(u32, &str)) {
        for chunk in &self.chunks {
            let mut rest = &chunk[..];
            while let Some((message, octets)) = entry(rest) {
                of(message, std::str::from_utf8(&rest[HEADER..octets]).unwrap_or_default());
                rest = &rest[octets..];
            }
        }
    }

    fn room(&self) -> usize {
        self.chunks.back().map_or(0, |chunk| CHUNK - chunk.len())
    }

    /// Whether the last chunk has room for `octets` now.
    fn make_room(&mut self, octets: usize, is_settled: impl Fn(u32) -> bool) -> bool {
        if self.pass_over > 0 {
            self.pass_over -= 1;
            return false;
        }
        if self.chunks.len() < self.chunks_max {
            self.chunks.push_back(Vec::with_capacity(CHUNK));
            return true;
        }
        let Some(mut oldest) = self.chunks.pop_front() else { return false };
        sift(&mut oldest, is_settled);
        self.chunks.push_back(oldest);
        if self.room() < CHUNK / 2 {
            self.pass_over = PASSED_OVER;
        }
        self.room() >= octets
    }
}

/// The first entry's message and octets.
fn entry(chunk: &[u8]) -> Option<(u32, usize)> {
    let (message, rest) = chunk.split_first_chunk::<4>()?;
    let octets = HEADER + usize::from(*rest.first()?);
    (octets <= chunk.len()).then(|| (u32::from_le_bytes(*message), octets))
}

/// Takes out what is settled.
fn sift(chunk: &mut Vec<u8>, is_settled: impl Fn(u32) -> bool) {
    let (mut from, mut to) = (0, 0);
    while let Some((message, octets)) = entry(&chunk[from..]) {
        if !is_settled(message) {
            chunk.copy_within(from..from + octets, to);
            to += octets;
        }
        from += octets;
    }
    chunk.truncate(to);
}

/// The id in the text of a reply that accepts a message; the text's beginning where it cannot be told apart.
fn queue_id(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | ')' | '>' | ']');
    let behind = |mark: &&str| {
        let at =
            line.as_bytes().windows(mark.len()).position(|it| it.eq_ignore_ascii_case(mark.as_bytes()))?;
        let id = line[at + mark.len()..].split(ends).next()?.trim_end_matches('.');
        (!id.is_empty()).then_some(id)
    };
    let before = || line.split_once(BEHIND).and_then(|(id, _)| id.split_whitespace().next_back());
    let id = BEFORE.iter().find_map(behind).or_else(before).unwrap_or(line);
    &id[..id.floor_char_boundary(ID_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(kept: &QueueIds) -> Vec<(u32, String)> {
        let mut ids = Vec::new();
        kept.each(|message, id| ids.push((message, id.to_owned())));
        ids
    }

    /// The id is found in what servers say, and where no form is known the text stands for it, cut.
    #[test]
    fn ids_of_many_servers() {
        let long = "é".repeat(100);
        for (text, id) in [
            ("Ok: queued as ABC123", "ABC123"),
            ("Ok: queued as 4Xyz0B1c2D3e\nsecond line", "4Xyz0B1c2D3e"),
            ("Message Queued (Queued as 1A-2B.1)", "1A-2B.1"),
            ("Message queued with id 1f0a.", "1f0a"),
            ("<a@b> [InternalId=17, Hostname=mx.test] Queued mail for delivery", "17"),
            ("OK ids=0123456789abcdef", "0123456789abcdef"),
            ("OK id=1sABCD-000000004zr-1abc", "1sABCD-000000004zr-1abc"),
            ("47BCDEF0123456 Message accepted for delivery", "47BCDEF0123456"),
            ("ok 1700000000 qp 12345", "ok 1700000000 qp 12345"),
            ("queued as ", "queued as "),
            ("", ""),
            (&long, &"é".repeat(32)),
        ] {
            assert_eq!(queue_id(text), id, "{text}");
        }
    }

    /// Memory is bounded: where it is used up what was delivered makes room, and where nothing was, new ids are not kept,
    /// with one look at a chunk for thousands of them.
    #[test]
    fn bounded() {
        let text = format!("queued as {}", "x".repeat(59));
        let each = (CHUNK / 64) as u32;
        let mut kept = QueueIds { chunks_max: 2, ..QueueIds::default() };
        (0..2 * each).for_each(|message| kept.add(message, &text, |_| unreachable!("there is room")));
        assert_eq!((kept.bytes(), ids(&kept).len() as u32), (2 * CHUNK as u64, 2 * each));
        (2 * each..3 * each).for_each(|message| kept.add(message, &text, |message| message % 8 != 0));
        let now = ids(&kept);
        assert!(now.contains(&(8, "x".repeat(59))) && !now.iter().any(|(message, _)| *message == 9));
        assert!(now.iter().any(|(message, _)| *message == 3 * each - each / 4), "new ones are kept");
        assert_eq!(kept.bytes(), 2 * CHUNK as u64);

        let looks = std::cell::Cell::new(0);
        (0..100_000).for_each(|message| {
            kept.add(message, &text, |_| {
                looks.set(looks.get() + 1);
                false
            });
        });
        assert!(looks.get() <= each * 100_000 / PASSED_OVER + 2 * each, "{}", looks.get());
        assert_eq!(kept.bytes(), 2 * CHUNK as u64);
    }
}
