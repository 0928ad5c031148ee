//! Time: the shard's clock, sleeping and time limits.

use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::shard::{try_with_core, with_core};
use crate::sim;
use crate::wheel::TimerKey;

/// A reading of CLOCK_MONOTONIC in nanoseconds: comparable between processes within one boot and time
/// namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The instant `nanos` nanoseconds after the clock's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this instant, zero when `earlier` is later.
    pub const fn saturating_sub(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time that has passed since this instant.
    pub fn elapsed(self) -> Duration {
        now() - self
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.saturating_sub(earlier)
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_sub(nanos(duration)))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The monotonic clock. Works on any thread.
pub fn now() -> Instant {
    if let Some(nanos) = sim::virtual_now() {
        return Instant(nanos);
    }
    Instant(clock(libc::CLOCK_MONOTONIC).as_nanos() as u64)
}

/// The monotonic clock as it stood when this turn of the shard began, for what is good enough to the millisecond: it
/// costs no reading. The clock itself on threads without a shard.
pub fn turn_time() -> Instant {
    if let Some(nanos) = sim::virtual_now() {
        return Instant(nanos);
    }
    try_with_core(|core| Instant(core.turn_ns.get())).unwrap_or_else(now)
}

/// The time since the Unix epoch. Works on any thread.
pub fn wall_clock() -> Duration {
    if let Some(nanos) = sim::virtual_now() {
        return sim::virtual_wall_clock(nanos);
    }
    clock(libc::CLOCK_REALTIME)
}

pub(crate) fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the local timespec and nothing else.
    let result = unsafe { libc::clock_gettime(id, &mut time) };
    debug_assert_eq!(result, 0, "the clock exists on every supported kernel");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Waits at least `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Waits until `deadline` has passed.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { end: End::At(deadline), timer: None }
}

/// Future of [`sleep`] and [`sleep_until`].
#[derive(Debug)]
pub struct Sleep {
    end: End,
    timer: Option<TimerKey>,
}

#[derive(Debug)]
enum End {
    At(Instant),
    /// So long after the turn of the shard in which the wait began.
    After(Duration),
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        with_core(|core| {
            let mut wheel = core.timers.borrow_mut();
            if let Some(timer) = self.timer {
                return if wheel.rearm(timer, context.waker()) { Poll::Pending } else { Poll::Ready(()) };
            }
            self.timer = Some(match self.end {
                End::At(deadline) if deadline <= now() => return Poll::Ready(()),
                End::At(deadline) => wheel.insert(deadline.as_nanos(), context.waker().clone()),
                End::After(Duration::ZERO) => return Poll::Ready(()),
                End::After(duration) => wheel.insert_after(nanos(duration), context.waker().clone()),
            });
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            try_with_core(|core| core.timers.borrow_mut().remove(timer));
        }
    }
}

/// The time limit passed before the future was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("time limit passed")
    }
}

impl std::error::Error for Elapsed {}

/// Runs `future` for at most `limit`. The timer is set only once the future has to wait, and runs from the end of that
/// turn of the shard, so that no clock is read for it.
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: Sleep { end: End::After(limit), timer: None } }
}

/// Runs `future` until `deadline` at most.
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep_until(deadline) }
}

pin_project! {
    /// Future of [`timeout`] and [`timeout_at`]. Not an `async fn`, which would hold the future once for each call that
    /// passes it on: of those that wait, every connection has one.
    #[derive(Debug)]
    #[must_use = "does nothing unless polled"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(this.sleep).poll(context).map(|()| Err(Elapsed))
    }
}
