//! What a session tells its caller.

use super::{BodyInfo, MailRequest, RcptParameters};
use crate::sasl::mechanism::Mechanism;
use crate::smtp::address::Mailbox;
use crate::smtp::xclient::XclientRequest;

/// What the caller learns from input.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// All input is used: send the output, read more.
    NeedInput,
    /// The client has not taken what it was answered: send the output, and wait until the one before is gone; then call again
    /// with the rest of the input.
    OutputFull,
    /// EHLO or HELO, already answered. [`Session::hello`](super::Session::hello) keeps it.
    Hello {
        /// What the client calls itself: printable ASCII, at most 255 octets, fit for a trace field.
        name: String,
        /// Whether it was EHLO.
        esmtp: bool,
    },
    /// STARTTLS, answered by 220: send the output, make the handshake, and call
    /// [`Session::secured`](super::Session::secured) before more input is given.
    StartTls,
    /// AUTH begins an exchange. To be decided: [`Session::challenge`](super::Session::challenge) goes on, acceptance is 235.
    Auth(AuthRequest),
    /// What the client answers to a challenge. To be decided in the same way.
    AuthResponse(Vec<u8>),
    /// The client has given the exchange up, or broken it; already answered.
    AuthCancelled,
    /// The client says whose client it is (XCLIENT). To be decided; acceptance is the greeting again, and what was said before is
    /// forgotten.
    Xclient(XclientRequest),
    /// A transaction begins. To be decided.
    Mail(MailRequest<'a>),
    /// A recipient. To be decided.
    Rcpt(RcptRequest<'a>),
    /// The client wants to send the message. To be decided; acceptance is 354.
    Data,
    /// A piece of the message in wire form ([`crate::smtp::data`]).
    Body(&'a [u8]),
    /// The message is complete. To be decided; acceptance is the promise to deliver. The transaction ends.
    BodyEnd(BodyInfo),
    /// The message is over and the session has refused it (552, 554): drop its pieces. The transaction ends.
    BodyRefused,
    /// The transaction was given up by RSET, EHLO or HELO.
    Reset,
    /// The client is done, or the session was ended by a 421: send the output, close.
    Quit,
    /// The session is ended: by 421 4.7.0 for its errors, its junk or because the client speaks no SMTP, by 554 5.5.0 because
    /// it did not wait, by 552 or 554 within a message that is far too large. Send the output, close; the client may be
    /// sending still.
    TooManyErrors,
}

impl Event<'_> {
    /// The event of a command, no slice of its line.
    pub(super) fn into_owned(self) -> Event<'static> {
        match self {
            Event::Mail(MailRequest { reverse_path, size, body, dsn }) => {
                Event::Mail(MailRequest { reverse_path: reverse_path.into_owned(), size, body, dsn })
            }
            Event::Rcpt(RcptRequest { mailbox, postmaster, dsn }) => {
                Event::Rcpt(RcptRequest { mailbox: mailbox.into_owned(), postmaster, dsn })
            }
            Event::Xclient(request) => Event::Xclient(request),
            Event::Hello { name, esmtp } => Event::Hello { name, esmtp },
            Event::StartTls => Event::StartTls,
            Event::Auth(request) => Event::Auth(request),
            Event::AuthResponse(response) => Event::AuthResponse(response),
            Event::AuthCancelled => Event::AuthCancelled,
            Event::NeedInput => Event::NeedInput,
            Event::OutputFull => Event::OutputFull,
            Event::Data => Event::Data,
            Event::Body(_) => unreachable!("no command has a body"),
            Event::BodyEnd(info) => Event::BodyEnd(info),
            Event::BodyRefused => Event::BodyRefused,
            Event::Reset => Event::Reset,
            Event::Quit => Event::Quit,
            Event::TooManyErrors => Event::TooManyErrors,
        }
    }
}

/// What AUTH begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthRequest {
    /// One of those that were offered.
    pub mechanism: Mechanism,
    /// What came with the command; `Some` of nothing was written `=`.
    pub initial: Option<Vec<u8>>,
}

/// What RCPT asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RcptRequest<'a> {
    /// Where the message is to go.
    pub mailbox: Mailbox<'a>,
    /// It is the server's own postmaster: `<Postmaster>`, or that name at the server's own. Its mail is never refused for its
    /// address (RFC 5321 section 4.5.1).
    pub postmaster: bool,
    /// What it says of notifications (RFC 3461).
    pub dsn: RcptParameters,
}

/// What a client called itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The argument of EHLO or HELO.
    pub name: String,
    /// Whether it was EHLO.
    pub esmtp: bool,
}
