//! One mailbox from the first login to the last reading.

use std::rc::Rc;
use std::time::Duration;

use chasqui_report::Verify;
use chasqui_runtime::{Instant, now, rng, sleep};
use futures_lite::future::or;

use super::session::{Memory, SessionError};
use super::{Mailbox, Reader, TRIED_MAX, imap, pop3};
use crate::plan::Protocol;
use crate::shared::Phase;

/// Wait before a failed session is tried again, doubled up to the longest.
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// Attempts at the last reading before the mailbox counts as not read whole: the last one 1.5 s after the first.
const LAST_ATTEMPTS: u32 = 5;

/// A live POP3 reader that fails is no lost instrument if the next poll succeeds, and is over, within the poll interval after
/// the one that failed began, or within this where the interval is shorter: what came meanwhile is told a poll late.
const MENDED_WITHIN: Duration = Duration::from_secs(1);
/// So many polls in a row must have succeeded before the next failure is taken so.
const POLLS_BETWEEN: u32 = 10;

/// Watches a mailbox until it has been read for the last time.
pub(crate) async fn watch(reader: Rc<Reader>, mailbox: Mailbox) {
    let live = reader.plan.verify == Verify::Live;
    let mut memory = Memory { tried: mailbox.number >= TRIED_MAX, ..Memory::default() };
    // A live IMAP session stands from the first on.
    let stands = live && mailbox.protocol == Protocol::Imap;
    while !memory.tried && !stands {
        let read = read_once(&reader, &mailbox, &mut memory).await;
        memory.tell_first(&reader, &mailbox, read.as_ref().err());
        if !memory.tried {
            sleep(BACK_OFF * memory.broken).await;
        }
    }
    if !live {
        reader.reached(Phase::Reading).await;
    }
    // Spreads the polls of many mailboxes over the interval.
    let interval = reader.plan.scenario.pop3_poll;
    if live && mailbox.protocol == Protocol::Pop3 {
        or(sleep(interval.mul_f64(rng().unit())), reader.reached(Phase::LastReading)).await;
    }
    let (mut failures, mut polls) = (0, Polls::new(mailbox.protocol, interval));
    while reader.phase() < Phase::LastReading {
        let began = now();
        let read = match mailbox.protocol {
            Protocol::Imap if live => imap::read_until_last(&reader, &mailbox, &mut memory).await,
            _ => read_once(&reader, &mailbox, &mut memory).await,
        };
        let wait = match read {
            Ok(()) => {
                failures = 0;
                lose(&reader, &mailbox, polls.succeeded(now()));
                interval
            }
            Err(error) => {
                // Before the load begins it is why there is none; after that what is seen late is the reader's fault.
                if live && (Phase::Warmup..Phase::LastReading).contains(&reader.phase()) {
                    lose(&reader, &mailbox, polls.failed(began, error.to_string()));
                }
                note_failure(&reader, &mailbox, &error, &mut failures)
            }
        };
        if reader.phase() < Phase::LastReading {
            or(sleep(wait), reader.reached(Phase::LastReading)).await;
        }
    }
    // Where it stays unread, that is told of the mailbox.
    read_last(&reader, &mailbox, &mut memory).await;
    lose(&reader, &mailbox, polls.succeeded(now()));
    reader.watched.set(reader.watched.get() + 1);
}

fn lose(reader: &Reader, mailbox: &Mailbox, error: Option<String>) {
    if let Some(error) = error {
        let (protocol, server) = (mailbox.protocol, &mailbox.server);
        reader.lose_instrument(&format!("a live reader was lost: {protocol} {server}: {error}"));
    }
}

/// The polls of a live reader: which failures the next poll mends. An IMAP session stands, and one that breaks has none.
#[derive(Debug)]
struct Polls {
    mended_within: Option<Duration>,
    /// Successes since the last failure.
    succeeded: u32,
    /// When the poll began that the next one has to mend, and how it failed.
    to_mend: Option<(Instant, String)>,
}

impl Polls {
    fn new(protocol: Protocol, interval: Duration) -> Self {
        let mended_within = (protocol == Protocol::Pop3).then_some(interval.max(MENDED_WITHIN));
        Self { mended_within, succeeded: POLLS_BETWEEN, to_mend: None }
    }

    /// A poll that `began` then has failed. `Some`: with that the reader is lost.
    fn failed(&mut self, began: Instant, error: String) -> Option<String> {
        let succeeded = std::mem::take(&mut self.succeeded);
        if self.mended_within.is_none() || succeeded < POLLS_BETWEEN {
            self.to_mend = None;
            return Some(error);
        }
        self.to_mend = Some((began, error));
        None
    }

    /// A poll has ended well at `at`. `Some`: the reader was lost meanwhile.
    fn succeeded(&mut self, at: Instant) -> Option<String> {
        self.succeeded = self.succeeded.saturating_add(1);
        let (began, error) = self.to_mend.take()?;
        (at - began > self.mended_within?).then_some(error)
    }
}

/// Reads what is in the mailbox now.
async fn read_once(reader: &Reader, mailbox: &Mailbox, memory: &mut Memory) -> Result<(), SessionError> {
    match mailbox.protocol {
        Protocol::Pop3 => pop3::read_once(reader, mailbox, memory).await,
        Protocol::Imap => imap::read_once(reader, mailbox, memory).await,
    }
}

/// The reading after the barrier: what arrived is in the mailbox now, or nowhere.
async fn read_last(reader: &Reader, mailbox: &Mailbox, memory: &mut Memory) {
    let mut failures = 0;
    while failures < LAST_ATTEMPTS && reader.phase() < Phase::Done {
        match read_once(reader, mailbox, memory).await {
            Ok(()) => {
                reader.whole.borrow_mut().push(mailbox.number);
                return;
            }
            Err(error) => {
                let wait = note_failure(reader, mailbox, &error, &mut failures);
                sleep(wait).await;
            }
        }
    }
}

/// Notes why a session failed; gives how long to wait before the next.
fn note_failure(reader: &Reader, mailbox: &Mailbox, error: &SessionError, failures: &mut u32) -> Duration {
    reader.note(&format!("{} {}: {error}", mailbox.protocol, mailbox.server));
    let wait = (BACK_OFF * 2u32.pow((*failures).min(10))).min(BACK_OFF_MAX);
    *failures += 1;
    wait
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One failed poll is mended by the next, within the bound and after enough that went well; a second in a row, one too soon
    /// after, one that took too long, and a broken IMAP session are a lost reader.
    #[test]
    fn which_failures_are_mended() {
        let ms = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let poll = Duration::from_millis(100);
        let mut polls = Polls::new(Protocol::Pop3, poll);
        let lost = Some("gone".to_owned());
        assert_eq!(polls.failed(ms(0), "gone".into()), None, "the first");
        assert_eq!(polls.succeeded(ms(1000)), None, "a second later all is well");
        assert_eq!(polls.failed(ms(1100), "gone".into()), lost, "too soon after the first");
        (0..u64::from(POLLS_BETWEEN)).for_each(|poll| assert_eq!(polls.succeeded(ms(2000 + poll)), None));
        assert_eq!(polls.failed(ms(3000), "gone".into()), None);
        assert_eq!(polls.failed(ms(3100), "gone".into()), lost, "the second in a row");
        assert_eq!(polls.failed(ms(3200), "gone".into()), lost, "and the third");
        assert_eq!(polls.succeeded(ms(9000)), None, "it is told of already");

        let mut slow = Polls::new(Protocol::Pop3, poll);
        assert_eq!(slow.failed(ms(0), "gone".into()), None);
        assert_eq!(slow.succeeded(ms(1001)), lost, "seen again too late");
        let mut rare = Polls::new(Protocol::Pop3, poll * 100);
        assert_eq!((rare.failed(ms(0), "gone".into()), rare.succeeded(ms(10_000))), (None, None));
        assert_eq!(Polls::new(Protocol::Imap, poll).failed(ms(0), "gone".into()), lost);
    }
}
