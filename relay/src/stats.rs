//! What a shard counts, and the sum over shards that the control socket answers with.

use std::cell::Cell;

use chasqui_runtime::ring_counts;
use serde::Serialize;

use crate::route::RouteStats;

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

/// What a shard did and holds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ShardStats {
    /// Messages answered 250.
    pub accepted: u64,
    /// Their recipients.
    pub accepted_recipients: u64,
    /// Recipients that a next hop took.
    pub delivered: u64,
    /// Times that a recipient was put off.
    pub deferred: u64,
    /// Recipients given up, those that expired included.
    pub bounced: u64,
    /// Recipients given up for their age.
    pub expired: u64,
    /// Notifications sent to senders.
    pub notifications: u64,
    /// Messages sent whole whose reply never came: they stay queued and may arrive twice.
    pub lost_replies: u64,
    /// Messages in the queue, those included that are on their way into it after a start.
    pub queued: u64,
    /// Messages that the spool has recovered and that are not yet waiting where their routes say.
    pub recovering: u64,
    /// Jobs (messages, or those of a message's recipients that share a fate) that have gone without an event for
    /// longer than their schedule promised, as the watchdog found them last. Above 0 something is wrong.
    pub overdue: u64,
    /// Seconds since the oldest of those promises was broken; of all shards the longest.
    pub oldest_unattended_s: u64,
    /// Recipients still to be served.
    pub queued_recipients: u64,
    /// Sites known.
    pub sites: u64,
    /// Incoming connections.
    pub sessions: u64,
    /// Outgoing connections.
    pub connections: u64,
    /// Outgoing connections made since the start.
    pub connections_made: u64,
    /// Completed syncs of the spool.
    pub syncs: u64,
    /// Messages that those syncs made durable.
    pub synced_messages: u64,
    /// Octets that were appended to the spool, padding included.
    pub appended_bytes: u64,
    /// States that the spool recorded.
    pub states: u64,
    /// Segments of the spool that hold what counts.
    pub segments_live: u64,
    /// Segments of the spool that are ready to be used.
    pub segments_free: u64,
    /// Segments of the spool taken into use again.
    pub segments_recycled: u64,
    /// Segments of the spool whose rest was copied forward, so that they could be taken into use again.
    pub segments_cleaned: u64,
    /// Octets of the records that were copied.
    pub copied_bytes: u64,
    /// Octets of the records in the spool that count, without padding.
    pub live_bytes: u64,
    /// Octets that the spool's segments take.
    pub used_bytes: u64,
    /// Octets of messages on their way into the spool.
    pub in_flight: u64,
    /// Queued messages that are in memory alone: class `memory`.
    pub in_memory: u64,
    /// Octets of their envelopes and bodies.
    pub in_memory_octets: u64,
    /// The cache of routes.
    pub route_cache: RouteStats,
    /// Why the spool takes nothing more and nothing is delivered; `null`: it does and is. Of all shards the first that says so.
    pub sealed: Option<String>,
}

/// Entries, completions and enters of all rings since the process's start.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RingStats {
    /// Entries that the kernel took.
    pub submitted: u64,
    /// Completions.
    pub completed: u64,
    /// Calls of io_uring_enter.
    pub enters: u64,
}

/// The answer to `{"command":"stats"}`: sums over the shards, and each shard.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RelayStats {
    /// The sums.
    #[serde(flatten)]
    pub all: ShardStats,
    /// Anonymous memory of the process in octets, without page cache; `null`: unknown.
    pub memory: Option<u64>,
    /// What the process's rings have done; `null` on another engine.
    pub ring: Option<RingStats>,
    /// One entry per shard.
    pub shards: Vec<ShardStats>,
}

impl RelayStats {
    /// Sums the shards up; `memory` is the process's.
    pub fn of(shards: Vec<ShardStats>, memory: Option<u64>) -> RelayStats {
        let mut all = ShardStats::default();
        for shard in &shards {
            all.accepted += shard.accepted;
            all.accepted_recipients += shard.accepted_recipients;
            all.delivered += shard.delivered;
            all.deferred += shard.deferred;
            all.bounced += shard.bounced;
            all.expired += shard.expired;
            all.notifications += shard.notifications;
            all.lost_replies += shard.lost_replies;
            all.queued += shard.queued;
            all.recovering += shard.recovering;
            all.overdue += shard.overdue;
            all.oldest_unattended_s = all.oldest_unattended_s.max(shard.oldest_unattended_s);
            all.queued_recipients += shard.queued_recipients;
            all.sites += shard.sites;
            all.sessions += shard.sessions;
            all.connections += shard.connections;
            all.connections_made += shard.connections_made;
            all.syncs += shard.syncs;
            all.synced_messages += shard.synced_messages;
            all.appended_bytes += shard.appended_bytes;
            all.states += shard.states;
            all.segments_live += shard.segments_live;
            all.segments_free += shard.segments_free;
            all.segments_recycled += shard.segments_recycled;
            all.segments_cleaned += shard.segments_cleaned;
            all.copied_bytes += shard.copied_bytes;
            all.live_bytes += shard.live_bytes;
            all.used_bytes += shard.used_bytes;
            all.in_flight += shard.in_flight;
            all.in_memory += shard.in_memory;
            all.in_memory_octets += shard.in_memory_octets;
            all.route_cache += shard.route_cache;
            all.sealed = all.sealed.or_else(|| shard.sealed.clone());
        }
        let ring = ring_counts().map(|ring| RingStats {
            submitted: ring.submitted,
            completed: ring.completed,
            enters: ring.enters,
        });
        RelayStats { all, memory, ring, shards }
    }
}
