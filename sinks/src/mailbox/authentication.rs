//! An exchange of SASL with one client of POP3 or IMAP, from the first response to the mailbox.

use chasqui_protocol::sasl::Nonce;
use chasqui_protocol::sasl::binding::ChannelBinding;
use chasqui_protocol::sasl::mechanism::Mechanism;
use chasqui_protocol::sasl::server::{Exchange, Failure, Step};
use chasqui_runtime::secret;
use chasqui_transport::Stream;

use super::login::Login;

/// What the client gets.
#[derive(Debug)]
pub(crate) enum Answer {
    /// These octets, and its next line is the response.
    Challenge(Vec<u8>),
    /// This mailbox.
    Mailbox(String),
    /// Nothing: the password is wrong, or there is no such user.
    Refused,
    /// Nothing: its response is none.
    Malformed,
}

/// An exchange that is under way. Sessions hold it for as long.
#[derive(Debug)]
pub(crate) struct Authentication(Box<Exchange>);

impl Authentication {
    /// Begins with a mechanism that is offered on `stream`.
    pub(crate) fn begin(
        login: &Login,
        stream: &Stream,
        mechanism: Mechanism,
        initial: Option<&[u8]>,
    ) -> (Authentication, Answer) {
        let binding = stream.exporter().map(ChannelBinding::TlsExporter);
        let mut exchange = Box::new(Exchange::new(mechanism, binding, Nonce(secret())));
        let step = exchange.start(initial);
        let answer = answer(login, &mut exchange, step);
        (Authentication(exchange), answer)
    }

    /// Takes the response to a challenge.
    pub(crate) fn respond(&mut self, login: &Login, response: &[u8]) -> Answer {
        let step = self.0.handle_response(response);
        answer(login, &mut self.0, step)
    }
}

fn answer(login: &Login, exchange: &mut Exchange, step: Result<Step, Failure>) -> Answer {
    let step = match (step, login.verifier()) {
        (Ok(Step::Lookup { .. }), Some(verifier)) => exchange.use_verifier(verifier),
        (step, _) => step,
    };
    let mailbox = match step {
        Ok(Step::Challenge(octets)) => return Answer::Challenge(octets),
        Ok(Step::Password(shown)) => login.admit_prepared(&shown.user, &shown.password),
        Ok(Step::Done { user }) => login.mailbox_of(&user),
        // Without a verifier no mechanism is offered.
        Ok(Step::Lookup { .. }) => None,
        Err(Failure::Malformed | Failure::TooLong) => return Answer::Malformed,
        Err(_) => None,
    };
    mailbox.map_or(Answer::Refused, Answer::Mailbox)
}
