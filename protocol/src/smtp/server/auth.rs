//! AUTH (RFC 4954): its lines, and what of it is offered. The exchange itself is the caller's ([`crate::sasl::server`]).

use super::event::AuthRequest;
use super::{Decision, Event, Session, State};
use crate::sasl::base64;
use crate::sasl::line::{self, NoResponse};
use crate::sasl::mechanism::{Mechanism, Mechanisms};
use crate::smtp::command::CommandError;

/// Octets of a line of an exchange with its CRLF (RFC 4954 section 4.3 asks for 12,288).
pub(super) const AUTH_LINE_MAX: usize = line::LINE_MAX + 2;

/// Who must tell who it is, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuthOptions {
    /// Mechanisms that the caller carries out. Of those that show the password none is offered in plaintext, of those with channel
    /// binding none where there is no binding.
    pub mechanisms: Mechanisms,
    /// Also in plaintext those that show the password: for tests.
    pub shows_passwords: bool,
    /// MAIL is refused until the client has told who it is (RFC 6409 section 4.3).
    pub is_required: bool,
    /// AUTH and MAIL are refused in plaintext.
    pub requires_tls: bool,
}

impl Session {
    /// The mechanisms of the answer to EHLO as the connection is now.
    pub(super) fn mechanisms(&self) -> Mechanisms {
        let AuthOptions { mechanisms, shows_passwords, requires_tls, .. } = self.options.auth;
        if self.is_authenticated || (requires_tls && !self.is_secured) {
            return Mechanisms::NONE;
        }
        let bound = if self.is_bound { mechanisms } else { mechanisms.without_channel_binding() };
        if self.is_secured || shows_passwords { bound } else { bound.without_passwords() }
    }

    /// Whether the client has told who it is.
    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    /// Goes on with an exchange after [`Event::Auth`] or [`Event::AuthResponse`]: 334 with these octets.
    pub fn challenge(&mut self, octets: &[u8]) {
        if matches!(self.state, State::Deciding(Decision::Auth)) {
            self.output.extend_from_slice(b"334 ");
            self.output.extend_from_slice(base64::encode(octets).as_bytes());
            self.output.extend_from_slice(b"\r\n");
            self.state = State::Auth;
        }
    }

    pub(super) fn auth<'a>(&mut self, name: &[u8], initial: Option<&[u8]>) -> Option<Event<'a>> {
        if self.options.auth.mechanisms == Mechanisms::NONE {
            return self.error(CommandError::NotImplemented);
        }
        let is_in_order = self.hello.as_ref().is_some_and(|hello| hello.esmtp)
            && !self.is_authenticated
            && !self.is_in_transaction();
        if !is_in_order {
            return self.error(CommandError::Sequence);
        }
        if self.options.auth.requires_tls && !self.is_secured {
            return self.say(b"530 5.7.0 Must issue a STARTTLS command first\r\n", None);
        }
        let Some(mechanism) = Mechanism::from_name(name).filter(|it| self.mechanisms().contains(*it)) else {
            let is_for_tls = Mechanism::from_name(name).is_some_and(Mechanism::shows_password)
                && !self.is_secured
                && self.options.starttls;
            return match is_for_tls {
                true => self.refuse_error(b"538 5.7.11 Encryption required for this mechanism\r\n"),
                false => self.refuse_error(b"504 5.5.4 Unrecognized authentication type\r\n"),
            };
        };
        let initial = match initial.map(line::initial).transpose() {
            Ok(initial) => initial,
            // In the command it is no base64 as any other.
            Err(NoResponse::Cancelled) => return self.refuse_response(NoResponse::Malformed),
            Err(error) => return self.refuse_response(error),
        };
        self.decide(Decision::Auth, Event::Auth(AuthRequest { mechanism, initial }))
    }

    /// A line of the client's within an exchange, without its LF.
    pub(super) fn auth_response<'a>(&mut self, line: &[u8]) -> Option<Event<'a>> {
        self.state = State::Command;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line::response(line) {
            Ok(response) => self.decide(Decision::Auth, Event::AuthResponse(response)),
            Err(error) => self.refuse_response(error).or(Some(Event::AuthCancelled)),
        }
    }

    /// A line that is longer than any response.
    pub(super) fn auth_overlong<'a>(&mut self) -> Option<Event<'a>> {
        self.state = State::Command;
        self.refuse_response(NoResponse::TooLong).or(Some(Event::AuthCancelled))
    }

    fn refuse_response<'a>(&mut self, error: NoResponse) -> Option<Event<'a>> {
        self.refuse_error(match error {
            NoResponse::Cancelled => b"501 5.7.0 Authentication cancelled\r\n",
            NoResponse::Malformed => b"501 5.5.2 Cannot decode the response\r\n",
            NoResponse::TooLong => b"500 5.5.6 Authentication exchange line is too long\r\n",
        })
    }

    /// Why MAIL must wait for something else.
    pub(super) fn before_mail(&self) -> Option<&'static [u8]> {
        let auth = &self.options.auth;
        if auth.requires_tls && !self.is_secured {
            return Some(b"530 5.7.0 Must issue a STARTTLS command first\r\n");
        }
        (auth.is_required && !self.is_authenticated)
            .then_some(b"530 5.7.0 Authentication required\r\n".as_slice())
    }
}
