//! AUTH (RFC 4954) from the client: its lines. The exchange itself is the caller's ([`crate::sasl::client`]).

use super::{Client, ClientError, Event, Stage};
use crate::sasl::MESSAGE_MAX;
use crate::sasl::base64;
use crate::sasl::line::initial_text;
use crate::sasl::mechanism::Mechanism;
use crate::smtp::reply::Reply;

/// Octets of a line with an initial response: those of a command line (RFC 5321 section 4.5.3.1.4). A longer one waits for the server's
/// empty challenge (RFC 4954 section 4).
const LINE_MAX: usize = 512;

impl Client {
    /// Begins AUTH, when idle. `initial` gives the initial response, and is asked where the line has room for it; without it the
    /// server sends an empty challenge. [`Event::Challenge`], [`Event::Authenticated`] or [`Event::AuthRefused`] follows.
    pub fn start_auth(&mut self, mechanism: Mechanism, initial: Option<&[u8]>) {
        if self.stage != Stage::Idle {
            return;
        }
        let name = mechanism.name();
        for part in ["AUTH ", name] {
            self.output.extend_from_slice(part.as_bytes());
        }
        if let Some(initial) = initial {
            let text = initial_text(initial);
            self.output.push(b' ');
            self.output.extend_from_slice(text.as_bytes());
        }
        self.output.extend_from_slice(b"\r\n");
        self.stage = Stage::Auth;
    }

    /// Whether an initial response of so many octets has room in AUTH's line.
    pub fn has_room_for_initial(mechanism: Mechanism, octets: usize) -> bool {
        "AUTH ".len() + mechanism.name().len() + 1 + octets.div_ceil(3) * 4 + 2 <= LINE_MAX
    }

    /// Answers [`Event::Challenge`].
    pub fn respond(&mut self, response: &[u8]) {
        if self.stage == Stage::AuthChallenged {
            self.output.extend_from_slice(base64::encode(response).as_bytes());
            self.output.extend_from_slice(b"\r\n");
            self.stage = Stage::Auth;
        }
    }

    /// Gives the exchange up in place of an answer; [`Event::AuthRefused`] follows.
    pub fn cancel_auth(&mut self) {
        if self.stage == Stage::AuthChallenged {
            self.output.extend_from_slice(b"*\r\n");
            self.stage = Stage::Auth;
        }
    }

    pub(super) fn handle_auth_reply(&mut self, reply: Reply) -> Result<(), ClientError> {
        let event = match reply.code {
            334 => {
                let text = reply.lines().next().unwrap_or_default().trim();
                // RFC 4954 section 4: nothing to say is nothing, or `=` from some.
                let text = if text == "=" { "" } else { text };
                self.stage = Stage::AuthChallenged;
                Event::Challenge(
                    base64::decode(text.as_bytes(), MESSAGE_MAX).map_err(|_| ClientError::Malformed)?,
                )
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
