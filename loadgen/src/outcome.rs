//! What a run came to: its parts, brought together and judged.

use std::fmt;
use std::time::Duration;

use chasqui_report::{Collector, Connections, Counts, Due, Rate, Recording, Validity, Verify, Window};

use crate::generator::{self, Conclusion};
use crate::ledger::{Anomaly, Beside, Evidence, Judgement, RelayAnswer, name_queue_ids};
use crate::notes::Notes;
use crate::plan::Plan;
use crate::reader;
use crate::scenario::Scenario;

/// Lost, missing, pending and corrupted recipients that are named in the notes; `anomalies.jsonl` has all.
const SAMPLES_MAX: usize = 10;

/// Counts inside the window. Recipients, but for the octets of accepted messages, which count once a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throughput {
    /// Answered 250.
    pub accepted: u64,
    /// Arrived at a sink; `None` without arrival streams.
    pub arrived: Option<u64>,
    /// Verified; `None` when mailboxes are read after the window.
    pub verified: Option<u64>,
    /// Octets of accepted messages, before dot-stuffing.
    pub accepted_octets: u64,
    /// Octets that arrived, trace fields included.
    pub arrived_octets: u64,
}

/// Everything a run came to.
pub struct Outcome {
    /// The run's id, as in its stamps.
    pub run: u64,
    /// What was asked for.
    pub scenario: Scenario,
    /// The measured window on CLOCK_MONOTONIC.
    pub window: Window,
    /// When it began, since the Unix epoch.
    pub window_start_wall: Duration,
    /// It was stopped before the window's planned end.
    pub stopped_early: bool,
    /// From the start until everything was known.
    pub took: Duration,
    /// What was due in the window.
    pub due: Due,
    /// The connections that the load went over.
    pub connections: Connections,
    /// The ledger of the whole run.
    pub ledger: Counts,
    /// What was counted beside it.
    pub beside: Beside,
    /// Latencies of what was due in the window.
    pub recording: Recording,
    /// Counts in the window.
    pub throughput: Throughput,
    /// Recipients accepted before the window's end that had not arrived by then; `None` without arrival streams.
    pub backlog_end: Option<u64>,
    /// How well an open loop kept its schedule.
    pub validity: Option<Validity>,
    /// CPU time of live readers in the window.
    pub verify_cpu: Option<Duration>,
    /// Instruments that were lost in the run, one line each: it is invalid then.
    pub broken: Vec<String>,
    /// Whether the relay listed its queue; `None` for a foreign MTA.
    pub relay_answered: Option<bool>,
    /// What a person should know: refusals, broken connections, samples of what went wrong.
    pub notes: Vec<String>,
    /// Every recipient that was not delivered unchanged, once.
    pub anomalies: Vec<Anomaly>,
    /// Memory of the ledger.
    pub ledger_bytes: u64,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("ledger", &self.ledger)
            .field("throughput", &self.throughput)
            .field("backlog_end", &self.backlog_end)
            .field("validity", &self.validity)
            .field("due", &self.due)
            .field("connections", &self.connections)
            .field("broken", &self.broken)
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

/// Judges the run that the shards have left these parts of.
pub(crate) fn judge(
    plan: &Plan,
    conclusion: &Conclusion,
    parts: Vec<generator::Part>,
    read: Vec<reader::Part>,
) -> Outcome {
    let took = plan.shared.took();
    let has_arrivals = !plan.scenario.arrival_streams.is_empty();
    let mailboxes_whole = mailboxes_whole(plan, &read);
    let mut broken = broken(plan, &parts, &mailboxes_whole);
    let evidence = Evidence {
        relay: conclusion.relay,
        arrivals_whole: has_arrivals.then(|| parts.iter().all(|part| part.arrivals_whole)),
        mailboxes_whole: &mailboxes_whole,
    };
    let mut whole = Whole::default();
    parts.into_iter().for_each(|part| whole.add(plan, &evidence, part));
    let window_cpu: Vec<Duration> = read.iter().filter_map(|part| part.window_cpu).collect();
    read.into_iter().for_each(|part| whole.add_reader(part));
    if plan.verify == Verify::Nothing {
        // Nobody looked what became of accepted mail.
        whole.anomalies.retain(Anomaly::is_of_the_submission);
    }
    broken.extend(whole.lost.lines());
    let mut notes = whole.notes.lines();
    notes.extend(samples(&whole.anomalies));

    let (figures, unsent, window) = (whole.figures, whole.unsent_in_window, conclusion.window);
    Outcome {
        run: plan.run,
        scenario: plan.scenario.clone(),
        window,
        window_start_wall: conclusion.window_start_wall,
        stopped_early: conclusion.stopped_early,
        took,
        due: Due { messages: figures.intended + unsent, unsent, answered: figures.answered },
        connections: connections(plan, whole.reached, &figures),
        ledger: whole.judgement.counts,
        beside: whole.judgement.beside,
        recording: recording(plan, window),
        throughput: Throughput {
            accepted: figures.accepted,
            arrived: has_arrivals.then_some(figures.arrived),
            verified: matches!(plan.verify, Verify::Live | Verify::Arrival).then_some(figures.verified),
            accepted_octets: figures.accepted_octets,
            arrived_octets: figures.arrived_octets,
        },
        backlog_end: has_arrivals.then_some(whole.judgement.backlog_end),
        validity: validity(plan, window, &figures, unsent, whole.loop_late),
        verify_cpu: (!window_cpu.is_empty()).then(|| window_cpu.iter().sum()),
        broken,
        relay_answered: match conclusion.relay {
            RelayAnswer::Foreign => None,
            RelayAnswer::Listed => Some(true),
            RelayAnswer::Silent => Some(false),
        },
        notes,
        anomalies: whole.anomalies,
        ledger_bytes: whole.ledger_bytes,
    }
}

/// The connections of all shards.
fn connections(plan: &Plan, reached: u64, figures: &generator::Figures) -> Connections {
    Connections {
        asked: plan.scenario.connections as u64,
        reached,
        refused: figures.refused,
        replies_421: figures.replies_421,
        emfile: figures.emfile,
        opened: Some(figures.opened),
        tls: Some(figures.tls),
        resumed: Some(figures.resumed),
        handshakes_failed: Some(figures.handshakes_failed),
        logins_failed: Some(figures.logins_failed),
    }
}

/// By mailbox: it was read to its end.
fn mailboxes_whole(plan: &Plan, read: &[reader::Part]) -> Vec<bool> {
    let mut whole = vec![false; plan.directory.count()];
    for mailbox in read.iter().flat_map(|part| &part.whole) {
        whole[*mailbox as usize] = true;
    }
    whole
}

/// The parts of all shards together.
#[derive(Default)]
struct Whole {
    judgement: Judgement,
    figures: generator::Figures,
    notes: Notes,
    /// Instruments that were lost.
    lost: Notes,
    anomalies: Vec<Anomaly>,
    unsent_in_window: u64,
    ledger_bytes: u64,
    /// Most connections that were open at one time, of each shard.
    reached: u64,
    /// Of the shard where it was most.
    loop_late: Duration,
}

impl Whole {
    fn add(&mut self, plan: &Plan, evidence: &Evidence<'_>, mut part: generator::Part) {
        let first = self.anomalies.len();
        self.judgement += part.ledger.judge(evidence, part.unsent, |sequence, mailbox, due_ns, column| {
            let recipient = plan.directory.address(mailbox);
            let reply = part.refusals.of(sequence).map(str::to_owned);
            self.anomalies.push(Anomaly { sequence, recipient, column, due_ns, reply, queue_id: None });
        });
        name_queue_ids(&mut self.anomalies[first..], &part.queue_ids, plan.generators as u64);
        self.figures += part.figures;
        self.ledger_bytes += part.ledger.bytes() + part.queue_ids.bytes();
        self.unsent_in_window += part.unsent_in_window;
        self.reached += part.connected_max;
        self.loop_late = self.loop_late.max(part.loop_late);
        self.notes.merge(part.notes);
        self.lost.merge(part.broken);
    }

    fn add_reader(&mut self, part: reader::Part) {
        self.notes.merge(part.notes);
        self.lost.merge(part.broken);
    }
}

/// What was recorded in the window, as it turned out.
fn recording(plan: &Plan, window: Window) -> Recording {
    let collector = plan.shared.collector.lock().ok().and_then(|mut collector| collector.take());
    let mut collector = collector.unwrap_or_else(|| Collector::new(window));
    collector.end_early(window.end_ns);
    collector.finish()
}

/// The first of what nobody was told of in the run.
fn samples(anomalies: &[Anomaly]) -> impl Iterator<Item = String> {
    let untold = anomalies.iter().filter(|anomaly| !anomaly.is_told()).take(SAMPLES_MAX);
    untold.map(|anomaly| format!("{}: message {} to {}", anomaly.what(), anomaly.sequence, anomaly.recipient))
}

/// Mailboxes that could not be read to their end. An arrival stream that broke has told so itself.
fn broken(plan: &Plan, parts: &[generator::Part], mailboxes_whole: &[bool]) -> Vec<String> {
    let mut lines = Vec::new();
    let unread = mailboxes_whole.iter().filter(|whole| !**whole).count();
    if plan.readers > 0 && unread > 0 {
        let all = mailboxes_whole.len();
        lines.push(format!("{unread} of {all} mailboxes could not be read to their end"));
    }
    if parts.iter().any(|part| !part.arrivals_whole) {
        lines.push("an arrival stream was lost: what has not arrived may have".to_owned());
    }
    lines
}

/// How well an open loop kept to its schedule: what was due in the window against what was begun in it, and whose fault
/// the difference is.
fn validity(
    plan: &Plan,
    window: Window,
    figures: &generator::Figures,
    unsent: u64,
    loop_late: Duration,
) -> Option<Validity> {
    if plan.scenario.rate == Rate::Max {
        return None;
    }
    let limits = plan.scenario.limits;
    let wanted = figures.intended + unsent;
    let seconds = window.seconds();
    let per_s = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let share = |count: u64| if wanted > 0 { count as f64 / wanted as f64 } else { 0.0 };
    Some(Validity {
        wanted_per_s: per_s(wanted),
        achieved_per_s: per_s(figures.begun),
        late_share: share(figures.late + unsent),
        late_while_free_share: share(figures.late_while_free),
        loop_late_share: if seconds > 0.0 { loop_late.as_secs_f64() / seconds } else { 0.0 },
        late_after_us: limits.late_by.as_secs_f64() * 1e6,
        late_share_max: limits.late_share_max,
        rate_share_min: limits.achieved_share_min,
    })
}
