//! The server's side of an exchange.
//!
//! [`Exchange::start`] takes the initial response, [`Exchange::handle_response`] each one that follows; both say what is next. A
//! client that gives up (`*`) has its exchange dropped. A [`Failure`] is the end of an exchange, and its reply the same for a user
//! that there is not and a password that is wrong; who has failed often is the caller's to slow down.

mod scram;

use super::binding::ChannelBinding;
use super::mechanism::Mechanism;
use super::prepare::{self, Password, Unprepared};
use super::scram::ScramVerifier;
use super::{MESSAGE_MAX, Nonce};

/// What LOGIN asks first. Clients look for these words.
const LOGIN_USER: &[u8] = b"Username:";
const LOGIN_PASSWORD: &[u8] = b"Password:";

/// What is next.
#[derive(Debug)]
pub enum Step {
    /// The client is sent these octets, often none, and its answer is the next response.
    Challenge(Vec<u8>),
    /// The client has shown its password. The exchange is over, and whoever verifies it ([`super::stored::Stored::verify`], off
    /// the shard) decides.
    Password(Credentials),
    /// The verifier of this user is wanted: [`Exchange::use_verifier`]. Users that there are not, and those that have none, get
    /// the one of [`super::stored::Fake`].
    Lookup {
        /// The name, prepared.
        user: String,
    },
    /// The client has proved that it is this user. The exchange is over.
    Done {
        /// The name, prepared.
        user: String,
    },
}

/// Name and password as PLAIN and LOGIN have given them, prepared.
#[derive(Debug)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password. Debug does not show it.
    pub password: Password,
}

/// Why an exchange has failed. It is over; the caller sends the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The response is none of this mechanism at this point: a faulty client. SMTP 501 5.5.2, IMAP BAD, POP3 -ERR.
    #[error("the response is malformed")]
    Malformed,
    /// Over [`MESSAGE_MAX`]. SMTP 500 5.5.6, IMAP BAD, POP3 -ERR.
    #[error("the response is too long")]
    TooLong,
    /// Name or password cannot be one. SMTP 535 5.7.8, IMAP NO, POP3 -ERR, as all that follow.
    #[error("a name or password {0}")]
    Unprepared(#[from] Unprepared),
    /// The client asks to act as somebody else, which nobody may.
    #[error("the client asks to act as another user")]
    Authorization,
    /// The channel binding is missing, of another kind or of another connection, or the offer of one was hidden from the client:
    /// somebody is between the two ends, or the client is faulty.
    #[error("the channel binding does not hold")]
    ChannelBinding,
    /// The proof is wrong: another password, or a user that there is not.
    #[error("the proof is wrong")]
    Proof,
    /// The exchange is over, or waits for something else: a mistake of the caller.
    #[error("the exchange does not wait for this")]
    OutOfTurn,
}

/// One exchange: a few hundred octets, less before the first response.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    channel_binding: Option<ChannelBinding>,
    nonce: Nonce,
    state: State,
}

#[derive(Debug)]
enum State {
    Start,
    Plain,
    LoginUser,
    LoginPassword { user: String },
    ScramFirst,
    ScramLookup(scram::Lookup),
    ScramFinal(Box<scram::Final>),
    ScramSigned { user: String },
    Over,
}

impl Exchange {
    /// An exchange of a mechanism that was offered. `channel_binding` is there where this connection offers
    /// [`Mechanism::ScramSha256Plus`], also for the other mechanisms: a client that does not see the offer is being deceived.
    pub fn new(mechanism: Mechanism, channel_binding: Option<ChannelBinding>, nonce: Nonce) -> Exchange {
        Exchange { mechanism, channel_binding, nonce, state: State::Start }
    }

    /// Begins, with the initial response if there is one; an empty one (`=` in SMTP and IMAP) is one.
    pub fn start(&mut self, initial: Option<&[u8]>) -> Result<Step, Failure> {
        if !matches!(self.state, State::Start) {
            self.state = State::Over;
            return Err(Failure::OutOfTurn);
        }
        let (state, challenge) = match self.mechanism {
            Mechanism::Plain => (State::Plain, &b""[..]),
            Mechanism::Login => (State::LoginUser, LOGIN_USER),
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => (State::ScramFirst, &b""[..]),
        };
        self.state = state;
        match initial {
            Some(response) => self.handle_response(response),
            None => Ok(Step::Challenge(challenge.to_vec())),
        }
    }

    /// Takes the answer to a challenge.
    pub fn handle_response(&mut self, response: &[u8]) -> Result<Step, Failure> {
        let state = std::mem::replace(&mut self.state, State::Over);
        if response.len() > MESSAGE_MAX {
            return Err(Failure::TooLong);
        }
        match state {
            State::Plain => plain(response).map(Step::Password),
            State::LoginUser => {
                self.state = State::LoginPassword { user: prepare::name(response)? };
                Ok(Step::Challenge(LOGIN_PASSWORD.to_vec()))
            }
            State::LoginPassword { user } => {
                let password = Password::prepare(response)?;
                Ok(Step::Password(Credentials { user, password }))
            }
            State::ScramFirst => {
                let lookup = scram::Lookup::parse(response, self.mechanism, self.channel_binding.as_ref())?;
                let user = lookup.user().to_owned();
                self.state = State::ScramLookup(lookup);
                Ok(Step::Lookup { user })
            }
            State::ScramFinal(last) => {
                let (user, signature) = last.verify(response)?;
                self.state = State::ScramSigned { user };
                Ok(Step::Challenge(signature))
            }
            // None of the protocols can send the signature with its success, so the client acknowledges it with nothing.
            State::ScramSigned { user } if response.is_empty() => Ok(Step::Done { user }),
            State::ScramSigned { .. } => Err(Failure::Malformed),
            State::Start | State::ScramLookup(_) | State::Over => Err(Failure::OutOfTurn),
        }
    }

    /// Goes on after [`Step::Lookup`], with the verifier of that user or one that stands for it.
    pub fn use_verifier(&mut self, verifier: &ScramVerifier) -> Result<Step, Failure> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::ScramLookup(lookup) => {
                let (challenge, last) = lookup.challenge(verifier, self.nonce);
                self.state = State::ScramFinal(Box::new(last));
                Ok(Step::Challenge(challenge))
            }
            _ => Err(Failure::OutOfTurn),
        }
    }
}

/// `[authzid] NUL authcid NUL passwd` (RFC 4616 section 2).
fn plain(response: &[u8]) -> Result<Credentials, Failure> {
    let mut parts = response.splitn(3, |&octet| octet == 0);
    let (Some(authorization), Some(user), Some(password)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Failure::Malformed);
    };
    let user = prepare::name(user)?;
    if !authorization.is_empty() && prepare::name(authorization)? != user {
        return Err(Failure::Authorization);
    }
    let password = Password::prepare(password)?;
    Ok(Credentials { user, password })
}
