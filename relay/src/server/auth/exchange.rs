//! One session's AUTH, from the command to the reply.

use std::net::IpAddr;
use std::sync::Arc;

use chasqui_protocol::sasl::Nonce;
use chasqui_protocol::sasl::binding::ChannelBinding;
use chasqui_protocol::sasl::server::{Exchange, Failure, Step};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::AuthRequest;
use chasqui_runtime::secret;

use super::verifier::Busy;
use super::{Authenticator, Identity, Known};

/// An exchange under way.
pub(in crate::server) struct Authentication {
    authenticator: Arc<Authenticator>,
    /// As the users were when it began.
    known: Arc<Known>,
    exchange: Exchange,
    peer: IpAddr,
    /// Whom the client says that it is, once it has.
    user: Option<String>,
}

/// What an exchange comes to.
pub(in crate::server) enum Authenticated {
    /// The client is asked these octets.
    Challenge(Authentication, Vec<u8>),
    /// It is this user.
    Yes(Identity),
    No(Reply),
}

impl Authentication {
    /// Begins an exchange with a client at `peer`.
    pub(in crate::server) async fn begin(
        authenticator: &Arc<Authenticator>,
        peer: IpAddr,
        request: AuthRequest,
        exporter: Option<[u8; 32]>,
    ) -> Authenticated {
        if !authenticator.failures.may_try(peer) {
            return Authenticated::No(too_many());
        }
        let binding = exporter.map(ChannelBinding::TlsExporter);
        let mut authentication = Authentication {
            known: authenticator.known(),
            exchange: Exchange::new(request.mechanism, binding, Nonce(secret())),
            authenticator: authenticator.clone(),
            peer,
            user: None,
        };
        let step = authentication.exchange.start(request.initial.as_deref());
        authentication.go_on(step).await
    }

    /// Takes what the client answers.
    pub(in crate::server) async fn response(mut self, response: &[u8]) -> Authenticated {
        let step = self.exchange.handle_response(response);
        self.go_on(step).await
    }

    async fn go_on(mut self, mut step: Result<Step, Failure>) -> Authenticated {
        loop {
            match step {
                Ok(Step::Challenge(octets)) => return Authenticated::Challenge(self, octets),
                Ok(Step::Lookup { user }) => {
                    if !self.authenticator.failures.may_be_tried(&user) {
                        return Authenticated::No(too_many());
                    }
                    let verifier = self.known.users.scram_verifier(&user, &self.known.fake);
                    self.user = Some(user);
                    step = self.exchange.use_verifier(&verifier);
                }
                Ok(Step::Password(credentials)) => {
                    let user = credentials.user;
                    if !self.authenticator.failures.may_be_tried(&user) {
                        return Authenticated::No(too_many());
                    }
                    let stored = self.known.users.stored(&user, &self.known.fake);
                    return match self.authenticator.verifier.verify(stored, credentials.password).await {
                        Ok(true) => self.succeed(&user),
                        Ok(false) => {
                            self.user = Some(user);
                            self.fail(wrong())
                        }
                        Err(Busy) => Authenticated::No(Reply::new(454, "4.7.0", "Too busy, try again later")),
                    };
                }
                Ok(Step::Done { user }) => return self.succeed(&user),
                Err(failure) => return self.fail(reply_to(failure)),
            }
        }
    }

    fn succeed(mut self, user: &str) -> Authenticated {
        match self.authenticator.identity(&self.known, user) {
            Some(identity) => Authenticated::Yes(identity),
            // What stands for a user that there is not has no password.
            None if self.known.users.find(user).is_none() => {
                self.user = Some(user.to_owned());
                self.fail(wrong())
            }
            None => Authenticated::No(Reply::new(454, "4.7.0", "This user has too many connections")),
        }
    }

    /// Counts against the address, and against the user if the client has named one.
    fn fail(self, reply: Reply) -> Authenticated {
        self.authenticator.failures.add(self.peer, self.user.as_deref());
        Authenticated::No(reply)
    }
}

fn reply_to(failure: Failure) -> Reply {
    match failure {
        Failure::Malformed | Failure::OutOfTurn => {
            Reply::new(501, "5.5.2", "This is no response of the mechanism")
        }
        Failure::TooLong => Reply::new(500, "5.5.6", "Authentication exchange line is too long"),
        Failure::Unprepared(_) | Failure::Authorization | Failure::ChannelBinding | Failure::Proof => wrong(),
    }
}

/// The same for a user that there is not and a password that is wrong.
fn wrong() -> Reply {
    Reply::new(535, "5.7.8", "Authentication credentials invalid")
}

fn too_many() -> Reply {
    Reply::new(454, "4.7.0", "Too many failures, try again later")
}
