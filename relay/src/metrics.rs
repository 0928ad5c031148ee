//! The relay's metrics: the one list of them, and what a shard counts.
//!
//! A line of a list gives a metric's name, help and type. From the lists follow the answer to `stats`, the sums over the shards,
//! and the table in docs/operating.md. Where a number comes from says [`crate::context`]; what is counted as it happens has a [`Count`] in
//! [`Counters`].

use std::cell::Cell;

use chasqui_protocol::control::RingCounts;
use chasqui_protocol::control::metrics::{Kind, Metric};
use chasqui_protocol::metrics;
use chasqui_runtime::ring_counts;
use serde::Serialize;

/// Counters of one shard since its start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    accepted: Cell<u64>,
    accepted_recipients: Cell<u64>,
    pub(crate) delivered: Count,
    pub(crate) deferred: Count,
    pub(crate) bounced: Count,
    pub(crate) expired: Count,
    pub(crate) lost_replies: Count,
    pub(crate) notifications: Count,
    pub(crate) connections_made: Count,
    pub(crate) proxy_refused: Count,
}

/// A counter.
#[derive(Debug, Default)]
pub(crate) struct Count(Cell<u64>);

impl Count {
    pub(crate) fn add(&self, count: usize) {
        self.0.set(self.0.get() + count as u64);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.get()
    }
}

impl Counters {
    /// A message was answered 250.
    pub(crate) fn accept(&self, recipients: usize) {
        self.accepted.set(self.accepted.get() + 1);
        self.accepted_recipients.set(self.accepted_recipients.get() + recipients as u64);
    }

    pub(crate) fn accepted(&self) -> (u64, u64) {
        (self.accepted.get(), self.accepted_recipients.get())
    }
}

metrics! {
    /// What a shard did and holds.
    #[derive(Debug, Clone, Default, Serialize)]
    pub struct ShardStats {
        /// Messages answered 250.
        counter accepted;
        /// Their recipients.
        counter accepted_recipients;
        /// Recipients that a next hop took.
        counter delivered;
        /// Times that a recipient was put off.
        counter deferred;
        /// Recipients given up, those that expired included.
        counter bounced;
        /// Recipients given up for their age.
        counter expired;
        /// Notifications sent to senders.
        counter notifications;
        /// Messages sent whole whose reply never came: they stay queued and may arrive twice.
        counter lost_replies;
        /// Messages in the queue, those included that are on their way into it after a start.
        gauge queued;
        /// Messages that the spool has recovered and that are not yet waiting where their routes say.
        gauge recovering;
        /// Jobs (messages, or those of a message's recipients that share a fate) that have gone without an event for
        /// longer than their schedule promised, as the watchdog found them last. Above 0 something is wrong.
        gauge overdue;
        /// Seconds since the oldest of those promises was broken; of all shards the longest.
        gauge oldest_unattended_s max;
        /// Recipients still to be served.
        gauge queued_recipients;
        /// Sites known.
        gauge sites;
        /// Incoming connections.
        gauge sessions;
        /// Connections from `proxy_from` that were closed for want of a valid PROXY header.
        counter proxy_refused;
        /// Outgoing connections.
        gauge connections;
        /// Outgoing connections made since the start.
        counter connections_made;
        /// Completed syncs of the spool.
        counter syncs;
        /// Messages that those syncs made durable.
        counter synced_messages;
        /// Octets that were appended to the spool, padding included.
        counter appended_bytes;
        /// States that the spool recorded.
        counter states;
        /// Segments of the spool that hold what counts.
        gauge segments_live;
        /// Segments of the spool that are ready to be used.
        gauge segments_free;
        /// Segments of the spool taken into use again.
        counter segments_recycled;
        /// Segments of the spool whose rest was copied forward, so that they could be taken into use again.
        counter segments_cleaned;
        /// Octets of the records that were copied.
        counter copied_bytes;
        /// Octets of the records in the spool that count, without padding.
        gauge live_bytes;
        /// Octets that the spool's segments take.
        gauge used_bytes;
        /// Octets of messages on their way into the spool.
        gauge in_flight;
        /// Queued messages that are in memory alone: class `memory`.
        gauge in_memory;
        /// Octets of their envelopes and bodies.
        gauge in_memory_octets;
    }
    with {
        /// The cache of routes.
        pub route_cache: RouteStats,
        /// Why the spool takes nothing more and nothing is delivered; `null`: it does and is. Of all shards the first that says so.
        pub sealed: Option<String>,
    }
}

metrics! {
    /// What a router's cache did.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
    pub struct RouteStats {
        /// Questions answered with a route from the cache.
        counter hits;
        /// Questions answered with a cached error.
        counter negative_hits;
        /// Questions about a name that was not in the cache, or whose lookup was under way.
        counter misses;
        /// Questions about a name whose cached answer had expired.
        counter stale;
        /// Lookups begun.
        counter lookups;
        /// Lookups that ended without an answer (the temporary ones).
        counter failures;
        /// Answers dropped to make room for others.
        counter evictions;
        /// Lookups under way.
        gauge lookups_in_flight;
        /// Names in the cache.
        gauge entries;
    }
}

/// Memory of the process.
const MEMORY: Metric = Metric::new(
    "memory",
    "Anonymous memory of the process in octets, without page cache; `null`: unknown.",
    Kind::Gauge,
);

/// All metrics, with the name of the object in the answer to `stats` that holds them; empty for the answer itself.
pub fn metrics() -> impl Iterator<Item = (&'static str, Metric)> {
    let of = |object: &'static str, list: &'static [Metric]| list.iter().map(move |metric| (object, *metric));
    of("", ShardStats::METRICS)
        .chain(of("route_cache", RouteStats::METRICS))
        .chain([("", MEMORY)])
        .chain(of("ring", RingCounts::METRICS))
}

/// The answer to `{"command":"stats"}`: sums over the shards, and each shard.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RelayStats {
    /// The sums.
    #[serde(flatten)]
    pub all: ShardStats,
    /// As the list says.
    pub memory: Option<u64>,
    /// What the process's rings have done; `null` on another engine.
    pub ring: Option<RingCounts>,
    /// One entry per shard.
    pub shards: Vec<ShardStats>,
}

impl RelayStats {
    /// Sums the shards up; `memory` is the process's.
    pub fn of(shards: Vec<ShardStats>, memory: Option<u64>) -> RelayStats {
        let mut all = ShardStats::default();
        for shard in &shards {
            all.add(shard);
            all.route_cache.add(&shard.route_cache);
            all.sealed = all.sealed.or_else(|| shard.sealed.clone());
        }
        let ring = ring_counts().map(|ring| RingCounts {
            submitted: ring.submitted,
            completed: ring.completed,
            enters: ring.enters,
        });
        RelayStats { all, memory, ring, shards }
    }
}

#[cfg(test)]
mod tests {
    //! What is listed is told, and documented.

    use chasqui_protocol::control::{Stats, answer};

    use super::*;

    fn full_name((object, metric): (&str, Metric)) -> String {
        if object.is_empty() { metric.name.to_owned() } else { format!("{object}.{}", metric.name) }
    }

    /// The answer has every metric under its name, and other programs read what they need of it.
    #[test]
    fn the_answer_has_every_metric() {
        let shards = vec![ShardStats { syncs: 2, oldest_unattended_s: 5, ..ShardStats::default() }; 2];
        let ring = RingCounts { submitted: 3, ..RingCounts::default() };
        let stats = RelayStats { ring: Some(ring), ..RelayStats::of(shards, Some(1)) };
        let line = serde_json::to_vec(&stats).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        for (object, metric) in metrics() {
            let object = if object.is_empty() { &value } else { &value[object] };
            assert!(object[metric.name].is_u64(), "{metric:?}");
        }
        assert_eq!(value["oldest_unattended_s"], 5, "the longest, no sum");
        let read: Stats = answer::decode(&line).unwrap();
        assert_eq!((read.syncs, read.synced_messages, read.ring), (4, 0, Some(ring)));
    }

    /// docs/operating.md has the list as it is.
    #[test]
    fn the_documented_metrics_are_these() {
        let row = |(object, metric): (&str, Metric)| {
            let name = full_name((object, metric));
            format!("| `{name}` | {} | {} |\n", metric.kind.name(), metric.help)
        };
        let table = metrics().map(row).collect::<String>();
        let head = "| metric | type | meaning |\n|---|---|---|\n";
        let page = include_str!("../../docs/operating.md");
        assert!(page.contains(&format!("{head}{table}")), "it has to say:\n{head}{table}");
    }
}
