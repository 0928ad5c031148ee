//! Decides which connection sends when: the open loop's schedule or the closed loop's bound, and the
//! connections that wait for something to send.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_runtime::sync::Notify;
use chasqui_runtime::{Instant, now, sleep_until};

use super::Schedule;
use crate::shared::FreeSince;

/// After the window's end, messages that are due and wait for a connection may still be sent for this long: a moment's
/// queue, no second window.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// When a message was to be sent, and when it could have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// Its intended time; in a closed loop the moment at which its connection became free to send it.
    pub(crate) at: Instant,
    /// Since when a connection has been free: lateness after that is the generator's.
    pub(crate) free: Instant,
}

/// What a waiting connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Send a message.
    Send(Due),
    /// There is nothing more to send.
    End,
}

/// Where a connection waits for its next order.
#[derive(Debug)]
pub(crate) struct Slot {
    order: Cell<Option<Order>>,
    parked: Cell<bool>,
    /// Since when it has waited.
    since: Cell<Instant>,
    notify: Notify,
}

impl Default for Slot {
    fn default() -> Self {
        let since = Cell::new(Instant::from_nanos(0));
        Self { order: Cell::default(), parked: Cell::default(), since, notify: Notify::new() }
    }
}

impl Slot {
    /// The next order. Cancel-safe: the order stays.
    pub(crate) async fn order(&self) -> Order {
        loop {
            if let Some(order) = self.order.take() {
                return order;
            }
            self.notify.notified().await;
        }
    }

    fn give(&self, order: Order) {
        self.parked.set(false);
        self.order.set(Some(order));
        self.notify.notify_one();
    }
}

#[derive(Debug)]
enum Mode {
    Open(RefCell<Schedule>),
    Closed { outstanding_max: u64, outstanding: Cell<u64> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The start is not fixed.
    Waiting,
    Sending,
    Ended,
}

/// The pacer of one shard.
///
/// In an open loop a message that finds no free connection waits without being stored: the schedule is not
/// advanced past it, and the connection that becomes free next takes it with its intended time.
#[derive(Debug)]
pub(crate) struct Pacer {
    mode: Mode,
    state: Cell<State>,
    start: Cell<Instant>,
    /// No message is intended at or after this.
    end: Cell<Instant>,
    idle: RefCell<VecDeque<Rc<Slot>>>,
    /// Messages whose connection was found dead before their sending began.
    returned: RefCell<VecDeque<Instant>>,
    /// Messages are due and every connection is busy.
    starved: Cell<bool>,
    free_since: Arc<FreeSince>,
    /// The starvation is over, the end has moved, or sending has ended.
    changed: Notify,
    over: Notify,
}

impl Pacer {
    /// An open loop over this share of the schedule.
    pub(crate) fn open(schedule: Schedule) -> Self {
        Self::new(Mode::Open(RefCell::new(schedule)))
    }

    /// A closed loop with fewer than `outstanding_max` accepted recipients on their way.
    pub(crate) fn closed(outstanding_max: u64) -> Self {
        Self::new(Mode::Closed { outstanding_max, outstanding: Cell::new(0) })
    }

    fn new(mode: Mode) -> Self {
        Self {
            mode,
            state: Cell::new(State::Waiting),
            start: Cell::new(Instant::from_nanos(0)),
            end: Cell::new(Instant::from_nanos(0)),
            idle: RefCell::default(),
            returned: RefCell::default(),
            starved: Cell::new(false),
            free_since: Arc::default(),
            changed: Notify::new(),
            over: Notify::new(),
        }
    }

    /// Tells `free_since` of the connection that has been idle longest.
    pub(crate) fn telling(mut self, free_since: &Arc<FreeSince>) -> Self {
        self.free_since = free_since.clone();
        self
    }

    /// Whether messages have intended times.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.mode, Mode::Open(_))
    }

    /// Whether nothing more will be sent.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.get() == State::Ended
    }

    /// Waits until nothing more will be sent.
    pub(crate) async fn ended(&self) {
        while !self.has_ended() {
            self.over.notified().await;
        }
    }

    /// Sends from `start` on what is intended before `end`, until [`Pacer::end`].
    pub(crate) async fn run(&self, start: Instant, end: Instant) {
        self.start.set(start);
        self.end.set(end);
        sleep_until(start).await;
        if !self.has_ended() {
            self.state.set(State::Sending);
        }
        while !self.has_ended() {
            // One reading of the clock for both: a message that becomes due between two readings would look
            // as if nobody were idle.
            let at = now();
            self.hand_out(at);
            match self.next_intended() {
                // Everybody is busy: whoever becomes free helps himself, and parks when nothing is left.
                Some(next) if next <= at => {
                    self.starved.set(true);
                    self.changed.notified().await;
                    self.starved.set(false);
                }
                Some(next) => {
                    let sleep = sleep_until(next);
                    let changed = self.changed.notified();
                    futures_lite::future::or(sleep, changed).await;
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// The window ends at `end`, sooner than planned.
    pub(crate) fn cut(&self, end: Instant) {
        self.end.set(self.end.get().min(end));
        self.changed.notify_all();
    }

    /// Ends the sending and tells every idle connection.
    pub(crate) fn end(&self) {
        self.state.set(State::Ended);
        for slot in self.idle.borrow_mut().drain(..) {
            if slot.parked.get() {
                slot.give(Order::End);
            }
        }
        self.free_since.set(None);
        self.changed.notify_all();
        self.over.notify_all();
    }

    /// Tells a closed loop how many accepted recipients are on their way.
    pub(crate) fn set_outstanding(&self, now_outstanding: u64) {
        if let Mode::Closed { outstanding_max, outstanding } = &self.mode {
            let before = outstanding.replace(now_outstanding);
            if before >= *outstanding_max && now_outstanding < *outstanding_max {
                self.hand_out(now());
            }
        }
    }

    /// What a connection that has just become free, at `at`, is to do; `None`: [`Pacer::park`].
    pub(crate) fn take(&self, at: Instant) -> Option<Order> {
        self.next(at, self.longest_idle().unwrap_or(at))
    }

    fn longest_idle(&self) -> Option<Instant> {
        self.idle.borrow().iter().find(|slot| slot.parked.get()).map(|slot| slot.since.get())
    }

    /// What there is to do at `at`, where a connection has been free since `free`.
    fn next(&self, at: Instant, free: Instant) -> Option<Order> {
        match self.state.get() {
            State::Waiting => return None,
            State::Ended => return Some(Order::End),
            State::Sending => {}
        }
        if let Some(intended) = self.returned.borrow_mut().pop_front() {
            return Some(Order::Send(Due { at: intended, free }));
        }
        match &self.mode {
            Mode::Open(schedule) => {
                let intended = self.next_intended().filter(|intended| *intended <= at)?;
                schedule.borrow_mut().advance();
                Some(Order::Send(Due { at: intended, free }))
            }
            Mode::Closed { outstanding_max, outstanding } => {
                let may = outstanding.get() < *outstanding_max && at < self.end.get();
                may.then_some(Order::Send(Due { at, free: at }))
            }
        }
    }

    /// Has `slot`, which is free since `at`, wait for an order.
    pub(crate) fn park(&self, slot: &Rc<Slot>, at: Instant) {
        slot.since.set(at);
        slot.parked.set(true);
        self.idle.borrow_mut().push_back(slot.clone());
        self.free_since.set(self.longest_idle());
        if self.starved.get() {
            self.changed.notify_all();
        }
    }

    /// `slot` waits no more; an order that it was given goes to another.
    pub(crate) fn leave(&self, slot: &Slot) {
        slot.parked.set(false);
        self.free_since.set(self.longest_idle());
        if let Some(Order::Send(due)) = slot.order.take() {
            self.returned.borrow_mut().push_back(due.at);
            self.hand_out(now());
        }
    }

    /// Messages that are due at `at` and have not been taken.
    pub(crate) fn waiting(&self, at: Instant) -> u64 {
        let returned = self.returned.borrow().len() as u64;
        let Mode::Open(schedule) = &self.mode else { return returned };
        if self.state.get() == State::Waiting {
            return 0;
        }
        let until = at.min(self.end.get());
        returned + schedule.borrow().due(until.saturating_sub(self.start.get()).as_nanos() as u64)
    }

    /// The due times of all messages that [`Pacer::waiting`] counts at the window's end.
    pub(crate) fn never_sent(&self) -> Vec<Instant> {
        let mut times: Vec<Instant> = self.returned.borrow().iter().copied().collect();
        if let (Mode::Open(schedule), true) = (&self.mode, self.state.get() != State::Waiting) {
            let mut schedule = schedule.borrow().clone();
            let (start, end) = (self.start.get(), self.end.get());
            let next = |schedule: &Schedule| start + Duration::from_nanos(schedule.peek_ns());
            while next(&schedule) < end {
                times.push(start + Duration::from_nanos(schedule.advance()));
            }
        }
        times
    }

    fn next_intended(&self) -> Option<Instant> {
        let Mode::Open(schedule) = &self.mode else { return None };
        let next = self.start.get() + Duration::from_nanos(schedule.borrow().peek_ns());
        (next < self.end.get()).then_some(next)
    }

    /// Gives what can be sent at `at` to idle connections, the longest idle first.
    fn hand_out(&self, at: Instant) {
        self.hand_out_all(at);
        self.free_since.set(self.longest_idle());
    }

    fn hand_out_all(&self, at: Instant) {
        loop {
            let slot = self.idle.borrow_mut().pop_front();
            let Some(slot) = slot else { return };
            if !slot.parked.get() {
                continue;
            }
            match self.next(at, slot.since.get()) {
                Some(order) => slot.give(order),
                None => {
                    self.idle.borrow_mut().push_front(slot);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chasqui_report::ArrivalProcess;
    use chasqui_runtime::{Config, run, spawn, timeout};

    /// What is due never waits while a connection is idle, however closely messages follow each other.
    #[test]
    fn idle_connections_take_what_is_due() {
        const SLOTS: u64 = 10_000;
        let served = run(Config::default(), || async {
            let schedule = Schedule::new(ArrivalProcess::Constant, 1e6, 0, 1, 1);
            let pacer = Rc::new(Pacer::open(schedule));
            let slots: Vec<Rc<Slot>> = (0..SLOTS).map(|_| Rc::default()).collect();
            let start = now();
            slots.iter().for_each(|slot| pacer.park(slot, start));
            let running = pacer.clone();
            spawn(async move { running.run(start, start + Duration::from_secs(3600)).await });
            for (index, slot) in slots.iter().enumerate() {
                let order = timeout(Duration::from_secs(10), slot.order()).await.ok()?;
                let at = start + Duration::from_micros(index as u64);
                assert_eq!(order, Order::Send(Due { at, free: start }));
            }
            Some(())
        });
        assert_eq!(served.expect("the shard starts"), Some(()));
    }

    /// A message that waited while every connection was busy counts as late since the first became free; one that waited
    /// beside a free connection, since it was due. What is never taken is told by its due time.
    #[test]
    fn lateness_is_told_apart() {
        let told = run(Config::default(), || async {
            let schedule = Schedule::new(ArrivalProcess::Constant, 1000.0, 0, 1, 1);
            let pacer = Rc::new(Pacer::open(schedule));
            let start = now();
            let ms = |ms| start + Duration::from_millis(ms);
            let running = pacer.clone();
            spawn(async move { running.run(start, start + Duration::from_millis(4)).await });
            while pacer.take(start).is_none() {
                chasqui_runtime::yield_now().await;
            }
            assert_eq!(pacer.take(ms(50)), Some(Order::Send(Due { at: ms(1), free: ms(50) })));
            let slot = Rc::<Slot>::default();
            slot.since.set(ms(20));
            slot.parked.set(true);
            pacer.idle.borrow_mut().push_back(slot);
            assert_eq!(pacer.take(ms(50)), Some(Order::Send(Due { at: ms(2), free: ms(20) })));
            pacer.never_sent() == [ms(3)]
        });
        assert!(told.expect("the shard starts"));
    }

    /// An order whose connection is gone goes to the next idle one; at the end every idle one is told.
    #[test]
    fn orders_are_passed_on() {
        let end = run(Config::default(), || async {
            let schedule = Schedule::new(ArrivalProcess::Constant, 1000.0, 0, 1, 1);
            let pacer = Rc::new(Pacer::open(schedule));
            let (gone, heir, last) = (Rc::<Slot>::default(), Rc::<Slot>::default(), Rc::<Slot>::default());
            let start = now();
            pacer.park(&gone, start);
            let running = pacer.clone();
            let end = start + Duration::from_millis(1);
            spawn(async move { running.run(start, end).await });
            while pacer.waiting(now()) > 0 || gone.parked.get() {
                chasqui_runtime::yield_now().await;
            }
            pacer.park(&heir, now());
            pacer.leave(&gone);
            assert!(matches!(heir.order().await, Order::Send(Due { at, .. }) if at == start));
            pacer.park(&last, now());
            pacer.end();
            last.order().await
        });
        assert_eq!(end.expect("the shard starts"), Order::End);
    }
}
