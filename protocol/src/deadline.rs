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

/// The time that an SMTP client has: [`ReadDeadline`]'s for lines and within a message, a message's as a whole, and a session's
/// until its next mail.
///
/// At the least rate 64 MiB take 37 hours: so a message has an end of its own, whatever its size. And who sends lines in time,
/// but no mail, would hold a connection for ever. The time within a message counts for the session too, but does not end it
/// there: a mail that is accepted pays for it.
#[derive(Debug, Clone, Copy)]
pub struct MailDeadline {
    line: ReadDeadline,
    mail_left_ns: u64,
    message_left_ns: u64,
}

impl MailDeadline {
    /// With all of `limit` left for a line, and of `without_mail` for the first mail; `None` is no limit.
    pub fn new(limit: Duration, without_mail: Option<Duration>) -> MailDeadline {
        let mail_left_ns = without_mail.map_or(u64::MAX, nanos);
        MailDeadline { line: ReadDeadline::new(limit), mail_left_ns, message_left_ns: u64::MAX }
    }

    /// What the next wait may take, for a line or within a message.
    pub fn left(&self, in_message: bool) -> Duration {
        let whole_ns = if in_message { self.message_left_ns } else { self.mail_left_ns };
        self.line.left().min(Duration::from_nanos(whole_ns))
    }

    /// Why it has passed, for people.
    pub fn passed(&self, in_message: bool) -> &'static str {
        match (self.line.left().is_zero(), in_message) {
            (true, _) => "Idle for too long",
            (false, true) => "The message takes too long",
            (false, false) => "No mail for too long",
        }
    }

    /// The client was waited for.
    pub fn waited(&mut self, time: Duration) {
        self.line.waited(time);
        self.mail_left_ns = self.mail_left_ns.saturating_sub(nanos(time));
        self.message_left_ns = self.message_left_ns.saturating_sub(nanos(time));
    }

    /// A line is complete: the next one has all of its limit.
    pub fn renew(&mut self) {
        self.line.renew();
    }

    /// A message begins.
    pub fn begin_message(&mut self, limit: Duration) {
        self.message_left_ns = nanos(limit);
    }

    /// So many octets of a message came.
    pub fn received(&mut self, octets: usize) {
        self.line.received(octets);
    }

    /// A mail was accepted: the next one has all of `without_mail`.
    pub fn mail_accepted(&mut self, without_mail: Option<Duration>) {
        self.mail_left_ns = without_mail.map_or(u64::MAX, nanos);
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

    /// A message at the least rate ends with its own limit, and lines in time with the session's; both start anew with a mail.
    #[test]
    fn messages_and_sessions_have_an_end() {
        let without_mail = Some(SECOND * 60);
        let mut deadline = MailDeadline::new(SECOND * 5, without_mail);
        deadline.begin_message(SECOND * 100);
        for _ in 0..100 {
            assert!(!deadline.left(true).is_zero());
            deadline.waited(SECOND);
            deadline.received(MESSAGE_RATE_MIN as usize);
        }
        assert_eq!(
            (deadline.left(true), deadline.passed(true)),
            (Duration::ZERO, "The message takes too long")
        );
        assert_eq!((deadline.left(false), deadline.passed(false)), (Duration::ZERO, "No mail for too long"));
        deadline.mail_accepted(without_mail);
        for _ in 0..20 {
            assert!(!deadline.left(false).is_zero());
            deadline.waited(SECOND * 3);
            deadline.renew();
        }
        assert!(deadline.left(false).is_zero());
        let mut trusted = MailDeadline::new(SECOND * 5, None);
        trusted.waited(SECOND * 100);
        assert_eq!(trusted.passed(false), "Idle for too long");
        trusted.renew();
        assert_eq!(trusted.left(false), SECOND * 5);
    }
}
