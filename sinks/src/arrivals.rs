//! The streams of arrivals: what was delivered, told to everyone who is connected to the shard's socket.
//!
//! A delivery only appends 40 bytes to a buffer per subscriber; a task per subscriber writes them out.
//! A subscriber that leaves so much unread that its buffer would exceed its limit is disconnected: it must
//! not hold up deliveries, and it must not be left with a stream that has a hole in it.
//!
//! A barrier token (8 bytes, little-endian) is answered on the same stream by a barrier record, behind
//! every arrival that happened before.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::arrival::{BARRIER_TOKEN_SIZE, RECORD_SIZE, Record};
use chasqui_runtime::sync::Notify;
use chasqui_runtime::{Seldom, now, sleep, spawn};
use chasqui_transport::{Acceptor, Stream};
use futures_lite::future::or;

/// Subscribers of one shard; further ones are closed at once.
const SUBSCRIBERS_MAX: usize = 64;
/// A few records wait this long for company, so that a write carries many. Their times are in them.
const COMPANY_WAIT: Duration = Duration::from_micros(500);
/// So many bytes need no company.
const COMPANY_BYTES: usize = 64 * RECORD_SIZE;

/// The arrivals of one shard. Clones share one state.
#[derive(Clone)]
pub(crate) struct Arrivals(Rc<Inner>);

struct Inner {
    subscribers: RefCell<Vec<Rc<Subscriber>>>,
    backlog_bytes_max: usize,
    /// Tells that a subscriber has nothing left to write, or is gone.
    idle: Notify,
}

struct Subscriber {
    pending: RefCell<Vec<u8>>,
    writing: Cell<bool>,
    gone: Cell<bool>,
    /// There are records to write.
    records: Notify,
    /// They must not wait for company.
    urgent: Notify,
    ended: Notify,
}

impl Arrivals {
    /// Nobody listens yet. `backlog_bytes_max` limits what one subscriber may leave unread.
    pub(crate) fn new(backlog_bytes_max: usize) -> Arrivals {
        Arrivals(Rc::new(Inner {
            subscribers: RefCell::default(),
            backlog_bytes_max: backlog_bytes_max.max(RECORD_SIZE),
            idle: Notify::new(),
        }))
    }

    /// Queues a record for every subscriber. Never waits.
    pub(crate) fn record(&self, record: &Record) {
        let mut overrun = false;
        for subscriber in self.0.subscribers.borrow().iter() {
            overrun |= !subscriber.push(record, self.0.backlog_bytes_max);
        }
        if overrun {
            self.0.subscribers.borrow_mut().retain(|subscriber| !subscriber.gone.get());
        }
    }

    /// Accepts subscribers until it is dropped.
    pub(crate) async fn serve(&self, acceptor: Acceptor) {
        let refused = Seldom::default();
        while let Some(stream) = acceptor.next().await {
            if self.0.subscribers.borrow().len() < SUBSCRIBERS_MAX {
                self.subscribe(stream);
            } else if let Some(times) = refused.happened() {
                log::warn!("{acceptor}: too many subscribers ({times} more)");
            }
        }
    }

    /// Waits until every subscriber has been sent everything.
    pub(crate) async fn drained(&self) {
        while !self.0.subscribers.borrow().iter().all(|subscriber| subscriber.is_idle()) {
            self.0.idle.notified().await;
        }
    }

    fn subscribe(&self, stream: Stream) {
        let subscriber = Rc::new(Subscriber {
            pending: RefCell::default(),
            writing: Cell::new(false),
            gone: Cell::new(false),
            records: Notify::new(),
            urgent: Notify::new(),
            ended: Notify::new(),
        });
        self.0.subscribers.borrow_mut().push(subscriber.clone());
        let inner = self.0.clone();
        spawn(async move {
            let serve =
                or(inner.write_records(&stream, &subscriber), inner.read_tokens(&stream, &subscriber));
            let ended = async {
                subscriber.ended.notified().await;
                Err(io::Error::other("it left too much unread"))
            };
            if let Err(error) = or(serve, ended).await {
                // A load that is over closes while records are still under way.
                let left = matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
                let level = if left { log::Level::Info } else { log::Level::Warn };
                log::log!(level, "a subscriber of arrivals is disconnected: {error}");
            }
            subscriber.gone.set(true);
            inner.subscribers.borrow_mut().retain(|other| !other.gone.get());
            inner.idle.notify_all();
        });
    }
}

impl Inner {
    async fn write_records(&self, stream: &Stream, subscriber: &Subscriber) -> io::Result<()> {
        let mut batch = Vec::new();
        loop {
            subscriber.records.notified().await;
            if subscriber.pending.borrow().len() < COMPANY_BYTES {
                or(sleep(COMPANY_WAIT), subscriber.urgent.notified()).await;
            }
            std::mem::swap(&mut batch, &mut *subscriber.pending.borrow_mut());
            if batch.is_empty() {
                continue;
            }
            subscriber.writing.set(true);
            batch = stream.write_all(batch).await?;
            subscriber.writing.set(false);
            if subscriber.is_idle() {
                self.idle.notify_all();
            }
        }
    }

    /// Ends when the stream fails. A subscriber that only closes its writing side has no more tokens, and
    /// still gets its records.
    async fn read_tokens(&self, stream: &Stream, subscriber: &Subscriber) -> io::Result<()> {
        let mut token = [0; BARRIER_TOKEN_SIZE];
        let mut filled = 0;
        loop {
            let received = stream.read().await?;
            if received.is_empty() {
                return std::future::pending().await;
            }
            for &byte in received.iter() {
                token[filled] = byte;
                filled += 1;
                if filled == BARRIER_TOKEN_SIZE {
                    filled = 0;
                    let record = Record::barrier(u64::from_le_bytes(token), now().as_nanos())
                        .of_stream(chasqui_runtime::shard() as u32, chasqui_runtime::shard_count() as u32);
                    if !subscriber.push(&record, self.backlog_bytes_max) {
                        return std::future::pending().await;
                    }
                    subscriber.urgent.notify_one();
                }
            }
        }
    }
}

impl Subscriber {
    /// False: there is no room, the subscriber is given up.
    fn push(&self, record: &Record, backlog_bytes_max: usize) -> bool {
        let mut pending = self.pending.borrow_mut();
        if self.gone.get() || pending.len() + RECORD_SIZE > backlog_bytes_max {
            self.gone.set(true);
            *pending = Vec::new();
            self.ended.notify_one();
            return false;
        }
        if pending.is_empty() {
            self.records.notify_one();
        }
        record.encode(&mut pending);
        if pending.len() == COMPANY_BYTES {
            self.urgent.notify_one();
        }
        true
    }

    fn is_idle(&self) -> bool {
        self.gone.get() || (!self.writing.get() && self.pending.borrow().is_empty())
    }
}
