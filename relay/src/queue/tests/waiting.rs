//! Tests of what happens to jobs that wait: fairness, the watchdog, suspension, memory.

use super::super::messages::Overdue;
use super::*;
use crate::queue::site_queue;

const PATIENCE: Duration = Duration::from_secs(60);

/// A dead site with 100,000 messages costs the others a few connections that are tried in vain, counted in steps of
/// the queue: every site that works is served as soon as if the dead one had one message.
#[test]
fn a_dead_site_with_many_messages_delays_no_other() {
    const LIVE: usize = 200;
    let mut steps_by_backlog = Vec::new();
    for backlog in [10, 100_000] {
        let mut queue = queue_with(ConnectionLimits { per_site: 20, total: 30 });
        let dead = queue.sites.of_route(&route("dead"));
        for arrived_ms in 0..backlog {
            let job = add(&mut queue, arrived_ms);
            queue.push(dead, Attempt::First, job);
        }
        for live in 0..LIVE {
            let site = queue.sites.of_route(&route(&format!("live{live}")));
            let job = add(&mut queue, backlog + live as u64);
            queue.push(site, Attempt::First, job);
        }
        let (mut served, mut steps) = (0, 0);
        while served < LIVE {
            steps += 1;
            let site = queue.sites.next_to_open(at(0)).expect("somebody is served").site();
            if site == dead {
                // As slow as can be: it fails when nobody else can be served.
                continue;
            }
            let job = queue.take(site, at(0)).expect("a job");
            assert_eq!(queue.messages.finish(job, &[0]), None);
            works(&mut queue, site, host(), true);
            closed(&mut queue, site, true);
            served += 1;
        }
        steps_by_backlog.push(steps);
        for _ in 0..steps - LIVE {
            useless(&mut queue, dead, "timed out");
        }
        for _ in 0..10 {
            queue.sites.probe(dead);
            assert_eq!(open_all(&mut queue), [dead], "one connection a probe");
            useless(&mut queue, dead, "timed out");
        }
    }
    assert_eq!(steps_by_backlog[0], steps_by_backlog[1], "the backlog makes no difference");
    assert!(steps_by_backlog[1] <= LIVE + 5, "{steps_by_backlog:?}");
}

/// Messages come in the order of their age although some were queued late, and the oldest is known.
#[test]
fn lines_are_in_order_of_age() {
    let mut queue = queue_with(LIMITS);
    let site = queue.sites.of_route(&route("a"));
    for arrived_ms in [5, 7, 7, 3, 9, 4] {
        let job = add(&mut queue, arrived_ms);
        queue.push(site, Attempt::First, job);
    }
    assert_eq!(queue.sites.list(0, 10).0[0].oldest_ms, Some(3));
    let back = queue.take(site, at(0)).expect("the oldest");
    queue.put_back(site, back);
    assert_eq!(ids(&mut queue, site), [3, 4, 5, 7, 7, 9]);
}

fn overdue(queue: &Queue, now_s: u64) -> Overdue {
    let (mut all, mut cursor) = (Overdue::default(), Some(0));
    while let Some(place) = cursor {
        let (found, next) = queue.messages.overdue(place, 7, at(now_s * 1_000_000_000));
        all.join(found);
        cursor = next;
    }
    all
}

/// A job that was lost, a timer that did not fire and a lookup that does not end are found; what waits in order is not.
#[test]
fn broken_promises_are_found() {
    let seconds = |s: u64| at(s * 1_000_000_000);
    let mut queue = queue_with(LIMITS);
    let site = queue.sites.of_route(&route("a"));
    let waiting = add(&mut queue, 1);
    queue.push(site, Attempt::First, waiting);
    assert_eq!(overdue(&queue, 1_000_000), Overdue::default(), "its site answers for it");
    let deferred = add(&mut queue, 2);
    queue.set_timer(seconds(100), deferred, None);
    assert_eq!((overdue(&queue, 100).jobs, overdue(&queue, 160)), (0, Overdue { jobs: 1, oldest_s: 60 }));
    let _lost = queue.take(site, seconds(50)).expect("a job");
    assert_eq!(overdue(&queue, 90), Overdue { jobs: 1, oldest_s: 40 });
    assert_eq!(overdue(&queue, 160), Overdue { jobs: 2, oldest_s: 110 });
    // Of a message with many recipients one part is lost while the other waits in order.
    let several = queue.messages.add(MessageId::from(9), envelope(3, 9));
    let mut parts = queue.messages.split(several, &[vec![0, 2], vec![1]]);
    queue.push(site, Attempt::First, parts.remove(0));
    queue.messages.set_deadline(&parts[0], Deadline::By(seconds(10)));
    assert_eq!(overdue(&queue, 60), Overdue { jobs: 2, oldest_s: 50 });
}

/// A site at which nothing happens is found: at once when nobody serves it, else when a connection's time limits are
/// over. One that rests, is suspended or works is in order.
#[test]
fn sites_without_events_are_found() {
    let mut queue = queue_with(LIMITS);
    let site = queue.sites.of_route(&route("a"));
    let look =
        |queue: &mut Queue, now_s: u64| queue.sites.overdue(0, 10, at(now_s * 1_000_000_000), PATIENCE).0;
    for arrived_ms in 1..=3 {
        let job = add(&mut queue, arrived_ms);
        queue.push(site, Attempt::First, job);
    }
    assert_eq!(open_all(&mut queue).len(), 2);
    assert_eq!(look(&mut queue, 100).jobs, 0);
    assert_eq!(look(&mut queue, 160).jobs, 0, "a connection may take that long");
    assert_eq!(look(&mut queue, 161), Overdue { jobs: 3, oldest_s: 61 });
    queue.sites.host_failed(site, "192.0.2.1:25".parse().unwrap(), at(0));
    assert_eq!(look(&mut queue, 170).jobs, 0, "something happened");
    for _ in 0..2 {
        useless(&mut queue, site, "refused");
    }
    queue.sites.probe_at(site, at(300_000_000_000));
    assert_eq!((look(&mut queue, 180).jobs, look(&mut queue, 300).jobs), (0, 0), "it rests");
    assert_eq!(look(&mut queue, 310), Overdue { jobs: 3, oldest_s: 10 }, "its probe is late");
    assert!(queue.sites.suspend(&"a".into(), true));
    assert_eq!(look(&mut queue, 10_000).jobs, 0, "it is suspended");
}

/// A site that is empty is forgotten, and its place may be another's: who has waited meanwhile finds neither.
#[test]
fn a_site_that_was_forgotten_is_not_known() {
    let mut queue = queue_with(LIMITS);
    let site = queue.sites.of_route(&route("a"));
    let job = add(&mut queue, 10);
    queue.push(site, Attempt::First, job);
    let origin = queue.sites.aged(0, 10, 15).0[0];
    assert_eq!(queue.sites.known(origin), Some(site));
    assert_eq!(open_all(&mut queue).len(), 1);
    queue.take(site, at(0)).expect("it waits");
    closed(&mut queue, site, false);
    assert_eq!(queue.sites.known(origin), None);
    assert_eq!(queue.sites.of_route(&route("b")), site, "the same place");
    assert_eq!(queue.sites.known(origin), None);
}

/// A suspended site keeps its mail, its connections end after their message, and it goes on when it is resumed. What
/// grows too old meanwhile is found.
#[test]
fn suspended_sites_wait() {
    let mut queue = queue_with(LIMITS);
    let site = queue.sites.of_route(&route("a"));
    for arrived_ms in [10, 20] {
        let job = add(&mut queue, arrived_ms);
        queue.push(site, Attempt::First, job);
    }
    assert_eq!(open_all(&mut queue).len(), 2);
    assert!(!queue.sites.must_give_way(site, 1));
    assert!(queue.sites.suspend(&"a".into(), true));
    assert!(!queue.sites.suspend(&"a".into(), true), "it is already");
    assert!(queue.sites.must_give_way(site, 0));
    assert_eq!(queue.take(site, at(0)), None);
    (0..2).for_each(|_| closed(&mut queue, site, false));
    assert_eq!(open_all(&mut queue), []);
    let aged = queue.sites.aged(0, 10, 15).0;
    assert_eq!(aged.iter().filter_map(|origin| queue.sites.known(*origin)).collect::<Vec<_>>(), [site]);
    let (old, why) = queue.sites.take_older(site, 15, |_| true).expect("one is old");
    assert_eq!((number(queue.messages.facts(&old).id), why.as_deref()), (10, Some(sites::SUSPENDED)));
    assert!(queue.sites.take_older(site, 15, |_| true).is_none());
    assert!(queue.sites.suspend(&"a".into(), false));
    assert_eq!(open_all(&mut queue), [site]);
    assert!(queue.take(site, at(0)).is_some());
}

/// Jobs of a suspended domain are kept by kind and age, the old ones are found, and all come back at the end.
#[test]
fn suspended_domains_keep_their_jobs() {
    let mut queue = queue_with(LIMITS);
    let job = add(&mut queue, 1);
    let job = queue.hold("d.test", Attempt::First, job).expect("it is not suspended");
    assert!(queue.suspensions.suspend("d.test") && !queue.suspensions.suspend("d.test"));
    assert_eq!(queue.hold("d.test", Attempt::Retry, job), None);
    for arrived_ms in [2, 3] {
        let job = add(&mut queue, arrived_ms);
        assert_eq!(queue.hold("d.test", Attempt::First, job), None);
    }
    assert_eq!((queue.suspensions.list()[0].jobs, queue.suspensions.list()[0].oldest_ms), (3, Some(1)));
    assert!(queue.suspensions.take_older(0, |_| true).is_none());
    let old = queue.suspensions.take_older(1, |_| true).expect("one is old");
    assert_eq!(number(queue.messages.facts(&old).id), 1);
    let mut line = queue.suspensions.resume("d.test").expect("it was suspended");
    assert_eq!(line.take(0).map(|(attempt, _)| attempt), Some(Attempt::First));
    assert_eq!((line.len(), queue.suspensions.is_empty()), (1, true));
}

/// Octets that the queue allocates for 100,000 messages of one recipient, without envelopes, whether they wait at a
/// site or are deferred: at most 80 and 96 each, which leaves the spool's index more than 100 of the 200 promised.
#[test]
fn memory_per_message() {
    const COUNT: usize = 100_000;
    let (mut queue, mut line) = (queue_with(LIMITS), site_queue::SiteQueue::default());
    let mut jobs = Vec::new();
    for arrived_ms in 0..COUNT as u64 {
        jobs.push(add(&mut queue, arrived_ms));
    }
    let messages = queue.messages.bytes();
    for (arrived_ms, job) in jobs.into_iter().enumerate() {
        line.push(Attempt::First, arrived_ms as u64, job);
    }
    let at_a_site = (messages + line.bytes()) / COUNT;
    assert!(at_a_site <= 80, "{at_a_site}");
    while let Some((_, job)) = line.take(0) {
        queue.set_timer(at(1), job, None);
    }
    let deferred = (messages + queue.timers.bytes()) / COUNT;
    assert!(deferred <= 96, "{deferred}");
    assert_eq!(queue.messages.len(), COUNT);
}

/// What could not be told of a message's recipients is given when a job is placed that is for just these; of another job's
/// recipients nothing is known.
#[test]
fn untold_failures_wait_for_their_job() {
    let mut queue = queue_with(LIMITS);
    let job = queue.messages.add(MessageId::from(7), envelope(3, 1));
    let jobs = queue.messages.split(job, &[vec![0, 2], vec![1]]);
    let failure = |recipient| Failure { recipient, reason: Reason::default() };
    queue.leave_untold(MessageId::from(7), [failure(0), failure(2)]);
    assert!(queue.take_untold(&jobs[1]).is_none());
    let told = queue.take_untold(&jobs[0]).expect("both of its recipients");
    assert_eq!(told.iter().map(|failure| failure.recipient).collect::<Vec<_>>(), [0, 2]);
    assert!(queue.take_untold(&jobs[0]).is_none(), "once");
    queue.leave_untold(MessageId::from(7), []);
    assert!(queue.untold.is_empty(), "a delay alone leaves nothing");
}
