//! The handshake between a shard that falls asleep and threads that hand it work, and the places of a channel, in every order
//! that loom finds: no wake-up is lost, and no sleep is entered that nobody ends.

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

#[path = "../src/handshake.rs"]
mod handshake;
#[path = "../src/room.rs"]
mod room;

use std::sync::Arc as StdArc;

use handshake::Handshake;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicUsize, Ordering};
use room::Room;

/// What `Remote` consists of: the queue as its length, published as weakly as a queue may; and the bell, which
/// keeps a ring until the shard takes it, as an eventfd does.
struct Shard {
    queued: AtomicUsize,
    handshake: Handshake,
    bell: Notify,
}

impl Shard {
    fn new() -> StdArc<Self> {
        StdArc::new(Self { queued: AtomicUsize::new(0), handshake: Handshake::new(), bell: Notify::new() })
    }

    fn push(&self) {
        self.queued.fetch_add(1, Ordering::Release);
        if self.handshake.must_ring() {
            self.bell.notify();
        }
    }

    /// The shard's loop, until it has taken `wanted` pieces of work.
    fn take(&self, wanted: usize) {
        let mut taken = 0;
        while taken < wanted {
            taken += self.queued.swap(0, Ordering::AcqRel);
            if taken < wanted && self.handshake.prepare_sleep(|| self.queued.load(Ordering::Acquire) == 0) {
                self.bell.wait(); // loom fails when nobody ever rings
                self.handshake.awake();
            }
        }
    }
}

/// Runs every order with at most `preemptions` switches away from a thread that could go on.
fn check(threads: usize, pushes: usize, preemptions: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let shard = Shard::new();
        let senders: Vec<_> = (0..threads)
            .map(|_| {
                let shard = shard.clone();
                loom::thread::spawn(move || (0..pushes).for_each(|_| shard.push()))
            })
            .collect();
        shard.take(threads * pushes);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

/// One thread hands over two pieces of work.
#[test]
fn one_sender() {
    check(1, 2, 6);
}

/// Two threads hand over one piece each.
#[test]
fn two_senders() {
    check(2, 1, 3);
}

/// A channel of one place is a bell: what is laid down before it is rung is found by whoever hears it last, although two ring
/// while it is heard, and may find it rung.
#[test]
fn no_ring_is_lost() {
    struct Bell {
        calls: AtomicUsize,
        room: Room,
        rung: AtomicUsize,
        waker: Notify,
    }
    impl Bell {
        fn call(&self) {
            self.calls.fetch_add(1, Ordering::Relaxed);
            if self.room.take() {
                self.rung.fetch_add(1, Ordering::Release);
                self.waker.notify();
            }
        }
    }
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let bell = StdArc::new(Bell {
            calls: AtomicUsize::new(0),
            room: Room::new(1),
            rung: AtomicUsize::new(0),
            waker: Notify::new(),
        });
        bell.call();
        let ringers = [(); 2].map(|()| {
            let bell = bell.clone();
            loom::thread::spawn(move || bell.call())
        });
        let mut heard = 0;
        while heard < 3 {
            while bell.rung.load(Ordering::Acquire) == 0 {
                bell.waker.wait(); // loom fails when nobody ever rings
            }
            bell.rung.fetch_sub(1, Ordering::AcqRel);
            bell.room.give_back();
            heard += bell.calls.swap(0, Ordering::Relaxed);
        }
        ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
        assert_eq!(bell.room.taken(), bell.rung.load(Ordering::Acquire));
    });
}
