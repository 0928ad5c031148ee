//! AUTH (RFC 4954) from the client: its lines. The exchange itself is the caller's ([`crate::sasl::client::LineExchange`]).

use super::{Client, ClientError, Event, Stage};
use crate::smtp::reply::Reply;

/// Octets of AUTH's arguments that servers take: those of a command line (RFC 5321 section 4.5.3.1.4). An initial response that is
/// longer waits for the server's empty challenge (RFC 4954 section 4).
pub const ARGUMENT_MAX: usize = 512 - "AUTH \r\n".len();

impl Client {
    /// Begins AUTH, when idle. `argument`: the mechanism, and the initial response in base64 where there is one; without it the server
    /// sends an empty challenge. [`Event::Challenge`], [`Event::Authenticated`] or [`Event::AuthRefused`] follows.
    pub fn start_auth(&mut self, argument: &str) {
        if self.stage != Stage::Idle {
            return;
        }
        for part in ["AUTH ", argument, "\r\n"] {
            self.output.extend_from_slice(part.as_bytes());
        }
        self.stage = Stage::Auth;
    }

    /// Answers [`Event::Challenge`] with a line.
    pub fn respond(&mut self, line: &str) {
        if self.stage == Stage::AuthChallenged {
            self.output.extend_from_slice(line.as_bytes());
            self.stage = Stage::Auth;
        }
    }

    /// Gives the exchange up in place of an answer; [`Event::AuthRefused`] follows.
    pub fn cancel_auth(&mut self) {
        self.respond("*\r\n");
    }

    pub(super) fn handle_auth_reply(&mut self, reply: Reply) -> Result<(), ClientError> {
        let event = match reply.code {
            334 => {
                self.stage = Stage::AuthChallenged;
                Event::Challenge(reply.lines().next().unwrap_or_default().to_owned())
            }
            _ if reply.is_positive() => {
                self.stage = Stage::Idle;
                Event::Authenticated
            }
            code if code / 100 == 3 => return Err(ClientError::Unexpected(code)),
            _ => {
                self.stage = Stage::Idle;
                Event::AuthRefused(reply)
            }
        };
        self.events.push_back(event);
        Ok(())
    }
}
