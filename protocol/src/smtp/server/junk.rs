//! Errors, and commands that bring no mail: how many a session may have.

use super::{Decision, Event, Session};
use crate::smtp::command::{Command, CommandError};
use crate::smtp::reply::Reply;

/// What the client is told at the end.
pub(super) const TOO_MUCH_JUNK: &str = "Too many commands that bring no mail";
pub(super) const TOO_MANY_ERRORS: &str = "Too many errors";

impl Session {
    /// Whether a command brings no mail. Errors have a count of their own.
    pub(super) fn is_junk(&self, command: &Result<Command<'_>, CommandError>) -> bool {
        match command {
            Ok(Command::Noop | Command::Vrfy | Command::Help | Command::Rset | Command::Xclient(_)) => true,
            Ok(Command::Ehlo(_) | Command::Helo(_)) => self.hello.is_some(),
            _ => false,
        }
    }

    /// Counts a piece of junk.
    pub(super) fn is_too_much_junk(&mut self) -> bool {
        self.junk += 1;
        self.junk > self.options.max_junk
    }

    /// Counts an error.
    fn is_error_too_many(&mut self) -> bool {
        self.errors += 1;
        self.errors > self.options.max_errors
    }

    /// Counts what is refused for good, as junk, and an AUTH as an error; excuses what the client has sent behind it in the same
    /// breath. Some: that was too much, and this is why.
    pub(super) fn refused(&mut self, decision: Decision, reply: &Reply) -> Option<&'static str> {
        match decision {
            Decision::Mail => self.excuse_group(),
            Decision::Rcpt => self.excused = 1,
            Decision::Auth | Decision::Xclient => {
                return self.is_error_too_many().then_some(TOO_MANY_ERRORS);
            }
            Decision::Data | Decision::BodyEnd => {}
        }
        let is_junk = reply.code >= 500 && decision != Decision::Data;
        (is_junk && self.is_too_much_junk()).then_some(TOO_MUCH_JUNK)
    }

    /// Refuses what counts as an error, which may be the one too many.
    pub(super) fn refuse_error(&mut self, reply: &[u8]) -> Option<Event<'static>> {
        match self.is_error_too_many() {
            true => self.end(TOO_MANY_ERRORS),
            false => self.say(reply, None),
        }
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
