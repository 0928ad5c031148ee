//! Which lookups are under way. Runs on the resolver's control thread.
//!
//! 1. A domain that was not asked for before, or was found, gets a first try: 750 ms, or 150 ms when many wait.
//! 2. One whose last lookup failed, and one whose first try was cut to 150 ms, get a try of 600 ms with places of their own.
//! 3. What takes longer goes on among the slow ones when there is a place, else it begins anew there when its turn comes (the
//!    name servers may know the answer by then). The slow ones have all the time that [`Servers`] give, or 3 s when others wait.
//!
//! So names whose servers are silent cost a first try of others little, and each other no more than 3 s a place. What finds no
//! room to wait, or has waited for too long, ends without an answer.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chasqui_runtime::channel::OneshotSender;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::budget::{Budget, later};
use super::lanes::{Lane, tail};
use super::lookup::answer;
use super::question::{Failure, Outcome, Question};
use super::servers::Servers;

/// What a try has before it counts as slow: a little more than the silence after which the next name server is asked.
const TRY: Duration = Duration::from_millis(600);
/// What a first try has when more wait than there are places.
const SHORT_TRY: Duration = Duration::from_millis(150);
/// What a slow lookup has at least.
const SLOW_TRY: Duration = Duration::from_secs(3);
/// How often a slow lookup looks whether others wait for its place, after that.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Questions that may wait for their first try, and for each of the other lanes.
const WAITING_MAX: usize = 65_536;
const WAITING_LATER_MAX: usize = 8_192;
/// Longest wait for a place, of all lanes together.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// A question of a shard.
#[derive(Debug)]
pub(super) struct Request {
    question: Question,
    tail: Arc<str>,
    stage: Stage,
    asked: Instant,
    reply: OneshotSender<Outcome>,
}

impl Request {
    /// `has_failed`: the last lookup of the same name was a temporary failure.
    pub(super) fn new(question: Question, has_failed: bool, reply: OneshotSender<Outcome>) -> Request {
        let name = match &question {
            Question::Domain(domain) => domain,
            Question::Hosts(hosts) => hosts.first().map_or("", String::as_str),
        };
        let tail = tail(name).into();
        let stage = if has_failed { Stage::Again } else { Stage::First };
        Request { question, tail, stage, asked: Instant::now(), reply }
    }

    /// It is our own shortage when it was never asked.
    fn end_without_place(self) {
        let reason = "too many lookups wait for the name servers".to_owned();
        let is_ours = self.stage == Stage::First;
        self.end(Err(if is_ours { Failure::Lacking { reason } } else { Failure::Temporary { reason } }));
    }

    fn end(self, outcome: Outcome) {
        // A shard that ended meanwhile does not want it any more.
        let _ = self.reply.send(outcome);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    Again,
    Slow,
}

/// The lanes of the process.
pub(super) struct Schedule {
    servers: Arc<Servers>,
    lanes: Mutex<[Lane<Request>; 3]>,
    /// A place became free, or something waits anew.
    changed: Notify,
    spare: Arc<Semaphore>,
}

/// A place in a lane, until it is dropped.
struct Place {
    schedule: Arc<Schedule>,
    stage: Stage,
    tail: Arc<str>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.schedule.lane(self.stage, |lane| lane.leave(&self.tail));
        self.schedule.changed.notify_one();
    }
}

impl Schedule {
    /// With so many places for first tries.
    pub(super) fn new(servers: Servers, places: usize) -> Arc<Schedule> {
        let later = later(places);
        Arc::new(Schedule {
            servers: Arc::new(servers),
            lanes: Mutex::new([
                Lane::new(places, WAITING_MAX),
                Lane::new(later, WAITING_LATER_MAX),
                Lane::new(later, WAITING_LATER_MAX),
            ]),
            changed: Notify::new(),
            spare: Arc::new(Semaphore::new(later)),
        })
    }

    /// Answers what comes through the queue, until that ends.
    pub(super) async fn serve(self: Arc<Self>, mut queue: mpsc::Receiver<Request>) {
        loop {
            tokio::select! {
                request = queue.recv() => match request {
                    Some(request) => self.put(request),
                    None => return,
                },
                () = self.changed.notified() => {}
            }
            for stage in [Stage::First, Stage::Again, Stage::Slow] {
                while let Some(request) = self.lane(stage, Lane::next) {
                    self.begin(request);
                }
            }
        }
    }

    fn lane<T>(&self, stage: Stage, change: impl FnOnce(&mut Lane<Request>) -> T) -> T {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut lanes[stage as usize])
    }

    fn put(&self, request: Request) {
        let (stage, tail) = (request.stage, request.tail.clone());
        if let Some(displaced) = self.lane(stage, |lane| lane.put(&tail, request)) {
            displaced.end_without_place();
        }
    }

    fn begin(self: &Arc<Self>, mut request: Request) {
        let place = Place { schedule: self.clone(), stage: request.stage, tail: request.tail.clone() };
        if request.asked.elapsed() > WAIT_MAX {
            return request.end_without_place();
        }
        let schedule = self.clone();
        tokio::spawn(async move {
            match schedule.run(place, &request.question).await {
                Ok(outcome) => request.end(outcome),
                Err(stage) => {
                    request.stage = stage;
                    schedule.put(request);
                    schedule.changed.notify_one();
                }
            }
        });
    }

    /// Looks up within bounded time. The error is the lane in which to begin anew.
    async fn run(&self, mut place: Place, question: &Question) -> Result<Outcome, Stage> {
        let budget = Budget::new(self.spare.clone());
        // One lookup for the MX, two for the addresses, and some more: whatever happens inside, a question ends.
        let limit = self.servers.limit() * 4;
        let mut lookup = pin!(timeout(limit, answer(&self.servers, &budget, question)));
        let mut span = match place.stage {
            Stage::First => Span::Short,
            Stage::Again => Span::Try,
            Stage::Slow => Span::Slow,
        };
        loop {
            if let Ok(outcome) = timeout(span.length(), &mut lookup).await {
                return Ok(outcome.unwrap_or_else(|_| temporary("the name servers took too long")));
            }
            span = match span {
                Span::Short if self.lane(Stage::First, |lane| lane.is_crowded()) => return Err(Stage::Again),
                Span::Short => Span::Try,
                Span::Try if place.moves_to_slow() => Span::Slow,
                Span::Try => return Err(Stage::Slow),
                Span::Slow | Span::Longer if self.lane(Stage::Slow, |lane| lane.is_wanted()) => {
                    return Ok(temporary("the name servers took too long, and others wait"));
                }
                Span::Slow | Span::Longer => Span::Longer,
            };
        }
    }
}

/// How long a lookup goes on before it is decided whether it keeps its place.
#[derive(Clone, Copy)]
enum Span {
    Short,
    Try,
    Slow,
    Longer,
}

impl Span {
    fn length(self) -> Duration {
        match self {
            Span::Short => SHORT_TRY,
            Span::Try => TRY,
            Span::Slow => SLOW_TRY,
            Span::Longer => LOOK_EVERY,
        }
    }
}

impl Place {
    /// Changes a place for one among the slow ones; false when there is none.
    fn moves_to_slow(&mut self) -> bool {
        let is_free = self.schedule.lane(Stage::Slow, |lane| lane.enter(&self.tail));
        if is_free {
            self.schedule.lane(self.stage, |lane| lane.leave(&self.tail));
            self.stage = Stage::Slow;
            self.schedule.changed.notify_one();
        }
        is_free
    }
}

fn temporary(reason: &str) -> Outcome {
    Err(Failure::Temporary { reason: reason.to_owned() })
}
