//! What the tasks of a generator shard share: ledger, recorder, pacer and figures.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chasqui_protocol::arrival::{Kind, Record};
use chasqui_protocol::sasl::client::ClientKeys;
use chasqui_protocol::smtp::client::Outcome;
use chasqui_protocol::stamp::Verdict;
use chasqui_report::{Milestone, Rate, Recorder, Verify, Window};
use chasqui_runtime::sync::Semaphore;
use chasqui_runtime::{HashMap, Instant, SeededRng, now};
use chasqui_transport::smtp_client::ClientConnection;

use super::figures::Figures;
use super::recipients::Recipients;
use crate::ledger::{Integrity, Ledger, LedgerConfig, QueueIds, Refusals, Sighting, Submission, Unfinished};
use crate::message::{Maker, MakerConfig};
use crate::notes::Notes;
use crate::plan::{Event, Outbox, Plan, Protocol};
use crate::scenario::Authentication;
use crate::schedule::Schedule;
use crate::schedule::pacer::{Due, Pacer};
use crate::shared::Phase;

/// Connections of a shard that are being opened at once: no storm hits the listener's backlog, which is 128 on many servers
/// (SOMAXCONN before Linux 5.4).
const CONNECTING_MAX: usize = 64;

/// One generator shard. Its tasks run on one thread and hold no borrow across an await.
pub(crate) struct Shard {
    pub(crate) plan: Arc<Plan>,
    pub(crate) index: usize,
    pub(crate) pacer: Pacer,
    pub(crate) connecting: Semaphore,
    pub(crate) maker: RefCell<Maker>,
    pub(crate) sizes: RefCell<SeededRng>,
    pub(crate) recipients: RefCell<Recipients>,
    pub(crate) ledger: RefCell<Ledger>,
    pub(crate) recorder: RefCell<Option<Recorder>>,
    /// Steps in the making of connections, with their ends, that were over before there was a recorder: the first connections,
    /// which the back-off bounds.
    early: RefCell<Vec<(Milestone, Instant, Duration)>>,
    /// Connections that were given a source address.
    sources_used: Cell<usize>,
    /// Where the next connection finds its account, and what SCRAM derived for the accounts.
    logins: Cell<usize>,
    keys: RefCell<HashMap<usize, ClientKeys>>,
    pub(crate) figures: Cell<Figures>,
    pub(crate) notes: RefCell<Notes>,
    pub(crate) refusals: RefCell<Refusals>,
    pub(crate) queue_ids: RefCell<QueueIds>,
    /// Arrival streams and answers that were lost.
    pub(crate) broken: RefCell<Notes>,
    pub(crate) outbox: RefCell<Outbox>,
    /// Connections with a transaction under way.
    pub(crate) busy: Cell<u64>,
    /// Connections that are ready or busy.
    pub(crate) connected: Cell<u64>,
    /// Most of them at one time.
    pub(crate) connected_max: Cell<u64>,
    /// By how much a timer of this loop was late in the window, added up.
    pub(crate) loop_late: Cell<Duration>,
    /// Every sample is taken: what still comes has its own, censored.
    sampled: Cell<bool>,
    /// Connection tasks whose first attempt is over.
    pub(crate) attempted: Cell<usize>,
    window: Cell<(Instant, Instant)>,
    lag_max: Cell<Duration>,
    waiting: Cell<u64>,
}

/// Why a run is invalid whose mail a sink dropped.
const DROPPED: &str = "a sink dropped mail before anybody had read it: let it keep more, or read while the load runs (--verify live)";

impl Shard {
    pub(crate) fn new(plan: Arc<Plan>, index: usize) -> Rc<Self> {
        let scenario = &plan.scenario;
        let shards = plan.generators;
        // Streams of random numbers that must not depend on each other.
        let seed =
            |stream: u64| scenario.seed ^ (stream << 32 | index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let pacer = match scenario.rate {
            Rate::PerSecond(rate) => {
                Pacer::open(Schedule::new(scenario.arrivals, rate, index, shards, seed(1)))
            }
            Rate::Max => {
                let share = share(scenario.outstanding(), index, shards);
                Pacer::closed(share.max(1) as u64)
            }
        };
        let maker = MakerConfig {
            zone: scenario.zone.clone(),
            bounce_zone: plan.bounce_zone.clone(),
            seed: scenario.seed,
            eight_bit: scenario.eight_bit,
        };
        let ledger = LedgerConfig {
            shard: index,
            shards,
            recipients: scenario.recipients_per_message.fixed(),
            arrival_verifies: plan.verify == Verify::Arrival,
            late_after_ns: scenario.late_after.as_nanos() as u64,
            window_end_ns: u64::MAX,
        };
        Rc::new(Self {
            index,
            pacer: pacer.telling(&plan.shared.free_since[index]),
            connecting: Semaphore::new(CONNECTING_MAX),
            maker: RefCell::new(Maker::new(maker, index)),
            sizes: RefCell::new(SeededRng::new(seed(2))),
            recipients: RefCell::new(Recipients::new(
                plan.directory.count(),
                scenario.recipients_per_message.clone(),
                seed(3),
            )),
            ledger: RefCell::new(Ledger::new(&ledger, plan.directory.clone())),
            recorder: RefCell::new(None),
            early: RefCell::default(),
            sources_used: Cell::new(index),
            logins: Cell::new(index),
            keys: RefCell::default(),
            figures: Cell::default(),
            notes: RefCell::default(),
            refusals: RefCell::default(),
            queue_ids: RefCell::default(),
            broken: RefCell::default(),
            outbox: RefCell::new(Outbox::new(&plan)),
            busy: Cell::new(0),
            connected: Cell::new(0),
            connected_max: Cell::new(0),
            loop_late: Cell::new(Duration::ZERO),
            sampled: Cell::new(false),
            attempted: Cell::new(0),
            window: Cell::new((Instant::from_nanos(u64::MAX), Instant::from_nanos(u64::MAX))),
            lag_max: Cell::new(Duration::ZERO),
            waiting: Cell::new(0),
            plan,
        })
    }

    /// Connections of this shard.
    pub(crate) fn connections(&self) -> usize {
        share(self.plan.scenario.connections, self.index, self.plan.generators)
    }

    /// The times are fixed: measuring can begin.
    pub(crate) fn set_window(&self, start: Instant, end: Instant) {
        self.window.set((start, end));
        self.ledger.borrow_mut().cut_window(end.as_nanos());
        let window = Window { start_ns: start.as_nanos(), end_ns: end.as_nanos() };
        let mut recorder = Recorder::new(window);
        for (milestone, at, took) in self.early.take() {
            recorder.record_connection(milestone, at.as_nanos(), took.as_nanos() as u64);
        }
        *self.recorder.borrow_mut() = Some(recorder);
    }

    /// The window ends at `end`, sooner than planned.
    pub(crate) fn cut_window(&self, end: Instant) {
        let (start, planned) = self.window.get();
        if end < planned {
            self.window.set((start, end));
            self.ledger.borrow_mut().cut_window(end.as_nanos());
            self.pacer.cut(end);
        }
    }

    /// First and last time of the window, as it is known now.
    pub(crate) fn window(&self) -> (Instant, Instant) {
        self.window.get()
    }

    fn in_window(&self, at: Instant) -> bool {
        let (start, end) = self.window.get();
        start <= at && at < end
    }

    pub(crate) fn note(&self, note: &str) {
        self.notes.borrow_mut().add(note);
    }

    /// An instrument is lost: the run is invalid. Nothing is lost that nobody needs any more.
    pub(crate) fn lose_instrument(&self, what: &str) {
        if self.plan.shared.phase() < Phase::Done {
            self.broken.borrow_mut().add(what);
        }
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Figures)) {
        let mut figures = self.figures.get();
        change(&mut figures);
        self.figures.set(figures);
    }

    /// Enters that a message, or a recipient of it, that was due at `due_ns` passed a milestone at `at`.
    fn record(&self, milestone: Milestone, at: Instant, due_ns: u64) {
        // The recorder's window is the planned one; a run that was stopped has a shorter one.
        if self.in_window(Instant::from_nanos(due_ns))
            && !self.sampled.get()
            && let Some(recorder) = &mut *self.recorder.borrow_mut()
        {
            recorder.record(milestone, due_ns, at.as_nanos().saturating_sub(due_ns));
        }
    }

    /// Enters that a message that was due at `due_ns` had not passed a milestone at `until_ns`, and is not looked for any
    /// more.
    fn censor(&self, milestone: Milestone, due_ns: u64, until_ns: u64) {
        if self.in_window(Instant::from_nanos(due_ns))
            && let Some(recorder) = &mut *self.recorder.borrow_mut()
        {
            recorder.record_censored(milestone, due_ns, until_ns.saturating_sub(due_ns));
        }
    }

    /// Counts recipients that passed a milestone at `at`, whenever they were due.
    fn pass(&self, milestone: Milestone, at: Instant, recipients: u64) {
        if self.in_window(at)
            && let Some(recorder) = &mut *self.recorder.borrow_mut()
        {
            recorder.count(milestone, at.as_nanos(), recipients);
        }
    }

    /// Enters a message whose sending begins at `at`; gives its sequence.
    pub(crate) fn begin(&self, due: Due, at: Instant, mailboxes: &[u32]) -> u64 {
        let begun_in_window = self.in_window(at);
        let due_in_window = self.in_window(due.at);
        let late_by = self.plan.scenario.limits.late_by;
        let lag = at - due.at;
        let late = due_in_window && lag > late_by;
        // One shard would have sent it over whichever connection was free.
        let free = if late { due.free.min(self.plan.shared.free_elsewhere(self.index)) } else { due.free };
        self.count(|figures| {
            figures.begun += u64::from(begun_in_window);
            figures.intended += u64::from(due_in_window);
            figures.late += u64::from(late);
            figures.late_while_free += u64::from(late && at.saturating_sub(due.at.max(free)) > late_by);
        });
        if self.pacer.is_open() {
            self.lag_max.set(self.lag_max.get().max(lag));
            self.record(Milestone::ScheduleLag, at, due.at.as_nanos());
        }
        self.ledger.borrow_mut().send(due.at.as_nanos(), mailboxes)
    }

    /// Enters a step in the making of a connection.
    pub(crate) fn record_connection(&self, milestone: Milestone, begun: Instant, at: Instant) {
        let took = at.saturating_sub(begun);
        match &mut *self.recorder.borrow_mut() {
            // The recorder's window is the planned one; what comes after that of a run that was stopped stands in its last second.
            Some(recorder) => {
                let last_ns = self.window.get().1.as_nanos().saturating_sub(1);
                recorder.record_connection(milestone, at.as_nanos().min(last_ns), took.as_nanos() as u64);
            }
            None => self.early.borrow_mut().push((milestone, at, took)),
        }
    }

    /// Counts a connection that was opened, with what was agreed on for TLS.
    pub(crate) fn count_opened(&self, connection: &ClientConnection) {
        let agreed = connection.agreed();
        self.count(|figures| {
            figures.opened += 1;
            figures.tls += u64::from(agreed.is_some());
            figures.resumed += u64::from(agreed.is_some_and(|agreed| agreed.resumed));
        });
    }

    /// The address that the next connection to `target` comes from: those of its family in turn; none: the system chooses.
    pub(crate) fn next_source(&self, target: SocketAddr) -> Option<IpAddr> {
        let family = |source: &&IpAddr| source.is_ipv4() == target.is_ipv4();
        let sources = &self.plan.scenario.sources;
        let count = sources.iter().filter(family).count();
        let used = self.sources_used.replace(self.sources_used.get().wrapping_add(1));
        sources.iter().filter(family).nth(used.checked_rem(count)?).copied()
    }

    /// The number of the account that the next connection logs in with: all in turn; none: nobody logs in.
    pub(crate) fn next_login(&self) -> Option<(usize, &Authentication)> {
        let login = self.plan.scenario.authentication.as_ref()?;
        let used = self.logins.replace(self.logins.get().wrapping_add(self.plan.generators));
        Some((used % login.accounts.len(), login))
    }

    /// SCRAM: what was derived for the last login of an account.
    pub(crate) fn keys_of(&self, account: usize) -> Option<ClientKeys> {
        self.keys.borrow().get(&account).cloned()
    }

    pub(crate) fn keep_keys(&self, account: usize, keys: Option<ClientKeys>) {
        if let Some(keys) = keys {
            self.keys.borrow_mut().insert(account, keys);
        }
    }

    /// Enters what the messages that were due in the window had come to at `end`, where that is not known yet: each has
    /// one sample a milestone. Nothing is sampled after that.
    pub(crate) fn unfinished(&self, end: Instant) -> Vec<Unfinished> {
        self.sampled.set(true);
        let (window_start, window_end) = self.window.get();
        let window = Window { start_ns: window_start.as_nanos(), end_ns: window_end.as_nanos() };
        self.ledger.borrow_mut().unfinished(window, end.as_nanos())
    }

    /// The censored samples of one recipient.
    pub(crate) fn censor_recipient(&self, one: &Unfinished) {
        let Unfinished { due_ns, until_ns, mailbox, accept, arrive, visible } = *one;
        let arrivals = !self.plan.scenario.arrival_streams.is_empty();
        let visible = if visible { self.plan.visible_by(mailbox) } else { None };
        let milestones = [
            accept.then_some(Milestone::Accept),
            (arrive && arrivals).then_some(Milestone::Arrive),
            visible.map(visible_milestone),
        ];
        milestones.into_iter().flatten().for_each(|milestone| self.censor(milestone, due_ns, until_ns));
    }

    /// The censored samples of a message that was never sent; how many recipients it would have had.
    pub(crate) fn censor_unsent(&self, due: Instant, end: Instant, mailboxes: &mut Vec<u32>) -> u64 {
        let (due_ns, until_ns) = (due.as_nanos(), end.as_nanos());
        if self.pacer.is_open() {
            self.censor(Milestone::ScheduleLag, due_ns, until_ns);
        }
        // Nobody was picked for it yet.
        self.recipients.borrow_mut().pick(mailboxes);
        for (index, &mailbox) in mailboxes.iter().enumerate() {
            let one =
                Unfinished { due_ns, until_ns, mailbox, accept: index == 0, arrive: true, visible: true };
            self.censor_recipient(&one);
        }
        mailboxes.len() as u64
    }

    /// Enters the final reply to a message of `octets`.
    pub(crate) fn finish(&self, sequence: u64, due: Instant, octets: u64, outcome: &Outcome, at: Instant) {
        let mut accepted = 0;
        let recipients = self.ledger.borrow().recipients_of(sequence);
        for index in 0..recipients {
            let submission = if outcome.is_accepted(index) {
                accepted += 1;
                Submission::Accepted
            } else {
                if let Some(reply) = outcome.decisive(index) {
                    let text = reply.lines().next().unwrap_or_default();
                    self.note(&format!("refused: {} {text}", reply.code));
                    self.refusals.borrow_mut().add(sequence, &format!("{} {text}", reply.code));
                }
                Submission::Rejected
            };
            self.ledger.borrow_mut().submitted(sequence, index, submission, at.as_nanos());
        }
        let due_in_window = self.in_window(due);
        self.count(|figures| figures.answered += u64::from(due_in_window));
        if accepted > 0 {
            self.keep_queue_id(sequence, outcome);
            self.record(Milestone::Accept, at, due.as_nanos());
            self.pass(Milestone::Accept, at, accepted);
            if self.in_window(at) {
                self.count(|figures| {
                    figures.accepted += accepted;
                    figures.accepted_octets += octets;
                });
            }
            self.update_outstanding();
        }
    }

    /// Keeps the id that an accepted message may be asked for by.
    fn keep_queue_id(&self, sequence: u64, outcome: &Outcome) {
        if let Some(reply) = &outcome.data
            && self.plan.verify != Verify::Nothing
        {
            let ledger = self.ledger.borrow();
            let message = (sequence / self.plan.generators as u64) as u32;
            self.queue_ids.borrow_mut().add(message, &reply.text, |message| ledger.is_delivered(message));
        }
    }

    /// Enters that no final reply will be read to a message that was due then, unless one was.
    pub(crate) fn lose_reply(&self, sequence: u64, due: Instant, why: &str) {
        let at_ns = now().as_nanos();
        let mut lost = false;
        let recipients = self.ledger.borrow().recipients_of(sequence);
        for index in 0..recipients {
            lost |= self.ledger.borrow_mut().submitted(sequence, index, Submission::Unknown, at_ns);
        }
        if lost {
            self.refusals.borrow_mut().add(sequence, why);
        }
        if lost && !self.sampled.get() {
            self.censor(Milestone::Accept, due.as_nanos(), at_ns);
        }
    }

    /// Enters events of this shard's messages.
    pub(crate) fn apply(&self, events: &[Event]) {
        for event in events {
            match *event {
                Event::Record(record) => self.apply_record(&record),
                Event::Read { sequence, recipient, at_ns, intact, by } => {
                    self.apply_read(sequence, recipient, at_ns, intact, by);
                }
                Event::Queued { sequence, recipient } => self.ledger.borrow_mut().queued(sequence, recipient),
                Event::Foreign => self.ledger.borrow_mut().foreign(),
            }
        }
        self.update_outstanding();
    }

    fn apply_record(&self, record: &Record) {
        let Record { sequence, recipient, time_ns, .. } = *record;
        match record.kind {
            Kind::Bounce => {
                self.ledger.borrow_mut().bounced(sequence, recipient);
            }
            Kind::Delivery => {
                let integrity = match record.verdict {
                    Verdict::Intact => Integrity::Intact,
                    Verdict::HeaderChanged | Verdict::BodyChanged | Verdict::NoStamp => Integrity::Changed,
                    Verdict::Unchecked => Integrity::Unchecked,
                };
                let sighting = self.ledger.borrow_mut().arrived(sequence, recipient, integrity, time_ns);
                if let Sighting::First { intended_ns } = sighting {
                    let at = Instant::from_nanos(time_ns);
                    self.record(Milestone::Arrive, at, intended_ns);
                    self.pass(Milestone::Arrive, at, 1);
                    if self.in_window(at) {
                        let verified = self.plan.verify == Verify::Arrival && integrity == Integrity::Intact;
                        self.count(|figures| {
                            figures.arrived += 1;
                            figures.arrived_octets += u64::from(record.size);
                            figures.verified += u64::from(verified);
                        });
                    }
                }
            }
            Kind::Dropped => {
                self.ledger.borrow_mut().dropped(sequence, recipient);
                self.lose_instrument(DROPPED);
            }
            Kind::Barrier => {}
        }
    }

    fn apply_read(&self, sequence: u64, recipient: u64, at_ns: u64, intact: bool, by: Protocol) {
        let sighting = self.ledger.borrow_mut().read(sequence, recipient, intact);
        let Sighting::First { intended_ns } = sighting else { return };
        if self.plan.verify != Verify::Live || !intact {
            return;
        }
        let at = Instant::from_nanos(at_ns);
        self.record(visible_milestone(by), at, intended_ns);
        self.pass(visible_milestone(by), at, 1);
        if self.in_window(at) {
            self.count(|figures| figures.verified += 1);
        }
    }

    fn update_outstanding(&self) {
        let outstanding = self.ledger.borrow().tallies().outstanding;
        self.pacer.set_outstanding(outstanding);
    }

    /// Another figure whenever something has happened here, or the run has come further.
    pub(crate) fn happened(&self) -> u64 {
        let tallies = self.ledger.borrow().tallies();
        (tallies.events + tallies.sent) << 8 | self.plan.shared.phase() as u64
    }

    /// Publishes the counters; `slow` ones only now and then.
    pub(crate) fn publish(&self, slow: bool) {
        let counters = &self.plan.shared.shards[self.index];
        let tallies = self.ledger.borrow().tallies();
        if slow {
            let waiting = self.pacer.waiting(now()) as f64 * self.plan.scenario.recipients_per_message.mean();
            self.waiting.set(waiting.round() as u64);
            let lag_us = self.lag_max.replace(Duration::ZERO).as_micros() as u64;
            counters.lag_us_max.store(lag_us, Ordering::Relaxed);
        }
        let sending = u64::from(!self.pacer.has_ended());
        let figures: [(&AtomicU64, u64); 15] = [
            (&counters.scheduled, tallies.sent + self.waiting.get()),
            (&counters.sent, tallies.sent),
            (&counters.accepted, tallies.accepted),
            (&counters.rejected, tallies.rejected),
            (&counters.unknown, tallies.unknown),
            (&counters.arrived, tallies.arrived),
            (&counters.verified, tallies.verified),
            (&counters.bounced, tallies.bounced),
            (&counters.corrupted, tallies.corrupted),
            (&counters.outstanding, tallies.outstanding),
            (&counters.unverified, tallies.unverified),
            (&counters.connections, self.connected.get()),
            (&counters.waiting, self.waiting.get()),
            (&counters.busy, self.busy.get() + sending),
            (&counters.events, tallies.events),
        ];
        for (counter, figure) in figures {
            counter.store(figure, Ordering::Release);
        }
    }
}

fn visible_milestone(by: Protocol) -> Milestone {
    match by {
        Protocol::Imap => Milestone::VisibleImap,
        Protocol::Pop3 => Milestone::VisiblePop3,
    }
}

/// The share of shard `index` in `total`, as even as can be.
fn share(total: usize, index: usize, shards: usize) -> usize {
    total / shards + usize::from(index < total % shards)
}
