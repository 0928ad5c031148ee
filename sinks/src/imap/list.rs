//! LIST and LSUB: each user has one mailbox.

use std::io::Write as _;

use chasqui_protocol::imap::types::mailbox::{ListMailbox, Mailbox as MailboxName};

/// LIST and LSUB: INBOX if the pattern matches it; the empty pattern asks for the hierarchy delimiter.
pub(super) fn list(name: &str, reference: &MailboxName<'_>, pattern: &ListMailbox<'_>, output: &mut Vec<u8>) {
    let reference: &[u8] = match reference {
        MailboxName::Inbox => b"INBOX",
        MailboxName::Other(other) => other.as_ref(),
    };
    let pattern: &[u8] = match pattern {
        ListMailbox::Token(token) => token.as_ref(),
        ListMailbox::String(string) => string.as_ref(),
    };
    if pattern.is_empty() {
        let _ = write!(output, "* {name} (\\Noselect) \"/\" \"\"\r\n");
    } else if matches_inbox(&[reference, pattern].concat()) {
        let _ = write!(output, "* {name} (\\Noinferiors) \"/\" INBOX\r\n");
    }
}

/// Whether a pattern with the wildcards `*` and `%` matches INBOX, in any case. INBOX has no delimiter in it, so both
/// wildcards mean the same. Linear in the pattern: the set of positions in INBOX that it can have reached.
fn matches_inbox(pattern: &[u8]) -> bool {
    const INBOX: &[u8; 5] = b"INBOX";
    let mut reached = [true, false, false, false, false, false];
    for byte in pattern {
        if matches!(byte, b'*' | b'%') {
            let first = reached.iter().position(|&reached| reached).unwrap_or(reached.len());
            reached[first..].fill(true);
        } else {
            for position in (0..INBOX.len()).rev() {
                reached[position + 1] = reached[position] && INBOX[position].eq_ignore_ascii_case(byte);
            }
            reached[0] = false;
        }
    }
    reached[INBOX.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Patterns match INBOX as RFC 3501 section 6.3.8 says.
    #[test]
    fn list_patterns() {
        for pattern in ["*", "%", "INBOX", "inbox", "In*", "*x", "I%B*X", "**", "INBOX*", "%NBO%"] {
            assert!(matches_inbox(pattern.as_bytes()), "{pattern}");
        }
        for pattern in ["", "INBO", "INBOXX", "Sent", "*y", "INBOX/%", "%Z%"] {
            assert!(!matches_inbox(pattern.as_bytes()), "{pattern}");
        }
    }
}
