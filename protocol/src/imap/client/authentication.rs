//! How a client comes in: STARTTLS and AUTHENTICATE (RFC 9051 section 6.2, SASL-IR of RFC 4959).

use imap_codec::imap_types::command::CommandBody;

use super::{Client, ClientError, Command, Event, Idle, Status};
use crate::sasl::client::{ClientKeys, Derivation, Exchange, Failure, LineExchange};
use crate::sasl::mechanism::{Mechanism, Mechanisms};

impl Client {
    /// Queues STARTTLS. Once it is complete and OK, go over to TLS, then [`Client::secured`].
    pub fn starttls(&mut self) {
        self.submit(Command::StartTls, CommandBody::StartTLS);
    }

    /// The connection is in TLS now. What the server has said that it can do counts no more.
    pub fn secured(&mut self) {
        self.is_turning = false;
        self.capabilities.clear();
    }

    /// What the server offers for AUTHENTICATE, as far as it has said so: see [`Client::has_capability`].
    pub fn mechanisms(&self) -> Mechanisms {
        let name = |capability: &String| {
            let (key, name) = capability.split_once('=')?;
            if key.eq_ignore_ascii_case("AUTH") { Mechanism::from_name(name.as_bytes()) } else { None }
        };
        self.capabilities.iter().filter_map(name).collect()
    }

    /// Queues AUTHENTICATE with an exchange of one of [`Client::mechanisms`]. Not during IDLE.
    pub fn authenticate(&mut self, exchange: Exchange) {
        debug_assert!(self.idle == Idle::No, "a challenge would be taken for the answer to IDLE");
        let room = if self.has_capability("SASL-IR") { usize::MAX } else { 0 };
        let (exchange, argument) = LineExchange::begin(exchange, room);
        self.exchange = Some(Box::new(exchange));
        let tag = self.next_tag(Command::Authenticate);
        self.output.extend_from_slice(format!("{tag} AUTHENTICATE {argument}\r\n").as_bytes());
    }

    /// The work after [`Event::DeriveKeys`].
    pub fn take_derivation(&mut self) -> Option<Derivation> {
        self.exchange.as_mut()?.take_derivation()
    }

    /// Goes on with the keys that were derived.
    pub fn use_keys(&mut self, keys: &ClientKeys) -> Result<(), ClientError> {
        let exchange = self.exchange.as_mut().ok_or(Failure::OutOfTurn)?;
        self.output.extend_from_slice(exchange.use_keys(keys)?.as_bytes());
        Ok(())
    }

    /// What stands behind the `+` of a continuation request.
    pub(super) fn handle_challenge(&mut self, text: &[u8]) -> Result<(), Failure> {
        let exchange = self.exchange.as_mut().ok_or(Failure::OutOfTurn)?;
        match exchange.handle_challenge(text.trim_ascii())? {
            Some(line) => self.output.extend_from_slice(line.as_bytes()),
            None => self.events.push_back(Event::DeriveKeys),
        }
        Ok(())
    }

    /// STARTTLS or AUTHENTICATE is complete.
    pub(super) fn end_authorization(&mut self, command: Command, status: Status) -> Result<(), Failure> {
        match (command, status) {
            (Command::StartTls, Status::Ok) => self.is_turning = true,
            (Command::Authenticate, Status::Ok) => {
                let mut exchange = self.exchange.take().ok_or(Failure::OutOfTurn)?;
                exchange.handle_success()?;
            }
            (Command::Authenticate, _) => self.exchange = None,
            _ => {}
        }
        Ok(())
    }
}
