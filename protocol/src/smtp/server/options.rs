//! What a server's sessions have in common.

use super::{AuthOptions, BareNewline, EarlyTalkers, LongLines, NulOctets};
use crate::sasl::mechanism::Mechanisms;
use crate::smtp::extensions::Offering;

/// How a server behaves; shared by its sessions.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the server calls itself: a host name.
    pub hostname: String,
    /// Unstuffed octets of a message, advertised by SIZE.
    pub max_message_size: u64,
    /// Recipients of a message; the next ones get 452 4.5.3.
    pub max_recipients: usize,
    /// Commands in error until 421 4.7.0; an accepted message resets the count. What the caller refuses, and what
    /// follows from it in a pipeline, does not count. Before EHLO or HELO fewer unknown commands end the session
    /// ([`crate::foreign::UNKNOWN_MAX`]), and so does at any time what belongs to another protocol ([`crate::foreign`]).
    pub max_errors: usize,
    /// Commands that bring no mail until 421 4.7.0: NOOP, RSET, VRFY, HELP, EHLO and HELO again, senders, recipients and messages
    /// that were refused for good, and what can follow from no refusal. An accepted message resets the count.
    pub max_junk: usize,
    /// Octets of a command line with its CRLF. RFC 5321 asks for 512 and room for parameters.
    pub max_command_line: usize,
    /// What to do with CR or LF alone in a body.
    pub bare_newline: BareNewline,
    /// What to do with lines over 998 octets.
    pub long_lines: LongLines,
    /// What to do with NUL in a body. In a command it is an error.
    pub nul_octets: NulOctets,
    /// What to do with clients that do not wait for a reply.
    pub early_talkers: EarlyTalkers,
    /// Whether the caller does as RFC 3461 says: DSN is advertised and its parameters are taken, else 555.
    pub dsn: bool,
    /// Whether the caller can go over to TLS: STARTTLS is advertised, and answered by [`super::Event::StartTls`].
    pub starttls: bool,
    /// Whether clients may say whose clients they are: XCLIENT is advertised, and answered by [`super::Event::Xclient`], else by 550.
    pub xclient: bool,
    /// Who must tell who it is, and how.
    pub auth: AuthOptions,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            hostname: "localhost".to_owned(),
            max_message_size: 50 * 1024 * 1024,
            max_recipients: 1000,
            max_errors: 20,
            max_junk: 100,
            max_command_line: 2048,
            bare_newline: BareNewline::default(),
            long_lines: LongLines::default(),
            nul_octets: NulOctets::default(),
            early_talkers: EarlyTalkers::default(),
            dsn: false,
            starttls: false,
            xclient: false,
            auth: AuthOptions::default(),
        }
    }
}

impl Options {
    pub(super) fn offering(&self, is_secured: bool, mechanisms: Mechanisms) -> Offering {
        let starttls = self.starttls && !is_secured;
        let Options { max_message_size: size, dsn, xclient, .. } = *self;
        Offering { size, dsn, starttls, mechanisms, xclient }
    }
}
