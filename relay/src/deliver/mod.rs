//! Delivers: one task per outgoing connection, which serves the jobs of one site until there are no more.
//!
//! A job that could not be tried, because the host would not talk or the connection had gone stale, goes back to the
//! head of its site's queue; every other attempt ends in [`Shard::settle`].

mod link;
mod message;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use chasqui_runtime::{now, sleep, sleep_until, turn_time};
use futures_lite::future::or;

use crate::dispatch::in_hand_until;
use crate::queue::{Called, Idle, Job, Promise, SiteId};
use crate::route::Route;
use crate::settle::{Outcome, Reason, Recipients};
use crate::shard::{Guard, Shard};

use link::{Link, Loss};

/// Addresses tried for one connection.
const ADDRESSES_MAX: usize = 20;

/// How a connection's service ended.
enum End {
    /// After work, or for lack of it.
    Done,
    /// Before it was of any use: why.
    Useless(Trouble),
}

/// Why a host could not be used.
#[derive(Debug, Clone)]
struct Trouble {
    status: &'static str,
    text: String,
    remote: Rc<str>,
}

/// Opens a connection to a site and serves the site's jobs through it, until the relay's end cuts it off. `_counted` keeps
/// it counted.
pub(crate) async fn connection(shard: Rc<Shard>, site: SiteId, _counted: Guard) {
    let cut_off = shard.drain_ends.notified();
    or(use_connection(shard, site), cut_off).await;
}

async fn use_connection(shard: Rc<Shard>, site: SiteId) {
    let (route, mut addresses) = shard.queue.borrow_mut().sites.addresses(site, now());
    addresses.truncate(ADDRESSES_MAX);
    let mut last = None;
    for (place, address) in addresses {
        if shard.is_draining() {
            break;
        }
        match serve(&shard, site, &route, place, address).await {
            End::Done => return,
            End::Useless(trouble) => {
                shard.queue.borrow_mut().sites.host_failed(site, address, now());
                last = Some(trouble);
            }
        }
    }
    let Some(trouble) = last.filter(|_| !shard.is_draining()) else {
        return shard.queue.borrow_mut().sites.closed(site, false);
    };
    shard.rest_site(site, trouble.text.as_str().into());
    let nobody_works = shard.queue.borrow_mut().sites.trouble(site).is_some();
    if nobody_works {
        let reason =
            Reason { status: trouble.status.into(), text: trouble.text, remote: Some(trouble.remote) };
        shard.defer_one(site, reason).await;
    }
    shard.open_connections();
}

async fn serve(shard: &Rc<Shard>, site: SiteId, route: &Rc<Route>, place: usize, address: SocketAddr) -> End {
    let host: Rc<str> = route.hosts[place].name.as_str().into();
    let drained = async {
        shard.drain_begins.notified().await;
        Err(Trouble { status: "4.3.2", text: "the relay is ending".into(), remote: host.clone() })
    };
    let mut link = match or(Link::open(shard, address, host.clone()), drained).await {
        Ok(link) => link,
        Err(trouble) => return End::Useless(trouble),
    };
    shard.counters.connections_made.add(1);
    let idle = Rc::new(Idle::default());
    let mut is_proven = false;
    let mut sent = 0;
    loop {
        let may_send = !shard.is_draining() && sent < shard.config.delivery.messages_per_connection;
        let give_way = shard.queue.borrow_mut().sites.must_give_way(site, sent);
        if !may_send || give_way || shard.spool.sealed().is_some() {
            link.quit().await;
            break;
        }
        let turn = shard.queue.borrow_mut().sites.turn(site, turn_time());
        if let Some(at) = turn {
            or(sleep_until(at), shard.drain_begins.notified()).await;
            if shard.is_draining() {
                continue;
            }
        }
        let job = shard.queue.borrow_mut().take(site, in_hand_until());
        let Some(job) = job else {
            if wait_for_work(shard, site, &mut link, &idle).await {
                continue;
            }
            break;
        };
        sent += 1;
        match attempt(shard, site, &mut link, job, is_proven).await {
            Attempted::Settled if link.is_closed() => {
                mark_proven(shard, site, &mut is_proven);
                break;
            }
            Attempted::Settled => mark_proven(shard, site, &mut is_proven),
            Attempted::Aside => sent -= 1,
            Attempted::NotTried(trouble) if !is_proven => return End::Useless(trouble),
            Attempted::NotTried(_) | Attempted::Lost => break,
        }
    }
    shard.queue.borrow_mut().sites.closed(site, is_proven);
    shard.open_connections();
    End::Done
}

fn mark_proven(shard: &Rc<Shard>, site: SiteId, is_proven: &mut bool) {
    if !std::mem::replace(is_proven, true) {
        shard.queue.borrow_mut().sites.proven(site);
        shard.open_connections();
    }
}

/// Keeps an idle connection for a while. `true`: there may be work.
async fn wait_for_work(shard: &Rc<Shard>, site: SiteId, link: &mut Link, idle: &Rc<Idle>) -> bool {
    if shard.queue.borrow_mut().sites.rest(site, idle) {
        let ended = async {
            // Whatever the server says now ends the connection: 421, or its closing.
            or(link.hear_out(), sleep(shard.config.delivery.idle)).await;
            Called::Close
        };
        if or(idle.called(), ended).await == Called::Work {
            return true;
        }
        let called = shard.queue.borrow_mut().sites.stop_resting(site, idle);
        if called == Some(Called::Work) && !link.is_closed() {
            return true;
        }
    }
    link.quit().await;
    false
}

/// What came of an attempt, for the connection.
enum Attempted {
    /// The job is settled.
    Settled,
    /// The job waits elsewhere; nothing of it was tried.
    Aside,
    /// The job is back in the queue; nothing of it was tried.
    NotTried(Trouble),
    /// The connection is lost; the job is settled.
    Lost,
}

async fn attempt(shard: &Rc<Shard>, site: SiteId, link: &mut Link, job: Job, is_proven: bool) -> Attempted {
    let Some(envelope) = shard.envelope(&job).await else {
        shard.put_off(job);
        return Attempted::Aside;
    };
    let Some(job) = shard.hold_suspended(job, &envelope) else { return Attempted::Aside };
    let (job, recipients) = take_share(shard, site, job);
    let by = in_hand_until() + shard.config.delivery.attempt_max(envelope.size);
    shard.queue.borrow_mut().messages.promise(&job, Promise::By(by));
    let sent = message::send(shard, link, &job, &envelope, &recipients).await;
    match sent {
        Ok(mut outcome) => {
            let busy = outcome.delivered.is_empty() && link.is_closed() && outcome.failed.is_empty();
            if busy {
                // 421: the host takes nothing (more) through this connection; another connection or host may.
                return put_back(shard, site, job, link.trouble("4.3.2", outcome.reason.text));
            }
            outcome.origin = Some(shard.queue.borrow().sites.origin(site));
            shard.settle(job, &envelope, outcome);
            shard.envelopes.give_back(envelope);
            Attempted::Settled
        }
        Err(Loss { error, began: false, .. }) => {
            put_back(shard, site, job, link.trouble("4.4.2", lost(&error)))
        }
        Err(Loss { error, sent_whole: false, .. }) if !is_proven => {
            put_back(shard, site, job, link.trouble("4.4.2", lost(&error)))
        }
        Err(Loss { error, sent_whole, .. }) => {
            if sent_whole {
                // The receiver may have taken it: trying again may make a duplicate, not trying may lose it.
                shard.counters.lost_replies.add(1);
            }
            let Trouble { status, text, remote } = link.trouble("4.4.2", lost(&error));
            let reason = Reason { status: status.into(), text, remote: Some(remote) };
            let origin = Some(shard.queue.borrow().sites.origin(site));
            let outcome = Outcome { deferred: recipients.into_vec(), reason, origin, ..Outcome::default() };
            shard.settle(job, &envelope, outcome);
            Attempted::Lost
        }
    }
}

fn put_back(shard: &Rc<Shard>, site: SiteId, job: Job, trouble: Trouble) -> Attempted {
    shard.queue.borrow_mut().put_back(site, job);
    Attempted::NotTried(trouble)
}

/// As many of the job's recipients as a transaction takes; the others go back as a job of their own.
fn take_share(shard: &Rc<Shard>, site: SiteId, job: Job) -> (Job, Recipients) {
    let mut queue = shard.queue.borrow_mut();
    let mut recipients = Recipients::new();
    queue.messages.recipients(&job, &mut recipients);
    let share = shard.config.delivery.recipients_per_transaction;
    if recipients.len() <= share {
        return (job, recipients);
    }
    let rest = recipients.drain(share..).collect();
    let mut jobs = queue.messages.split(job, &[recipients.to_vec(), rest]);
    let others = jobs.remove(1);
    queue.put_back(site, others);
    (jobs.remove(0), recipients)
}

fn lost(error: &io::Error) -> String {
    format!("connection lost: {error}")
}
