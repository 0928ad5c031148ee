//! Failures count against whom the client has named, by every mechanism.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chasqui_protocol::sasl::Nonce;
use chasqui_protocol::sasl::accounts::Account;
use chasqui_protocol::sasl::client;
use chasqui_protocol::sasl::mechanism::{Mechanism, Mechanisms};
use chasqui_protocol::sasl::prepare::Password;
use chasqui_protocol::sasl::stored::Stored;
use chasqui_protocol::smtp::server::AuthRequest;
use chasqui_runtime::{now, secret, sleep};

use super::{Authenticated, Authentication, Authenticator};
use crate::config::Config;

/// What the attempts by one mechanism take at most, on a busy machine: some derivations of a millisecond each.
const ATTEMPTS_TAKE: Duration = Duration::from_secs(5);

/// Tries to be `user` from an address, and gives the reply's code, or 235.
async fn attempt(
    authenticator: &Arc<Authenticator>,
    peer: u32,
    mechanism: Mechanism,
    user: &str,
    password: &str,
) -> u16 {
    let offered = Mechanisms::NONE.with(mechanism);
    let options = client::Options { offered, channel_binding: None, may_show_password: true };
    let account = Account::new(user, password).expect("an account");
    let mut exchange = client::Exchange::new(&options, &account, Nonce(secret()), None).expect("an exchange");
    let request = AuthRequest { mechanism, initial: exchange.initial() };
    let peer = IpAddr::from(peer.to_be_bytes());
    let mut answered = Authentication::begin(authenticator, peer, request, None).await;
    loop {
        match answered {
            Authenticated::Challenge(under_way, octets) => {
                let response = match exchange.handle_challenge(&octets).expect("a response") {
                    client::Step::Response(response) => response,
                    client::Step::Derive(derivation) => {
                        exchange.use_keys(&derivation.derive()).expect("a response")
                    }
                };
                answered = under_way.response(&response).await;
            }
            Authenticated::Yes(_) => return 235,
            Authenticated::No(reply) => return reply.code,
        }
    }
}

/// Waits for the next minute of those that failures are counted in, if this one ends while a few attempts are made.
async fn within_a_minute() {
    let minute = Duration::from_nanos(super::failures::MINUTE_NS);
    let passed = Duration::from_nanos(now().as_nanos() % super::failures::MINUTE_NS);
    if minute - passed < ATTEMPTS_TAKE {
        sleep(minute - passed).await;
    }
}

/// A user that was failed for too often is closed to every address for the minute, one that there is not as well; others are not, and
/// an address that fails too often is closed to all users.
#[test]
fn failures_count_by_user_and_by_address() {
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("users");
    let password = Password::prepare(b"right").expect("a password");
    let lines = ["ann", "bob"].map(|user| format!("{user} {}\n", Stored::scram(&password, 4096, secret())));
    std::fs::write(&users, lines.concat()).expect("written");
    let text = format!(
        "hostname = \"relay.test\"\nspool.directory = {:?}\n[auth]\nusers = {users:?}\nfailures_per_minute = 4\n\
         user_failures_per_minute = 2\n",
        folder.path()
    );
    let config = Config::parse(&text, Path::new("relay.toml")).expect("accepted");
    chasqui_runtime::run(chasqui_runtime::Config::default(), move || {
        let config = config.clone();
        async move {
            for mechanism in [Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login] {
                within_a_minute().await;
                let authenticator =
                    Authenticator::start(&config).expect("it starts").expect("there are users");
                let attempt = async |peer, user, password| {
                    attempt(&authenticator, peer, mechanism, user, password).await
                };
                for user in ["ann", "nobody"] {
                    for peer in [1, 2] {
                        assert_eq!(attempt(peer, user, "wrong").await, 535, "{mechanism} {user}");
                    }
                    assert_eq!(attempt(3, user, "right").await, 454, "{mechanism} {user}");
                }
                assert_eq!(attempt(1, "bob", "right").await, 235, "{mechanism}");
                for user in ["u", "v"] {
                    assert_eq!(attempt(1, user, "wrong").await, 535, "{mechanism}");
                }
                assert_eq!(attempt(1, "bob", "right").await, 454, "{mechanism}");
                assert_eq!(attempt(2, "bob", "right").await, 235, "{mechanism}");
            }
        }
    })
    .expect("the runtime runs");
}
