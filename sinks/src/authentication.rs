//! An exchange of SASL with one client, from the first response to who it is.

use chasqui_protocol::sasl::Nonce;
use chasqui_protocol::sasl::binding::ChannelBinding;
use chasqui_protocol::sasl::mechanism::Mechanism;
use chasqui_protocol::sasl::prepare::Password;
use chasqui_protocol::sasl::scram::ScramVerifier;
use chasqui_protocol::sasl::server::{Exchange, Failure, Step};
use chasqui_runtime::secret;

/// Who is known. Names and passwords are as SASLprep has them.
pub(crate) trait Users {
    /// The verifier of a user; none: SCRAM cannot let it in. The first call for one takes a millisecond.
    fn verifier(&self, user: &str) -> Option<&ScramVerifier>;
    /// Whether this is a user with this password.
    fn admits(&self, user: &str, password: &Password) -> bool;
}

/// What the client gets.
#[derive(Debug)]
pub(crate) enum Answer {
    /// These octets, and its next line is the response.
    Challenge(Vec<u8>),
    /// Its way: it is this user.
    User(String),
    /// Nothing: the password is wrong, or there is no such user.
    Refused,
    /// Nothing: its response is none.
    Malformed,
}

/// An exchange that is under way. Sessions hold it for as long.
#[derive(Debug)]
pub(crate) struct Authentication(Box<Exchange>);

impl Authentication {
    /// Begins with a mechanism that is offered. `exported` is what its connection is bound by, where it is in TLS.
    pub(crate) fn begin(
        users: &impl Users,
        exported: Option<[u8; 32]>,
        mechanism: Mechanism,
        initial: Option<&[u8]>,
    ) -> (Authentication, Answer) {
        let binding = exported.map(ChannelBinding::TlsExporter);
        let mut exchange = Box::new(Exchange::new(mechanism, binding, Nonce(secret())));
        let step = exchange.start(initial);
        let answer = answer(users, &mut exchange, step);
        (Authentication(exchange), answer)
    }

    /// Takes the response to a challenge.
    pub(crate) fn respond(&mut self, users: &impl Users, response: &[u8]) -> Answer {
        let step = self.0.handle_response(response);
        answer(users, &mut self.0, step)
    }
}

fn answer(users: &impl Users, exchange: &mut Exchange, step: Result<Step, Failure>) -> Answer {
    let step = match step {
        Ok(Step::Lookup { user }) => match users.verifier(&user) {
            Some(verifier) => exchange.use_verifier(verifier),
            None => return Answer::Refused,
        },
        step => step,
    };
    match step {
        Ok(Step::Challenge(octets)) => Answer::Challenge(octets),
        Ok(Step::Password(shown)) if users.admits(&shown.user, &shown.password) => Answer::User(shown.user),
        Ok(Step::Done { user }) => Answer::User(user),
        Err(Failure::Malformed | Failure::TooLong) => Answer::Malformed,
        Ok(Step::Password(_) | Step::Lookup { .. }) | Err(_) => Answer::Refused,
    }
}
