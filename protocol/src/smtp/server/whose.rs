//! XCLIENT: a client that says whose client it is.

use super::{Decision, Event, Session, Transaction, XclientRequest};
use crate::smtp::command::CommandError;

impl Session {
    pub(super) fn xclient<'a>(&mut self, arguments: &[u8]) -> Option<Event<'a>> {
        if !self.options.xclient {
            return self.refuse_error(b"550 5.7.0 Not authorized to say whose client this is\r\n");
        }
        if self.is_in_transaction() {
            return self.error(CommandError::Sequence);
        }
        match XclientRequest::parse(arguments) {
            Some(request) => self.decide(Decision::Xclient, Event::Xclient(request)),
            None => self.refuse_error(b"501 5.5.4 XCLIENT takes NAME and ADDR here, each once\r\n"),
        }
    }

    /// Another client is there: it has said nothing yet, and nobody knows who it is. What counts against the one that speaks for it
    /// goes on to count, and so does TLS, which is between that one and us.
    pub(super) fn begin_anew(&mut self) {
        (self.hello, self.transaction, self.is_authenticated) = (None, Transaction::None, false);
        self.offer();
    }
}
