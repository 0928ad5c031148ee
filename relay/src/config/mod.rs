//! The relay's configuration: one TOML file, every key documented here and in `relay.example.toml`.
//!
//! Durations are written `"250ms"`, `"30s"`, `"5m"`, `"4h"`, `"5d"`; sizes `"512B"`, `"64KiB"`, `"25MiB"`, `"4GiB"`.

mod error;
mod listener;
mod sections;
mod tls;
mod values;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer};

pub use error::ConfigError;
pub use listener::{Listener, ListenerKind};
pub use sections::{
    Auth, BareNewlines, Bounce, Compat, Control, Delivery, Dns, EarlyTalkers, EightBit, Limits, LongLines,
    NulOctets, Retry, Spool,
};
pub use tls::{CertificateFiles, Tls, TlsPolicy};
pub use values::{Address, HostName, NextHop, Size};

/// Everything the relay can be told.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The relay's own name: greeting, EHLO, Received fields, Reporting-MTA. Required.
    #[serde(deserialize_with = "values::one")]
    pub hostname: HostName,
    /// Addresses to listen on, or names, each for its first address; port 0 takes a free one. Every shard listens on each. Left
    /// out where there is a `[[listener]]`: none but those.
    #[serde(default = "listen", deserialize_with = "values::list")]
    pub listen: Vec<SocketAddr>,
    /// Addresses to listen on for whose clients something else holds.
    #[serde(default)]
    pub listener: Vec<Listener>,
    /// Networks that may relay; RCPT from elsewhere is answered 550 5.7.1.
    #[serde(default = "networks", deserialize_with = "values::list")]
    pub networks: Vec<IpNet>,
    /// Where mail for `<Postmaster>` and `postmaster@<hostname>` goes, which everybody may send (RFC 5321 4.5.1); left out,
    /// it goes to `postmaster@<hostname>` as any other mail.
    #[serde(default, deserialize_with = "values::optional")]
    pub postmaster: Option<Address>,
    /// Where and how accepted messages are kept.
    pub spool: Spool,
    /// Static routes: a domain, or `*` for every domain without a line of its own, to next hops in order of
    /// preference. What has no route here is looked up in the DNS.
    #[serde(default, deserialize_with = "routes")]
    pub routes: BTreeMap<String, Vec<NextHop>>,
    /// Outgoing connections.
    #[serde(default)]
    pub delivery: Delivery,
    /// Certificates of listeners, and TLS with next hops.
    #[serde(default)]
    pub tls: Tls,
    /// Users, and how often they may fail to prove that they are.
    #[serde(default)]
    pub auth: Auth,
    /// Name resolution.
    #[serde(default)]
    pub dns: Dns,
    /// When a temporary failure is tried again, and when we give up.
    #[serde(default)]
    pub retry: Retry,
    /// What clients may take from us.
    #[serde(default)]
    pub limits: Limits,
    /// The socket that answers questions about the running relay.
    #[serde(default)]
    pub control: Control,
    /// Delivery status notifications to senders.
    #[serde(default)]
    pub bounce: Bounce,
    /// Leniency towards broken clients and servers.
    #[serde(default)]
    pub compat: Compat,
}

fn listen() -> Vec<SocketAddr> {
    vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 2525))]
}

fn networks() -> Vec<IpNet> {
    vec![
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    ]
}

fn routes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Vec<NextHop>>, D::Error> {
    let written = BTreeMap::<String, Vec<values::AsWritten<NextHop>>>::deserialize(deserializer)?;
    Ok(written
        .into_iter()
        .map(|(domain, hops)| (domain, hops.into_iter().map(|hop| hop.0).collect()))
        .collect())
}

/// The rate, in octets a second, at which a client with little bandwidth (1 Mbit/s) sends its largest message.
const UNHURRIED: f64 = 128.0 * 1024.0;

impl Config {
    /// Reads and checks a configuration file.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError::unreadable(file, &error))?;
        Config::parse(&text, file)
    }

    /// Reads and checks TOML; `file` is the name that errors carry.
    pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
        let mut config: Config =
            toml::from_str(text).map_err(|error| ConfigError::from_toml(file, text, &error))?;
        if !config.listener.is_empty() && !is_written(text, "listen") {
            config.listen.clear();
        }
        config.check().map_err(|(path, message)| ConfigError::at_key(file, text, &path, message))?;
        config.routes = std::mem::take(&mut config.routes)
            .into_iter()
            .map(|(domain, hops)| (domain.to_ascii_lowercase(), hops))
            .collect();
        Ok(config)
    }

    /// Everything to listen on, in the order of [`crate::RelayReady::listen`].
    pub fn listeners(&self) -> Vec<Listener> {
        self.listen.iter().copied().map(Listener::at).chain(self.listener.iter().cloned()).collect()
    }

    /// Whether a next hop has to be verified.
    pub(crate) fn verifies_next_hops(&self) -> bool {
        let Config { tls, auth, .. } = self;
        let of_accounts = auth.credentials.as_ref().map(|_| &auth.credentials_tls);
        let mut policies = tls.domains.values().chain([&tls.policy]).chain(of_accounts);
        policies.any(|policy| *policy == TlsPolicy::Verified)
    }

    /// What works and is hardly meant, one line each: for the start and for `--check`.
    pub fn warnings(&self) -> Vec<String> {
        // A /8 is the largest network that one party has; an ISP's IPv6 is a /20 or so, a /7 the private addresses.
        let wide = |network: &&IpNet| network.prefix_len() < if network.addr().is_ipv4() { 8 } else { 7 };
        let of_listeners = self.listener.iter().filter_map(|listener| listener.networks.as_ref()).flatten();
        let claims = self.listener.iter().flat_map(|listener| {
            let of = |key, networks: &[IpNet]| {
                let wide = networks.iter().filter(wide).map(move |network| {
                    format!("listener.{key}: {network} lets strangers say that they are in `networks`; name your own proxies")
                });
                wide.collect::<Vec<_>>()
            };
            [of("proxy_from", &listener.proxy_from), of("xclient_from", &listener.xclient_from)].concat()
        });
        let mut warnings: Vec<String> = self
            .networks
            .iter()
            .chain(of_listeners)
            .filter(wide)
            .map(|network| {
                format!("networks: {network} lets strangers relay to anywhere; name your own networks")
            })
            .chain(claims)
            .collect();
        if self.postmaster.is_none() {
            let host = self.hostname.as_str();
            warnings.push(format!(
                "postmaster is not set: mail for <Postmaster> goes to postmaster@{host}; name an address that is read"
            ));
        }
        let rate = self.limits.message_size.0 as f64 / self.limits.message_time.as_secs_f64();
        if rate > UNHURRIED {
            let seconds = (self.limits.message_size.0 as f64 / UNHURRIED).ceil();
            warnings.push(format!(
                "limits.message_time is short for limits.message_size: who sends less than {:.0} KiB a second is cut off in \
                 the largest message; raise message_time to {seconds}s or lower message_size",
                rate / 1024.0
            ));
        }
        warnings
    }

    /// What single values cannot show: bounds and how values fit together. The error names the key.
    fn check(&self) -> Result<(), (Vec<&str>, String)> {
        if self.listen.is_empty() && self.listener.is_empty() {
            return Err((vec!["listen"], "no address to listen on; write at least one".into()));
        }
        for (domain, hops) in &self.routes {
            if values::route_domain(domain).is_none() {
                let message =
                    format!("`{domain}` is no domain; write a domain such as \"example.org\", or \"*\"");
                return Err((vec!["routes", domain], message));
            }
            if hops.is_empty() {
                let message = "the route has no next hop; write at least one, or remove the line".into();
                return Err((vec!["routes", domain], message));
            }
        }
        let can_submit = !self.tls.certificates.is_empty() && self.auth.users.is_some();
        listener::check(&self.listener, can_submit)?;
        tls::check(&self.tls)?;
        sections::check(self)
    }
}

/// Whether a document that was parsed has this key.
fn is_written(text: &str, key: &str) -> bool {
    text.parse::<toml::Table>().is_ok_and(|document| document.contains_key(key))
}

#[cfg(test)]
mod tests;
