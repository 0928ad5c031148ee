//! Things worth telling a person, each once with a count.

use std::collections::BTreeMap;

/// Different notes kept; more are counted as one.
const NOTES_MAX: usize = 32;
/// Characters of a note.
const NOTE_CHARS_MAX: usize = 300;

/// Notes with how often each was made.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    counts: BTreeMap<String, u64>,
    beyond: u64,
}

impl Notes {
    /// Makes a note.
    pub(crate) fn add(&mut self, note: &str) {
        self.add_many(note, 1);
    }

    fn add_many(&mut self, note: &str, count: u64) {
        if let Some(known) = self.counts.get_mut(note) {
            *known += count;
        } else if self.counts.len() < NOTES_MAX {
            let note = note.chars().take(NOTE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c });
            *self.counts.entry(note.collect()).or_default() += count;
        } else {
            self.beyond += count;
        }
    }

    /// Takes over the notes of another thread.
    pub(crate) fn merge(&mut self, other: Notes) {
        for (note, count) in other.counts {
            self.add_many(&note, count);
        }
        self.beyond += other.beyond;
    }

    /// One line for each, the most frequent first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut sorted: Vec<_> = self.counts.iter().collect();
        sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let line = |(note, count): (&String, &u64)| {
            if *count == 1 { note.clone() } else { format!("{note} (× {count})") }
        };
        let mut lines: Vec<String> = sorted.into_iter().map(line).collect();
        if self.beyond > 0 {
            lines.push(format!("and {} more events of other kinds", self.beyond));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes are counted, ordered by count, bounded, and hold no control characters.
    #[test]
    fn counted_and_bounded() {
        let mut notes = Notes::default();
        notes.add("rare\r\nnote");
        let mut other = Notes::default();
        for number in 0..100 {
            other.add("frequent");
            other.add(&format!("note {number:03}"));
        }
        notes.merge(other);
        let lines = notes.lines();
        assert_eq!(lines[0], "frequent (× 100)");
        assert!(lines.contains(&"rare  note".to_owned()));
        assert_eq!(lines.len(), NOTES_MAX + 1);
        assert!(lines[NOTES_MAX].starts_with("and 70 more"), "{}", lines[NOTES_MAX]);
    }
}
