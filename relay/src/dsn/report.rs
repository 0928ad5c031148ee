//! The form of a notification: `multipart/report` (RFC 6522) with text for people, `message/delivery-status`
//! (RFC 3464) for programs, with the fields that RFC 3461 section 6.3 asks for, and the message or its header section.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use chasqui_protocol::trace::write_date;

use super::{Action, Notice};
use crate::spool::{Envelope, MessageId};

/// Octets of a line of a notification; what a next hop said is cut to it.
const LINE_MAX: usize = 900;

/// What is returned of the message; unstuffed.
pub(super) enum Original {
    /// Its lines end in CRLF.
    Whole(Vec<u8>),
    /// Whole lines of its header section.
    Headers(Vec<u8>),
}

/// What a notification tells.
pub(super) struct Report<'a> {
    pub(super) hostname: &'a str,
    pub(super) postmaster: &'a str,
    /// Of the message it tells of.
    pub(super) id: MessageId,
    pub(super) envelope: &'a Envelope,
    pub(super) notices: &'a [Notice],
    pub(super) original: Original,
    /// The message is returned whole and needs 8BITMIME.
    pub(super) eight_bit: bool,
    /// Makes the boundary one that nobody can have put into a message.
    pub(super) random: u64,
    pub(super) now: Duration,
    /// How long a message is tried.
    pub(super) max_age: Duration,
}

impl Report<'_> {
    /// The whole message, not stuffed; but for a message returned whole in 7-bit lines below 998 octets. Writing to a
    /// Vec cannot fail, so that results are dropped.
    pub(super) fn write(&self) -> Vec<u8> {
        let Report { hostname, postmaster, id, envelope, random, .. } = self;
        let boundary = format!("=_chasqui_{id}_{random:016x}");
        let (Original::Whole(returned) | Original::Headers(returned)) = &self.original;
        let mut out = Vec::with_capacity(2048 + 512 * self.notices.len() + returned.len());
        let _ = write!(out, "Date: ");
        write_date(&mut out, self.now);
        let _ = write!(
            out,
            "\r\nFrom: Mail Delivery System <{postmaster}>\r\nTo: <{}>\r\nSubject: {}\r\n\
             Message-ID: <{id}.{random:016x}@{hostname}>\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n",
            envelope.reverse_path,
            self.subject()
        );
        if self.eight_bit {
            out.extend_from_slice(b"Content-Transfer-Encoding: 8bit\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.write_text(&mut out, &boundary);
        self.write_status(&mut out, &boundary);
        self.write_original(&mut out, &boundary);
        let _ = write!(out, "\r\n--{boundary}--\r\n");
        out
    }

    fn of(&self, action: Action) -> impl Iterator<Item = &Notice> {
        self.notices.iter().filter(move |notice| notice.action == action)
    }

    /// About the worst that is told.
    fn subject(&self) -> &'static str {
        if self.of(Action::Failed).next().is_some() {
            "Undelivered mail returned to sender"
        } else if self.of(Action::Delayed).next().is_some() {
            "Delayed mail, still being tried"
        } else {
            "Mail passed on, no further notice"
        }
    }

    fn write_text(&self, out: &mut Vec<u8>, boundary: &str) {
        let Report { hostname, postmaster, .. } = self;
        let _ = write!(
            out,
            "--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
             This is the mail system at {hostname}. For help, write to\r\n{postmaster}.\r\n"
        );
        for action in [Action::Failed, Action::Delayed, Action::Relayed] {
            let mut notices = self.of(action).peekable();
            if notices.peek().is_none() {
                continue;
            }
            match action {
                Action::Failed => out.extend_from_slice(
                    b"\r\nYour message could not be delivered to one or more recipients. The\r\nreasons follow.\r\n",
                ),
                Action::Delayed => {
                    out.extend_from_slice(
                        b"\r\nYour message is late for one or more recipients. There is nothing you need\r\n\
                         to do; it will be tried again until\r\n",
                    );
                    self.write_deadline(out);
                    out.extend_from_slice(b". The reasons follow.\r\n");
                }
                Action::Relayed => out.extend_from_slice(
                    b"\r\nYour message was passed on for one or more recipients to a mail system that\r\n\
                      does not confirm deliveries. You may get no further notice of it.\r\n",
                ),
            }
            for notice in notices {
                let _ = write!(out, "\r\n<{}>:\r\n    ", self.recipient(notice));
                if let Some(remote) = &notice.reason.remote {
                    let said = if is_reply(&notice.reason.text) { " said" } else { "" };
                    let _ = write!(out, "{remote}{said}: ");
                }
                write_seven_bit(out, notice.reason.text.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn write_status(&self, out: &mut Vec<u8>, boundary: &str) {
        let _ = write!(out, "\r\n--{boundary}\r\nContent-Type: message/delivery-status\r\n\r\n");
        let dsn = self.envelope.dsn.as_deref();
        if let Some(id) = dsn.and_then(|dsn| dsn.mail.envelope_id.as_ref()) {
            out.extend_from_slice(b"Original-Envelope-Id: ");
            write_seven_bit(out, id.decoded().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        let _ = write!(out, "Reporting-MTA: dns; {}\r\nArrival-Date: ", self.hostname);
        write_date(out, self.arrival());
        out.extend_from_slice(b"\r\n");
        for notice in self.notices {
            out.extend_from_slice(b"\r\n");
            self.write_recipient(out, notice);
        }
    }

    fn write_recipient(&self, out: &mut Vec<u8>, notice: &Notice) {
        let said = self.envelope.dsn.as_ref().and_then(|dsn| dsn.recipient(notice.recipient as usize));
        if let Some(original) = said.and_then(|said| said.original.as_ref()) {
            let _ = write!(out, "Original-Recipient: {}; ", original.kind());
            write_seven_bit(out, original.decoded().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        let reason = &notice.reason;
        let action = match notice.action {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Relayed => "relayed",
        };
        let _ = write!(
            out,
            "Final-Recipient: rfc822; {}\r\nAction: {action}\r\nStatus: {}\r\n",
            self.recipient(notice),
            reason.status
        );
        if let Some(remote) = &reason.remote {
            let _ = write!(out, "Remote-MTA: dns; {}\r\n", mta_name(remote));
        }
        let said_by_smtp = reason.remote.is_some() && is_reply(&reason.text);
        let kind = if said_by_smtp { "smtp" } else { "x-chasqui" };
        let _ = write!(out, "Diagnostic-Code: {kind}; ");
        write_seven_bit(out, reason.text.as_bytes());
        out.extend_from_slice(b"\r\n");
        if reason.remote.is_some() {
            // The round is told when it ends; without a next hop there was no attempt at it.
            out.extend_from_slice(b"Last-Attempt-Date: ");
            write_date(out, self.now);
            out.extend_from_slice(b"\r\n");
        }
        if notice.action == Action::Delayed {
            out.extend_from_slice(b"Will-Retry-Until: ");
            self.write_deadline(out);
            out.extend_from_slice(b"\r\n");
        }
    }

    fn write_original(&self, out: &mut Vec<u8>, boundary: &str) {
        match &self.original {
            Original::Whole(message) => {
                let encoding = if self.eight_bit { "Content-Transfer-Encoding: 8bit\r\n" } else { "" };
                let _ = write!(out, "\r\n--{boundary}\r\nContent-Type: message/rfc822\r\n{encoding}\r\n");
                out.extend_from_slice(message);
            }
            Original::Headers(headers) => {
                let _ = write!(out, "\r\n--{boundary}\r\nContent-Type: text/rfc822-headers\r\n\r\n");
                for line in headers.split_inclusive(|&byte| byte == b'\n') {
                    write_seven_bit(out, line.strip_suffix(b"\r\n").unwrap_or(line));
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
    }

    /// When the message arrived: not in the future, even where the wall clock was ahead then.
    fn arrival(&self) -> Duration {
        Duration::from_millis(self.envelope.arrived_ms).min(self.now)
    }

    /// When the message will be given up.
    fn write_deadline(&self, out: &mut Vec<u8>) {
        write_date(out, self.arrival().saturating_add(self.max_age).max(self.now));
    }

    fn recipient(&self, notice: &Notice) -> &str {
        &self.envelope.recipients[notice.recipient as usize]
    }
}

/// A host by its name, or by its address as a literal.
fn mta_name(host: &str) -> Cow<'_, str> {
    match host.parse() {
        Ok(IpAddr::V4(address)) => format!("[{address}]").into(),
        Ok(IpAddr::V6(address)) => format!("[IPv6:{address}]").into(),
        Err(_) => host.into(),
    }
}

/// Whether a text begins with a reply code: three digits.
fn is_reply(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() > 3 && bytes[..3].iter().all(u8::is_ascii_digit) && bytes[3] == b' '
}

/// Text from elsewhere on one line: what is not printable ASCII becomes `?`, what is too long is cut.
fn write_seven_bit(out: &mut Vec<u8>, text: &[u8]) {
    let printable = |&byte: &u8| if matches!(byte, b'\t' | 0x20..=0x7e) { byte } else { b'?' };
    out.extend(text.iter().take(LINE_MAX).map(printable));
}
