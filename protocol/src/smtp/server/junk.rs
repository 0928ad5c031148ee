//! Commands that bring no mail: how many a session may have.

use super::{Decision, Event, Session};
use crate::smtp::command::{Command, CommandError};
use crate::smtp::reply::Reply;

/// What the client is told at the end.
pub(super) const TOO_MUCH_JUNK: &str = "Too many commands that bring no mail";

impl Session {
    /// Whether a command brings no mail. Errors have a count of their own.
    pub(super) fn is_junk(&self, command: &Result<Command<'_>, CommandError>) -> bool {
        match command {
            Ok(Command::Noop | Command::Vrfy | Command::Help | Command::Rset) => true,
            Ok(Command::Ehlo(_) | Command::Helo(_)) => self.hello.is_some(),
            _ => false,
        }
    }

    /// Counts a piece of junk.
    pub(super) fn is_too_much_junk(&mut self) -> bool {
        self.junk += 1;
        self.junk > self.options.max_junk
    }

    /// Counts what is refused for good, as junk, and excuses what the client has sent behind it in the same breath. True:
    /// that was too much junk.
    pub(super) fn refused(&mut self, decision: Decision, reply: &Reply) -> bool {
        match decision {
            Decision::Mail => self.excuse_group(),
            Decision::Rcpt => self.excused = 1,
            // What it was has a count of its own, with errors.
            Decision::Auth => {
                self.errors += 1;
                return false;
            }
            Decision::Data | Decision::BodyEnd => {}
        }
        reply.code >= 500 && decision != Decision::Data && self.is_too_much_junk()
    }

    /// MAIL was refused: its recipients and DATA may be on their way.
    pub(super) fn excuse_group(&mut self) {
        self.excused = self.options.max_recipients.saturating_add(1);
    }

    /// Refuses a command that comes to nothing because of what was refused before, or for want of a recipient: junk beyond what
    /// is excused.
    pub(super) fn refuse_vain(&mut self, reply: &[u8]) -> Option<Event<'static>> {
        match self.excused.checked_sub(1) {
            Some(left) => self.excused = left,
            None if self.is_too_much_junk() => return self.end(TOO_MUCH_JUNK),
            None => {}
        }
        self.say(reply, None)
    }
}
