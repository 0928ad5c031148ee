//! The control socket: one JSON line in, JSON lines out.
//!
//! `{"command":"queue"}` lists every recipient that is still to be served, as
//! `{"reverse_path":"…","recipient":"…"}`, then says `{"end":true,"entries":N,"unread":M}`: M messages are queued too,
//! but the disk did not give their envelopes; ask again later. `{"command":"stats"}` gives one line.
//! `{"command":"sites"}` lists the sites that are known, with what waits at each, how many
//! jobs that were tried there wait for their time (`deferred`; not those that a start has found and nobody has tried
//! since), and the suspended domains, then says the same. `{"command":"suspend","domain":"…"}` or `{"command":"suspend","site":"…"}`
//! stops delivery there, `resume` in its place lets it go on; the answer is `{"done":true,"changed":…}`. `{"command":"retry"}` tries
//! all that is deferred now, and with `"site":"…"`, `"domain":"…"` or `"message":"…"` what is meant by that; sites that rest are
//! probed. The answer is `{"done":true,"jobs":N}`, with the number of deferred jobs that are due now. What cannot be
//! done is answered with `{"error":"…"}`; behind a line that is no JSON the connection is closed. Of clients that ask
//! nothing the one that has been silent longest makes way for the 33rd.
//!
//! A listing is asked of the shards page by page, so that it takes as long as its reader does and holds up nothing.

mod clients;
pub(crate) mod sites;
#[cfg(test)]
mod tests;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_runtime::mailbox::{self, OneshotReceiver, OneshotSender};
use chasqui_runtime::{spawn, timeout};
use chasqui_transport::{Acceptor, Stream};
use serde::{Deserialize, Serialize};

use clients::{Client, Clients, Request as Asked};

use crate::context::Context;
use crate::flush::FlushRequest;
use crate::process::{Order, Process};
use crate::queue::messages::Listed;
use crate::stats::RelayStats;
use crate::suspensions::{self, Suspended, Target};

/// Messages of one page of a listing.
const PAGE_MESSAGES: usize = 256;
/// Time a client may take to take a page.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A page of a listing: finished lines, and where the next page begins.
#[derive(Debug)]
pub(crate) struct Page {
    lines: Vec<u8>,
    entries: u64,
    /// Messages whose envelopes the disk did not give.
    unread: u64,
    next: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
enum Request {
    Queue,
    Stats,
    Sites,
    Suspend {
        #[serde(flatten)]
        target: Target,
    },
    Resume {
        #[serde(flatten)]
        target: Target,
    },
    Retry(FlushRequest),
}

#[derive(Debug, Serialize)]
struct Done {
    done: bool,
    changed: bool,
}

#[derive(Debug, Serialize)]
struct Retried {
    done: bool,
    jobs: u64,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    reverse_path: &'a str,
    recipient: &'a str,
}

#[derive(Debug, Serialize)]
struct End {
    end: bool,
    entries: u64,
    /// Of the queue alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Fault<'a> {
    error: &'a str,
}

/// Answers clients for as long as the shard lives.
pub(crate) async fn serve(process: Arc<Process>, acceptor: Acceptor, suspended: Suspended) {
    let clients = Clients::new();
    let suspended = Rc::new(suspended);
    while let Some(stream) = acceptor.next().await {
        let Some(client) = clients.enter() else { continue };
        let (process, suspended) = (process.clone(), suspended.clone());
        spawn(async move {
            // A client that goes away has what it wanted.
            let _gone = converse(&process, &suspended, client, &stream).await;
        });
    }
}

async fn converse(
    process: &Process,
    suspended: &Suspended,
    mut client: Client,
    stream: &Stream,
) -> io::Result<()> {
    loop {
        let line = match client.request(stream).await? {
            Asked::Line(line) => line,
            Asked::TooLong => return say(stream, &Fault { error: "request too long" }).await,
            Asked::End => return Ok(()),
        };
        let _turn = client.turn().await;
        match serde_json::from_slice(&line) {
            Ok(Request::Queue) => list_all(process, stream).await?,
            Ok(Request::Stats) => say(stream, &stats(process).await).await?,
            Ok(Request::Sites) => sites::list_all(process, suspended, stream).await?,
            Ok(Request::Suspend { target }) => suspend(process, suspended, target, true, stream).await?,
            Ok(Request::Resume { target }) => suspend(process, suspended, target, false, stream).await?,
            Ok(Request::Retry(request)) => retry(process, request, stream).await?,
            Err(error) => {
                say(stream, &Fault { error: &error.to_string() }).await?;
                if !error.is_data() {
                    return Ok(()); // no JSON: it speaks another protocol, and its next line may look like a request
                }
            }
        }
    }
}

async fn say<T: Serialize>(stream: &Stream, answer: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(io::Error::other)?;
    line.push(b'\n');
    send(stream, line).await
}

async fn send(stream: &Stream, lines: Vec<u8>) -> io::Result<()> {
    timeout(CLIENT_TIMEOUT, stream.write_all(lines)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(())
}

async fn stats(process: &Process) -> RelayStats {
    let mut shards = Vec::new();
    for orders in process.shards() {
        // A shard that has ended, or is too busy to be told, is left out.
        let (reply, answer) = mailbox::oneshot();
        if orders.send(Order::Stats { reply }).is_ok() {
            shards.extend(answer.await);
        }
    }
    RelayStats::of(shards, process.server.memory.read().await)
}

async fn list_all(process: &Process, stream: &Stream) -> io::Result<()> {
    let (mut entries, mut unread) = (0, 0);
    for orders in process.shards() {
        let mut cursor = Some(0);
        while let Some(place) = cursor {
            let (reply, page): (_, OneshotReceiver<Page>) = mailbox::oneshot();
            let asked = orders.send(Order::List { cursor: place, reply }).is_ok();
            let page = if asked { page.await } else { None };
            let Some(page) = page else {
                return say(stream, &Fault { error: "a shard does not answer; the listing is incomplete" })
                    .await;
            };
            entries += page.entries;
            unread += page.unread;
            cursor = page.next;
            if !page.lines.is_empty() {
                send(stream, page.lines).await?;
            }
        }
    }
    say(stream, &End { end: true, entries, unread: Some(unread) }).await
}

/// Keeps what is to be suspended or resumed, then tells every shard.
async fn suspend(
    process: &Process,
    suspended: &Suspended,
    target: Target,
    suspend: bool,
    stream: &Stream,
) -> io::Result<()> {
    let target = match target.checked() {
        Ok(target) => target,
        Err(error) => return say(stream, &Fault { error }).await,
    };
    let changed = match suspended.change(&target, suspend).await {
        Ok(changed) => changed,
        Err(error) => return say(stream, &Fault { error: &error }).await,
    };
    for orders in process.shards() {
        let (reply, told) = mailbox::oneshot();
        let sent = orders.send(Order::Suspend { target: target.clone(), suspend, reply }).is_ok();
        let told: Option<()> = if sent { told.await } else { None };
        if told.is_none() {
            return say(stream, &Fault { error: "a shard does not answer; it is kept: ask again" }).await;
        }
    }
    say(stream, &Done { done: true, changed }).await
}

/// Has every shard try now what is meant.
async fn retry(process: &Process, request: FlushRequest, stream: &Stream) -> io::Result<()> {
    let flush = match request.checked() {
        Ok(flush) => flush,
        Err(error) => return say(stream, &Fault { error: &error }).await,
    };
    let mut jobs = 0;
    for orders in process.shards() {
        let (reply, tried) = mailbox::oneshot();
        let sent = orders.send(Order::Retry { flush: flush.clone(), reply }).is_ok();
        let tried: Option<u64> = if sent { tried.await } else { None };
        let Some(tried) = tried else {
            return say(stream, &Fault { error: "a shard does not answer; ask again" }).await;
        };
        jobs += tried;
    }
    say(stream, &Retried { done: true, jobs }).await
}

/// Does what a shard was told.
pub(crate) fn answer(shard: &Rc<Context>, order: Order) {
    match order {
        Order::List { cursor, reply } => list(shard, cursor, reply),
        Order::Sites { cursor, reply } => sites::list(shard, cursor, reply),
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
fn list(shard: &Rc<Context>, cursor: usize, reply: OneshotSender<Page>) {
    let shard = shard.clone();
    spawn(async move {
        // What the spool has recovered is in no place yet that a cursor could pass.
        shard.refilling.empty().await;
        let (listed, next) = shard.queue.borrow().messages.list(cursor, PAGE_MESSAGES);
        // What comes into the queue while it is listed may lie before the cursor.
        let unqueued = if cursor == 0 { shard.unqueued.get() as u64 } else { 0 };
        let mut page = Page { lines: Vec::new(), entries: 0, unread: unqueued, next };
        for message in listed {
            write_entries(&shard, message, &mut page).await;
        }
        // The client may have gone.
        let _unwanted = reply.send(page);
    });
}

async fn write_entries(shard: &Context, message: Listed, page: &mut Page) {
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
        let entry = Entry { reverse_path: &envelope.reverse_path, recipient };
        if serde_json::to_writer(&mut page.lines, &entry).is_ok() {
            page.lines.push(b'\n');
            page.entries += 1;
        }
    }
}
