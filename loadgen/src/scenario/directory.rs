//! The mailboxes of a run: their addresses, and the hashes by which arrivals name them.

use std::fmt::Write as _;

use chasqui_protocol::stamp::recipient_hash;

use super::Scenario;

/// All mailboxes, numbered from 0: mailbox `n` is `u<m>@d<k>.<zone>` with `k = n / per_domain` and
/// `m = n % per_domain`.
#[derive(Debug)]
pub struct Directory {
    zone: String,
    per_domain: usize,
    hashes: Box<[u64]>,
}

impl Directory {
    /// The mailboxes that `scenario` (checked) asks for.
    pub fn new(scenario: &Scenario) -> Self {
        let per_domain = scenario.mailboxes_per_domain;
        let zone = scenario.zone.clone();
        let hash = |number| recipient_hash(&address(number, per_domain, &zone));
        let hashes = (0..scenario.mailboxes()).map(hash).collect();
        Self { zone, per_domain, hashes }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.hashes.len()
    }

    /// The address of a mailbox.
    pub fn address(&self, number: u32) -> String {
        address(number as usize, self.per_domain, &self.zone)
    }

    /// Appends the address of a mailbox.
    pub(crate) fn write_address(&self, number: u32, out: &mut String) {
        write_address(out, number as usize, self.per_domain, &self.zone);
    }

    /// The hash of a mailbox's address, as arrival records carry it.
    pub fn hash(&self, number: u32) -> u64 {
        self.hashes[number as usize]
    }
}

fn address(number: usize, per_domain: usize, zone: &str) -> String {
    let mut address = String::new();
    write_address(&mut address, number, per_domain, zone);
    address
}

fn write_address(out: &mut String, number: usize, per_domain: usize, zone: &str) {
    // Writing to a String cannot fail.
    let _ = write!(out, "u{}@d{}.{zone}", number % per_domain, number / per_domain);
}
