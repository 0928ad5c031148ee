//! Whether a client waits for the replies that it must wait for.
//!
//! A client waits for the greeting and for the reply to EHLO, DATA, VRFY, EXPN, TURN and NOOP: these end a group of
//! commands (RFC 2920 section 3.1). One that has not said EHLO waits for every reply (RFC 5321 section 4.1.1.1). What
//! follows a message's end need not wait. Octets are early when they came before the reply was sent, whatever pieces they
//! came in.

use super::{Event, Session, State};
use crate::smtp::command::{Command, CommandError};

/// What to do with a client that does not wait for a reply that it must wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyTalkers {
    /// End the session with 554 5.5.0. The default: who does not read our replies sends no mail that we want, or was made
    /// to send it by somebody else.
    #[default]
    Refuse,
    /// Take what it says as if it had waited.
    Allow,
}

/// Whose turn it is to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Client,
    /// Until the output is sent.
    Server,
    /// The client has spoken in the server's turn; its octets come next.
    Broken,
}

impl Session {
    /// Whether the client must wait for what is in the output. Whoever sends it looks, just before, whether octets have
    /// come, and tells it by [`Session::spoken_early`]. What is behind in the same piece of input is seen without that.
    pub fn must_wait(&self) -> bool {
        self.turn == Turn::Server && !self.output.is_empty()
    }

    /// The client has not waited: the session ends when what it said is given to [`Session::handle_input`].
    pub fn spoken_early(&mut self) {
        if self.must_wait() {
            self.turn = Turn::Broken;
        }
    }

    /// The client must wait for the reply to this command, or to what is no command.
    pub(super) fn ends_group(&mut self, command: &Result<Command<'_>, CommandError>) {
        let is_last = matches!(
            command,
            Ok(Command::Ehlo(_)
                | Command::Helo(_)
                | Command::Data
                | Command::Noop
                | Command::Vrfy
                | Command::StartTls
                | Command::Auth(..)
                | Command::Xclient(_))
                | Err(CommandError::NotImplemented)
        );
        if is_last || !self.may_pipeline() {
            self.await_reply();
        }
    }

    /// The client must wait for the reply to its message if it may not pipeline.
    pub(super) fn ends_message(&mut self) {
        if !self.may_pipeline() {
            self.await_reply();
        }
    }

    /// Whether these octets came too early.
    pub(super) fn is_early(&mut self, input: &[u8]) -> bool {
        if self.turn == Turn::Client || input.is_empty() {
            return false;
        }
        let in_command = match self.state {
            State::Command => true,
            State::Body(_) | State::Auth => false,
            State::Hello | State::StartTls | State::Deciding(_) | State::Ending | State::Closed => {
                return false;
            }
        };
        if self.turn == Turn::Server && self.output.is_empty() {
            self.turn = Turn::Client;
            return false;
        }
        // Clients in a hurry say QUIT with their last words, and it does no harm. Nothing else can have begun a line.
        !(in_command && self.goes_on_as_quit(input))
    }

    /// Refuses what the client said before its time.
    pub(super) fn refuse_early(&mut self) -> Event<'static> {
        self.state = State::Closed;
        self.output.extend_from_slice(b"554 5.5.0 SMTP protocol synchronization error\r\n");
        Event::TooManyErrors
    }

    /// Whether the line that has begun, if any, and this input are QUIT as far as they go.
    fn goes_on_as_quit(&self, input: &[u8]) -> bool {
        let verb = self.line.iter().chain(input).take(4);
        verb.zip(b"QUIT").all(|(octet, expected)| octet.eq_ignore_ascii_case(expected))
    }

    fn may_pipeline(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.esmtp)
    }

    fn await_reply(&mut self) {
        if self.turn == Turn::Client && self.options.early_talkers == EarlyTalkers::Refuse {
            self.turn = Turn::Server;
        }
    }
}
