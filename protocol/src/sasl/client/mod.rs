//! The client's side of an exchange.
//!
//! [`Exchange::new`] chooses the mechanism, [`Exchange::initial`] gives the initial response where the protocol has room for one,
//! [`Exchange::handle_challenge`] answers each challenge, and [`Exchange::handle_success`] says whether the server's success
//! counts: with SCRAM it does only once the server has proved that it knows the user.

mod lines;
mod scram;

use super::accounts::Account;
use super::binding::ChannelBinding;
use super::mechanism::{Mechanism, Mechanisms};
use super::prepare::Unprepared;
use super::{MESSAGE_MAX, Nonce};
pub use lines::LineExchange;
pub use scram::{ClientKeys, Derivation};

/// What a connection can do.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the server offers.
    pub offered: Mechanisms,
    /// That of the TLS connection. Without it nothing is bound, and the server is told so.
    pub channel_binding: Option<ChannelBinding>,
    /// Whether the server may see the password: the connection is TLS with a verified peer, or its owner says so.
    pub may_show_password: bool,
}

impl Options {
    /// What a connection can do where `wanted` alone may be used of what is offered.
    pub fn new(
        offered: Mechanisms,
        wanted: Mechanisms,
        channel_binding: Option<ChannelBinding>,
        may_show_password: bool,
    ) -> Options {
        Options {
            offered: offered.iter().filter(|&offered| wanted.contains(offered)).collect(),
            // Who does not want to bind must not say that the offer of it is missing.
            channel_binding: channel_binding.filter(|_| wanted.contains(Mechanism::ScramSha256Plus)),
            may_show_password,
        }
    }

    /// The best mechanism, if there is one.
    pub fn mechanism(&self) -> Option<Mechanism> {
        let mut usable = self.offered;
        if self.channel_binding.is_none() {
            usable = usable.without_channel_binding();
        }
        if !self.may_show_password {
            usable = usable.without_passwords();
        }
        usable.iter().next()
    }
}

/// What is next.
#[derive(Debug)]
pub enum Step {
    /// The server is sent these octets, which may be none.
    Response(Vec<u8>),
    /// The keys of SCRAM are wanted for this salt: [`Derivation::derive`], which takes milliseconds to half a second, then
    /// [`Exchange::use_keys`]. Until then there is no response.
    Derive(Derivation),
}

/// Why an exchange has failed. It is over: the client cancels it (`*`) if the server waits for a response, or closes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No mechanism of the server can be used, or none without showing the password. The account's or the server's owner acts.
    #[error("the server offers no mechanism that can be used")]
    NoMechanism,
    /// The account's name or password cannot be used with SCRAM. The account's owner acts.
    #[error("the name or password {0}")]
    Unprepared(#[from] Unprepared),
    /// The challenge is none of this mechanism at this point: a faulty server.
    #[error("the server's challenge is malformed")]
    Malformed,
    /// Over [`MESSAGE_MAX`].
    #[error("the server's challenge is too long")]
    TooLong,
    /// The nonce is not ours with more behind it: an answer to somebody else.
    #[error("the server's challenge does not answer this exchange")]
    Nonce,
    /// Fewer rounds than [`super::scram::ITERATIONS_MIN`], which would give the password away, or more than
    /// [`super::scram::ITERATIONS_MAX`], which would take too long. The server's owner acts.
    #[error("the server asks for too few or too many iterations")]
    Iterations,
    /// The server refuses, in a word of RFC 5802 section 7; no more than letters, digits and hyphens of it.
    #[error("the server refuses: {0}")]
    Refused(String),
    /// The server does not know the user's keys: it is not the one that it says it is, and nothing more may be sent to it.
    #[error("the server's signature is wrong")]
    Signature,
    /// The server says that all is well before it can know, or a challenge comes when none is due.
    #[error("the server's answer comes out of turn")]
    OutOfTurn,
}

/// One exchange.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    state: State,
}

#[derive(Debug)]
enum State {
    Plain(Account),
    LoginUser(Account),
    LoginPassword(Account),
    /// All is said, and the server decides.
    Said,
    ScramFirst(Box<scram::First>),
    ScramWaiting(Box<scram::Waiting>),
    ScramDeriving(Box<scram::Deriving>),
    ScramProved(scram::Proved),
    /// The server has proved itself too.
    Verified,
    Over,
}

impl Exchange {
    /// An exchange of the best mechanism. `keys` are those of an earlier one for the same account; they save their derivation
    /// as long as the server's salt stays the same.
    pub fn new(
        options: &Options,
        account: &Account,
        nonce: Nonce,
        keys: Option<ClientKeys>,
    ) -> Result<Exchange, Failure> {
        let mechanism = options.mechanism().ok_or(Failure::NoMechanism)?;
        let state = match mechanism {
            Mechanism::Plain => State::Plain(account.clone()),
            Mechanism::Login => State::LoginUser(account.clone()),
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => {
                let first = scram::First::new(mechanism, options, account, nonce, keys)?;
                State::ScramFirst(Box::new(first))
            }
        };
        Ok(Exchange { mechanism, state })
    }

    /// The mechanism, for the protocol's command.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// The initial response, for the protocol's command. LOGIN has none. Where there is no room for it, it is left: it answers the
    /// server's empty challenge then.
    pub fn initial(&mut self) -> Option<Vec<u8>> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Plain(account) => {
                self.state = State::Said;
                Some(["", account.user(), account.password().as_str()].join("\0").into_bytes())
            }
            State::ScramFirst(first) => {
                let (response, waiting) = first.response();
                self.state = State::ScramWaiting(Box::new(waiting));
                Some(response)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Answers a challenge.
    pub fn handle_challenge(&mut self, challenge: &[u8]) -> Result<Step, Failure> {
        if matches!(self.state, State::Plain(_) | State::ScramFirst(_)) && challenge.is_empty() {
            return self.initial().map(Step::Response).ok_or(Failure::OutOfTurn);
        }
        let state = std::mem::replace(&mut self.state, State::Over);
        if challenge.len() > MESSAGE_MAX {
            return Err(Failure::TooLong);
        }
        match state {
            // Servers word their prompts as they like; the order is what counts.
            State::LoginUser(account) => {
                let response = account.user().as_bytes().to_vec();
                self.state = State::LoginPassword(account);
                Ok(Step::Response(response))
            }
            State::LoginPassword(account) => {
                self.state = State::Said;
                Ok(Step::Response(account.password().as_str().as_bytes().to_vec()))
            }
            State::ScramWaiting(waiting) => {
                let (deriving, keys) = waiting.handle_challenge(challenge)?;
                let derivation = deriving.derivation();
                self.state = State::ScramDeriving(Box::new(deriving));
                match keys {
                    Some(keys) => self.use_keys(&keys).map(Step::Response),
                    None => Ok(Step::Derive(derivation)),
                }
            }
            State::ScramProved(proved) => {
                proved.verify(challenge)?;
                self.state = State::Verified;
                Ok(Step::Response(Vec::new()))
            }
            State::Plain(_) | State::ScramFirst(_) => Err(Failure::Malformed),
            State::Said | State::ScramDeriving(_) | State::Verified | State::Over => Err(Failure::OutOfTurn),
        }
    }

    /// The response after [`Step::Derive`]. Keys of another salt than was asked for are refused.
    pub fn use_keys(&mut self, keys: &ClientKeys) -> Result<Vec<u8>, Failure> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::ScramDeriving(deriving) => {
                let (response, proved) = deriving.response(keys).ok_or(Failure::OutOfTurn)?;
                self.state = State::ScramProved(proved);
                Ok(response)
            }
            _ => Err(Failure::OutOfTurn),
        }
    }

    /// Whether the server's success counts. `data` is what came with it, where the protocol has room for that.
    pub fn handle_success(&mut self, data: Option<&[u8]>) -> Result<(), Failure> {
        match (std::mem::replace(&mut self.state, State::Over), data) {
            (State::Said | State::Verified, None | Some([])) => Ok(()),
            (State::ScramProved(proved), Some(data)) if data.len() <= MESSAGE_MAX => proved.verify(data),
            _ => Err(Failure::OutOfTurn),
        }
    }
}
