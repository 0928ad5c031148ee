//! Reader shards: threads of their own that fetch every message from its mailbox, check its stamp, and tell
//! the shard that sent it. Where both servers are named, mailboxes with odd numbers are read through IMAP and
//! the others through POP3.
//!
//! A message of this run is deleted once it is checked, so that sinks free its memory; other mail is left
//! alone. A mailbox counts as read whole when, after the barrier, a reading found nothing left.

mod imap;
mod pop3;
mod session;
mod watch;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chasqui_protocol::sasl::accounts::Account;
use chasqui_protocol::sasl::client::ClientKeys;
use chasqui_protocol::stamp::{Verdict, Verification};
use chasqui_report::Verify;
use chasqui_runtime::process::thread_cpu;
use chasqui_runtime::sync::{Notify, Semaphore};
use chasqui_runtime::{Instant, now, sleep, spawn};

use crate::notes::Notes;
use crate::plan::{Event, Item, Outbox, Plan, Protocol, send_waiting};
use crate::scenario::MailboxServer;
use crate::shared::{Glances, Phase, TICK};
use session::SessionError;

/// Sessions of a shard that log in, or read mail while they hold no mailbox open, at once.
pub(crate) const SESSIONS_MAX: usize = 64;
/// Time for connecting and logging in, and for each answer after that.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The run does not begin when no reader's first session has ended for this long while some have yet to.
const PREPARE_LIMIT: Duration = Duration::from_secs(15);
/// Mailboxes that are read before the run, to see that they can be; of more, those with the lowest numbers. As many as live
/// readers may watch.
const TRIED_MAX: u32 = 4_096;

/// What a reader shard leaves.
#[derive(Debug)]
pub(crate) struct Part {
    /// Mailboxes that were read whole.
    pub(crate) whole: Vec<u32>,
    /// CPU time of the thread in the window.
    pub(crate) window_cpu: Option<Duration>,
    pub(crate) notes: Notes,
    /// Live readers whose sessions broke.
    pub(crate) broken: Notes,
}

/// What the tasks of a reader shard share.
pub(crate) struct Reader {
    pub(crate) plan: Arc<Plan>,
    outbox: RefCell<Outbox>,
    notes: RefCell<Notes>,
    broken: RefCell<Notes>,
    sessions: Semaphore,
    /// SCRAM: what was last derived from the password that all mailboxes have.
    keys: RefCell<Option<ClientKeys>>,
    phase: Cell<Phase>,
    phase_changed: Notify,
    whole: RefCell<Vec<u32>>,
    /// Messages that were found.
    read: Cell<u64>,
    /// Mailboxes whose watching is over.
    watched: Cell<usize>,
    /// Mailboxes whose first session has ended, or stands and reads; those of them where it failed; and why, the first
    /// time.
    tried: Cell<usize>,
    refused: Cell<usize>,
    refusal: RefCell<Option<String>>,
}

/// How a mailbox is reached.
pub(crate) struct Mailbox {
    pub(crate) number: u32,
    pub(crate) address: String,
    pub(crate) hash: u64,
    pub(crate) protocol: Protocol,
    pub(crate) server: MailboxServer,
    /// With a password of its own; none: it has everybody's.
    pub(crate) account: Option<Account>,
}

/// The main future of a reader shard.
pub(crate) async fn read(plan: Arc<Plan>) -> Part {
    let index = chasqui_runtime::shard();
    let reader = Rc::new(Reader {
        outbox: RefCell::new(Outbox::new(&plan)),
        notes: RefCell::default(),
        broken: RefCell::default(),
        sessions: Semaphore::new(SESSIONS_MAX),
        keys: RefCell::default(),
        phase: Cell::new(Phase::Connecting),
        phase_changed: Notify::new(),
        whole: RefCell::default(),
        read: Cell::new(0),
        watched: Cell::new(0),
        tried: Cell::new(0),
        refused: Cell::new(0),
        refusal: RefCell::default(),
        plan: plan.clone(),
    });
    let mailboxes =
        (0..plan.directory.count() as u32).filter(|number| *number as usize % plan.readers == index);
    let (mut count, mut tried) = (0, 0);
    for number in mailboxes {
        if let Some(mailbox) = reader.mailbox(number) {
            count += 1;
            tried += usize::from(number < TRIED_MAX);
            spawn(watch::watch(reader.clone(), mailbox));
        }
    }
    reader.try_mailboxes(tried).await;
    let window_cpu = reader.drive(count).await;
    while !reader.outbox.borrow_mut().flush(&plan) {
        sleep(TICK).await;
    }
    for inbox in &plan.inboxes {
        send_waiting(inbox, Item::End).await;
    }
    plan.shared.readers_done.fetch_add(1, Ordering::AcqRel);
    Part { whole: reader.whole.take(), window_cpu, notes: reader.notes.take(), broken: reader.broken.take() }
}

impl Reader {
    fn mailbox(&self, number: u32) -> Option<Mailbox> {
        let (protocol, server) = self.plan.read_by(number)?;
        let address = self.plan.directory.address(number);
        let account = self.plan.scenario.reader.accounts.get(&address).cloned();
        let (hash, server) = (self.plan.directory.hash(number), server.clone());
        Some(Mailbox { number, address, hash, protocol, server, account })
    }

    fn password<'a>(&'a self, mailbox: &'a Mailbox) -> &'a str {
        let own = mailbox.account.as_ref().map(|account| account.password().as_str());
        own.unwrap_or(&self.plan.scenario.password)
    }

    /// Waits until the first session of `count` mailboxes stands or is over: a reader that cannot log in is told of before
    /// anything is sent.
    async fn try_mailboxes(&self, count: usize) {
        let shared = &self.plan.shared;
        let (mut tried, mut moved) = (0, now());
        while self.tried.get() < count && shared.phase() < Phase::Done {
            if self.tried.get() != tried {
                (tried, moved) = (self.tried.get(), now());
            }
            if now() - moved > PREPARE_LIMIT {
                let (absent, limit_s) = (count - tried, PREPARE_LIMIT.as_secs());
                return shared.fail(format!("{absent} of {count} readers had no answer within {limit_s} s"));
            }
            sleep(TICK).await;
        }
        if let Some(refusal) = self.refusal.take() {
            let refused = self.refused.get();
            return shared.fail(format!("{refused} of {count} readers cannot read their mailbox: {refusal}"));
        }
        shared.readers_prepared.fetch_add(1, Ordering::AcqRel);
    }

    /// Enters what came of the first session of a mailbox.
    pub(crate) fn tried(&self, mailbox: &Mailbox, failure: Option<&SessionError>) {
        self.tried.set(self.tried.get() + 1);
        if let Some(failure) = failure {
            self.refused.set(self.refused.get() + 1);
            let told = || format!("{} {} ({}): {failure}", mailbox.protocol, mailbox.server, mailbox.address);
            self.refusal.borrow_mut().get_or_insert_with(told);
        }
    }

    /// Follows the phases and hands on what the tasks found, until `count` mailboxes are done with.
    async fn drive(&self, count: usize) -> Option<Duration> {
        let shared = &self.plan.shared;
        let live = self.plan.verify == Verify::Live;
        let (mut cpu_start, mut cpu_end) = (None, None);
        let mut glances = Glances::new();
        while self.watched.get() < count && shared.phase() < Phase::Done {
            let phase = shared.phase();
            if phase != self.phase.replace(phase) {
                self.phase_changed.notify_all();
            }
            self.outbox.borrow_mut().flush(&self.plan);

            let window_start = self.plan.window_start();
            let passed = |edge: Option<Instant>| edge.is_some_and(|edge| edge <= now());
            if cpu_start.is_none() && passed(window_start) {
                cpu_start = Some(thread_cpu());
            }
            if cpu_start.is_some() && cpu_end.is_none() && passed(Some(shared.window_end())) {
                cpu_end = Some(thread_cpu());
            }
            let next_edge = if cpu_start.is_none() { window_start } else { Some(shared.window_end()) };
            let happened = self.read.get() << 8 | phase as u64;
            let tick = glances.next(happened);
            let edge = next_edge.filter(|edge| *edge > now()).map_or(tick, |edge| edge.min(tick));
            chasqui_runtime::sleep_until(edge).await;
        }
        if live { cpu_end.zip(cpu_start).map(|(end, start)| end - start) } else { None }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Waits until the run has come to `phase`.
    pub(crate) async fn reached(&self, phase: Phase) {
        while self.phase.get() < phase {
            self.phase_changed.notified().await;
        }
    }

    /// A reader that other figures depend on is lost, if only for a while.
    pub(crate) fn lose_instrument(&self, what: &str) {
        self.broken.borrow_mut().add(what);
    }

    pub(crate) fn note(&self, note: &str) {
        self.notes.borrow_mut().add(note);
    }

    /// Enters a message that was read to its end from `mailbox`. Whether it is one of this run.
    pub(crate) fn found(&self, mailbox: &Mailbox, verification: &Verification) -> bool {
        self.read.set(self.read.get() + 1);
        let ours = verification.verdict != Verdict::NoStamp && verification.run == self.plan.run;
        let (owner, event) = if ours {
            let event = Event::Read {
                sequence: verification.sequence,
                recipient: mailbox.hash,
                at_ns: now().as_nanos(),
                intact: verification.verdict == Verdict::Intact,
                by: mailbox.protocol,
            };
            (self.plan.owner(verification.sequence), event)
        } else {
            (0, Event::Foreign)
        };
        let mut outbox = self.outbox.borrow_mut();
        if outbox.add(owner, event) {
            outbox.flush(&self.plan); // what finds a full inbox goes with the next tick
        }
        ours
    }
}
