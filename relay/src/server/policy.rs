//! Who may send mail where: the one place that decides whether a client may relay.
//!
//! | client | recipient | |
//! |---|---|---|
//! | in the networks of its listener, or else in the relay's | any | accepted |
//! | a user (AUTH) | any | accepted |
//! | elsewhere | `<Postmaster>`, the relay's own postmaster | accepted (RFC 5321 section 4.5.1) |
//! | elsewhere | any other | 550 5.7.1 |
//!
//! A client is where its address is: the connection's, or that which a proxy in `proxy_from` says in its header, or that which a client in
//! `xclient_from` says by XCLIENT. Whose address nobody says is nowhere.

use std::net::IpAddr;
use std::rc::Rc;

use chasqui_protocol::smtp::address::ReversePath;
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::{RcptRequest, Said};
use ipnet::IpNet;

use super::auth::Identity;
use crate::config::{Config, Listener, ListenerKind};

/// A client, as far as it decides what it may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    pub(super) peer: IpAddr,
    /// Its address is in networks that may relay.
    pub(super) may_relay: bool,
}

impl Client {
    /// A client that has connected to `listener` from `peer`, itself or by a proxy that says so.
    pub(super) fn new(config: &Config, listener: &Listener, peer: IpAddr) -> Client {
        // A wildcard listener gives IPv4 peers as mapped ones.
        let peer = peer.to_canonical();
        let networks = listener.networks.as_ref().unwrap_or(&config.networks);
        let may_relay = match listener.kind {
            ListenerKind::Relay => contains(networks, peer),
            // Whoever it is, it must tell.
            ListenerKind::Submission | ListenerKind::Submissions => false,
        };
        Client { peer, may_relay }
    }

    /// A client of whom nobody says who it is. Its address is that of whoever speaks for it, and opens nothing: whoever came by a
    /// proxy that stands in the networks would have come from there.
    pub(super) fn unnamed(proxy: IpAddr) -> Client {
        Client { peer: proxy.to_canonical(), may_relay: false }
    }
}

/// The other end of a connection: a client, or who speaks for clients by XCLIENT.
#[derive(Debug)]
pub(super) struct Speaker {
    pub(super) listener: Rc<Listener>,
    /// Itself.
    pub(super) client: Client,
    /// It may say for whom it speaks.
    pub(super) may_xclient: bool,
    /// The name of the host for which it speaks, once XCLIENT has told one. Here, since few have one.
    pub(super) client_name: Option<Box<str>>,
}

impl Speaker {
    /// This client itself. `is_named`: its address is known, not that of a proxy that does not say whose connection it is.
    pub(super) fn new(listener: Rc<Listener>, client: Client, is_named: bool) -> Speaker {
        let may_xclient = is_named && contains(&listener.xclient_from, client.peer);
        Speaker { client, may_xclient, client_name: None, listener }
    }

    /// For whom it speaks after XCLIENT has said so, and before for `client`.
    pub(super) fn speaks_for(&self, config: &Config, client: Client, address: &Said<IpAddr>) -> Client {
        match *address {
            Said::Nothing => client,
            Said::Unknown => Client::unnamed(self.client.peer),
            Said::Value(address) => Client::new(config, &self.listener, address),
        }
    }
}

/// Whether a peer's connections to `listener` begin with a PROXY header.
pub(super) fn is_proxy(listener: &Listener, peer: IpAddr) -> bool {
    contains(&listener.proxy_from, peer.to_canonical())
}

fn contains(networks: &[IpNet], peer: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&peer))
}

/// Whether a client may send mail from a sender, or the reply that refuses it (RFC 6409 section 6.1).
pub(super) fn decide_sender(identity: Option<&Identity>, sender: &ReversePath<'_>) -> Result<(), Reply> {
    match identity {
        Some(identity) if !identity.user.may_send_as(sender) => {
            Err(Reply::new(550, "5.7.1", "Not an address of this user"))
        }
        _ => Ok(()),
    }
}

/// Whether a client may send mail to a recipient, or the reply that refuses it.
pub(super) fn decide(
    client: Client,
    identity: Option<&Identity>,
    recipient: &RcptRequest<'_>,
) -> Result<(), Reply> {
    if client.may_relay || identity.is_some() || recipient.postmaster {
        Ok(())
    } else {
        Err(Reply::new(550, "5.7.1", "Relaying denied"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(tables: &str) -> Config {
        let text = format!("hostname = \"relay.test\"\nspool.directory = \"/spool\"\n{tables}");
        Config::parse(&text, Path::new("relay.toml")).expect("accepted")
    }

    fn may_relay(config: &Config, place: usize, peer: &str) -> bool {
        Client::new(config, &config.listeners()[place], peer.parse().expect("an address")).may_relay
    }

    /// Only peers of the configured networks may relay, IPv4 within IPv6 included.
    #[test]
    fn relay_networks() {
        for written in ["10.0.0.0/8", "::ffff:10.0.0.0/104"] {
            let config = config(&format!("networks = [{written:?}]\n"));
            for (peer, may) in
                [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("127.0.0.1", false), ("::1", false)]
            {
                assert_eq!(may_relay(&config, 0, peer), may, "{written} {peer}");
            }
        }
    }

    /// A listener's networks hold for its clients in place of the relay's, and for those alone.
    #[test]
    fn networks_of_a_listener() {
        let config = config(
            "listen = [\"127.0.0.1:25\"]\nnetworks = [\"10.0.0.0/8\"]\n[[listener]]\naddress = \"127.0.0.1:26\"\n\
             networks = [\"192.0.2.0/24\"]\n[[listener]]\naddress = \"127.0.0.1:27\"\n",
        );
        for (peer, may) in [("10.1.2.3", [true, false, true]), ("192.0.2.1", [false, true, false])] {
            assert_eq!([0, 1, 2].map(|place| may_relay(&config, place, peer)), may, "{peer}");
        }
    }
}
