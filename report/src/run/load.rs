//! The load that was made: what was due in the window, and the connections it went over.

use serde::{Deserialize, Serialize};

use super::allowed::{Allowed, exceeds, percent};

/// Messages that were due in the window. In a closed loop a message is due when a connection is free to send it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// All of them.
    pub messages: u64,
    /// Of those, never begun.
    pub unsent: u64,
    /// Of those, with a final reply, whatever it was.
    pub answered: u64,
}

/// SMTP connections, over the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Asked for.
    pub asked: u64,
    /// Most that were open at one time, on each shard.
    pub reached: u64,
    /// Attempts to connect that the other side or the network refused or did not answer.
    pub refused: u64,
    /// Replies of 421, at connect or later.
    pub replies_421: u64,
    /// Attempts that failed because this process or machine had no descriptor left (EMFILE, ENFILE).
    pub emfile: u64,
    /// Opened, again and again where they ended; `None`: not known, as in records of before there was TLS.
    #[serde(default)]
    pub opened: Option<u64>,
    /// Of those, in TLS.
    #[serde(default)]
    pub tls: Option<u64>,
    /// Of those in TLS, with a session of an earlier one.
    #[serde(default)]
    pub resumed: Option<u64>,
    /// TLS handshakes that failed; their connections were not opened.
    #[serde(default)]
    pub handshakes_failed: Option<u64>,
    /// Logins that failed; their connections were not opened.
    #[serde(default)]
    pub logins_failed: Option<u64>,
}

impl Due {
    /// Why the run measured nothing; empty when it did.
    pub fn faults(&self) -> Vec<String> {
        match (self.messages, self.answered) {
            (0, _) => {
                vec!["no message was due in the window: ask for a higher rate or a longer window".to_owned()]
            }
            (due, 0) => vec![format!("none of the {due} messages that were due in the window was answered")],
            _ => Vec::new(),
        }
    }

    /// Why too little of the load was taken; `None` when enough was.
    pub fn shortfall(&self, allowed: &Allowed) -> Option<String> {
        exceeds(self.unsent, allowed.unsent, self.messages).then(|| {
            format!(
                "{} of the {} messages that were due in the window were never sent (--allow-unsent {})",
                self.unsent,
                self.messages,
                percent(allowed.unsent)
            )
        })
    }
}

impl Connections {
    /// What a reader should know when there were fewer connections than asked for, or some were refused.
    pub fn shortfall(&self) -> Option<String> {
        let troubles = [
            (self.refused, "attempts refused"),
            (self.replies_421, "replies of 421"),
            (self.emfile, "attempts without a free descriptor"),
            (self.handshakes_failed.unwrap_or(0), "TLS handshakes failed"),
            (self.logins_failed.unwrap_or(0), "logins failed"),
        ];
        let troubles: Vec<String> = troubles
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if self.reached >= self.asked && troubles.is_empty() {
            return None;
        }
        let reached = format!("{} of {} connections were reached", self.reached, self.asked);
        Some(if troubles.is_empty() { reached } else { format!("{reached}: {}", troubles.join(", ")) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One in a hundred unsent is allowed and more is not, unless a larger share is; nothing due, and nothing answered,
    /// measures nothing.
    #[test]
    fn what_was_due_is_judged() {
        let allowed = Allowed::default();
        let due = Due { messages: 1000, unsent: 10, answered: 990 };
        assert_eq!((due.faults(), due.shortfall(&allowed)), (Vec::new(), None));
        let short = Due { unsent: 11, ..due };
        let text = short.shortfall(&allowed).expect("too few were sent");
        assert!(
            text.starts_with("11 of the 1000 messages") && text.ends_with("(--allow-unsent 1 %)"),
            "{text}"
        );
        assert_eq!(short.shortfall(&Allowed { unsent: 0.5, ..allowed }), None);
        assert_eq!(Due::default().faults().len(), 1);
        assert_eq!(Due { answered: 0, ..due }.faults().len(), 1);
    }

    /// Connections are told of when some are missing or were refused, with what stood in the way.
    #[test]
    fn connections_that_fall_short_are_told() {
        let all = Connections { asked: 10, reached: 10, ..Connections::default() };
        assert_eq!(all.shortfall(), None);
        let few = Connections { reached: 4, refused: 7, emfile: 1, handshakes_failed: Some(2), ..all };
        let text = "4 of 10 connections were reached: 7 attempts refused, 1 attempts without a free descriptor, 2 TLS \
                    handshakes failed";
        assert_eq!(few.shortfall().as_deref(), Some(text));
    }
}
