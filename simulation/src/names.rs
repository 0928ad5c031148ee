//! The names of the chain, with the trouble that looking them up is.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chasqui_relay::route::{Resolver, SimulatedAnswer};
use chasqui_runtime::rng;

use crate::addresses::{ZONE, domain_number, receiver, second_receiver};
use crate::plan::{Domain, has_second};
use crate::proxies::Proxies;

/// How long the DNS takes to say that it knows nothing.
const LOOKUP_LIMIT: Duration = Duration::from_secs(15);

/// Names for the relay. Domains 4 and 5 have one receiver: they are one site.
pub(crate) fn names(proxies: &Proxies) -> Resolver {
    let (domains, share, habits) = (proxies.domains.clone(), proxies.trouble.lookup, proxies.habits.clone());
    let calm = proxies.calm.clone();
    Resolver::simulated(move |domain| {
        let after = Duration::from_micros(rng().below(50_000));
        if !calm.load(Ordering::Relaxed) && rng().unit() < share {
            return match rng().below(2) {
                0 => (after, SimulatedAnswer::Temporary("SERVFAIL")),
                _ => (LOOKUP_LIMIT, SimulatedAnswer::Temporary("no answer")),
            };
        }
        let number = match domain_number(domain) {
            Some(number) if number < domains.len() => number,
            Some(_) => return (after, SimulatedAnswer::NoSuchDomain),
            None => domains.len(),
        };
        match domains.get(number) {
            Some(Domain::ServFail) => (after, SimulatedAnswer::Temporary("SERVFAIL")),
            Some(Domain::Silent) => (LOOKUP_LIMIT, SimulatedAnswer::Temporary("no answer")),
            Some(Domain::Unknown) => (after, SimulatedAnswer::NoSuchDomain),
            _ => {
                let receiver_number = if number == 5 { 4 } else { number };
                let addresses = vec![receiver(receiver_number).into()];
                let mut hosts = vec![(10, format!("mx{receiver_number}.{ZONE}"), addresses)];
                if has_second(&habits, number) {
                    hosts.push((20, format!("second{number}.{ZONE}"), vec![second_receiver(number).into()]));
                }
                (after, SimulatedAnswer::Hosts { hosts, ttl: Duration::from_secs(1 + rng().below(300)) })
            }
        }
    })
}
