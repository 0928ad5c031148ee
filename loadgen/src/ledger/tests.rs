//! The algebra under any order of events, and each judgement by itself.

use std::sync::Arc;

use chasqui_report::Counts;
use chasqui_runtime::SeededRng;
use proptest::prelude::*;

use super::*;
use crate::scenario::Scenario;

const DOMAINS: usize = 3;

fn directory() -> Arc<Directory> {
    Arc::new(Directory::new(&Scenario { domains: DOMAINS, mailboxes_per_domain: 1, ..Scenario::default() }))
}

fn ledger(recipients: Option<usize>, arrival_verifies: bool) -> Ledger {
    let config = LedgerConfig {
        shard: 1,
        shards: 2,
        recipients,
        arrival_verifies,
        late_after_ns: 100,
        window_end_ns: 1000,
    };
    Ledger::new(&config, directory())
}

fn judge(ledger: &mut Ledger, relay: RelayAnswer, arrivals_whole: Option<bool>, whole: bool) -> Judgement {
    let whole = [whole; DOMAINS];
    let judgement =
        ledger.judge(&Evidence { relay, arrivals_whole, mailboxes_whole: &whole }, 0, |_, _, _, _| {});
    assert!(judgement.counts.adds_up(), "{judgement:?}");
    judgement
}

/// One event about a recipient; `copy` of them may come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Submitted(Submission),
    Arrived(Integrity),
    Bounced,
    Read(bool),
    Queued,
    Dropped,
}

fn apply(ledger: &mut Ledger, sequence: u64, index: usize, mailbox: u32, event: Event) {
    let recipient = directory().hash(mailbox);
    match event {
        Event::Submitted(submission) => {
            ledger.submitted(sequence, index, submission, 10);
        }
        Event::Arrived(integrity) => {
            ledger.arrived(sequence, recipient, integrity, 10);
        }
        Event::Bounced => {
            ledger.bounced(sequence, recipient);
        }
        Event::Read(intact) => {
            ledger.read(sequence, recipient, intact);
        }
        Event::Queued => ledger.queued(sequence, recipient),
        Event::Dropped => ledger.dropped(sequence, recipient),
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Arrived(Integrity::Intact)),
        Just(Event::Arrived(Integrity::Changed)),
        Just(Event::Arrived(Integrity::Unchecked)),
        Just(Event::Bounced),
        Just(Event::Read(true)),
        Just(Event::Read(false)),
        Just(Event::Queued),
        Just(Event::Dropped),
    ]
}

fn submission() -> impl Strategy<Value = Option<Submission>> {
    prop_oneof![
        3 => Just(Some(Submission::Accepted)),
        1 => Just(Some(Submission::Rejected)),
        1 => Just(Some(Submission::Unknown)),
        1 => Just(None),
    ]
}

fn evidence() -> impl Strategy<Value = (RelayAnswer, Option<bool>, bool)> {
    let relay = prop_oneof![Just(RelayAnswer::Foreign), Just(RelayAnswer::Listed), Just(RelayAnswer::Silent)];
    (relay, any::<Option<bool>>(), any::<bool>())
}

/// The same events of a run in another order. Of several words about a submission the first counts, so those
/// of one recipient keep their order: there is only one.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut rng = SeededRng::new(seed);
    for index in (1..items.len()).rev() {
        items.swap(index, rng.below(index as u64 + 1) as usize);
    }
}

proptest! {
    /// Whatever happens to the recipients and in whatever order it is heard: the ledger adds up, the order
    /// changes nothing but the flag `reordered`, nor does it whether all messages must have as many recipients, and the running
    /// totals agree with the judgement.
    #[test]
    fn any_order_adds_up(
        messages in proptest::collection::vec(
            (submission(), submission(), proptest::collection::vec((0usize..2, event()), 0..6)), 1..40),
        seed in any::<u64>(),
        arrival_verifies in any::<bool>(),
        (relay, arrivals, whole) in evidence(),
    ) {
        let run = |seed: Option<u64>, recipients: Option<usize>| {
            let mut ledger = ledger(recipients, arrival_verifies);
            let mut events = Vec::new();
            for (index, (first, second, others)) in messages.iter().enumerate() {
                let mailboxes = [index as u32 % 3, (index as u32 + 1) % 3];
                let sequence = ledger.send(5, &mailboxes);
                assert_eq!(sequence, index as u64 * 2 + 1);
                for (position, submission) in [first, second].into_iter().enumerate() {
                    events.extend(submission.map(|s| (sequence, position, mailboxes[position], Event::Submitted(s))));
                }
                events.extend(others.iter().map(|&(position, event)| (sequence, position, mailboxes[position], event)));
            }
            if let Some(seed) = seed {
                shuffle(&mut events, seed);
            }
            for (sequence, position, mailbox, event) in events {
                apply(&mut ledger, sequence, position, mailbox, event);
            }
            let before = ledger.tallies();
            let Judgement { counts, beside, backlog_end } = judge(&mut ledger, relay, arrivals, whole);
            (before, Judgement { counts: Counts { reordered: 0, ..counts }, beside, backlog_end })
        };
        let (tallies, judgement) = run(None, Some(2));
        prop_assert_eq!((tallies, judgement), run(Some(seed), None));
        let Judgement { counts, beside, .. } = judgement;
        prop_assert_eq!(tallies.accepted, counts.accepted);
        prop_assert_eq!(tallies.sent, counts.sent);
        prop_assert_eq!(tallies.arrived, counts.arrived + beside.unknown_arrived + beside.rejected_arrived);
        // What a sink dropped unread is settled, and pending for good: nobody sees it.
        let waits = counts.pending - counts.pending_unseen;
        prop_assert!(tallies.unverified >= counts.lost + counts.missing + waits);
    }

    /// Noise about messages that were never sent makes phantoms, each counted once, and touches nobody else.
    #[test]
    fn phantoms(noise in proptest::collection::vec((0u64..64, any::<bool>()), 0..50)) {
        let mut ledger = ledger(Some(1), false);
        let sequence = ledger.send(5, &[0]);
        ledger.submitted(sequence, 0, Submission::Accepted, 10);
        let elsewhere = directory().hash(1);
        let mut distinct = std::collections::BTreeSet::new();
        for (sequence, read) in noise {
            distinct.insert(sequence);
            let sighting = if read {
                ledger.read(sequence, elsewhere, true)
            } else {
                ledger.arrived(sequence, elsewhere, Integrity::Intact, 10)
            };
            prop_assert_eq!(sighting, Sighting::Phantom);
        }
        let counts = judge(&mut ledger, RelayAnswer::Listed, Some(true), true).counts;
        prop_assert_eq!((counts.phantom, counts.lost, counts.arrived), (distinct.len() as u64, 1, 0));
    }
}

/// Each fate of an accepted recipient follows from what was seen and asked.
#[test]
fn fates() {
    use Event::{Arrived, Bounced, Dropped, Queued, Read};
    use Integrity::{Changed, Intact, Unchecked};
    let fate = |events: &[Event], verifies: bool, relay, arrivals, whole| {
        let mut ledger = ledger(Some(1), verifies);
        let sequence = ledger.send(5, &[2]);
        for &event in events {
            apply(&mut ledger, sequence, 0, 2, event);
        }
        apply(&mut ledger, sequence, 0, 2, Event::Submitted(Submission::Accepted));
        let counts = judge(&mut ledger, relay, arrivals, whole).counts;
        let fates = [
            ("verified", counts.verified),
            ("bounced", counts.bounced),
            ("corrupted", counts.corrupted),
            ("lost", counts.lost),
            ("missing", counts.missing),
            ("unseen", counts.pending_unseen),
            ("pending", counts.pending),
        ];
        fates.into_iter().find(|fate| fate.1 == 1).map(|fate| fate.0).expect("one fate")
    };
    let listed = |events: &[Event]| fate(events, false, RelayAnswer::Listed, Some(true), true);
    assert_eq!(listed(&[]), "lost");
    assert_eq!(listed(&[Queued]), "pending");
    assert_eq!(listed(&[Arrived(Intact)]), "lost");
    assert_eq!(listed(&[Dropped, Arrived(Intact)]), "unseen");
    assert_eq!(listed(&[Arrived(Intact), Read(true), Dropped]), "verified");
    assert_eq!(listed(&[Arrived(Intact), Read(true)]), "verified");
    assert_eq!(listed(&[Read(true), Queued]), "verified");
    assert_eq!(listed(&[Arrived(Intact), Read(false)]), "corrupted");
    assert_eq!(listed(&[Arrived(Changed), Read(true)]), "corrupted");
    assert_eq!(listed(&[Bounced]), "bounced");
    assert_eq!(listed(&[Bounced, Read(true)]), "verified");
    assert_eq!(fate(&[], false, RelayAnswer::Silent, Some(true), true), "pending");
    assert_eq!(fate(&[], false, RelayAnswer::Foreign, Some(true), true), "missing");
    assert_eq!(fate(&[], false, RelayAnswer::Foreign, Some(false), true), "unseen");
    assert_eq!(fate(&[], false, RelayAnswer::Foreign, None, true), "missing");
    assert_eq!(fate(&[], false, RelayAnswer::Listed, None, true), "lost");
    assert_eq!(fate(&[], false, RelayAnswer::Listed, Some(false), true), "unseen");
    assert_eq!(fate(&[Arrived(Intact)], false, RelayAnswer::Foreign, Some(true), true), "lost");
    assert_eq!(fate(&[], false, RelayAnswer::Foreign, None, false), "unseen");
    assert_eq!(fate(&[Arrived(Intact)], false, RelayAnswer::Listed, Some(true), false), "unseen");
    assert_eq!(fate(&[Arrived(Intact)], true, RelayAnswer::Listed, Some(true), false), "verified");
    assert_eq!(fate(&[Arrived(Unchecked)], true, RelayAnswer::Listed, Some(true), false), "pending");
}

/// A message without a final reply that arrives is neither phantom nor duplicate; one that was refused and
/// arrives is counted beside the algebra; a second copy is a duplicate.
#[test]
fn unknown_and_refused_that_arrive() {
    let mut ledger = ledger(Some(1), false);
    let hash = directory().hash(0);
    for submission in [Submission::Unknown, Submission::Rejected, Submission::Accepted] {
        let sequence = ledger.send(5, &[0]);
        ledger.submitted(sequence, 0, submission, 10);
        assert_eq!(ledger.arrived(sequence, hash, Integrity::Intact, 10), Sighting::First { intended_ns: 5 });
        ledger.read(sequence, hash, true);
    }
    let last = ledger.next_sequence() - 2;
    assert_eq!(ledger.arrived(last, hash, Integrity::Intact, 11), Sighting::Repeated);
    let Judgement { counts, beside, .. } = judge(&mut ledger, RelayAnswer::Listed, Some(true), true);
    assert_eq!((counts.phantom, counts.duplicated, counts.verified), (0, 1, 1));
    assert_eq!((beside.unknown_arrived, beside.rejected_arrived, counts.arrived), (1, 1, 1));
}

/// What is unfinished when nobody looks any more is told with the moment: the end, or that of the lost reply. What was
/// rejected has no sample; what bounced, one of the reply alone; what was due outside the window, none at all.
#[test]
fn unfinished() {
    let mut ledger = ledger(Some(1), false);
    let hash = directory().hash(0);
    let words = [
        None,
        Some(Submission::Unknown),
        Some(Submission::Rejected),
        Some(Submission::Accepted),
        Some(Submission::Accepted),
        Some(Submission::Accepted),
    ];
    let mut sequences = Vec::new();
    for (due_ns, word) in words.into_iter().enumerate() {
        let sequence = ledger.send(100 + due_ns as u64, &[0]);
        if let Some(word) = word {
            assert!(ledger.submitted(sequence, 0, word, 150));
            assert!(!ledger.submitted(sequence, 0, Submission::Unknown, 160), "only the first word counts");
        }
        sequences.push(sequence);
    }
    ledger.send(99, &[0]);
    ledger.bounced(sequences[3], hash);
    ledger.arrived(sequences[4], hash, Integrity::Intact, 170);
    ledger.arrived(sequences[5], hash, Integrity::Intact, 170);
    ledger.read(sequences[5], hash, true);
    let window = chasqui_report::Window { start_ns: 100, end_ns: 200 };
    let told: Vec<_> = ledger
        .unfinished(window, 500)
        .into_iter()
        .map(|one| (one.due_ns, one.until_ns, [one.accept, one.arrive, one.visible]))
        .collect();
    let expected = [(100, 500, [true; 3]), (101, 150, [false, true, true]), (104, 500, [false, false, true])];
    assert_eq!(told, expected);
}

/// Late, overtaken and after-the-window arrivals are flagged and counted as documented.
#[test]
fn flags_of_time() {
    let mut ledger = ledger(Some(1), false);
    let hash = directory().hash(0);
    let (first, second) = (ledger.send(5, &[0]), ledger.send(6, &[0]));
    for sequence in [first, second] {
        ledger.submitted(sequence, 0, Submission::Accepted, 999);
    }
    ledger.arrived(second, hash, Integrity::Intact, 50);
    ledger.arrived(first, hash, Integrity::Intact, 1000);
    let Judgement { counts, backlog_end, .. } = judge(&mut ledger, RelayAnswer::Listed, Some(true), true);
    assert_eq!((counts.late, counts.reordered, backlog_end, counts.lost), (1, 1, 1, 2));
}

/// A million recipients take 16 bytes each, allocated piece by piece.
#[test]
fn memory() {
    let mut ledger = ledger(Some(1), false);
    for _ in 0..1_000_000 {
        ledger.send(5, &[0]);
    }
    assert!(ledger.bytes() < 16_100_000, "{}", ledger.bytes());
}
