//! What goes to a terminal.

use chasqui_report::Timestamp;
use std::fmt;
use std::time::Duration;

/// Text that somebody else chose: characters that a terminal obeys, or that change how the rest reads, are escaped.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' => formatter.write_str("\\\\")?,
                _ if is_hazard(character) => write!(formatter, "{}", character.escape_unicode())?,
                _ => fmt::Write::write_char(formatter, character)?,
            }
        }
        Ok(())
    }
}

/// Control characters, and marks that turn the direction of writing, join, or take no room.
pub(super) fn is_hazard(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A wall-clock time in milliseconds since the Unix epoch, as RFC 3339.
pub(super) fn time(unix_ms: u64) -> String {
    Timestamp::from_unix(Duration::from_millis(unix_ms)).to_string()
}

/// `1 message`, `2 messages`.
pub(super) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nobody() {
        // Proves: escape sequences, C1 controls and marks of direction do not reach the terminal; letters do.
        let hostile = "a\u{1b}[2J\u{9b}31m\r\n\u{202e}\u{e9}\\\u{7f}";
        let shown = Escaped(hostile).to_string();
        assert_eq!(shown, "a\\u{1b}[2J\\u{9b}31m\\u{d}\\u{a}\\u{202e}\u{e9}\\\\\\u{7f}");
        assert!(!shown.chars().any(is_hazard));
    }
}
