//! How a client comes in: capabilities, STARTTLS, LOGIN and AUTHENTICATE (RFC 9051 section 6.2, SASL-IR of RFC 4959).

use std::io::{self, Write as _};

use chasqui_protocol::sasl::line::NoResponse;
use chasqui_protocol::sasl::mechanism::{Mechanism, Mechanisms};
use chasqui_runtime::sleep;
use chasqui_transport::Stream;

use super::{CAPABILITIES, End, Next, Session};
use crate::authentication::{Answer, Authentication};
use crate::imap::Options;
use crate::mailbox::{Outgoing, delay_of_failure};

/// LOGINs and AUTHENTICATEs that may fail before the connection is closed.
const MAX_LOGIN_FAILURES: u32 = 5;

/// What is offered before the login on a connection as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::imap) struct Offer {
    starttls: bool,
    mechanisms: Mechanisms,
}

impl Offer {
    pub(in crate::imap) fn new(options: &Options, stream: &Stream) -> Offer {
        let starttls = options.tls.is_some() && stream.agreed().is_none();
        Offer { starttls, mechanisms: options.login.mechanisms(stream) }
    }
}

/// An AUTHENTICATE that is under way.
pub(super) struct Authenticating {
    tag: String,
    exchange: Authentication,
}

impl Session {
    pub(super) fn capabilities(&self) -> String {
        let mut text = CAPABILITIES.to_owned();
        if self.is_logged_in() {
            return text;
        }
        if self.offer.starttls {
            text.push_str(" STARTTLS");
        }
        if !self.offer.mechanisms.is_empty() {
            text.push_str(" SASL-IR");
        }
        for mechanism in self.offer.mechanisms.iter() {
            text.push_str(" AUTH=");
            text.push_str(mechanism.name());
        }
        text
    }

    /// Answers STARTTLS.
    pub(super) fn begin_tls(&mut self, tag: &str, output: &mut Vec<u8>) -> Next {
        let (status, text, next) = match (self.is_logged_in(), self.offer.starttls) {
            (true, _) => ("BAD", "already logged in", Next::Command),
            (false, false) => ("BAD", "TLS is not to be had, or there already", Next::Command),
            (false, true) => ("OK", "begin TLS", Next::StartTls),
        };
        let _ = write!(output, "{tag} {status} {text}\r\n");
        next
    }

    /// The connection is in TLS now.
    pub(in crate::imap) fn secured(&mut self, offer: Offer) {
        self.offer = offer;
    }

    /// Begins AUTHENTICATE; `named`: its tag and mechanism.
    pub(super) async fn authenticate(
        &mut self,
        named: (&str, &str),
        initial: Option<&[u8]>,
        stream: &Stream,
        out: &mut Outgoing,
    ) -> io::Result<Next> {
        let (tag, name) = named;
        if self.is_logged_in() {
            return self.end_login(tag, End::bad("already logged in"), out).await;
        }
        let known = Mechanism::from_name(name.as_bytes());
        let Some(mechanism) = known.filter(|&mechanism| self.offer.mechanisms.contains(mechanism)) else {
            let end = End::no("the mechanism is not offered: CAPABILITY names those that are");
            return self.end_login(tag, end, out).await;
        };
        let (exchange, answer) =
            Authentication::begin(&self.options.login, stream.exporter(), mechanism, initial);
        self.go_on(Box::new(Authenticating { tag: tag.to_owned(), exchange }), answer, out).await
    }

    /// Takes the line after a challenge.
    pub(in crate::imap) async fn respond(
        &mut self,
        response: Result<Vec<u8>, NoResponse>,
        out: &mut Outgoing,
    ) -> io::Result<Next> {
        let Some(mut under_way) = self.authenticating.take() else { return Ok(Next::Command) };
        let answer = match response {
            Ok(response) => under_way.exchange.respond(&self.options.login, &response),
            Err(error) => {
                let end = End { status: "BAD", text: error.to_string().into() };
                return self.end_login(&under_way.tag, end, out).await;
            }
        };
        self.go_on(under_way, answer, out).await
    }

    async fn go_on(
        &mut self,
        under_way: Box<Authenticating>,
        answer: Answer,
        out: &mut Outgoing,
    ) -> io::Result<Next> {
        let end = match answer {
            Answer::Challenge(octets) => {
                self.authenticating = Some(under_way);
                return Ok(Next::Challenge(octets));
            }
            Answer::User(user) => self.open(self.options.login.mailbox_of(&user)),
            Answer::Refused => self.open(None),
            Answer::Malformed => End::bad("the response is none of this mechanism"),
        };
        self.end_login(&under_way.tag, end, out).await
    }

    pub(super) fn login(&mut self, user: &[u8], password: &[u8]) -> End {
        if self.mailbox.is_some() {
            return End::bad("already logged in");
        }
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let credentials = text(user).zip(text(password));
        let address = credentials.and_then(|(user, password)| self.options.login.admit(user, password));
        self.open(address)
    }

    /// Opens the mailbox of this address; none: the password is wrong.
    fn open(&mut self, address: Option<String>) -> End {
        let Some(address) = address else {
            self.login_failures += 1;
            return End::no("invalid user name or password");
        };
        let Some(mailbox) = self.store.open(&address) else {
            return End::no("there are too many mailboxes");
        };
        self.mailbox = Some(mailbox);
        self.login_failures = 0;
        End { status: "OK", text: format!("[CAPABILITY {}] logged in", self.capabilities()).into() }
    }

    /// Answers LOGIN or AUTHENTICATE, a wrong password after a while.
    pub(super) async fn end_login(&mut self, tag: &str, end: End, out: &mut Outgoing) -> io::Result<Next> {
        if end.status == "NO" && self.login_failures > 0 {
            sleep(delay_of_failure(self.login_failures)).await;
        }
        self.tell_news(true, out).await?;
        let output = out.text();
        let _ = write!(output, "{tag} {} {}\r\n", end.status, end.text);
        if self.login_failures >= MAX_LOGIN_FAILURES {
            output.extend_from_slice(b"* BYE too many failed logins\r\n");
            return Ok(Next::HangUp);
        }
        Ok(Next::Command)
    }
}
