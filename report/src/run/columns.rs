//! The columns of the ledger, the one list of them: the record and its keys, its check, its schema (`tests/schema.rs`
//! holds the two together), every rendering and the load generator's judging follow from it.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Declares the columns in the order of `run.json`. An entry is what the column counts, its name, its type in the record
/// (`u64` where it is always known, `Option<u64>` where somebody must look behind the server), and how it is taken.
macro_rules! columns {
    ($( $(#[doc = $meaning:literal])+ $column:ident $name:ident: $figure:ty = $row:expr; )+) => {
        /// A column of the ledger.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Column { $( $(#[doc = $meaning])+ $column, )+ }

        /// Counts of recipients over the whole run, warm-up and drain included. Columns that need a sink behind the relay
        /// are `None` when there was none.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Ledger { $( $(#[doc = $meaning])+ pub $name: $figure, )+ }

        /// The same where everything was looked at, and while it is counted. Adds up.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts { $( $(#[doc = $meaning])+ pub $name: u64, )+ }

        impl Column {
            /// Every column, in the order of `run.json`.
            pub const ALL: [Column; [$(Column::$column),+].len()] = [$(Column::$column),+];

            /// The key in `run.json`.
            pub const fn name(self) -> &'static str {
                match self { $( Column::$column => stringify!($name), )+ }
            }

            /// What it counts.
            pub fn meaning(self) -> &'static str {
                match self { $( Column::$column => concat!($($meaning),+).trim_start(), )+ }
            }

            const fn row(self) -> Row {
                match self { $( Column::$column => $row, )+ }
            }
        }

        impl Ledger {
            /// The figure of a column; `None` when nobody looked.
            pub fn get(&self, column: Column) -> Option<u64> {
                match column { $( Column::$column => self.$name.into(), )+ }
            }

            /// The same without what lies behind `accepted`: nobody looked.
            pub fn only_accepted(&self) -> Ledger {
                Ledger { $( $name: self.$name.unlooked(), )+ }
            }
        }

        impl Counts {
            fn get_mut(&mut self, column: Column) -> &mut u64 {
                match column { $( Column::$column => &mut self.$name, )+ }
            }
        }

        impl AddAssign for Counts {
            fn add_assign(&mut self, other: Counts) {
                $( self.$name += other.$name; )+
            }
        }

        impl From<Counts> for Ledger {
            fn from(counts: Counts) -> Ledger {
                // Nobody looks for the causes of duplicates yet.
                Ledger { duplicated_with_cause: None, ..Ledger { $( $name: counts.$name.into(), )+ } }
            }
        }
    };
}

/// How a column is taken.
#[derive(Clone, Copy)]
struct Row {
    place: Place,
    weight: Weight,
    tolerance: Tolerance,
    /// What a table adds to the name.
    remark: &'static str,
}

/// Where a column stands in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The sums begin with it.
    Whole,
    /// A state: whoever is in that sum is in exactly one of its terms.
    TermOf(Column),
    /// Those of that column that fail nothing.
    ExcusedOf(Column),
    /// A milestone, passed whatever came of it.
    Passed,
    /// Said besides the state.
    Flag,
}

/// How a reader should take a column that is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// As it is.
    Plain,
    /// What is wished for.
    Good,
    /// Worth a look.
    Caution,
    /// Mail was lost, changed, doubled or made up, or nobody knows.
    Loss,
}

/// How much of a column delivery may have and not fail.
#[derive(Clone, Copy)]
pub(super) enum Tolerance {
    /// As much as there is.
    Any,
    /// A share of the sum that it is a term of, set by `--allow-` and its name. What is told behind the count of more.
    Share(&'static str),
    /// Nothing but what is excused. What is told behind the count, and in which order.
    None(u8, &'static str),
}

/// What the entries below leave out.
const ROW: Row = Row { place: Place::Flag, weight: Weight::Plain, tolerance: Tolerance::Any, remark: "" };

const fn term(sum: Column, weight: Weight) -> Row {
    Row { place: Place::TermOf(sum), weight, ..ROW }
}

const fn excused(column: Column) -> Row {
    Row { place: Place::ExcusedOf(column), ..ROW }
}

columns! {
    /// Meant to be sent.
    Scheduled scheduled: u64 = Row { place: Place::Whole, ..ROW };
    /// Begun.
    Sent sent: u64 = term(Column::Scheduled, Weight::Plain);
    /// Meant to be sent, never begun.
    Unsent unsent: u64 = term(Column::Scheduled, Weight::Caution);
    /// Answered with a final 250.
    Accepted accepted: u64 = term(Column::Sent, Weight::Plain);
    /// Answered with a final refusal.
    Rejected rejected: u64 = Row {
        tolerance: Tolerance::Share("rejected: answered 4xx or 5xx"),
        ..term(Column::Sent, Weight::Caution)
    };
    /// Begun, and no final reply was read.
    Unknown unknown: u64 = Row {
        tolerance: Tolerance::Share("unknown: no final reply was read"),
        remark: ": no final reply",
        ..term(Column::Sent, Weight::Caution)
    };
    /// Accepted by a sink, at least once.
    Arrived arrived: Option<u64> = Row { place: Place::Passed, ..ROW };
    /// Held unchanged by a reader (with `verify: arrival`: by the sink).
    Verified verified: Option<u64> = term(Column::Accepted, Weight::Good);
    /// Reported as failed to the sender.
    Bounced bounced: Option<u64> = Row {
        tolerance: Tolerance::Share("bounced to the sender"),
        ..term(Column::Accepted, Weight::Caution)
    };
    /// Arrived, and a checksum did not match.
    Corrupted corrupted: Option<u64> = Row {
        tolerance: Tolerance::None(2, "corrupted: arrived changed"),
        ..term(Column::Accepted, Weight::Loss)
    };
    /// Accepted, and neither queued, arrived nor bounced, with the queue seen; or arrived and absent from a mailbox that
    /// was read whole.
    Lost lost: Option<u64> = Row {
        tolerance: Tolerance::None(1, "lost: accepted, then neither delivered, bounced nor queued"),
        ..term(Column::Accepted, Weight::Loss)
    };
    /// Accepted, and neither arrived nor bounced, of a server whose queue nobody could look into.
    Missing missing: Option<u64> = Row {
        tolerance: Tolerance::Share("missing: accepted, neither arrived nor bounced, and the queue is not seen"),
        remark: ": the queue is not seen",
        ..term(Column::Accepted, Weight::Loss)
    };
    /// Still queued or unread when the drain ended, or the relay did not say.
    Pending pending: Option<u64> = Row {
        tolerance: Tolerance::None(4, "pending: still queued or unread when the drain ended"),
        ..term(Column::Accepted, Weight::Loss)
    };
    /// Of `pending`: those that nobody can tell of because an arrival stream or a reader was lost.
    PendingUnseen pending_unseen: Option<u64> = excused(Column::Pending);
    /// Flag: arrived more than once.
    Duplicated duplicated: Option<u64> = Row {
        weight: Weight::Loss,
        tolerance: Tolerance::None(5, "duplicated without a cause"),
        ..ROW
    };
    /// Of `duplicated`: those whose cause is known (a crash, a failed sync or a lost reply between the receiver's
    /// acceptance and the durable state).
    DuplicatedWithCause duplicated_with_cause: Option<u64> = excused(Column::Duplicated);
    /// Flag: arrived later after its due time than the scenario's `late_after_us`.
    Late late: Option<u64> = Row { weight: Weight::Caution, ..ROW };
    /// Flag: arrived after a message to the same recipient that was sent later.
    Reordered reordered: Option<u64> = ROW;
    /// Mail of this run that was never sent.
    Phantom phantom: Option<u64> = Row {
        weight: Weight::Loss,
        tolerance: Tolerance::None(3, "phantom: arrived without having been sent"),
        remark: ": never sent",
        ..ROW
    };
}

impl Column {
    /// Where it stands.
    pub const fn place(self) -> Place {
        self.row().place
    }

    /// How a reader should take it.
    pub const fn weight(self) -> Weight {
        self.row().weight
    }

    pub(super) const fn tolerance(self) -> Tolerance {
        self.row().tolerance
    }

    /// Its name in a table, with a remark where the name alone says too little.
    pub(crate) fn heading(self) -> String {
        format!("{}{}", self.name(), self.row().remark)
    }

    /// The columns that are the sum of others.
    pub fn sums() -> impl Iterator<Item = Column> {
        Column::ALL.into_iter().filter(|column| column.terms().next().is_some())
    }

    /// What it is the sum of, what goes on first.
    pub fn terms(self) -> impl Iterator<Item = Column> {
        Column::placed(Place::TermOf(self))
    }

    /// Those that say something besides the state.
    pub fn flags() -> impl Iterator<Item = Column> {
        Column::placed(Place::Flag)
    }

    pub(super) fn placed(place: Place) -> impl Iterator<Item = Column> {
        Column::ALL.into_iter().filter(move |column| column.place() == place)
    }
}

impl Counts {
    /// Counts one recipient: in the column, and in the one that this is a part of without being a term.
    pub fn add(&mut self, column: Column) {
        *self.get_mut(column) += 1;
        if let Place::ExcusedOf(whole) = column.place() {
            self.add(whole);
        }
    }

    /// Whether every equation of the ledger holds.
    pub fn adds_up(self) -> bool {
        Ledger::from(self).check().is_ok()
    }
}

/// A figure of the record.
trait Figure {
    /// What stands for it where nobody looked behind the server.
    fn unlooked(self) -> Self;
}

impl Figure for u64 {
    fn unlooked(self) -> u64 {
        self
    }
}

impl Figure for Option<u64> {
    fn unlooked(self) -> Option<u64> {
        None
    }
}
