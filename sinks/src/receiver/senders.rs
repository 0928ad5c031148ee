//! Who may send, and what they are offered to tell it with.

use std::sync::OnceLock;

use chasqui_protocol::sasl::accounts::Account;
use chasqui_protocol::sasl::mechanism::{Mechanism, Mechanisms};
use chasqui_protocol::sasl::prepare::{self, Password};
use chasqui_protocol::sasl::scram::{ITERATIONS_MIN, ScramVerifier};
use chasqui_protocol::smtp::server::AuthOptions;
use chasqui_runtime::{HashMap, secret};

use crate::authentication::Users;
use crate::config::SmtpUsers;
use crate::error::StartError;

/// Those who may send; the same for all shards.
#[derive(Debug)]
pub(crate) enum Senders {
    Any,
    /// By name.
    Listed(HashMap<String, Sender>),
}

#[derive(Debug)]
pub(crate) struct Sender {
    password: Password,
    verifier: OnceLock<ScramVerifier>,
}

impl Senders {
    pub(crate) fn new(users: &SmtpUsers) -> Result<Senders, StartError> {
        match users {
            SmtpUsers::Any => Ok(Senders::Any),
            SmtpUsers::Listed(accounts) => {
                accounts.iter().map(Sender::of).collect::<Result<_, _>>().map(Senders::Listed)
            }
        }
    }

    /// What is offered, and that it must be used. A password is shown in TLS alone, or where it does not leave this machine.
    pub(super) fn options(&self, is_here: bool) -> AuthOptions {
        let mechanisms = match self {
            // What is proved by SCRAM must be known.
            Senders::Any => Mechanisms::NONE.with(Mechanism::Plain).with(Mechanism::Login),
            Senders::Listed(_) => Mechanisms::ALL,
        };
        AuthOptions { mechanisms, shows_passwords: is_here, is_required: true, requires_tls: false }
    }
}

impl Sender {
    fn of(account: &Account) -> Result<(String, Sender), StartError> {
        let user = account.user();
        let refuse =
            |error| StartError::Config(format!("the account of {user}: the name or password {error}"));
        let password = Password::prepare(account.password().as_str().as_bytes()).map_err(refuse)?;
        let name = prepare::name(user.as_bytes()).map_err(refuse)?;
        Ok((name, Sender { password, verifier: OnceLock::new() }))
    }
}

impl Users for Senders {
    fn verifier(&self, user: &str) -> Option<&ScramVerifier> {
        let Senders::Listed(senders) = self else { return None };
        let Sender { password, verifier } = senders.get(user)?;
        Some(verifier.get_or_init(|| ScramVerifier::derive(password, &secret::<16>(), ITERATIONS_MIN)))
    }

    fn admits(&self, user: &str, password: &Password) -> bool {
        match self {
            Senders::Any => true,
            Senders::Listed(senders) => {
                senders.get(user).is_some_and(|sender| sender.password.as_bytes() == password.as_bytes())
            }
        }
    }
}
