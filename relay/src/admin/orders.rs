//! What a shard does when it is told.

use std::rc::Rc;

use chasqui_protocol::control::answer::QueueRow;
use chasqui_protocol::control::append;
use chasqui_runtime::mailbox::OneshotSender;
use chasqui_runtime::spawn;

use crate::context::Context;
use crate::process::{Order, QueuePage, SitesPage};
use crate::queue::messages::Listed;
use crate::suspensions;

/// Messages, or places of sites, of one page of a listing.
const PAGE: usize = 256;

/// Does what a shard was told.
pub(crate) fn answer(shard: &Rc<Context>, order: Order) {
    match order {
        Order::List { cursor, reply } => list_queue(shard, cursor, reply),
        Order::Sites { cursor, reply } => list_sites(shard, cursor, reply),
        Order::Suspend { target, suspend, reply } => {
            suspensions::apply(&mut shard.queue.borrow_mut(), &target, suspend);
            // The client may have gone.
            let _unwanted = reply.send(());
        }
        Order::Retry { flush, reply } => {
            let shard = shard.clone();
            spawn(async move {
                // The client may have gone.
                let _unwanted = reply.send(shard.flush(flush).await);
            });
        }
        Order::Stats { reply } => drop(reply.send(shard.stats())),
        Order::Listen(_) | Order::Shutdown => {}
    }
}

/// Answers with a page of this shard's queue.
fn list_queue(shard: &Rc<Context>, cursor: usize, reply: OneshotSender<QueuePage>) {
    let shard = shard.clone();
    spawn(async move {
        // What the spool has recovered is in no place yet that a cursor could pass.
        shard.refilling.empty().await;
        let (listed, next) = shard.queue.borrow().messages.list(cursor, PAGE);
        // What comes into the queue while it is listed may lie before the cursor.
        let unqueued = if cursor == 0 { shard.unqueued.get() as u64 } else { 0 };
        let mut page = QueuePage { lines: Vec::new(), entries: 0, unread: unqueued, next };
        for message in listed {
            write_entries(&shard, message, &mut page).await;
        }
        // The client may have gone.
        let _unwanted = reply.send(page);
    });
}

async fn write_entries(shard: &Context, message: Listed, page: &mut QueuePage) {
    let envelope = match message.envelope {
        Some(envelope) => envelope,
        // What the spool no longer has was finished since the page was taken.
        None => match shard.spool.envelope(message.id).await {
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
fn list_sites(shard: &Rc<Context>, cursor: usize, reply: OneshotSender<SitesPage>) {
    let queue = shard.queue.borrow();
    let (sites, next) = queue.sites.list(cursor, PAGE);
    let domains = if cursor == 0 { queue.held.list() } else { Vec::new() };
    // The client may have gone.
    let _unwanted = reply.send(SitesPage { sites, domains, next, now_ms: shard.clock.now_ms() });
}
