//! Events: everything that happens at a time of its own, and what it leads to.

use std::cmp::Ordering;
use std::rc::Rc;

use super::disk::{DiskWork, SyncInFlight};
use super::handle::Handle;
use super::net::{Packet, SocketId, Syn};
use super::world::{CoreId, ProcessId, World};
use crate::blocking::Job;
use crate::descriptor::Descriptor;
use crate::net::Piece;
use crate::shard::Entered;

/// Names an operation in flight: the shard and its `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Op {
    pub(super) core: CoreId,
    pub(super) user_data: u64,
}

/// The result of an operation on its way to the shard.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) op: Op,
    pub(super) result: i32,
    pub(super) more: bool,
    pub(super) payload: Payload,
}

#[derive(Debug)]
pub(super) enum Payload {
    None,
    /// Received from a socket.
    Received(Vec<u8>),
    /// Read from a file.
    Read(Vec<u8>),
    Accepted(SocketId),
}

impl Done {
    pub(super) fn once(op: Op, result: i32) -> Event {
        Event::Done(Done { op, result, more: false, payload: Payload::None })
    }
}

pub(super) enum Event {
    Done(Done),
    Cancel(Op),
    Arrive(Packet),
    Syn(Syn),
    /// A receive may have something to take.
    Receive(SocketId),
    /// A sender whose packets found nobody gives up, unless they have arrived since.
    GiveUp(SocketId),
    Disk(Op, ProcessId, DiskWork),
    Synced(SyncInFlight),
    Job(ProcessId, CoreId, Job),
}

impl Event {
    fn kind(&self) -> (u64, u64) {
        match self {
            Self::Done(done) => (1, done.op.core << 32 ^ done.op.user_data ^ (done.result as u64) << 48),
            Self::Cancel(op) => (2, op.core << 32 ^ op.user_data),
            Self::Arrive(packet) => (3, packet.to << 16 ^ packet.weight()),
            Self::Syn(syn) => (4, syn.socket),
            Self::Receive(socket) => (5, *socket),
            Self::GiveUp(socket) => (6, *socket),
            Self::Disk(op, ..) => (7, op.core << 32 ^ op.user_data),
            Self::Synced(sync) => (8, sync.file),
            Self::Job(process, core, _) => (9, process << 32 ^ core),
        }
    }
}

/// An event with its time; the earliest is the greatest, since the heap gives the greatest first.
pub(super) struct Scheduled {
    pub(super) at: u64,
    pub(super) order: u64,
    pub(super) event: Event,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl World {
    /// Carries out one event.
    pub(super) fn happen(self: &Rc<Self>, event: Event) {
        let (kind, value) = event.kind();
        self.step(kind, value);
        match event {
            Event::Done(done) => self.complete(done),
            Event::Cancel(op) => self.net_cancel(op),
            Event::Arrive(packet) => self.net_arrive(packet),
            Event::Syn(syn) => self.net_syn(syn),
            Event::Receive(socket) => self.net_receive(socket),
            Event::GiveUp(socket) => self.net_give_up(socket),
            Event::Disk(op, process, work) => {
                if self.is_alive(process) {
                    let done = self.disk_work(op, process, work);
                    self.complete(done);
                }
            }
            Event::Synced(sync) => {
                if let Some(done) = self.disk_synced(sync) {
                    self.complete(done);
                }
            }
            Event::Job(process, core, job) => {
                if self.is_alive(process) {
                    let _inside = self.enter(process, core, Entered::none());
                    job();
                }
            }
        }
    }

    /// Hands a result to its shard; one that has ended takes nothing, and what was accepted for it is closed.
    fn complete(self: &Rc<Self>, done: Done) {
        let Done { op, result, more, payload } = done;
        let accepted = match &payload {
            Payload::Accepted(socket) => Some(Descriptor::Sim(Handle::socket(self.id, *socket))),
            _ => None,
        };
        let Some((core, process)) = self.core(op.core).filter(|(_, process)| self.is_alive(*process)) else {
            return;
        };
        // SAFETY: the world's loop is inside of no core, and what runs here leaves those that it enters.
        let _inside = self.enter(process, op.core, unsafe { Entered::new(core.clone()) });
        let operations = core.engine.operations();
        let piece = match payload {
            Payload::Received(bytes) => Some(Piece::Owned(bytes)),
            Payload::Read(bytes) => {
                operations.fill(op.user_data, &bytes);
                None
            }
            Payload::None | Payload::Accepted(_) => None,
        };
        let accepted = |_| accepted.expect("an accept that succeeds brings its socket");
        // SAFETY: the simulator keeps pointers to nothing, and a read is filled in above.
        unsafe { operations.complete(op.user_data, result, more, piece, accepted) };
    }
}
