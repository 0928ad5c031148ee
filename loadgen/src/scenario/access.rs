//! How readers come to their mailboxes.

use std::collections::BTreeMap;
use std::sync::Arc;

use chasqui_protocol::sasl::accounts::Account;
use chasqui_protocol::sasl::mechanism::Mechanisms;
use chasqui_transport::tls::{ClientTls, Trust};

/// TLS, and who logs in how. By default in plain text, with USER and PASS or LOGIN.
#[derive(Clone, Debug, Default)]
pub struct ReaderAccess {
    /// None: plain text.
    pub tls: Option<ReaderTls>,
    /// SASL, by the best of these that the server offers; none: USER and PASS or LOGIN, whatever it offers.
    pub mechanisms: Option<Mechanisms>,
    /// By address: mailboxes with a password of their own in place of [`Scenario::password`](super::Scenario::password).
    pub accounts: Arc<BTreeMap<String, Account>>,
}

/// TLS with the POP3 and IMAP servers.
#[derive(Clone, Debug)]
pub struct ReaderTls {
    /// When it begins.
    pub mode: ReaderTlsMode,
    /// Its roots.
    pub client: ClientTls,
    /// Whether they count.
    pub trust: Trust,
    /// The name that is asked for and verified; none: the server's address.
    pub host: Option<String>,
}

/// When TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderTlsMode {
    /// By STLS or STARTTLS, which the server must have.
    Starttls,
    /// With the first octet.
    Implicit,
}

impl ReaderAccess {
    /// The accounts of a file, by their names.
    pub fn by_address(accounts: Vec<Account>) -> Arc<BTreeMap<String, Account>> {
        let named = accounts.into_iter().map(|account| (account.user().to_owned(), account));
        Arc::new(named.collect())
    }
}
