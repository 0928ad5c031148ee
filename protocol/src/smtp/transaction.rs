//! A message for the next hop, and what became of it.

use smallvec::SmallVec;

use super::dsn::Parameters;
use super::reply::Reply;

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// Without brackets; empty for the null path.
    pub reverse_path: String,
    /// Without brackets; at least one.
    pub recipients: Vec<String>,
    /// Unstuffed octets, told to a server that has SIZE.
    pub size: Option<u64>,
    /// Told as BODY=8BITMIME to a server that has it. Whether to send such a message to one that has not is the
    /// caller's decision, by [`super::client::Client::capabilities`].
    pub eight_bit: bool,
    /// What is said of notifications to a server that has DSN; others are not told.
    pub dsn: Option<Box<Parameters>>,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The reply to MAIL.
    pub mail: Reply,
    /// The replies to RCPT, in order; `None` where it was not sent.
    pub recipients: SmallVec<[Option<Reply>; 1]>,
    /// The last reply to DATA: its refusal, or the answer to the whole message; `None` when it was not sent.
    pub data: Option<Reply>,
}

impl Outcome {
    /// The reply that decided over a recipient: the first refusal of MAIL, its RCPT and DATA, or the acceptance.
    pub fn decisive(&self, recipient: usize) -> &Reply {
        match self.recipients.get(recipient) {
            _ if !self.mail.is_positive() => &self.mail,
            Some(Some(rcpt)) if !rcpt.is_positive() => rcpt,
            _ => self.data.as_ref().unwrap_or(&self.mail),
        }
    }

    /// Whether the server has taken responsibility for a recipient.
    pub fn is_accepted(&self, recipient: usize) -> bool {
        let rcpt = self.recipients.get(recipient).and_then(Option::as_ref);
        let data = self.data.as_ref();
        self.mail.is_positive()
            && rcpt.is_some_and(Reply::is_positive)
            && data.is_some_and(Reply::is_positive)
    }
}
