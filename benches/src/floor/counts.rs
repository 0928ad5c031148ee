//! What a process counts, told from one to the other as a line of numbers.

use std::array;
use std::sync::{Arc, Mutex, PoisonError};

/// Everything that is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    /// Entries given to the ring.
    Submitted,
    /// Completions taken from it.
    Completed,
    /// Calls of io_uring_enter.
    Enters,
    /// Sends among the entries.
    Sends,
    /// Completions that brought bytes of a connection.
    Receives,
    /// Messages: accepted (generator), answered 250 (relay), taken (sink).
    Messages,
    /// Octets appended, padding included.
    Appended,
    /// Completed syncs.
    Syncs,
    /// Messages that they made durable.
    SyncedMessages,
}

const COUNT: usize = Count::SyncedMessages as usize + 1;

/// As they stand in the output.
pub(crate) const NAMES: [&str; COUNT] = [
    "submitted",
    "completed",
    "enters",
    "sends",
    "receives",
    "messages",
    "appended_bytes",
    "syncs",
    "synced_messages",
];

/// One value for each [`Count`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts([u64; COUNT]);

impl Counts {
    pub(crate) fn add(&mut self, what: Count, by: u64) {
        self.0[what as usize] += by;
    }

    pub(crate) fn of(&self, what: Count) -> u64 {
        self.0[what as usize]
    }

    /// By its place in [`NAMES`].
    pub(crate) fn values(&self) -> [u64; COUNT] {
        self.0
    }

    /// What was counted since `start`.
    pub(crate) fn since(&self, start: &Counts) -> Counts {
        Counts(array::from_fn(|at| self.0[at] - start.0[at]))
    }

    /// As [`Counts::to_line`] writes them.
    pub(crate) fn parse(line: &str) -> Option<Counts> {
        let values: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        values.try_into().ok().map(Counts)
    }

    pub(crate) fn to_line(self) -> String {
        self.0.map(|value| value.to_string()).join(" ")
    }
}

/// The counts of a process: each shard publishes its own.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<Vec<Mutex<Counts>>>);

impl Board {
    pub(crate) fn new(shards: usize) -> Board {
        Board(Arc::new((0..shards).map(|_| Mutex::default()).collect()))
    }

    pub(crate) fn publish(&self, shard: usize, counts: Counts) {
        *self.0[shard].lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    /// The sum over the shards.
    pub(crate) fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        for shard in self.0.iter() {
            let counts = *shard.lock().unwrap_or_else(PoisonError::into_inner);
            sum = Counts(array::from_fn(|at| sum.0[at] + counts.0[at]));
        }
        sum
    }
}
