//! The messages a run sends: stamp, header section and a body cut from a [`pool`](pool::Pool).

mod pool;

use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::stamp::{Digest, Sender, Stamp};
use chasqui_protocol::trace::write_date;
use chasqui_runtime::SeededRng;

use pool::{Cut, Pool};

/// One message in this many has an 8-bit body where that is allowed.
const EIGHT_BIT_ONE_IN: u64 = 4;
const END_OF_DATA: &[u8] = b".\r\n";

/// The size of a message to these recipients that has no body, at its largest.
pub(crate) fn smallest_message(recipients: &[String], zone: &str, bounce_zone: &str) -> u64 {
    let mut out = Vec::new();
    let date = b"Wed, 31 Dec 2025 23:59:59 +0000";
    let envelope = Envelope { run: u64::MAX, sequence: u64::MAX, recipients };
    write_header(&mut out, &envelope, zone, bounce_zone, date, true);
    let digest = Digest { crc: u32::MAX, length: u64::from(u32::MAX) };
    let stamp = Stamp { run: u64::MAX, sequence: u64::MAX, header: digest, body: digest };
    stamp.write(&mut out);
    out.len() as u64
}

/// What the messages of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct MakerConfig {
    /// The zone of the recipients.
    pub(crate) zone: String,
    /// The zone of the reverse-paths.
    pub(crate) bounce_zone: String,
    pub(crate) seed: u64,
    /// Some bodies hold 8-bit text.
    pub(crate) eight_bit: bool,
}

/// Who a message is from and to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) run: u64,
    pub(crate) sequence: u64,
    pub(crate) recipients: &'a [String],
}

/// Makes the messages of one shard.
#[derive(Debug)]
pub(crate) struct Maker {
    zone: String,
    bounce_zone: String,
    seven_bit: Rc<Pool>,
    eight_bit: Option<Rc<Pool>>,
    rng: SeededRng,
    header: Vec<u8>,
    date: Vec<u8>,
    date_s: u64,
    stamp_octets: usize,
}

/// A message that is ready to be sent, piece by piece, in wire form.
#[derive(Debug)]
pub(crate) struct Message {
    /// Octets before dot-stuffing.
    pub(crate) size: u64,
    /// It has bytes outside ASCII.
    pub(crate) eight_bit: bool,
    pool: Rc<Pool>,
    cut: Cut,
    piece: u64,
    offset: usize,
    ended: bool,
}

impl Maker {
    /// The maker of a shard; `seed` differs between shards in what it draws, not in the pool's text.
    pub(crate) fn new(config: MakerConfig, shard: usize) -> Self {
        let MakerConfig { zone, bounce_zone, seed, eight_bit } = config;
        let empty = Stamp { run: 0, sequence: 0, header: Digest::default(), body: Digest::default() };
        let mut field = Vec::new();
        empty.write(&mut field);
        Self {
            zone,
            bounce_zone,
            seven_bit: Rc::new(Pool::new(seed, false)),
            eight_bit: eight_bit.then(|| Rc::new(Pool::new(seed, true))),
            rng: SeededRng::new(seed ^ (shard as u64 + 1).rotate_left(48)),
            header: Vec::with_capacity(1024),
            date: Vec::new(),
            date_s: u64::MAX,
            stamp_octets: field.len() - 3, // the digits of sequence and both lengths, one each here
        }
    }

    /// Makes a message of `size` octets before stuffing, larger where its header section is, one octet off
    /// where the digits of its own length demand it. Writes stamp and header section to `out`; the returned
    /// [`Message`] gives the rest.
    pub(crate) fn make(
        &mut self,
        envelope: &Envelope<'_>,
        size: u64,
        allow_eight_bit: bool,
        wall_clock: Duration,
        out: &mut Vec<u8>,
    ) -> Message {
        self.set_date(wall_clock);
        let eight_bit = allow_eight_bit && self.eight_bit.is_some() && self.rng.below(EIGHT_BIT_ONE_IN) == 0;
        let pool = if let (true, Some(pool)) = (eight_bit, &self.eight_bit) { pool } else { &self.seven_bit };
        self.header.clear();
        write_header(&mut self.header, envelope, &self.zone, &self.bounce_zone, &self.date, eight_bit);

        let header = Digest::of(&self.header);
        let fixed =
            self.stamp_octets as u64 + digits(envelope.sequence) + digits(header.length) + header.length;
        let octets = body_octets(size.saturating_sub(fixed));
        let cut = pool.cut(octets, &mut self.rng);
        let body = Digest { crc: pool.crc(&cut), length: octets };
        Stamp { run: envelope.run, sequence: envelope.sequence, header, body }.write(out);
        out.extend_from_slice(&self.header);
        let size = fixed + digits(octets) + octets;
        Message { size, eight_bit, pool: pool.clone(), cut, piece: 0, offset: 0, ended: false }
    }

    fn set_date(&mut self, wall_clock: Duration) {
        if self.date_s != wall_clock.as_secs() {
            self.date_s = wall_clock.as_secs();
            self.date.clear();
            write_date(&mut self.date, wall_clock);
        }
    }
}

impl Message {
    /// Appends wire form to `out` until it holds about `limit` octets; the end-of-data line is the last.
    /// Whether there is more.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>, limit: usize) -> bool {
        while out.len() < limit {
            let Some(piece) = self.pool.piece(&self.cut, self.piece) else {
                if !self.ended {
                    out.extend_from_slice(END_OF_DATA);
                    self.ended = true;
                }
                return false;
            };
            let rest = &piece[self.offset..];
            let taken = rest.len().min(limit - out.len());
            out.extend_from_slice(&rest[..taken]);
            self.offset += taken;
            if taken == rest.len() {
                self.piece += 1;
                self.offset = 0;
            }
        }
        !self.ended
    }
}

/// The header fields after the stamp, and the empty line.
fn write_header(
    out: &mut Vec<u8>,
    envelope: &Envelope<'_>,
    zone: &str,
    bounce_zone: &str,
    date: &[u8],
    eight_bit: bool,
) {
    let Envelope { run, sequence, recipients } = envelope;
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        "From: Chasqui <{}>\r\nTo: ",
        Sender { run: *run, sequence: *sequence, zone: bounce_zone }
    );
    for (index, recipient) in recipients.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b",\r\n ");
        }
        out.push(b'<');
        out.extend_from_slice(recipient.as_bytes());
        out.push(b'>');
    }
    let (charset, encoding) = if eight_bit { ("utf-8", "8bit") } else { ("us-ascii", "7bit") };
    let _ = write!(out, "\r\nSubject: Message {sequence} of run {run:016x}\r\nDate: ");
    out.extend_from_slice(date);
    let _ = write!(
        out,
        "\r\nMessage-ID: <{sequence}.{run:016x}@{zone}>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    );
}

fn digits(number: u64) -> u64 {
    u64::from(number.checked_ilog10().unwrap_or(0)) + 1
}

/// The body length that leaves room for its own digits in `rest`: `length + digits(length) == rest` where
/// that has a solution, else one less. Never 1: no body is that short.
fn body_octets(rest: u64) -> u64 {
    let width = digits(rest);
    let length = [width, width - 1]
        .into_iter()
        .filter_map(|width| rest.checked_sub(width).filter(|length| digits(*length) <= width))
        .next_back()
        .unwrap_or(0);
    if length == 1 { 0 } else { length }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chasqui_protocol::stamp::{self, Verdict, Verifier};

    fn config() -> MakerConfig {
        let zone = "chasqui.test".to_owned();
        MakerConfig { bounce_zone: format!("bounce.{zone}"), zone, seed: 1, eight_bit: true }
    }

    fn unstuff(wire: &[u8]) -> Vec<u8> {
        let body = wire.strip_suffix(END_OF_DATA).expect("the end of data is last");
        assert!(body.ends_with(b"\r\n"));
        let mut out = Vec::new();
        for line in body.split_inclusive(|byte| *byte == b'\n') {
            out.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        out
    }

    /// Messages of all sizes have their size, verify as intact, and are 8-bit only where that is allowed;
    /// any changed byte of them is found.
    #[test]
    fn messages_verify() {
        let mut maker = Maker::new(config(), 0);
        let recipients = ["u1@d2.chasqui.test".to_owned(), "u2@d2.chasqui.test".to_owned()];
        let least = smallest_message(&recipients, &config().zone, &config().bounce_zone);
        assert!(least < 700, "{least}");
        let mut eight_bit_seen = false;
        let sizes = (0..3000).map(|step| step * 3).chain([100_000, 1 << 20, 3_000_001]);
        for (sequence, size) in sizes.enumerate() {
            let envelope = Envelope { run: 0xabcd, sequence: sequence as u64 * 77, recipients: &recipients };
            let mut wire = Vec::new();
            let allow = sequence % 2 == 0;
            let mut message =
                maker.make(&envelope, size, allow, Duration::from_secs(1_700_000_000), &mut wire);
            let mut limit = wire.len();
            while message.fill(&mut wire, limit) {
                limit += 1000;
            }
            let mut plain = unstuff(&wire);
            assert_eq!(plain.len() as u64, message.size);
            assert!(message.size.abs_diff(size) <= 1 || size < least, "{} {size}", message.size);
            assert!(message.eight_bit || plain.is_ascii());
            assert!(allow || !message.eight_bit);
            eight_bit_seen |= !plain.is_ascii();
            let mut verifier = Verifier::default();
            verifier.push(b"Received: from somewhere\r\n");
            verifier.push(&plain);
            let verification = verifier.finish();
            assert_eq!((verification.run, verification.sequence), (0xabcd, envelope.sequence));
            assert_eq!(verification.verdict, Verdict::Intact);
            let last = plain.len() - 1 - sequence % 100;
            plain[last] ^= 1;
            assert_ne!(stamp::verify(&plain).verdict, Verdict::Intact);
        }
        assert!(eight_bit_seen);
    }

    /// The same seed makes the same messages, another shard others.
    #[test]
    fn reproducible() {
        let make = |shard| {
            let mut maker = Maker::new(config(), shard);
            let recipients = ["u1@d2.chasqui.test".to_owned()];
            let envelope = Envelope { run: 1, sequence: 1, recipients: &recipients };
            let mut wire = Vec::new();
            maker.make(&envelope, 3000, true, Duration::from_secs(1), &mut wire).fill(&mut wire, 100_000);
            wire
        };
        assert_eq!(make(0), make(0));
        assert_ne!(make(0), make(1));
    }
}
