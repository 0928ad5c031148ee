//! `[tls]`: certificates, whom to trust, and what next hops must offer.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chasqui_transport::tls::{CertificateError, Certificates, Trust};
use serde::{Deserialize, Deserializer};

use super::values;

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// What listeners show: the first to clients that ask for no name. None: no TLS for clients.
    pub certificates: Vec<CertificateFiles>,
    /// Certificates of authorities, in PEM form, by which `verified` next hops are checked; the system's when left out.
    #[serde(deserialize_with = "values::optional")]
    pub roots: Option<PathBuf>,
    /// What holds for next hops.
    pub policy: TlsPolicy,
    /// What holds for the next hops of a domain's mail instead.
    #[serde(deserialize_with = "domains")]
    pub domains: BTreeMap<String, TlsPolicy>,
}

/// A certificate for listeners.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM: the certificate, then those that lead from it to a root.
    #[serde(deserialize_with = "values::one")]
    pub chain: PathBuf,
    /// PEM: its private key.
    #[serde(deserialize_with = "values::one")]
    pub key: PathBuf,
}

/// `tls.policy`, `tls.domains`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsPolicy {
    /// Plaintext.
    None,
    /// TLS where the next hop has it, with any certificate; plaintext where it has none, or where the handshake fails.
    #[default]
    Opportunistic,
    /// TLS with any certificate, or the message waits.
    Required,
    /// TLS with a certificate for the name of the next hop that leads to a root, or the message waits.
    Verified,
}

impl TlsPolicy {
    /// Whose certificates are taken; none: there is no handshake.
    pub(crate) fn trust(self) -> Option<Trust> {
        match self {
            TlsPolicy::None => None,
            TlsPolicy::Opportunistic | TlsPolicy::Required => Some(Trust::Any),
            TlsPolicy::Verified => Some(Trust::Verified),
        }
    }

    /// Mail may go in plaintext.
    pub(crate) fn allows_plaintext(self) -> bool {
        matches!(self, TlsPolicy::None | TlsPolicy::Opportunistic)
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            TlsPolicy::None => "none",
            TlsPolicy::Opportunistic => "opportunistic",
            TlsPolicy::Required => "required",
            TlsPolicy::Verified => "verified",
        }
    }
}

impl Tls {
    /// Reads the certificates of listeners; none are configured: `None`. Blocks the thread.
    pub(crate) fn read_certificates(&self) -> Result<Option<Certificates>, CertificateError> {
        if self.certificates.is_empty() {
            return Ok(None);
        }
        let pairs = self.certificates.iter().map(|files| (files.chain.as_path(), files.key.as_path()));
        Certificates::read(pairs).map(Some)
    }
}

fn domains<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, TlsPolicy>, D::Error> {
    let written = BTreeMap::<String, TlsPolicy>::deserialize(deserializer)?;
    Ok(written.into_iter().map(|(domain, policy)| (domain.to_ascii_lowercase(), policy)).collect())
}

pub(super) fn check(tls: &Tls) -> Result<(), (Vec<&str>, String)> {
    let is_domain = |domain: &str| domain != "*" && values::route_domain(domain).is_some();
    match tls.domains.keys().find(|domain| !is_domain(domain)) {
        None => Ok(()),
        Some(domain) => {
            let message = format!(
                "`{domain}` is no domain; write a domain such as \"example.org\"; tls.policy is for all others"
            );
            Err((vec!["tls", "domains", domain], message))
        }
    }
}
