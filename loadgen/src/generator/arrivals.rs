//! The streams on which the sinks tell what arrived.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::arrival::{DecodeError, Kind, RECORD_SIZE, Record};
use chasqui_runtime::net::UnixStream;
use chasqui_runtime::sync::Notify;
use chasqui_runtime::{spawn, timeout};

use super::shard::Shard;
use crate::plan::{Event, Item};

/// A sink that lives answers a barrier well within this.
const BARRIER_LIMIT: Duration = Duration::from_secs(15);

/// Why a stream tells nothing, or no more. The user sees to the sink.
#[derive(Debug)]
pub(crate) struct StreamError {
    path: PathBuf,
    fault: StreamFault,
}

#[derive(Debug)]
enum StreamFault {
    Connect(io::Error),
    /// No answer to the first barrier.
    Silent,
    Read(io::Error),
    Ended,
    Record(DecodeError),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arrival stream {}: ", self.path.display())?;
        match &self.fault {
            StreamFault::Connect(error) => write!(f, "cannot connect: {error}: is the sink running?"),
            StreamFault::Silent => f.write_str("no answer to a barrier: is it a sink's socket?"),
            StreamFault::Read(error) => error.fmt(f),
            StreamFault::Ended => f.write_str("ended by the sink"),
            StreamFault::Record(error) => error.fmt(f),
        }
    }
}

/// One stream, followed by a task of its own.
pub(crate) struct ArrivalStream {
    stream: UnixStream,
    answered: Cell<u64>,
    tokens: Cell<u64>,
    ended: Cell<bool>,
    /// Which stream of its sink it is, of how many; `None` when the sink does not say.
    place: Cell<Option<(u32, u32)>>,
    changed: Notify,
}

impl ArrivalStream {
    /// Connects to the sink at `path` and waits until it tells of arrivals: from then on none is missed.
    pub(crate) async fn subscribe(shard: &Rc<Shard>, path: &Path) -> Result<Rc<Self>, StreamError> {
        let failed = {
            let path = path.to_owned();
            move |fault| StreamError { path: path.clone(), fault }
        };
        let stream = UnixStream::connect(path).await.map_err(|error| failed(StreamFault::Connect(error)))?;
        let arrivals = Rc::new(Self {
            stream,
            answered: Cell::new(0),
            tokens: Cell::new(0),
            ended: Cell::new(false),
            place: Cell::new(None),
            changed: Notify::new(),
        });
        spawn({
            let (arrivals, shard, failed) = (arrivals.clone(), shard.clone(), failed.clone());
            async move {
                if let Err(fault) = arrivals.follow(&shard).await {
                    shard.lose_instrument(&failed(fault).to_string());
                }
                arrivals.ended.set(true);
                arrivals.changed.notify_all();
            }
        });
        if arrivals.barrier().await {
            if let (Some(place), Ok(mut streams)) = (arrivals.place.get(), shard.plan.shared.streams.lock()) {
                streams.push(place);
            }
            Ok(arrivals)
        } else {
            Err(failed(StreamFault::Silent))
        }
    }

    /// Waits until every arrival that the sink knows of now has been entered or sent on its way to its owner.
    /// `false`: the stream has ended, or does not answer.
    pub(crate) async fn barrier(&self) -> bool {
        let token = self.tokens.get() + 1;
        self.tokens.set(token);
        let passed = async {
            if self.stream.write_all(token.to_le_bytes().to_vec()).await.is_err() {
                return false;
            }
            while self.answered.get() < token && !self.ended.get() {
                self.changed.notified().await;
            }
            self.answered.get() >= token
        };
        timeout(BARRIER_LIMIT, passed).await.unwrap_or(false)
    }

    /// Ends with the stream: what came of it.
    async fn follow(&self, shard: &Shard) -> Result<(), StreamFault> {
        let mut partial: Vec<u8> = Vec::with_capacity(RECORD_SIZE);
        let mut own: Vec<Event> = Vec::new();
        loop {
            let received = self.stream.read().await.map_err(StreamFault::Read)?;
            if received.is_empty() {
                return Err(StreamFault::Ended);
            }
            let mut rest = &received[..];
            if !partial.is_empty() {
                let missing = (RECORD_SIZE - partial.len()).min(rest.len());
                partial.extend_from_slice(&rest[..missing]);
                rest = &rest[missing..];
                if let Ok(bytes) = <&[u8; RECORD_SIZE]>::try_from(&partial[..]) {
                    self.take(shard, bytes, &mut own).await?;
                    partial.clear();
                }
            }
            let (records, left) = rest.as_chunks::<RECORD_SIZE>();
            for bytes in records {
                self.take(shard, bytes, &mut own).await?;
            }
            partial.extend_from_slice(left);
            drop(received);
            shard.apply(&own);
            own.clear();
            flush(shard).await;
        }
    }

    async fn take(
        &self,
        shard: &Shard,
        bytes: &[u8; RECORD_SIZE],
        own: &mut Vec<Event>,
    ) -> Result<(), StreamFault> {
        let record = Record::decode(bytes).map_err(StreamFault::Record)?;
        if record.kind == Kind::Barrier {
            shard.apply(own);
            own.clear();
            flush(shard).await;
            self.place.set(record.stream());
            self.answered.set(record.sequence);
            self.changed.notify_all();
        } else if record.run == shard.plan.run {
            let owner = shard.plan.owner(record.sequence);
            if owner == shard.index {
                own.push(Event::Record(record));
            } else if shard.outbox.borrow_mut().add(owner, Event::Record(record)) {
                flush(shard).await;
            }
        }
        Ok(())
    }
}

/// Sends what is for other shards, waiting while their inboxes are full.
async fn flush(shard: &Shard) {
    while !shard.outbox.borrow_mut().flush(&shard.plan) {
        chasqui_runtime::sleep(Duration::from_millis(1)).await;
    }
}

/// Tells every other shard that no more events come from this one.
pub(crate) async fn tell_end(shard: &Shard) {
    flush(shard).await;
    for (index, inbox) in shard.plan.inboxes.iter().enumerate() {
        if index != shard.index {
            crate::plan::send_waiting(inbox, Item::End).await;
        }
    }
}
