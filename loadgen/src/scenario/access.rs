//! Who logs in: the load at the servers, and readers at their mailboxes.

use std::collections::BTreeMap;
use std::sync::Arc;

use chasqui_protocol::sasl::accounts::Account;
use chasqui_protocol::sasl::mechanism::Mechanisms;

/// Who logs in at the servers to load, by AUTH before the first message of each connection. A password is shown in TLS, or to a server
/// on this machine.
#[derive(Clone, Debug)]
pub struct Authentication {
    /// Connections use them in turn; at least one.
    pub accounts: Arc<[Account]>,
    /// The best of these that a server offers is used.
    pub mechanisms: Mechanisms,
}

/// Who logs in at the mailboxes, and how. By default with USER and PASS or LOGIN.
#[derive(Clone, Debug, Default)]
pub struct ReaderAccess {
    /// SASL, by the best of these that the server offers, or USER and PASS or LOGIN where it has none and is spoken to in TLS
    /// or on this machine; none: USER and PASS or LOGIN, whatever it offers.
    pub mechanisms: Option<Mechanisms>,
    /// By address: mailboxes with a password of their own in place of [`Scenario::password`](super::Scenario::password).
    pub accounts: Arc<BTreeMap<String, Account>>,
}

impl ReaderAccess {
    /// The accounts of a file, by their names.
    pub fn by_address(accounts: &[Account]) -> Arc<BTreeMap<String, Account>> {
        Arc::new(accounts.iter().map(|account| (account.user().to_owned(), account.clone())).collect())
    }
}
