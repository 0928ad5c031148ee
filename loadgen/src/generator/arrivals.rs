//! The streams on which the sinks tell what arrived.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::arrival::{Kind, RECORD_SIZE, Record};
use chasqui_runtime::net::UnixStream;
use chasqui_runtime::sync::Notify;
use chasqui_runtime::{spawn, timeout};

use super::shard::Shard;
use crate::plan::{Event, Item};

/// A sink that lives answers a barrier well within this.
const BARRIER_LIMIT: Duration = Duration::from_secs(15);

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
    pub(crate) async fn subscribe(shard: &Rc<Shard>, path: &Path) -> Result<Rc<Self>, String> {
        let stream = UnixStream::connect(path).await.map_err(|error| {
            format!("arrival stream {}: cannot connect: {error}: is the sink running?", path.display())
        })?;
        let arrivals = Rc::new(Self {
            stream,
            answered: Cell::new(0),
            tokens: Cell::new(0),
            ended: Cell::new(false),
            place: Cell::new(None),
            changed: Notify::new(),
        });
        spawn({
            let (arrivals, shard, path) = (arrivals.clone(), shard.clone(), path.to_owned());
            async move {
                if let Err(reason) = arrivals.follow(&shard).await {
                    shard.lose_instrument(&format!("arrival stream {}: {reason}", path.display()));
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
            Err(format!("arrival stream {}: no answer to a barrier: is it a sink's socket?", path.display()))
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

    async fn follow(&self, shard: &Shard) -> Result<(), String> {
        let mut partial: Vec<u8> = Vec::with_capacity(RECORD_SIZE);
        let mut own: Vec<Event> = Vec::new();
        loop {
            let received = self.stream.read().await.map_err(|error| error.to_string())?;
            if received.is_empty() {
                return Err("ended by the sink".into());
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
    ) -> Result<(), String> {
        let record = Record::decode(bytes).map_err(|error| error.to_string())?;
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
