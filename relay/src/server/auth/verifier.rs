//! Passwords that were shown, verified on threads of their own: a hash takes tens of milliseconds by design.

use std::io;
use std::thread;

use chasqui_protocol::sasl::prepare::Password;
use chasqui_protocol::sasl::stored::Stored;
use chasqui_runtime::available_cores;
use chasqui_runtime::channel::{self, OneshotSender, Receiver, SendError, Sender};
use futures_lite::future::block_on;

/// Passwords that wait, for each thread: with argon2id's 50 ms, the last waits a second and a half.
const WAITING_MAX: usize = 32;
/// Cores for one thread: clients that guess leave the shards most of the machine.
const CORES_PER_THREAD: usize = 4;

/// Threads that verify passwords.
#[derive(Debug)]
pub(super) struct Verifier(Vec<Sender<Job>>);

struct Job {
    stored: Stored,
    password: Password,
    reply: OneshotSender<bool>,
}

/// As many wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy;

impl Verifier {
    /// Starts the threads; they end with this.
    pub(super) fn start() -> io::Result<Verifier> {
        let threads = available_cores().len().div_ceil(CORES_PER_THREAD);
        let start = |number| {
            let (sender, jobs) = channel::bounded(WAITING_MAX);
            thread::Builder::new().name(format!("auth-{number}")).spawn(move || block_on(verify(jobs)))?;
            Ok(sender)
        };
        (0..threads).map(start).collect::<io::Result<_>>().map(Verifier)
    }

    /// Whether the password is the one of which `stored` is kept.
    pub(super) async fn verify(&self, mut stored: Stored, mut password: Password) -> Result<bool, Busy> {
        for thread in &self.0 {
            let (reply, verified) = channel::oneshot();
            match thread.send(Job { stored, password, reply }) {
                Ok(()) => return verified.await.ok_or(Busy),
                Err(SendError::Full(job) | SendError::Closed(job)) => Job { stored, password, .. } = job,
            }
        }
        Err(Busy)
    }
}

async fn verify(mut jobs: Receiver<Job>) {
    while let Some(Job { stored, password, reply }) = jobs.recv().await {
        // The client may have gone.
        let _unheard = reply.send(stored.verify(&password));
    }
}
