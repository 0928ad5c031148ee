//! How a client comes to its login: STLS (RFC 2595 section 4), then USER and PASS, or AUTH (RFC 5034).

use super::{Client, ClientError, Command, Event};
use crate::sasl::Nonce;
use crate::sasl::accounts::Account;
use crate::sasl::binding::ChannelBinding;
use crate::sasl::client::{self, ClientKeys, Derivation, Exchange, Failure, LineExchange};
use crate::sasl::mechanism::Mechanisms;

/// Octets of AUTH's arguments that servers take (RFC 2449 section 4: 255 with the command and its end).
const ARGUMENT_MAX: usize = 255 - "AUTH \r\n".len();

/// What comes before the transaction. By default USER and PASS, as they are.
#[derive(Debug, Default)]
pub struct Options {
    /// STLS is the first command; a server that does not have it gets no password.
    pub starttls: bool,
    /// AUTH; none: USER and PASS.
    pub sasl: Option<Sasl>,
}

/// How to authenticate.
#[derive(Debug)]
pub struct Sasl {
    /// What may be used: the best of it that the server offers is.
    pub mechanisms: Mechanisms,
    /// For one login.
    pub nonce: Nonce,
    /// Of an earlier login with the same password.
    pub keys: Option<ClientKeys>,
    /// Of a connection that is in TLS already.
    pub channel_binding: Option<ChannelBinding>,
    /// Whether the password may be shown. With a server that has no mechanism it is, by USER and PASS.
    pub may_show_password: bool,
}

impl Client {
    /// The connection is in TLS now, by [`Event::StartTls`].
    pub fn secured(&mut self, channel_binding: Option<ChannelBinding>) {
        if let Some(sasl) = &mut self.options.sasl {
            sasl.channel_binding = channel_binding;
        }
        self.begin_login();
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

    /// CAPA first: only its answer says whether the rest may be pipelined, and what AUTH has.
    pub(super) fn begin_login(&mut self) {
        self.waiting.push_back(Command::Capa);
        if self.options.sasl.is_none() {
            self.waiting.extend([Command::User, Command::Pass]);
        }
        self.send_waiting();
    }

    pub(super) fn note_mechanisms(&mut self, capability: &str) {
        if let Some((keyword, names)) = capability.split_once(' ')
            && keyword.eq_ignore_ascii_case("SASL")
        {
            self.offered = Mechanisms::parse(names.as_bytes());
        }
    }

    /// Sends AUTH, where that is to be.
    pub(super) fn begin_exchange(&mut self) -> Result<(), ClientError> {
        let Some(sasl) = self.options.sasl.take() else { return Ok(()) };
        let account = Account::new(&self.user, &self.password).map_err(|_| Failure::NoMechanism)?;
        let options =
            client::Options::new(self.offered, sasl.mechanisms, sasl.channel_binding, sasl.may_show_password);
        if self.offered.is_empty() && options.may_show_password {
            self.waiting.extend([Command::User, Command::Pass]);
            self.send_waiting();
            return Ok(());
        }
        let exchange = Exchange::new(&options, &account, sasl.nonce, sasl.keys)?;
        let (exchange, argument) = LineExchange::begin(exchange, ARGUMENT_MAX);
        self.exchange = Some(Box::new(exchange));
        self.output.extend_from_slice(format!("AUTH {argument}\r\n").as_bytes());
        self.submit(Command::Auth);
        Ok(())
    }

    pub(super) fn handle_challenge(&mut self, text: &[u8]) -> Result<Option<Event<'static>>, ClientError> {
        let exchange = self.exchange.as_mut().ok_or(Failure::OutOfTurn)?;
        let Some(line) = exchange.handle_challenge(text)? else { return Ok(Some(Event::DeriveKeys)) };
        self.output.extend_from_slice(line.as_bytes());
        Ok(None)
    }

    /// AUTH was answered +OK.
    pub(super) fn end_exchange(&mut self) -> Result<Event<'static>, ClientError> {
        let mut exchange = self.exchange.take().ok_or(Failure::OutOfTurn)?;
        exchange.handle_success()?;
        Ok(Event::Ready { pipelining: self.pipelining })
    }
}
