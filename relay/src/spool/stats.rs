//! Counters of a spool.

/// Counters since the start, and sizes now.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpoolStats {
    /// Completed fdatasyncs.
    pub syncs: u64,
    /// Messages that they made durable.
    pub synced_messages: u64,
    /// Groups written.
    pub groups: u64,
    /// Messages committed.
    pub messages: u64,
    /// States recorded.
    pub states: u64,
    /// Bytes written, padding included.
    pub bytes: u64,
    /// Segments taken into use again.
    pub recycled: u64,
    /// Segments whose rest was copied forward, so that they could be taken into use again.
    pub cleaned: u64,
    /// Bytes of the records that were copied.
    pub copied_bytes: u64,
    /// Bytes of the records that count: messages, and what states tell of them. Without padding.
    pub live_bytes: u64,
    /// Bytes of all segments.
    pub used_bytes: u64,
    /// Segments that hold what counts.
    pub segments_live: u64,
    /// Segments that are ready to be used, the spare included.
    pub segments_free: u64,
    /// Bytes of messages being received or not yet settled.
    pub inflight_bytes: u64,
    /// Messages with recipients left.
    pub queued: u64,
    /// Of those, the ones that are in memory alone: class `memory`.
    pub in_memory: u64,
    /// Bytes of their envelopes and bodies.
    pub in_memory_bytes: u64,
    /// Messages that a start took for whole and that were found to be damaged at their first read.
    pub damaged: u64,
}

impl SpoolStats {
    /// Of two logs together.
    pub(super) fn plus(self, other: SpoolStats) -> SpoolStats {
        SpoolStats {
            syncs: self.syncs + other.syncs,
            synced_messages: self.synced_messages + other.synced_messages,
            groups: self.groups + other.groups,
            messages: self.messages + other.messages,
            states: self.states + other.states,
            bytes: self.bytes + other.bytes,
            recycled: self.recycled + other.recycled,
            cleaned: self.cleaned + other.cleaned,
            copied_bytes: self.copied_bytes + other.copied_bytes,
            live_bytes: self.live_bytes + other.live_bytes,
            used_bytes: self.used_bytes + other.used_bytes,
            segments_live: self.segments_live + other.segments_live,
            segments_free: self.segments_free + other.segments_free,
            inflight_bytes: self.inflight_bytes + other.inflight_bytes,
            queued: self.queued + other.queued,
            in_memory: self.in_memory + other.in_memory,
            in_memory_bytes: self.in_memory_bytes + other.in_memory_bytes,
            damaged: self.damaged + other.damaged,
        }
    }
}
