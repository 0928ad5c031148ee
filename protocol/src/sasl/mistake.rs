//! What is wrong with a file that a user wrote.

use std::fmt;

/// A line that cannot be taken: where, what, and how to mend it, on one line. Holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line, the first being 1.
    pub line: usize,
    /// What is wrong, and how to mend it.
    pub what: String,
}

/// Mistakes of a file that are told; those behind are found once these are mended.
pub const MISTAKES_MAX: usize = 20;

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for Mistake {}

/// The lines of a file that say something, each with its number: no empty ones, and none that begin with `#`.
pub fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    numbered.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
}
