//! What is timed: the points on a message's way, from its intended time, and how long it took to make connections.

/// A point on a message's way, measured from the time its schedule meant it to be sent; or a step in the making of a connection,
/// measured from its own beginning ([`Milestone::is_of_connection`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Milestone {
    /// A connection was established, from the connect on.
    Connect,
    /// Its TLS handshake was over, from the first octet of it on.
    Tls,
    /// The server had let it in, from the AUTH command on.
    Auth,
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
    pub const ALL: [Milestone; 9] = [
        Milestone::Connect,
        Milestone::Tls,
        Milestone::Auth,
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
            Milestone::Connect => "connect",
            Milestone::Tls => "tls",
            Milestone::Auth => "auth",
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

    /// Whether it belongs to a connection and to no message: it has one sample for every connection of the run, also for those
    /// that were made before the window, which stand in its first second.
    pub const fn is_of_connection(self) -> bool {
        matches!(self, Milestone::Connect | Milestone::Tls | Milestone::Auth)
    }

    /// Position in [`Milestone::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}
