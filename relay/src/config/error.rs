//! A configuration error: one line that says where, what, and the fix.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// The configuration was refused. For the person who wrote it: the line says file, line, what is wrong, and
/// what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    /// 1-based; `None` when the file could not be read.
    line: Option<usize>,
    message: String,
}

impl ConfigError {
    pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        let message = format!("cannot be read: {error}; name a readable TOML file");
        ConfigError { file: file.to_owned(), line: None, message }
    }

    pub(super) fn from_toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        ConfigError {
            file: file.to_owned(),
            line: Some(line_of(text, &span)),
            message: explain(error.message()),
        }
    }

    /// An error at a key given by its path; the nearest table that is written gives the line.
    pub(super) fn at_key(file: &Path, text: &str, path: &[&str], message: String) -> Self {
        let span = span_of(text, path).unwrap_or(0..0);
        ConfigError { file: file.to_owned(), line: Some(line_of(text, &span)), message }
    }

    /// 1-based line of the error, where it has one.
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    let end = span.start.min(text.len());
    text.as_bytes()[..end].iter().filter(|&&b| b == b'\n').count() + 1
}

fn span_of(text: &str, path: &[&str]) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut span = None;
    for (depth, key) in path.iter().enumerate() {
        let Some((written, value)) = table.iter().find(|(written, _)| written.get_ref() == key) else {
            break;
        };
        // A table's own span is its header; a value is better named by its key.
        span = Some(if depth + 1 == path.len() { written.span() } else { value.span() });
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    span
}

/// Serde's message with the fix added: the nearest key, or what to write.
fn explain(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let (what, key) =
            (if message.contains("field") { "key" } else { "value" }, quoted.first().unwrap_or(&""));
        let known = &quoted[1.min(quoted.len())..];
        let fix = match nearest(key, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if what == "key" => format!("remove it, or use one of: {}", known.join(", ")),
            None => format!("use one of: {}", known.join(", ")),
        };
        return format!("unknown {what} `{key}`; {fix}");
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        return format!("the key {key} is missing; add it (relay/relay.example.toml documents every key)");
    }
    if message.starts_with("duplicate key") {
        return format!("{message}; remove one of them");
    }
    match message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
        Some((found, expected)) => format!("found {found}; write {expected}"),
        None => message.replace(" is not ", " is refused; write "),
    }
}

fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let best = known.iter().map(|name| (distance(key, name), *name)).min()?;
    (best.0 <= 1 + key.len() / 3).then_some(best.1)
}

/// Levenshtein distance of two short names.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
