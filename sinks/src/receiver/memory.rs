//! The memory of large messages on their way in, and what of it one client may hold: half of what is free. A client's only message
//! may have more.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::sync::{Notify, Permit, Semaphore};
use chasqui_runtime::{HashMap, timeout};

/// How long a message that was announced with its size waits for memory.
const MEMORY_WAIT: Duration = Duration::from_secs(60);

/// The memory of one shard.
pub(super) struct Memory {
    octets: Semaphore,
    octets_max: usize,
    held: Rc<Held>,
}

/// What each client holds.
#[derive(Default)]
struct Held {
    clients: RefCell<HashMap<IpAddr, usize>>,
    /// Something was given back.
    freed: Notify,
}

/// Memory that a message has; given back when dropped.
pub(super) struct Grant {
    held: Rc<Held>,
    client: IpAddr,
    octets: usize,
    permits: Vec<Permit>,
}

impl Memory {
    pub(super) fn new(octets_max: usize) -> Memory {
        Memory { octets: Semaphore::new(octets_max), octets_max, held: Rc::default() }
    }

    /// Whether a message with so many octets could ever be taken.
    pub(super) fn may_fit(&self, octets: u64) -> bool {
        octets <= self.octets_max as u64
    }

    /// Nothing yet, for a message of this client.
    pub(super) fn grant(&self, client: IpAddr) -> Grant {
        Grant { held: self.held.clone(), client, octets: 0, permits: Vec::new() }
    }

    /// Adds octets to a grant as soon as they are there for its client; false: they are not for a minute.
    pub(super) async fn wait(&self, grant: &mut Grant, octets: usize) -> bool {
        let granted = async {
            while !self.try_add(grant, octets) {
                self.held.freed.notified().await;
            }
        };
        timeout(MEMORY_WAIT, granted).await.is_ok()
    }

    /// Adds octets to a grant, if they are there for its client.
    pub(super) fn try_add(&self, grant: &mut Grant, octets: usize) -> bool {
        let held = self.held.clients.borrow().get(&grant.client).copied().unwrap_or(0);
        let is_only = held == grant.octets;
        if !is_only && held + octets > (self.octets.available() + held) / 2 {
            return false;
        }
        let Some(permit) = self.octets.try_acquire(octets) else { return false };
        grant.permits.push(permit);
        grant.octets += octets;
        self.held.clients.borrow_mut().insert(grant.client, held + octets);
        true
    }
}

impl Grant {
    pub(super) fn is_empty(&self) -> bool {
        self.octets == 0
    }

    /// Gives everything back.
    pub(super) fn clear(&mut self) {
        if self.is_empty() {
            return;
        }
        self.permits.clear();
        let mut clients = self.held.clients.borrow_mut();
        if let Some(held) = clients.get_mut(&self.client) {
            *held -= self.octets;
            if *held == 0 {
                clients.remove(&self.client);
            }
        }
        drop(clients);
        self.octets = 0;
        self.held.freed.notify_all();
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One client holds half of what is free, the next half of the rest, and its only message all there is.
    #[test]
    fn grants_are_fair() {
        let memory = Memory::new(64);
        let grants = |client: u8| {
            let mut grants = Vec::new();
            loop {
                let mut grant = memory.grant([192, 0, 2, client].into());
                if !memory.try_add(&mut grant, 1) {
                    return grants;
                }
                grants.push(grant);
            }
        };
        let (one, other) = (grants(1), grants(2));
        assert_eq!((one.len(), other.len()), (32, 16));
        drop((one, other));
        let mut grant = memory.grant([192, 0, 2, 3].into());
        assert!(memory.try_add(&mut grant, 40) && memory.try_add(&mut grant, 24));
        assert!(memory.may_fit(64) && !memory.may_fit(65));
        drop(grant);
        assert!(memory.held.clients.borrow().is_empty());
    }
}
