//! Both ends back to back, and each end against messages that others made.

mod hostile;
mod pairs;
mod recorded;

use super::accounts::Account;
use super::binding::ChannelBinding;
use super::mechanism::{Mechanism, Mechanisms};
use super::prepare::Password;
use super::scram::{ITERATIONS_MIN, ScramVerifier};
use super::{Nonce, client, server};

const CLIENT_NONCE: Nonce = Nonce([b'c'; 18]);
const SERVER_NONCE: Nonce = Nonce([b's'; 18]);
const BINDING: ChannelBinding = ChannelBinding::TlsExporter([7; 32]);

fn password(text: &str) -> Password {
    Password::prepare(text.as_bytes()).expect("a password")
}

fn verifier(text: &str) -> ScramVerifier {
    ScramVerifier::derive(&password(text), b"0123456789abcdef", ITERATIONS_MIN)
}

/// Everything that the mechanism needs is there.
fn options(mechanism: Mechanism) -> client::Options {
    let channel_binding = mechanism.needs_channel_binding().then_some(BINDING);
    client::Options { offered: Mechanisms::NONE.with(mechanism), channel_binding, may_show_password: true }
}

fn client_of(options: &client::Options, user: &str, password: &str) -> client::Exchange {
    let account = Account::new(user, password).expect("an account");
    client::Exchange::new(options, &account, CLIENT_NONCE, None).expect("a mechanism")
}

fn server_of(options: &client::Options) -> server::Exchange {
    let mechanism = options.mechanism().expect("a mechanism");
    server::Exchange::new(mechanism, options.channel_binding.clone(), SERVER_NONCE)
}

/// How an exchange ended at each end.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    /// The user that has proved itself, or that has shown the right password.
    server: Result<String, Why>,
    client: Result<(), client::Failure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    Failure(server::Failure),
    /// The password that was shown is another.
    Password,
    /// The client gave up.
    Cancelled,
}

/// What runs between both ends.
struct Wire<'a> {
    with_initial: bool,
    verifier: &'a ScramVerifier,
    /// Is given the message's number and the message, and says what arrives.
    passes: &'a mut dyn FnMut(usize, Vec<u8>) -> Vec<u8>,
    messages: usize,
}

impl Wire<'_> {
    fn pass(&mut self, message: Vec<u8>) -> Vec<u8> {
        self.messages += 1;
        (self.passes)(self.messages - 1, message)
    }

    /// Runs the exchange to its end.
    fn run(&mut self, client: &mut client::Exchange, server: &mut server::Exchange) -> Ended {
        let initial = if self.with_initial { client.initial() } else { None };
        let initial = initial.map(|initial| self.pass(initial));
        let mut step = server.start(initial.as_deref());
        loop {
            let challenge = match step {
                Ok(server::Step::Challenge(challenge)) => challenge,
                Ok(server::Step::Lookup { .. }) => {
                    step = server.use_verifier(self.verifier);
                    continue;
                }
                other => return self.ended(client, other),
            };
            let challenge = self.pass(challenge);
            let response = match client.handle_challenge(&challenge) {
                Ok(client::Step::Response(response)) => response,
                Ok(client::Step::Derive(derivation)) => {
                    client.use_keys(&derivation.derive()).expect("the keys that were asked for")
                }
                Err(failure) => return Ended { server: Err(Why::Cancelled), client: Err(failure) },
            };
            let response = self.pass(response);
            step = server.handle_response(&response);
        }
    }

    fn ended(&self, client: &mut client::Exchange, step: Result<server::Step, server::Failure>) -> Ended {
        let server = match step {
            Ok(server::Step::Password(given)) if self.verifier.verify(&given.password) => Ok(given.user),
            Ok(server::Step::Password(_)) => Err(Why::Password),
            Ok(server::Step::Done { user }) => Ok(user),
            Ok(other) => panic!("no end: {other:?}"),
            Err(failure) => Err(Why::Failure(failure)),
        };
        let refused = || Err(client::Failure::Refused(String::new()));
        let client = if server.is_ok() { client.handle_success(None) } else { refused() };
        Ended { server, client }
    }
}

/// Runs an exchange in which nobody meddles.
fn converse(verifier: &ScramVerifier, client: &mut client::Exchange, server: &mut server::Exchange) -> Ended {
    Wire { with_initial: true, verifier, passes: &mut |_, message| message, messages: 0 }.run(client, server)
}
