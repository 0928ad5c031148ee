//! What answers a request: lines of rows, whatever they are sent on.

use std::sync::Arc;

use chasqui_protocol::control::answer::{Done, End, Fault, Retried};
use chasqui_protocol::control::{Request, Retry, Target, append};
use chasqui_runtime::channel::{self, OneshotReceiver};
use serde::Serialize;

use super::sites::{Lines, Listing};
use crate::metrics::RelayStats;
use crate::process::{Flush, Order, Process, QueuePage, SitesPage};
use crate::suspensions::Suspended;

/// Answers requests.
pub(super) struct Queries {
    process: Arc<Process>,
    suspended: Suspended,
}

/// An answer under way.
pub(super) enum Answer<'a> {
    /// This line is the rest of it.
    Last(Vec<u8>),
    Queue(QueueListing<'a>),
    Sites(Lines, End),
    Over,
}

/// A listing of the queue, shard by shard and page by page.
pub(super) struct QueueListing<'a> {
    process: &'a Process,
    /// The shard, and the place where the next page begins.
    next: Option<(usize, usize)>,
    entries: u64,
    unread: u64,
}

impl Queries {
    pub(super) fn new(process: Arc<Process>, suspended: Suspended) -> Queries {
        Queries { process, suspended }
    }

    /// Does what is asked, all but what a listing has to read.
    pub(super) async fn answer(&self, request: Request) -> Answer<'_> {
        match request {
            Request::Queue => {
                let next = (!self.process.shards().is_empty()).then_some((0, 0));
                Answer::Queue(QueueListing { process: &self.process, next, entries: 0, unread: 0 })
            }
            Request::Stats => Answer::Last(line(&self.stats().await)),
            Request::Sites => self.sites().await,
            Request::Suspend { target } => Answer::Last(self.suspend(target, true).await),
            Request::Resume { target } => Answer::Last(self.suspend(target, false).await),
            Request::Retry(retry) => Answer::Last(self.retry(retry).await),
        }
    }

    async fn stats(&self) -> RelayStats {
        let mut shards = Vec::new();
        for orders in self.process.shards() {
            // A shard that has ended, or is too busy to be told, is left out.
            let (reply, answer) = channel::oneshot();
            if orders.send(Order::Stats { reply }).is_ok() {
                shards.extend(answer.await);
            }
        }
        RelayStats::of(shards, self.process.server.memory.read().await)
    }

    /// The sites of all shards, each once.
    async fn sites(&self) -> Answer<'_> {
        let mut listing = Listing::new(&self.suspended);
        for orders in self.process.shards() {
            let mut cursor = Some(0);
            while let Some(place) = cursor {
                let (reply, page): (_, OneshotReceiver<SitesPage>) = channel::oneshot();
                let asked = orders.send(Order::Sites { cursor: place, reply }).is_ok();
                let page = if asked { page.await } else { None };
                let Some(page) = page else {
                    return Answer::Last(refusal("a shard does not answer; try again"));
                };
                cursor = page.next;
                listing.add(page);
            }
        }
        let end = End { end: true, entries: listing.len(), unread: None };
        Answer::Sites(listing.into_lines(), end)
    }

    /// Keeps what is to be suspended or resumed, then tells every shard.
    async fn suspend(&self, target: Target, suspend: bool) -> Vec<u8> {
        let target = match target.checked() {
            Ok(target) => target,
            Err(error) => return refusal(&error.to_string()),
        };
        let changed = match self.suspended.change(&target, suspend).await {
            Ok(changed) => changed,
            Err(error) => return refusal(&error.to_string()),
        };
        for orders in self.process.shards() {
            let (reply, told) = channel::oneshot();
            let sent = orders.send(Order::Suspend { target: target.clone(), suspend, reply }).is_ok();
            let told: Option<()> = if sent { told.await } else { None };
            if told.is_none() {
                return refusal("a shard does not answer; it is kept: ask again");
            }
        }
        line(&Done { done: true, changed })
    }

    /// Has every shard try now what is meant.
    async fn retry(&self, retry: Retry) -> Vec<u8> {
        let flush = match Flush::of(retry) {
            Ok(flush) => flush,
            Err(error) => return refusal(&error.to_string()),
        };
        let mut jobs = 0;
        for orders in self.process.shards() {
            let (reply, tried) = channel::oneshot();
            let sent = orders.send(Order::Retry { flush: flush.clone(), reply }).is_ok();
            let tried: Option<u64> = if sent { tried.await } else { None };
            let Some(tried) = tried else {
                return refusal("a shard does not answer; ask again");
            };
            jobs += tried;
        }
        line(&Retried { done: true, jobs })
    }
}

impl Answer<'_> {
    /// The next lines; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        let lines = match self {
            Answer::Queue(listing) => listing.next().await,
            Answer::Sites(lines, end) => {
                let rows = lines.next_piece();
                if rows.is_empty() { Err(line(end)) } else { Ok(rows) }
            }
            Answer::Last(line) => Err(std::mem::take(line)),
            Answer::Over => return None,
        };
        Some(lines.unwrap_or_else(|last| {
            *self = Answer::Over;
            last
        }))
    }
}

impl QueueListing<'_> {
    /// The next rows, or the last line.
    async fn next(&mut self) -> Result<Vec<u8>, Vec<u8>> {
        let shards = self.process.shards();
        while let Some((shard, cursor)) = self.next {
            let (reply, page): (_, OneshotReceiver<QueuePage>) = channel::oneshot();
            let asked = shards[shard].send(Order::List { cursor, reply }).is_ok();
            let page = if asked { page.await } else { None };
            let Some(page) = page else {
                return Err(refusal("a shard does not answer; the listing is incomplete"));
            };
            self.entries += page.entries;
            self.unread += page.unread;
            self.next = match page.next {
                Some(cursor) => Some((shard, cursor)),
                None => (shard + 1 < shards.len()).then_some((shard + 1, 0)),
            };
            if !page.lines.is_empty() {
                return Ok(page.lines);
            }
        }
        Err(line(&End { end: true, entries: self.entries, unread: Some(self.unread) }))
    }
}

/// The answer to what cannot be done.
pub(super) fn refusal(why: &str) -> Vec<u8> {
    line(&Fault { error: why.into() })
}

fn line<T: Serialize>(row: &T) -> Vec<u8> {
    let mut line = Vec::new();
    append(row, &mut line);
    line
}
