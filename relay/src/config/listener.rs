//! `[[listener]]`: one address, and what holds for its clients.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use super::values;

/// An address to listen on. `listen = ["ADDRESS"]` is short for one without other keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Where: an address or a name, for its first address; port 0 takes a free one. Required.
    #[serde(deserialize_with = "values::one")]
    pub address: SocketAddr,
    /// What is spoken there.
    #[serde(default)]
    pub kind: ListenerKind,
    /// Networks that may relay from here; those of the whole relay when left out.
    #[serde(default, deserialize_with = "networks")]
    pub networks: Option<Vec<IpNet>>,
    /// Networks of proxies: their connections begin with a PROXY header, which names the client.
    #[serde(default, deserialize_with = "values::list")]
    pub proxy_from: Vec<IpNet>,
    /// Networks of clients that may say by XCLIENT whose client they are.
    #[serde(default, deserialize_with = "values::list")]
    pub xclient_from: Vec<IpNet>,
    /// Connections here, within `limits.connections`; as many as that when left out.
    #[serde(default)]
    pub connections: Option<usize>,
    /// Connections from one peer here, within `limits.connections_per_peer`; as many as that when left out.
    #[serde(default)]
    pub connections_per_peer: Option<usize>,
}

/// `listener.kind`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerKind {
    /// SMTP from other hosts, by address: who is in the networks may relay.
    #[default]
    Relay,
    /// Mail from users (RFC 6409), as on port 587: STARTTLS, then AUTH, then MAIL.
    Submission,
    /// The same in TLS from the first octet (RFC 8314), as on port 465.
    Submissions,
}

impl ListenerKind {
    /// Every kind, in order.
    pub(crate) const ALL: [ListenerKind; 3] =
        [ListenerKind::Relay, ListenerKind::Submission, ListenerKind::Submissions];

    /// Clients must tell who they are.
    pub(crate) fn is_submission(self) -> bool {
        self != ListenerKind::Relay
    }
}

impl Listener {
    /// Where nothing else is said.
    pub fn at(address: SocketAddr) -> Listener {
        Listener {
            address,
            kind: ListenerKind::Relay,
            networks: None,
            proxy_from: Vec::new(),
            xclient_from: Vec::new(),
            connections: None,
            connections_per_peer: None,
        }
    }
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<IpNet>>, D::Error> {
    values::list(deserializer).map(Some)
}

/// Connections that may be allowed, as in `[limits]`.
const CONNECTIONS_MAX: usize = 1_000_000;

/// `can_submit`: there are certificates and users.
pub(super) fn check(listeners: &[Listener], can_submit: bool) -> Result<(), (Vec<&'static str>, String)> {
    for listener in listeners {
        if listener.kind.is_submission() && !can_submit {
            let message = "submission needs tls.certificates and auth.users; write both".into();
            return Err((vec!["listener", "kind"], message));
        }
        let limits =
            [("connections", listener.connections), ("connections_per_peer", listener.connections_per_peer)];
        for (key, limit) in limits {
            if let Some(limit) = limit.filter(|limit| !(1..=CONNECTIONS_MAX).contains(limit)) {
                let message =
                    format!("{key} = {limit} is refused; write a number from 1 to {CONNECTIONS_MAX}");
                return Err((vec!["listener", key], message));
            }
        }
    }
    Ok(())
}
