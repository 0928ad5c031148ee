//! `summary.md`: the terminal summary for a pull request or a job page.

use super::digest::{Body, Line, Span, Tone, digest};
use crate::run::Run;

/// The summary as GitHub-flavoured Markdown.
pub fn markdown(run: &Run) -> String {
    let digest = digest(run);
    let mut out = format!("# Chasqui run: {}\n\n{}\n\n", digest.verdict, escape(&digest.headline));
    out += &format!("Window from {}, schema `{}`.\n", run.started, run.schema);
    if !digest.why.is_empty() {
        out += "\n**Why it did not pass**\n\n";
        for reason in &digest.why {
            out += &format!("- {}\n", escape(reason));
        }
    }

    for section in &digest.sections {
        out += &format!("\n## {}\n\n", section.title);
        match &section.body {
            Body::Lines(lines) => {
                for line in lines {
                    out += &format!("- {}\n", set(line));
                }
            }
            Body::Table { head, rows } => {
                out += &format!("| {} |\n", head.join(" | "));
                out += &format!("|---|{}\n", "---:|".repeat(head.len() - 1));
                for row in rows {
                    out += &format!(
                        "| {} |\n",
                        row.iter().map(|cell| escape(cell)).collect::<Vec<_>>().join(" | ")
                    );
                }
            }
        }
    }
    out
}

/// What is good, bad or looked for is bold.
fn set(line: &Line) -> String {
    let text: String = line
        .iter()
        .map(|Span { text, tone }| match tone {
            Tone::Plain | Tone::Dim => escape(text),
            Tone::Strong | Tone::Good | Tone::Bad | Tone::Caution => format!("**{}**", escape(text)),
        })
        .collect();
    text.trim_end().to_owned()
}

/// Text taken from outside must not become markup.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '|' | '<' | '>' | '[' | ']' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '\r' | '\n' => escaped.push(' '),
            _ => escaped.push(c),
        }
    }
    escaped
}
