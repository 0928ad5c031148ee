//! What a shard does when it is told.

use std::rc::Rc;

use chasqui_protocol::control::answer::QueueRow;
use chasqui_protocol::control::append;
use chasqui_runtime::channel::OneshotSender;
use chasqui_runtime::spawn;

use super::flush;
use crate::context::Context;
use crate::metrics::ShardStats;
use crate::process::{Order, QueuePage, SitesPage};
use crate::queue::messages::Listed;
use crate::suspensions;

/// Messages, or places of sites, of one page of a listing.
const PAGE: usize = 256;

/// Does what a shard was told.
pub(crate) fn answer(context: &Rc<Context>, order: Order) {
    match order {
        Order::List { cursor, reply } => list_queue(context, cursor, reply),
        Order::Sites { cursor, reply } => list_sites(context, cursor, reply),
        Order::Suspend { target, suspend, reply } => {
            suspensions::apply(&mut context.queue.borrow_mut(), &target, suspend);
            // The client may have gone.
            let _unwanted = reply.send(());
        }
        Order::Retry { flush, reply } => {
            let context = context.clone();
            spawn(async move {
                // The client may have gone.
                let _unwanted = reply.send(flush::flush(&context, flush).await);
            });
        }
        Order::Stats { reply } => drop(reply.send(stats(context))),
        Order::Listen(_) | Order::Shutdown => {}
    }
}

/// Answers with a page of this shard's queue.
fn list_queue(context: &Rc<Context>, cursor: usize, reply: OneshotSender<QueuePage>) {
    let context = context.clone();
    spawn(async move {
        // What the spool has recovered is in no place yet that a cursor could pass.
        context.refilling.empty().await;
        let (listed, next) = context.queue.borrow().messages.list(cursor, PAGE);
        // What comes into the queue while it is listed may lie before the cursor.
        let unqueued = if cursor == 0 { context.unqueued.get() as u64 } else { 0 };
        let mut page = QueuePage { lines: Vec::new(), entries: 0, unread: unqueued, next };
        for message in listed {
            write_entries(&context, message, &mut page).await;
        }
        // The client may have gone.
        let _unwanted = reply.send(page);
    });
}

async fn write_entries(context: &Context, message: Listed, page: &mut QueuePage) {
    let envelope = match message.envelope {
        Some(envelope) => envelope,
        // What the spool no longer has was finished since the page was taken.
        None => match context.spool.envelope(message.id).await {
            Ok(Some(envelope)) => Rc::new(envelope),
            Ok(None) => return,
            Err(_) => {
                page.unread += 1;
                return;
            }
        },
    };
    for &recipient in &message.open {
        let recipient = &envelope.recipients[recipient as usize];
        let reverse_path = envelope.reverse_path.as_str().into();
        append(&QueueRow { reverse_path, recipient: recipient.into() }, &mut page.lines);
        page.entries += 1;
    }
}

/// Answers with a page of this shard's sites.
fn list_sites(context: &Rc<Context>, cursor: usize, reply: OneshotSender<SitesPage>) {
    let queue = context.queue.borrow();
    let (sites, next) = queue.sites.list(cursor, PAGE);
    let domains = if cursor == 0 { queue.suspensions.list() } else { Vec::new() };
    // The client may have gone.
    let _unwanted = reply.send(SitesPage { sites, domains, next, now_ms: context.clock.now_ms() });
}

/// What a shard did and holds.
fn stats(context: &Context) -> ShardStats {
    context.spool.look();
    let (accepted, accepted_recipients) = context.counters.accepted();
    let spool = context.spool.stats();
    let queue = context.queue.borrow();
    ShardStats {
        accepted,
        accepted_recipients,
        delivered: context.counters.delivered.sum(),
        deferred: context.counters.deferred.sum(),
        bounced: context.counters.bounced.sum(),
        expired: context.counters.expired.sum(),
        notifications: context.counters.notifications.sum(),
        lost_replies: context.counters.lost_replies.sum(),
        overdue: context.overdue.get().jobs,
        oldest_unattended_s: u64::from(context.overdue.get().oldest_s),
        recovering: context.unqueued.get() as u64,
        queued: context.queued() as u64,
        queued_recipients: queue.messages.open_recipients(),
        sites: queue.sites.len() as u64,
        sessions: context.sessions.count() as u64,
        connections: queue.sites.connections() as u64,
        proxy_refused: context.counters.proxy_refused.sum(),
        connections_made: context.counters.connections_made.sum(),
        syncs: spool.syncs,
        synced_messages: spool.synced_messages,
        appended_bytes: spool.bytes,
        states: spool.states,
        segments_live: spool.segments_live,
        segments_free: spool.segments_free,
        segments_recycled: spool.recycled,
        segments_cleaned: spool.cleaned,
        copied_bytes: spool.copied_bytes,
        live_bytes: spool.live_bytes,
        used_bytes: spool.used_bytes,
        in_flight: spool.inflight_bytes,
        in_memory: spool.in_memory,
        in_memory_octets: spool.in_memory_bytes,
        route_cache: context.router.stats(),
        sealed: context.spool.failed().map(|why| why.to_string()),
    }
}
