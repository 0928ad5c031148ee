//! How long a server waits for what a client is sending. Without a clock: the caller says how long it has waited.

use std::time::Duration;

/// Octets of a message that are worth a second of waiting.
pub const MESSAGE_RATE_MIN: u64 = 500;

/// The time that a client has for a command line as a whole, and for a message.
///
/// A line has the limit from when the server began to wait for it: octets that do not end it buy no time. A message is
/// waited for as long as no pause exceeds the limit and, the limit aside, [`MESSAGE_RATE_MIN`] octets a second come on
/// average; faster ones refill the limit and no more. Only waiting counts, not what the server does meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct ReadDeadline {
    limit_ns: u64,
    left_ns: u64,
}

impl ReadDeadline {
    /// With all of `limit` left.
    pub fn new(limit: Duration) -> ReadDeadline {
        let limit_ns = nanos(limit);
        ReadDeadline { limit_ns, left_ns: limit_ns }
    }

    /// What the next wait may take.
    pub fn left(&self) -> Duration {
        Duration::from_nanos(self.left_ns)
    }

    /// The client was waited for.
    pub fn waited(&mut self, time: Duration) {
        self.left_ns = self.left_ns.saturating_sub(nanos(time));
    }

    /// A line is complete: the next one has all of the limit.
    pub fn renew(&mut self) {
        self.left_ns = self.limit_ns;
    }

    /// So many octets of a message came.
    pub fn received(&mut self, octets: usize) {
        let earned = (octets as u64).saturating_mul(1_000_000_000 / MESSAGE_RATE_MIN);
        self.left_ns = self.left_ns.saturating_add(earned).min(self.limit_ns);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Octet by octet a line uses up its limit, and a message nearly so; at the least rate a message may go on for ever.
    #[test]
    fn only_progress_buys_time() {
        let mut deadline = ReadDeadline::new(SECOND * 5);
        for _ in 0..5 {
            assert!(deadline.left() > Duration::ZERO);
            deadline.waited(SECOND);
            deadline.received(1);
        }
        assert_eq!(deadline.left(), Duration::from_millis(10));
        deadline.waited(SECOND);
        assert_eq!(deadline.left(), Duration::ZERO);
        deadline.renew();
        for _ in 0..1000 {
            deadline.waited(SECOND);
            deadline.received(MESSAGE_RATE_MIN as usize);
        }
        assert_eq!(deadline.left(), SECOND * 5, "no more than the limit is kept");
    }
}
