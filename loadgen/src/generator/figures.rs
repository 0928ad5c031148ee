//! What a generator shard counts beside its ledger.

use std::ops::AddAssign;

/// Counts inside the window; those of connections, over the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) accepted: u64,
    pub(crate) arrived: u64,
    pub(crate) verified: u64,
    pub(crate) accepted_octets: u64,
    pub(crate) arrived_octets: u64,
    /// Sends that began in the window.
    pub(crate) begun: u64,
    /// Sends that were due in the window and began.
    pub(crate) intended: u64,
    /// Of those, late ones.
    pub(crate) late: u64,
    /// Of those, late after a connection was free.
    pub(crate) late_while_free: u64,
    /// Messages due in the window with a final reply.
    pub(crate) answered: u64,
    /// Attempts to connect that failed.
    pub(crate) refused: u64,
    pub(crate) replies_421: u64,
    pub(crate) emfile: u64,
    /// Connections that were opened, those of them in TLS, and those of these that resumed a session.
    pub(crate) opened: u64,
    pub(crate) tls: u64,
    pub(crate) resumed: u64,
    pub(crate) handshakes_failed: u64,
    pub(crate) logins_failed: u64,
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.arrived += other.arrived;
        self.verified += other.verified;
        self.accepted_octets += other.accepted_octets;
        self.arrived_octets += other.arrived_octets;
        self.begun += other.begun;
        self.intended += other.intended;
        self.late += other.late;
        self.late_while_free += other.late_while_free;
        self.answered += other.answered;
        self.refused += other.refused;
        self.replies_421 += other.replies_421;
        self.emfile += other.emfile;
        self.opened += other.opened;
        self.tls += other.tls;
        self.resumed += other.resumed;
        self.handshakes_failed += other.handshakes_failed;
        self.logins_failed += other.logins_failed;
    }
}
