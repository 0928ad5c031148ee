//! The control protocol: what is asked of a relay or of sinks on their control sockets, what they answer, and the line
//! that each prints when it is ready.
//!
//! A request is one line of JSON, an answer is one line or more. Requests are encoded and decoded here, answers are rows
//! whose readers pass over fields that they do not know; docs/operating.md has it for operators.
//!
//! | file | job |
//! |---|---|
//! | [`request`] | what is asked |
//! | [`answer`] | the rows of an answer, and how a line is read |
//! | [`stats`] | what other programs read of the counters |
//! | [`ready`] | the lines of a relay and of sinks that are ready |
//! | [`metrics`] | how a struct of counters is declared, with name, help and type |

pub mod answer;
pub mod metrics;
pub mod ready;
pub mod request;
pub mod stats;

pub use answer::{AnswerError, QueueLine};
pub use ready::{RelayReady, SinkReady};
pub use request::{Request, RequestError, Retry, Target};
pub use stats::{RingCounts, Rings, Stats};

use serde::Serialize;

/// Appends a row, or a request, as a line with its end.
pub fn append<T: Serialize>(row: &T, lines: &mut Vec<u8>) {
    let start = lines.len();
    if let Err(error) = serde_json::to_writer(&mut *lines, row) {
        // Names and numbers always become JSON; a path of another encoding would not.
        debug_assert!(false, "{error}");
        lines.truncate(start);
        return;
    }
    lines.push(b'\n');
}
