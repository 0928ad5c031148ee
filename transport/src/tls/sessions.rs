//! The sessions that a client can resume, by host: those of all shards, behind one lock that a handshake takes four times or so for
//! less than a microsecond each, beside the hundreds that it computes for.
//!
//! A ticket of TLS 1.3 is good for one connection (RFC 8446 section C.4), and a server gives one or two with each. So as many
//! tickets of a host have to be kept as connections to it are opened at a time, or the rest of them make full handshakes; rustls'
//! own store keeps 8.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Hosts that something is kept of. A relay's mail goes to few that it meets again within the hours that a ticket lives.
const HOSTS_MAX: usize = 4096;
/// Tickets of one host: beyond a load's 200 connections, and a site's 20 on each of a dozen shards.
const TICKETS_PER_HOST_MAX: usize = 256;
/// Tickets of all hosts. One is some hundred octets, and holds the certificates of the handshake that it goes back to, 1 to 4 KiB:
/// 64 MiB at worst.
const TICKETS_MAX: usize = 16_384;

/// What is kept of each host; clones are not made, whoever shares it holds it in an `Arc`.
pub(super) struct Sessions(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    hosts: BTreeMap<Box<str>, Host>,
    /// The names in `hosts`, in the order in which they are looked at for one to be forgotten.
    turns: VecDeque<Box<str>>,
    tickets: usize,
}

#[derive(Default)]
struct Host {
    group: Option<NamedGroup>,
    /// Of TLS 1.2 a session can be resumed as often as one likes.
    tls12: Option<Tls12ClientSessionValue>,
    /// The latest last.
    tickets: VecDeque<Tls13ClientSessionValue>,
    /// A connection to it was opened since its turn last came.
    is_used: bool,
}

impl Sessions {
    pub(super) fn new() -> Sessions {
        Sessions(Mutex::default())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn host(&mut self, name: &str) -> &mut Host {
        if !self.hosts.contains_key(name) {
            while self.hosts.len() >= HOSTS_MAX {
                self.forget_one();
            }
            self.turns.push_back(name.into());
        }
        self.hosts.entry(name.into()).or_default()
    }

    fn keep_ticket(&mut self, name: &str, ticket: Tls13ClientSessionValue) {
        while self.tickets >= TICKETS_MAX {
            self.forget_one();
        }
        let host = self.host(name);
        let is_full = host.tickets.len() >= TICKETS_PER_HOST_MAX;
        if is_full {
            host.tickets.pop_front();
        }
        host.tickets.push_back(ticket);
        self.tickets += usize::from(!is_full);
    }

    fn take_ticket(&mut self, name: &str) -> Option<Tls13ClientSessionValue> {
        let host = self.hosts.get_mut(name)?;
        host.is_used = true;
        // The latest lives for longest.
        let ticket = host.tickets.pop_back()?;
        self.tickets -= 1;
        Some(ticket)
    }

    /// Forgets the host that comes first and was not used since it last did. A host that was goes to the end of the queue, once, so
    /// that this ends.
    fn forget_one(&mut self) {
        while let Some(name) = self.turns.pop_front() {
            match self.hosts.get_mut(&name) {
                Some(host) if host.is_used => {
                    host.is_used = false;
                    self.turns.push_back(name);
                }
                Some(host) => {
                    self.tickets -= host.tickets.len();
                    self.hosts.remove(&name);
                    return;
                }
                None => {}
            }
        }
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.kept().host(&name.to_str()).group = Some(group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().hosts.get(&*name.to_str())?.group
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.kept().host(&name.to_str()).tls12 = Some(session);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let mut kept = self.kept();
        let host = kept.hosts.get_mut(&*name.to_str())?;
        host.is_used = true;
        host.tls12.clone()
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        if let Some(host) = self.kept().hosts.get_mut(&*name.to_str()) {
            host.tls12 = None;
        }
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.kept().keep_ticket(&name.to_str(), ticket);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().take_ticket(&name.to_str())
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept();
        let (hosts, tickets) = (kept.hosts.len(), kept.tickets);
        f.debug_struct("Sessions").field("hosts", &hosts).field("tickets", &tickets).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> ServerName<'static> {
        ServerName::try_from(format!("mx{number}.test")).expect("a name")
    }

    /// Of hosts beyond the bound those are forgotten that were not used, and what is kept of the others stays.
    #[test]
    fn hosts_are_bounded() {
        let sessions = Sessions::new();
        for number in 0..10 * HOSTS_MAX {
            sessions.set_kx_hint(name(number), NamedGroup::X25519);
            // Asked for at every connection.
            assert!(sessions.take_tls13_ticket(&name(0)).is_none());
        }
        let kept = sessions.kept();
        assert_eq!((kept.hosts.len(), kept.turns.len()), (HOSTS_MAX, HOSTS_MAX));
        drop(kept);
        assert_eq!(sessions.kx_hint(&name(0)), Some(NamedGroup::X25519));
        assert_eq!(sessions.kx_hint(&name(1)), None);
        assert!(sessions.kx_hint(&name(10 * HOSTS_MAX - 1)).is_some());
    }
}
