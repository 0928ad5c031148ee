//! What a session does before its transaction: capabilities, TLS (RFC 2595 section 4) and logins, by password or by SASL
//! (RFC 5034).

use std::fmt::Write as _;

use super::{Awaited, Event, Listing, MAX_LINE, Offer, Refusal, Session, State, Text, Transaction};
use crate::sasl::base64;
use crate::sasl::line::{self, LINE_MAX, NoResponse};
use crate::sasl::mechanism::Mechanism;

impl Session {
    /// The connection is in TLS now, by [`Event::StartTls`], and this is offered on it. What was said before is forgotten
    /// (RFC 2595 section 4), but for what counts against the client.
    pub fn secured(&mut self, offer: Offer) {
        self.state = State::Authorization { user: None };
        (self.offer, self.awaited) = (offer, Awaited::Command);
    }

    /// Asks on in an exchange of AUTH: the next event is [`Event::Response`].
    pub fn challenge(&mut self, octets: &[u8]) {
        let _ = write!(Text(&mut self.output), "+ {}\r\n", base64::encode(octets));
        self.awaited = Awaited::Response;
    }

    /// Opens the transaction state on this listing.
    pub fn accept_login(&mut self, listing: Listing) {
        self.positive(&format!("maildrop has {} messages", listing.messages.len()));
        self.state = State::Transaction(Transaction::new(listing));
    }

    /// Wrong passwords so far: what the owner makes the next answer wait for.
    pub fn login_failures(&self) -> u32 {
        self.login_failures
    }

    /// Answers PASS or AUTH with -ERR. Counts as an error; after five wrong passwords [`Event::TooManyErrors`] comes whatever the client
    /// says.
    pub fn refuse_login(&mut self, refusal: Refusal) {
        self.login_failures += u32::from(refusal == Refusal::Credentials);
        self.negative(match refusal {
            Refusal::Credentials => "invalid user name or password",
            Refusal::InUse => "[IN-USE] another session has the maildrop locked",
            Refusal::Unavailable => "the maildrop cannot be opened now",
            Refusal::Response => "the authentication is over without a login",
        });
    }

    /// The longest line that is read now.
    pub(super) fn line_max(&self) -> usize {
        if self.awaited == Awaited::Response { LINE_MAX } else { MAX_LINE }
    }

    /// The line was awaited as a response; none: it was not.
    pub(super) fn response(&mut self, response: Result<Vec<u8>, NoResponse>) -> Option<Event> {
        if self.awaited != Awaited::Response {
            return None;
        }
        self.awaited = Awaited::Command;
        Some(Event::Response(response))
    }

    /// CAPA (RFC 2449): what works, and nothing else. Messages are never deleted but by DELE, hence EXPIRE NEVER.
    pub(super) fn capa(&mut self) {
        self.output.extend_from_slice(
            b"+OK capabilities follow\r\nTOP\r\nUSER\r\nUIDL\r\nPIPELINING\r\nRESP-CODES\r\nEXPIRE NEVER\r\n",
        );
        if self.offer.starttls && matches!(self.state, State::Authorization { .. }) {
            self.output.extend_from_slice(b"STLS\r\n");
        }
        if !self.offer.mechanisms.is_empty() {
            let _ = write!(Text(&mut self.output), "SASL {}\r\n", self.offer.mechanisms);
        }
        self.output.extend_from_slice(b"IMPLEMENTATION Chasqui\r\n.\r\n");
    }

    pub(super) fn stls(&mut self, argument: &str) -> Option<Event> {
        if !self.offer.starttls {
            self.negative("not supported");
        } else if matches!(self.state, State::Transaction(_)) {
            self.negative("already logged in");
        } else if !argument.is_empty() {
            self.negative("STLS has no argument");
        } else {
            self.awaited = Awaited::Tls;
            self.positive("begin TLS");
            return Some(Event::StartTls);
        }
        None
    }

    pub(super) fn auth(&mut self, argument: &str) -> Option<Event> {
        if matches!(self.state, State::Transaction(_)) {
            self.negative("already logged in");
            return None;
        }
        let (name, initial) = match argument.trim_end().split_once(' ') {
            Some((name, initial)) => (name, Some(initial)),
            None => (argument.trim_end(), None),
        };
        let known = Mechanism::from_name(name.as_bytes());
        let Some(mechanism) = known.filter(|&mechanism| self.offer.mechanisms.contains(mechanism)) else {
            self.negative("not supported: CAPA names the mechanisms");
            return None;
        };
        match initial.map(|text| line::initial(text.as_bytes())).transpose() {
            Ok(initial) => Some(Event::Authenticate { mechanism, initial }),
            Err(error) => {
                self.negative(&error.to_string());
                None
            }
        }
    }

    pub(super) fn user(&mut self, argument: &str) {
        match &mut self.state {
            State::Authorization { user } if !argument.is_empty() => {
                *user = Some(argument.to_owned());
                self.positive("send PASS");
            }
            State::Authorization { .. } => self.negative("USER needs a name"),
            State::Transaction(_) => self.negative("already logged in"),
        }
    }

    pub(super) fn pass(&mut self, argument: &str) -> Option<Event> {
        let State::Authorization { user } = &mut self.state else {
            self.negative("already logged in");
            return None;
        };
        let Some(user) = user.take() else {
            self.negative("send USER first");
            return None;
        };
        // Spaces belong to the password (RFC 1939 section 7).
        Some(Event::Login { user, password: argument.to_owned() })
    }
}
