//! The points on a message's way whose distance from its intended time is measured.

/// A point on a message's way, measured from the time its schedule meant it to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Milestone {
    /// The send began: how far the load generator itself is behind its schedule.
    ScheduleLag,
    /// The final 250 was read.
    Accept,
    /// The receiving sink accepted it.
    Arrive,
    /// A reader holds it and its checksums match, whichever way it was read.
    Visible,
    /// The same, through IMAP (IDLE).
    VisibleImap,
    /// The same, through POP3 (polled).
    VisiblePop3,
}

impl Milestone {
    /// Every milestone in the order a message passes them, which is also the order of every table.
    pub const ALL: [Milestone; 6] = [
        Milestone::ScheduleLag,
        Milestone::Accept,
        Milestone::Arrive,
        Milestone::Visible,
        Milestone::VisibleImap,
        Milestone::VisiblePop3,
    ];

    /// The name in `run.json`, in the log's tags and in file names.
    pub const fn name(self) -> &'static str {
        match self {
            Milestone::ScheduleLag => "schedule_lag",
            Milestone::Accept => "accept",
            Milestone::Arrive => "arrive",
            Milestone::Visible => "visible",
            Milestone::VisibleImap => "visible_imap",
            Milestone::VisiblePop3 => "visible_pop3",
        }
    }

    /// The milestone of that name.
    pub fn from_name(name: &str) -> Option<Milestone> {
        Milestone::ALL.into_iter().find(|milestone| milestone.name() == name)
    }

    /// Position in [`Milestone::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}
