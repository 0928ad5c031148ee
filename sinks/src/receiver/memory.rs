//! The memory of large messages on their way in, and what of it one client may hold: half of what is free. A client's only message
//! may have more.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
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
    /// Messages of each client that wait, by their numbers. Of one client the first comes first, however large it is.
    waiting: RefCell<HashMap<IpAddr, VecDeque<u64>>>,
    next: Cell<u64>,
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

    /// Whether a message that wants so many octets could ever be taken.
    pub(super) fn may_fit(&self, octets: usize) -> bool {
        octets <= self.octets_max
    }

    /// Nothing yet, for a message of this client.
    pub(super) fn grant(&self, client: IpAddr) -> Grant {
        Grant { held: self.held.clone(), client, octets: 0, permits: Vec::new() }
    }

    /// Adds octets to a grant as soon as they are there for its client; false: they are not for a minute.
    pub(super) async fn wait(&self, grant: &mut Grant, octets: usize) -> bool {
        timeout(MEMORY_WAIT, self.wait_in_line(grant, octets)).await.is_ok()
    }

    async fn wait_in_line(&self, grant: &mut Grant, octets: usize) {
        let waiting = Waiting::new(&self.held, grant.client);
        while !(waiting.is_first() && self.add(grant, octets)) {
            self.held.freed.notified().await;
        }
    }

    /// Adds octets to a grant, if they are there for its client; to an empty one not before those of its messages that wait.
    pub(super) fn try_add(&self, grant: &mut Grant, octets: usize) -> bool {
        let waits = grant.is_empty() && self.held.waiting.borrow().contains_key(&grant.client);
        !waits && self.add(grant, octets)
    }

    fn add(&self, grant: &mut Grant, octets: usize) -> bool {
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

/// The place of a message among those of its client that wait.
struct Waiting<'a> {
    held: &'a Held,
    client: IpAddr,
    number: u64,
}

impl<'a> Waiting<'a> {
    fn new(held: &'a Held, client: IpAddr) -> Waiting<'a> {
        let number = held.next.get();
        held.next.set(number + 1);
        held.waiting.borrow_mut().entry(client).or_default().push_back(number);
        Waiting { held, client, number }
    }

    fn is_first(&self) -> bool {
        let waiting = self.held.waiting.borrow();
        waiting.get(&self.client).is_some_and(|numbers| numbers.front() == Some(&self.number))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.held.waiting.borrow_mut();
        let Some(numbers) = waiting.get_mut(&self.client) else { return };
        numbers.retain(|&number| number != self.number);
        if numbers.is_empty() {
            waiting.remove(&self.client);
        } else {
            self.held.freed.notify_all();
        }
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
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

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

    /// A large message that waits is not passed by smaller ones of its client; those of others, and what is under way, go on.
    #[test]
    fn a_large_message_has_its_turn() {
        let memory = Memory::new(64);
        let client = |number: u8| IpAddr::from([192, 0, 2, number]);
        let (mut large, mut small, mut under_way) =
            (memory.grant(client(1)), memory.grant(client(1)), memory.grant(client(1)));
        assert!(memory.try_add(&mut under_way, 20));
        let mut waits = pin!(memory.wait_in_line(&mut large, 40));
        assert!(block_on(poll_once(waits.as_mut())).is_none());
        assert!(!memory.try_add(&mut small, 1), "it would pass");
        let mut waits_too = pin!(memory.wait_in_line(&mut small, 1));
        assert!(block_on(poll_once(waits_too.as_mut())).is_none());
        assert!(memory.try_add(&mut under_way, 1));
        assert!(memory.try_add(&mut memory.grant(client(2)), 1));
        drop(under_way);
        assert!(block_on(poll_once(waits_too.as_mut())).is_none(), "it is not the first");
        assert!(block_on(poll_once(waits.as_mut())).is_some());
        assert_eq!(memory.held.waiting.borrow()[&client(1)].len(), 1, "it is now");
    }
}
