//! Every recipient that did not end as it should, by name.

use chasqui_report::Column;
use chasqui_runtime::HashMap;

use super::QueueIds;

/// Different replies of one shard that are kept; what comes beyond is told without its reply.
const REPLIES_MAX: usize = 4_096;

/// A recipient that was not delivered unchanged, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// The message's number in its run.
    pub sequence: u64,
    /// Whom it was for.
    pub recipient: String,
    /// The column of the ledger that it is in.
    pub column: Column,
    /// When it was due, in nanoseconds of CLOCK_MONOTONIC.
    pub due_ns: u64,
    /// The refusal, or how the reply was lost; `None` when it was accepted.
    pub reply: Option<String>,
    /// The id under which the server queued it, or the beginning of the reply where no id can be told apart; `None` when it was
    /// not accepted, or the id was not kept.
    pub queue_id: Option<String>,
}

impl Anomaly {
    /// What became of it, in a word: the name of its column, but that of a part of another one.
    pub fn what(&self) -> &'static str {
        match self.column {
            Column::PendingUnseen => "not seen",
            column => column.name(),
        }
    }

    /// Whether a reply, or that none came, is all there is to know of it.
    pub(crate) fn is_of_the_submission(&self) -> bool {
        matches!(self.column, Column::Rejected | Column::Unknown)
    }

    /// Whether somebody was told of it in the run: a reply, a bounce or a copy says what became of it.
    pub(crate) fn is_told(&self) -> bool {
        self.is_of_the_submission() || matches!(self.column, Column::Bounced | Column::Duplicated)
    }
}

/// Enters the queue ids of one shard's anomalies, which are in the order of their sequences.
pub(crate) fn name_queue_ids(anomalies: &mut [Anomaly], ids: &QueueIds, shards: u64) {
    if anomalies.is_empty() {
        return;
    }
    ids.each(|message, id| {
        let of = |anomaly: &Anomaly| anomaly.sequence / shards;
        let first = anomalies.partition_point(|anomaly| of(anomaly) < u64::from(message));
        let same = anomalies[first..].iter_mut().take_while(|anomaly| of(anomaly) == u64::from(message));
        same.filter(|anomaly| anomaly.column != Column::Rejected)
            .for_each(|anomaly| anomaly.queue_id = Some(id.to_owned()));
    });
}

/// Why messages were not accepted, each text once.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    known: HashMap<String, u32>,
    texts: Vec<String>,
    messages: HashMap<u64, u32>,
}

impl Refusals {
    /// Enters why a message was not accepted; the first word counts.
    pub(crate) fn add(&mut self, sequence: u64, text: &str) {
        let index = match self.known.get(text) {
            Some(index) => *index,
            None if self.texts.len() < REPLIES_MAX => {
                let index = self.texts.len() as u32;
                self.texts.push(text.to_owned());
                self.known.insert(text.to_owned(), index);
                index
            }
            None => return,
        };
        self.messages.entry(sequence).or_insert(index);
    }

    /// Why a message was not accepted.
    pub(crate) fn of(&self, sequence: u64) -> Option<&str> {
        self.messages.get(&sequence).map(|index| self.texts[*index as usize].as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message keeps its first refusal, texts are kept once, and too many different ones cost the texts alone.
    #[test]
    fn bounded() {
        let mut refusals = Refusals::default();
        refusals.add(1, "550 no");
        refusals.add(1, "451 later");
        for sequence in 2..10_000 {
            refusals.add(sequence, &format!("550 {sequence}"));
        }
        assert_eq!(refusals.of(1), Some("550 no"));
        assert_eq!((refusals.texts.len(), refusals.of(9_999)), (REPLIES_MAX, None));
    }
}
