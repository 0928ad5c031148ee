//! The transaction under way: its commands in their order, and which replies have come.

use smallvec::SmallVec;

use crate::smtp::dsn::{MailParameters, RcptParameters};
use crate::smtp::extensions::{Capabilities, Extension};
use crate::smtp::reply::Reply;
use crate::smtp::transaction::Transaction;

/// A command of a transaction, by its index among all: RSET, MAIL, RCPT for each recipient, DATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Reset,
    Mail,
    Rcpt(usize),
    Data,
}

/// Place of the first RCPT among the commands of a transaction: RSET and MAIL stand before it.
const FIRST_RCPT: usize = 2;

/// The transaction under way.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    pub(super) transaction: Transaction,
    /// Index of the next command to send.
    pub(super) next: usize,
    /// Index of the command whose reply comes next.
    pub(super) awaited: usize,
    pub(super) mail: Option<Reply>,
    pub(super) recipients: SmallVec<[Option<Reply>; 1]>,
    /// Recipients whose reply was positive.
    pub(super) accepted: usize,
    /// `Event::Finished` has not been told.
    pub(super) is_open: bool,
}

impl Exchange {
    pub(super) fn command(&self, index: usize) -> Option<Command> {
        let data = FIRST_RCPT + self.transaction.recipients.len();
        match index {
            0 => Some(Command::Reset),
            1 => Some(Command::Mail),
            _ if index < data => Some(Command::Rcpt(index - FIRST_RCPT)),
            _ if index == data => Some(Command::Data),
            _ => None,
        }
    }

    /// Whether replies have shown that there is nobody to send the message to.
    pub(super) fn is_doomed(&self) -> bool {
        let all_rcpts_answered = self.awaited >= FIRST_RCPT + self.transaction.recipients.len();
        self.mail.as_ref().is_some_and(|mail| !mail.is_positive())
            || (all_rcpts_answered && self.accepted == 0)
    }

    /// Appends a command in wire form, with the parameters that the server has.
    pub(super) fn encode(&self, command: Command, capabilities: Capabilities, output: &mut Vec<u8>) {
        let transaction = &self.transaction;
        let dsn = transaction.dsn.as_deref().filter(|_| capabilities.has(Extension::Dsn));
        match command {
            Command::Reset => write(output, &["RSET\r\n"]),
            Command::Mail => {
                write(output, &["MAIL FROM:<", &transaction.reverse_path, ">"]);
                if let Some(size) = transaction.size.filter(|_| capabilities.has(Extension::Size)) {
                    // Writing to a Vec cannot fail.
                    let _ = std::io::Write::write_fmt(output, format_args!(" SIZE={size}"));
                }
                if transaction.eight_bit && capabilities.has(Extension::EightBitMime) {
                    write(output, &[" BODY=8BITMIME"]);
                }
                if let Some(MailParameters { ret, envelope_id }) = dsn.map(|dsn| &dsn.mail) {
                    if let Some(ret) = ret {
                        write(output, &[" RET=", &ret.to_string()]);
                    }
                    if let Some(id) = envelope_id {
                        write(output, &[" ENVID=", id.as_xtext()]);
                    }
                }
                write(output, &["\r\n"]);
            }
            Command::Rcpt(index) => {
                write(output, &["RCPT TO:<", &transaction.recipients[index], ">"]);
                if let Some(RcptParameters { notify, original }) = dsn.and_then(|dsn| dsn.recipient(index)) {
                    if let Some(notify) = notify {
                        write(output, &[" NOTIFY=", &notify.to_string()]);
                    }
                    if let Some(original) = original {
                        write(output, &[" ORCPT=", original.as_xtext()]);
                    }
                }
                write(output, &["\r\n"]);
            }
            Command::Data => write(output, &["DATA\r\n"]),
        }
    }
}

/// Appends text.
fn write(output: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| output.extend_from_slice(part.as_bytes()));
}
