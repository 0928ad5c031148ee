//! Tests of the queue's bookkeeping.

use chasqui_protocol::smtp::dsn::{OriginalRecipient, Parameters, RcptParameters};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_runtime::{Instant, SeededRng};
use futures_lite::future::{block_on, poll_once};
use proptest::prelude::*;

use super::*;
use crate::config::TlsPolicy;
use crate::route::{Host, Route};
use crate::spool::{Envelope, MessageId};

mod leases;
mod places;
mod waiting;

const LIMITS: ConnectionLimits = ConnectionLimits { per_site: 2, total: 8 };

fn envelope(recipients: usize, arrived_ms: u64) -> Rc<Envelope> {
    Rc::new(Envelope {
        reverse_path: "a@sender.test".into(),
        recipients: (0..recipients).map(|n| format!("u{n}@d{n}.test")).collect(),
        arrived_ms,
        lead_ms: 0,
        size: 1000,
        eight_bit: false,
        form: Default::default(),
        dsn: None,
    })
}

fn route(site: &str) -> Rc<Route> {
    let addresses = vec!["192.0.2.1:25".parse().unwrap(), "192.0.2.2:25".parse().unwrap()];
    let hosts = vec![Host { name: site.into(), preference: 10, addresses }];
    Rc::new(Route { hosts, site: site.into(), tls: TlsPolicy::default(), expires: at(u64::MAX) })
}

fn at(nanos: u64) -> Instant {
    Instant::from_nanos(nanos)
}

fn add(queue: &mut Queue, arrived_ms: u64) -> Job {
    queue.messages.add(MessageId::from(arrived_ms), envelope(1, arrived_ms))
}

fn ids(queue: &mut Queue, site: SiteId) -> Vec<u64> {
    let jobs: Vec<Job> = std::iter::from_fn(|| queue.sites.take(site)).collect();
    jobs.iter().map(|job| number(queue.messages.facts(job).id)).collect()
}

fn number(id: MessageId) -> u64 {
    u64::from_str_radix(&id.to_string(), 16).unwrap()
}

fn queue_with(limits: ConnectionLimits) -> Queue {
    Queue::new(limits, Arc::new(Leases::new(1, limits.per_site, 0)), 0)
}

/// The address of a host of every route.
fn host() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 25))
}

/// A connection to a site has come to nothing: how often in a row that was so, if the site rests for it.
fn useless(queue: &mut Queue, site: SiteId, trouble: &str) -> Option<u32> {
    let failures = queue.sites.failed(site, trouble.into());
    closed(queue, site, false);
    failures
}

/// A connection of a site that has, or has not, been of use.
fn slot(queue: &Queue, site: SiteId, is_proven: bool) -> Rc<Slot> {
    let of_site = |slot: &Rc<Slot>| slot.site() == site && slot.is_proven() == is_proven;
    queue.sites.slots().find(of_site).expect("the site has such a connection")
}

fn closed(queue: &mut Queue, site: SiteId, is_proven: bool) {
    let slot = slot(queue, site, is_proven);
    queue.sites.closed(&slot);
}

/// A connection has been of use, for the first time or not.
fn works(queue: &mut Queue, site: SiteId, host: SocketAddr, is_first: bool) -> bool {
    let slot = slot(queue, site, !is_first);
    queue.sites.works(&slot, host, at(0))
}

fn open_all(queue: &mut Queue) -> Vec<SiteId> {
    std::iter::from_fn(|| Some(queue.sites.next_to_open(at(0))?.site())).collect()
}

/// Retries of which the sender was told hide no older or younger one of which it is still to be told, and come in the
/// order of all retries; a job that was joined of both is still to be told of.
#[test]
fn told_retries_are_apart() {
    let mut queue = queue_with(LIMITS);
    let site = queue.sites.of_route(&route("a"));
    for (arrived_ms, attempt) in
        [(1, Attempt::Notified), (2, Attempt::Retry), (3, Attempt::Notified), (4, Attempt::Retry)]
    {
        let job = add(&mut queue, arrived_ms);
        if attempt == Attempt::Notified {
            queue.messages.set_delay_notified(&job);
        }
        queue.push(site, attempt, job);
    }
    let Queue { sites, messages, .. } = &mut queue;
    let (job, _) =
        sites.take_older(site, 3, |job| !messages.is_delay_notified(job)).expect("one is to be told");
    assert_eq!(number(messages.facts(&job).id), 2);
    assert!(sites.take_older(site, 3, |job| !messages.is_delay_notified(job)).is_none());
    assert_eq!(ids(&mut queue, site), [1, 3, 4]);

    let whole = queue.messages.add(MessageId::from(9), envelope(2, 9));
    let mut parts = queue.messages.split(whole, &[vec![0], vec![1]]);
    queue.messages.set_delay_notified(&parts[0]);
    let joined = queue.messages.join(std::mem::take(&mut parts)).expect("a job");
    assert!(!queue.messages.is_delay_notified(&joined));
}

/// First attempts come before retries, each in order of arrival, and retries are not starved for good.
#[test]
fn first_attempts_before_retries() {
    let mut queue = queue_with(LIMITS);
    let site = queue.sites.of_route(&route("a"));
    for arrived_ms in [103, 101, 102] {
        let job = add(&mut queue, arrived_ms);
        queue.push(site, Attempt::Retry, job);
    }
    for arrived_ms in 1..=40 {
        let job = add(&mut queue, arrived_ms);
        queue.push(site, Attempt::First, job);
    }
    let order = ids(&mut queue, site);
    assert_eq!(order[..17], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 101]);
    assert_eq!(order[33], 102);
    assert_eq!(order[42], 103);
}

/// Retries of messages that may not have the time to wait take turns with first attempts, and those alone.
#[test]
fn pressing_retries_take_turns() {
    let mut queue = queue_with(LIMITS);
    let site = queue.sites.of_route(&route("a"));
    for (arrived_ms, attempt) in [(10, Attempt::Retry), (11, Attempt::Notified), (12, Attempt::Retry)] {
        let job = add(&mut queue, arrived_ms);
        queue.push(site, attempt, job);
    }
    for arrived_ms in 20..40 {
        let job = add(&mut queue, arrived_ms);
        queue.push(site, Attempt::First, job);
    }
    queue.sites.press(11);
    let order = ids(&mut queue, site);
    assert_eq!(order[..6], [20, 10, 21, 11, 22, 23]);
    assert_eq!(order[20], 12, "after 16 first attempts");
}

/// Connections are given out in turn: a site with many messages does not keep others waiting.
#[test]
fn connections_in_turn() {
    let mut queue = queue_with(ConnectionLimits { per_site: 2, total: 3 });
    let big = queue.sites.of_route(&route("big"));
    for arrived_ms in 0..1000 {
        let job = add(&mut queue, arrived_ms);
        queue.push(big, Attempt::First, job);
    }
    let small = queue.sites.of_route(&route("small"));
    let job = add(&mut queue, 5000);
    queue.push(small, Attempt::First, job);
    assert_eq!(open_all(&mut queue), [big, small], "one each");
    assert!(queue.take(small, at(0)).is_some());
    works(&mut queue, big, host(), true);
    works(&mut queue, small, host(), true);
    assert_eq!(open_all(&mut queue), [big], "then the next; three in all");
    assert!(!queue.sites.is_crowded(), "the site that wants more is at its own limit");
    let third = queue.sites.of_route(&route("third"));
    let job = add(&mut queue, 6000);
    queue.push(third, Attempt::First, job);
    assert!(queue.sites.is_crowded(), "a site without a connection waits for one");
    assert!(open_all(&mut queue).is_empty());
    closed(&mut queue, big, true);
    assert_eq!(open_all(&mut queue), [third], "it is served before the big site gets another");
}

/// A dead site rests: it gets one connection per probe, its failures are counted, and it recovers at once.
#[test]
fn a_dead_site_rests_and_recovers() {
    let mut queue = queue_with(ConnectionLimits { per_site: 5, total: 100 });
    let site = queue.sites.of_route(&route("dead"));
    for arrived_ms in 0..10 {
        let job = add(&mut queue, arrived_ms);
        queue.push(site, Attempt::First, job);
    }
    assert_eq!(open_all(&mut queue).len(), 5);
    assert_eq!(useless(&mut queue, site, "refused"), Some(1));
    assert!(queue.sites.trouble(site).is_some(), "no connection has been of use");
    assert_eq!(useless(&mut queue, site, "refused"), None, "it rests already");
    for _ in 0..3 {
        assert_eq!(useless(&mut queue, site, "refused"), None);
    }
    assert!(open_all(&mut queue).is_empty(), "it rests");
    for failures in 2..5 {
        queue.sites.probe(site);
        assert_eq!(open_all(&mut queue).len(), 1, "one connection probes");
        assert_eq!(useless(&mut queue, site, "refused"), Some(failures));
    }
    queue.sites.probe(site);
    assert_eq!(open_all(&mut queue).len(), 1);
    works(&mut queue, site, host(), true);
    assert_eq!(queue.sites.trouble(site), None);
    assert_eq!(open_all(&mut queue).len(), 4, "all connections at once");
}

/// A refused extra connection does not stop the ones that work, nor make the site count as dead.
#[test]
fn a_site_at_the_receivers_limit_goes_on() {
    let mut queue = queue_with(ConnectionLimits { per_site: 5, total: 100 });
    let site = queue.sites.of_route(&route("busy"));
    for arrived_ms in 0..10 {
        let job = add(&mut queue, arrived_ms);
        queue.push(site, Attempt::First, job);
    }
    open_all(&mut queue);
    works(&mut queue, site, host(), true);
    useless(&mut queue, site, "421 too many connections");
    assert_eq!(queue.sites.trouble(site), None);
    assert!(queue.sites.take(site).is_some());
}

/// A site whose hosts all close on one message after another gets one connection at a time, and none during a pause; the
/// first transaction that ends by replies brings all connections back. A few such messages, or one host that works, change
/// nothing.
#[test]
fn a_site_that_closes_on_messages_is_slowed() {
    let mut queue = queue_with(ConnectionLimits { per_site: 5, total: 100 });
    let site = queue.sites.of_route(&route("closing"));
    for arrived_ms in 0..100 {
        let job = add(&mut queue, arrived_ms);
        queue.push(site, Attempt::First, job);
    }
    let hosts = [host(), SocketAddr::from(([192, 0, 2, 2], 25))];
    for _ in 0..20 {
        assert!(!queue.sites.cut_off(site, hosts[0], at(0)), "the other host works");
    }
    assert_eq!(queue.sites.addresses(site, at(0)).1[0].1, hosts[1], "the other host comes first");
    let late = at(2_000_000_000);
    assert_eq!(queue.sites.addresses(site, late).1[0].1, hosts[0], "after a while it is tried again");
    for count in 1..=20 {
        assert_eq!(queue.sites.cut_off(site, hosts[1], late), count >= 10);
    }
    assert_eq!(open_all(&mut queue).len(), 1, "one connection at a time");
    let taken: Vec<Job> = (0..4).filter_map(|_| queue.sites.take(site)).collect();
    let taken: Vec<u64> = taken.iter().map(|job| number(queue.messages.facts(job).id)).collect();
    assert_eq!(taken, [99, 0, 98, 1], "what is closed on may lie together");
    assert_eq!(queue.sites.trouble(site), None, "the site can be reached");
    assert!(queue.sites.pause(site) && !queue.sites.pause(site));
    closed(&mut queue, site, false);
    assert!(open_all(&mut queue).is_empty(), "it pauses");
    queue.sites.probe(site);
    assert_eq!(open_all(&mut queue).len(), 1);
    assert!(works(&mut queue, site, hosts[1], true));
    assert_eq!(open_all(&mut queue).len(), 4, "all connections at once");
}

/// What is older than the limit is found at the heads of a dead site's queues, and nothing younger.
#[test]
fn expired_jobs_of_a_dead_site() {
    let mut queue = queue_with(LIMITS);
    let site = queue.sites.of_route(&route("dead"));
    for arrived_ms in [10, 20, 30] {
        let (fresh, retry) = (add(&mut queue, arrived_ms), add(&mut queue, arrived_ms + 5));
        queue.push(site, Attempt::First, fresh);
        queue.push(site, Attempt::Retry, retry);
    }
    let old: Vec<Job> = std::iter::from_fn(|| Some(queue.sites.take_older(site, 25, |_| true)?.0)).collect();
    let mut old: Vec<u64> = old.iter().map(|job| number(queue.messages.facts(job).id)).collect();
    old.sort_unstable();
    assert_eq!(old, [10, 15, 20, 25]);
}

/// An idle connection is called for new work; one that gave up waiting is not.
#[test]
fn idle_connections_are_called() {
    let mut queue = queue_with(LIMITS);
    let site = queue.sites.of_route(&route("a"));
    let job = add(&mut queue, 1);
    queue.push(site, Attempt::First, job);
    assert_eq!(open_all(&mut queue).len(), 1);
    assert!(queue.sites.take(site).is_some());
    works(&mut queue, site, host(), true);
    let idle = Rc::new(Idle::default());
    assert!(queue.sites.rest(site, &idle));
    assert!(block_on(poll_once(idle.called())).is_none());
    let job = add(&mut queue, 2);
    queue.push(site, Attempt::First, job);
    assert!(block_on(poll_once(idle.called())).is_some());
    assert!(open_all(&mut queue).is_empty(), "the idle connection serves it");
    assert_eq!(queue.sites.stop_resting(site, &idle), Some(Called::Work), "it has been called");
    assert!(queue.sites.rest(site, &idle));
    assert_eq!(queue.sites.stop_resting(site, &idle), None);
    closed(&mut queue, site, true);
    assert_eq!(open_all(&mut queue).len(), 1, "the job is left, so another connection is wanted");
}

/// An idle connection is closed when another site wants one and the limit on all is reached; while one waits, none rests.
#[test]
fn idle_connections_give_way_to_other_sites() {
    let mut queue = queue_with(ConnectionLimits { per_site: 1, total: 2 });
    let site = |queue: &mut Queue, name: &str, id: u64| {
        let site = queue.sites.of_route(&route(name));
        let job = add(queue, id);
        queue.push(site, Attempt::First, job);
        site
    };
    let idles = [Rc::new(Idle::default()), Rc::new(Idle::default())];
    let mut sites = Vec::new();
    for (name, idle) in ["a", "b"].into_iter().zip(&idles) {
        let site = site(&mut queue, name, sites.len() as u64 + 1);
        assert_eq!(open_all(&mut queue), [site]);
        assert!(queue.sites.take(site).is_some());
        works(&mut queue, site, host(), true);
        assert!(queue.sites.rest(site, idle));
        sites.push(site);
    }
    let third = site(&mut queue, "c", 3);
    assert!(open_all(&mut queue).is_empty(), "the limit is reached");
    let called = |idle: &Idle| block_on(poll_once(idle.called()));
    assert_eq!((called(&idles[0]), called(&idles[1])), (Some(Called::Close), None), "one is enough");
    assert!(!queue.sites.rest(sites[0], &idles[0]), "another site waits");
    closed(&mut queue, sites[0], true);
    assert_eq!(open_all(&mut queue), [third]);
}

/// A host that did not answer is tried last, for a while.
#[test]
fn dead_hosts_come_last() {
    let mut queue = queue_with(LIMITS);
    let site = queue.sites.of_route(&route("a"));
    let second = Duration::from_secs(1);
    let order = |queue: &mut Queue, now| -> Vec<String> {
        queue.sites.addresses(site, now).1.iter().map(|(_, address)| address.ip().to_string()).collect()
    };
    assert_eq!(order(&mut queue, at(0)), ["192.0.2.1", "192.0.2.2"]);
    queue.sites.host_failed(site, "192.0.2.1:25".parse().unwrap(), at(0));
    assert_eq!(order(&mut queue, at(0) + second), ["192.0.2.2", "192.0.2.1"]);
    assert_eq!(order(&mut queue, at(0) + second * 60), ["192.0.2.1", "192.0.2.2"]);
}

/// Sites without jobs, connections or trouble are forgotten.
#[test]
fn spare_sites_are_forgotten() {
    let mut queue = queue_with(LIMITS);
    let site = queue.sites.of_route(&route("a"));
    let job = add(&mut queue, 1);
    queue.push(site, Attempt::First, job);
    open_all(&mut queue);
    queue.sites.take(site);
    closed(&mut queue, site, false);
    assert_eq!((queue.sites.len(), queue.sites.connections()), (0, 0));
}

/// Timers come in order of time, none before it is due.
#[test]
fn timers_in_order() {
    let mut queue = queue_with(LIMITS);
    for time in [30, 10, 20] {
        let job = add(&mut queue, time);
        queue.timers.set(at(time), Due::Job(job, None));
    }
    assert_eq!(queue.timers.next(), Some(at(10)));
    let mut due = Vec::new();
    while let Some(Due::Job(job, _)) = queue.timers.pop_due(at(20)) {
        due.push(number(queue.messages.facts(&job).id));
    }
    assert_eq!(due, [10, 20]);
    assert_eq!(queue.timers.next(), Some(at(30)));
}

/// Of a recovered message only the open recipients are served and listed.
#[test]
fn recovered_messages_keep_their_finished_recipients() {
    let mut queue = queue_with(LIMITS);
    let job = queue.messages.add_open(MessageId::from(7), envelope(100, 1), &[3, 64, 99], 2);
    let mut recipients = Vec::new();
    queue.messages.recipients(&job, &mut recipients);
    assert_eq!(recipients, [3, 64, 99]);
    let (listed, next) = queue.messages.list(0, 10);
    assert_eq!((listed[0].id, listed[0].open.as_slice(), next), (MessageId::from(7), &[3, 64, 99][..], None));
    assert_eq!((queue.messages.len(), queue.messages.open_recipients()), (1, 3));
    let job = queue.messages.finish(job, &[64]).expect("two are open");
    assert_eq!(queue.messages.open_recipients(), 2);
    assert_eq!(queue.messages.finish(job, &[3, 99]), None);
    assert_eq!((queue.messages.len(), queue.messages.open_recipients()), (0, 0));
}

/// The newest messages have their envelopes in memory, however many older ones wait.
#[test]
fn envelopes_of_the_newest() {
    let mut queue = queue_with(LIMITS);
    let waiting: Vec<Job> = (0..20_000).map(|number| add(&mut queue, number)).collect();
    for number in 0..50_000 {
        let job = add(&mut queue, 100_000 + number);
        assert!(queue.messages.envelope(&job).is_some());
        assert!(queue.messages.finish(job, &[0]).is_none());
    }
    let kept = |jobs: &[Job]| jobs.iter().filter(|job| queue.messages.envelope(job).is_some()).count();
    assert!(kept(&waiting) <= 8192);
    assert_eq!(kept(&waiting[..10_000]), 0);
}

/// The envelopes that are in memory take a limited part of it, however many recipients they have.
#[test]
fn envelopes_have_limited_octets() {
    let mut queue = queue_with(LIMITS);
    let recipients = vec![format!("{}@d.test", "x".repeat(240)); 1000];
    let original = OriginalRecipient::parse(format!("rfc822;{}", "x".repeat(490)).as_bytes());
    let said = RcptParameters { original, ..RcptParameters::default() };
    let said = Parameters { recipients: vec![said; 1000], ..Parameters::default() };
    for (dsn, kept_max) in [(None, 70), (Some(Box::new(said)), 23)] {
        let mut add = |number| {
            let (recipients, dsn) = (recipients.clone(), dsn.clone());
            let envelope = Envelope { recipients, dsn, ..(*envelope(0, number)).clone() };
            queue.messages.add(MessageId::from(number), Rc::new(envelope))
        };
        let waiting: Vec<Job> = (0..200).map(&mut add).collect();
        let kept = waiting.iter().filter(|job| queue.messages.envelope(job).is_some()).count();
        assert!((1..kept_max).contains(&kept) && queue.messages.envelope(&waiting[199]).is_some(), "{kept}");
        let all: Vec<u32> = (0..1000).collect();
        for job in waiting {
            assert_eq!(queue.messages.finish(job, &all), None);
        }
        assert_eq!(queue.messages.envelope_octets(), 0);
    }
}

proptest! {
    /// However jobs are split and finished, every recipient is served exactly once and nothing is left.
    #[test]
    fn every_recipient_belongs_to_one_job(count in 1usize..200, seed: u64) {
        let mut messages = Messages::default();
        let mut rng = SeededRng::new(seed);
        let mut jobs = vec![messages.add(MessageId::from(1), envelope(count, 1))];
        let mut served = vec![0; count];
        while let Some(job) = jobs.pop() {
            let mut recipients = Vec::new();
            messages.recipients(&job, &mut recipients);
            prop_assert!(!recipients.is_empty() && recipients.is_sorted());
            if recipients.len() > 1 && rng.below(2) == 0 {
                let groups = recipients.split_off(1 + rng.below(recipients.len() as u64 - 1) as usize);
                jobs.extend(messages.split(job, &[recipients, groups]));
                continue;
            }
            let finished: Vec<u32> = recipients.into_iter().filter(|_| rng.below(3) > 0).collect();
            for &recipient in &finished {
                served[recipient as usize] += 1;
            }
            jobs.extend(messages.finish(job, &finished));
            prop_assert_eq!(messages.open_recipients() as usize, served.iter().filter(|&&n| n == 0).count());
        }
        prop_assert!(served.iter().all(|&n| n == 1));
        prop_assert_eq!(messages.len(), 0);
    }
}
