//! A message for the next hop, and what became of it.

use smallvec::SmallVec;

use super::data::BodyForm;
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
    /// How the body is sent.
    pub form: BodyForm,
    /// What is said of notifications to a server that has DSN; others are not told.
    pub dsn: Option<Box<Parameters>>,
}

/// What became of a transaction, or of one that was cut off: as far as its replies tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The reply to MAIL; `None` when the connection was lost before.
    pub mail: Option<Reply>,
    /// The replies to RCPT, in order; `None` where it was not sent, or not answered.
    pub recipients: SmallVec<[Option<Reply>; 1]>,
    /// The last reply to DATA: its refusal, or the answer to the whole message; `None` when there was none.
    pub data: Option<Reply>,
}

impl Outcome {
    /// The reply that decided over a recipient: the first refusal of MAIL, its RCPT and DATA, or the acceptance. `None`, or
    /// a positive one that is no acceptance: nothing has decided.
    pub fn decisive(&self, recipient: usize) -> Option<&Reply> {
        let mail = self.mail.as_ref()?;
        match self.recipients.get(recipient) {
            _ if !mail.is_positive() => Some(mail),
            Some(Some(rcpt)) if !rcpt.is_positive() => Some(rcpt),
            _ => self.data.as_ref().or(Some(mail)),
        }
    }

    /// Whether the server has taken responsibility for a recipient.
    pub fn is_accepted(&self, recipient: usize) -> bool {
        let rcpt = self.recipients.get(recipient).and_then(Option::as_ref);
        [self.mail.as_ref(), rcpt, self.data.as_ref()]
            .into_iter()
            .all(|it| it.is_some_and(Reply::is_positive))
    }

    /// Whether the server has said 421 in place of a reply: it closes the connection.
    pub fn is_closing(&self) -> bool {
        let recipients = self.recipients.iter().map(Option::as_ref);
        let mut replies = recipients.chain([self.mail.as_ref(), self.data.as_ref()]).flatten();
        replies.any(|reply| reply.code == CLOSING)
    }

    /// Whether the server has answered nothing of this transaction but that it closes the connection.
    pub fn is_untouched(&self) -> bool {
        self.mail.as_ref().is_none_or(|mail| mail.code == CLOSING)
    }
}

/// "Service not available, closing transmission channel": may answer any command (RFC 5321 section 3.8).
pub(super) const CLOSING: u16 = 421;
