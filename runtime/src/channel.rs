//! Channels between threads: shard to shard, and between shards and the control thread.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use crossbeam::queue::SegQueue;

use crate::room::Room;

struct Shared<T> {
    queue: SegQueue<T>,
    room: Room,
    senders: AtomicUsize,
    receiver_gone: AtomicBool,
    waker: AtomicWaker,
}

/// Why [`Sender::send`] gave the message back.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError<T> {
    /// The channel holds as many messages as its capacity; try again later.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

/// A channel for at most `capacity` messages.
pub fn bounded<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        queue: SegQueue::new(),
        room: Room::new(capacity),
        senders: AtomicUsize::new(1),
        receiver_gone: AtomicBool::new(false),
        waker: AtomicWaker::new(),
    });
    (Sender(shared.clone()), Receiver(shared))
}

/// Sends from any thread, and never blocks.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T: Send> Sender<T> {
    /// Puts a message into the channel and wakes its receiver.
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        if self.0.receiver_gone.load(Ordering::Acquire) {
            return Err(SendError::Closed(message));
        }
        if !self.0.room.take() {
            return Err(SendError::Full(message));
        }
        self.0.queue.push(message);
        self.0.waker.wake();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.waker.wake();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("length", &self.0.room.taken()).finish()
    }
}

/// The one receiving end of a channel.
pub struct Receiver<T>(Arc<Shared<T>>);

impl<T> Receiver<T> {
    /// The next message, if one is there.
    pub fn try_recv(&mut self) -> Option<T> {
        let message = self.0.queue.pop()?;
        self.0.room.give_back();
        Some(message)
    }

    /// Waits for the next message; `None` once it is empty and every sender is gone. Cancel-safe.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(message) = self.try_recv() {
            return Poll::Ready(Some(message));
        }
        self.0.waker.register(context.waker());
        let last_sender_gone = self.0.senders.load(Ordering::Acquire) == 0;
        match self.try_recv() {
            Some(message) => Poll::Ready(Some(message)),
            None if last_sender_gone => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.receiver_gone.store(true, Ordering::Release);
        while self.try_recv().is_some() {}
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("length", &self.0.room.taken()).finish()
    }
}

/// A channel for a single message.
pub fn oneshot<T: Send>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let (sender, receiver) = bounded(1);
    (OneshotSender(sender), OneshotReceiver(receiver))
}

/// Sends the single message of a [`oneshot`] channel.
#[derive(Debug)]
pub struct OneshotSender<T>(Sender<T>);

impl<T: Send> OneshotSender<T> {
    /// Sends the message; gives it back when the receiver is gone.
    pub fn send(self, message: T) -> Result<(), T> {
        self.0.send(message).map_err(|error| match error {
            SendError::Full(message) | SendError::Closed(message) => message,
        })
    }
}

/// Future of the single message of a [`oneshot`] channel; `None` when the sender went without sending.
#[derive(Debug)]
pub struct OneshotReceiver<T>(Receiver<T>);

impl<T> Future for OneshotReceiver<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(context)
    }
}
