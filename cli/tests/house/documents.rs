//! Documents speak of what is there, and what they tell a reader to type is run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::{read, rust_files, shown, workspace};

/// ARCHITECTURE.md is a map, and has at most so many lines.
const MAP_LINES: usize = 150;

/// Whose fenced blocks `scripts/readme` runs.
const RUN: &[&str] = &["README.md", "CONTRIBUTING.md", "docs/operating.md"];

/// Whose fenced blocks nobody runs: a drawing, the bytes of a format, and what needs a nightly toolchain.
const NOT_RUN: &[&str] = &["ARCHITECTURE.md", "relay/src/spool/FORMAT.md", "relay/fuzz/README.md"];

/// What looks like a file of the repository and is one that a program writes.
const WRITTEN: &[&str] = &["results/runs", "summary.md"];

/// Whose spans name folders by their ends too (`src/floor`): in others a `/` can stand for other things.
fn is_design(document: &Path) -> bool {
    document.ends_with("ARCHITECTURE.md")
        || document.parent().is_some_and(|folder| folder.ends_with("docs/design"))
}

/// Every file of the repository, build output and what git hides left out, as written in the repository.
fn files() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![workspace()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let written =
                path.ends_with("target") || path.ends_with("results/runs") || path.ends_with(".git");
            if path.is_dir() && !written {
                open.push(path);
            } else if path.is_file() && !written {
                found.insert(shown(&path));
            }
        }
    }
    found
}

fn documents(files: &BTreeSet<String>) -> Vec<PathBuf> {
    files.iter().filter(|file| file.ends_with(".md")).map(|file| workspace().join(file)).collect()
}

/// Text between single backticks, outside of fenced blocks.
fn spans(text: &str) -> Vec<String> {
    let mut spans = Vec::new();
    for (at, part) in text.split("```").enumerate() {
        if at % 2 == 0 {
            spans.extend(part.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    spans
}

/// The targets of links, `[text](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The anchors that a reader's browser makes of the headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let kept = |character: char| match character {
        ' ' => Some('-'),
        '-' | '_' => Some(character),
        _ => character.is_alphanumeric().then(|| character.to_lowercase().next()).flatten(),
    };
    headings
        .map(|heading| heading.trim_start_matches('#').trim().chars().filter_map(kept).collect())
        .collect()
}

/// What is wrong with a link of `document`.
fn broken_link(document: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let folder = document.parent().expect("a file stands in a folder");
    let file = if file.is_empty() { document.to_path_buf() } else { folder.join(file) };
    if !file.exists() {
        return Some(format!("{}: {target} does not exist", shown(document)));
    }
    let missing = anchor.filter(|anchor| !anchors(&read(&file)).contains(*anchor))?;
    Some(format!("{}: {target} has no heading `{missing}`", shown(document)))
}

/// Whether `word` can be the path of a file or folder, or its end.
fn is_path(word: &str) -> bool {
    let part = |part: &str| {
        part.chars().any(char::is_alphanumeric)
            && part.chars().all(|character| character.is_ascii_alphanumeric() || "_-.".contains(character))
    };
    !word.is_empty() && word.trim_end_matches('/').split('/').all(part)
}

/// Whether the repository has no file or folder for a path that is written in a text. `folders`: whether the ends of folders count.
fn is_missing(files: &BTreeSet<String>, word: &str, folders: bool) -> bool {
    let name = word.trim_end_matches('/');
    if !is_path(word) || WRITTEN.contains(&name) {
        return false;
    }
    let below = |file: &String, folder: &str| file.starts_with(&format!("{folder}/"));
    let top = name.split('/').next().unwrap_or_default();
    if name.contains('/') && files.iter().any(|file| below(file, top)) {
        return !files.contains(name) && !files.iter().any(|file| below(file, name));
    }
    let is_source = name.ends_with(".rs") || name.ends_with(".md");
    let counts = is_source || (folders && word.contains('/'));
    if !counts {
        return false;
    }
    let (end, within) = (format!("/{name}"), format!("/{name}/"));
    !files.iter().any(|file| {
        file == name || file.ends_with(&end) || (!is_source && (below(file, name) || file.contains(&within)))
    })
}

#[test]
fn documents_name_files_that_exist() {
    // Proves: every link of every document leads to a file and a heading, and every path between backticks is one.
    let files = files();
    let mut wrong = Vec::new();
    for document in documents(&files) {
        let text = read(&document);
        wrong.extend(links(&text).filter_map(|target| broken_link(&document, target)));
        for span in spans(&text) {
            let word = span.split_whitespace().next().unwrap_or_default();
            if is_missing(&files, word, is_design(&document)) {
                wrong.push(format!("{}: `{word}` does not exist", shown(&document)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn comments_name_files_that_exist() {
    // Proves: no comment of any source, and no script, speaks of a file of the project that is not there.
    let files = files();
    let scripts = files.iter().filter(|file| file.starts_with("scripts/") || file.starts_with(".ci/"));
    let scripts =
        scripts.map(|script| workspace().join(script)).filter(|script| !script.ends_with("Cargo.lock"));
    let mut wrong = Vec::new();
    for file in rust_files(&workspace()).into_iter().chain(scripts) {
        let text = String::from_utf8_lossy(&std::fs::read(&file).expect("a readable file")).into_owned();
        let is_rust = file.extension().is_some_and(|extension| extension == "rs");
        let comments =
            text.lines().filter_map(|line| if is_rust { Some(line.split_once("//")?.1) } else { Some(line) });
        for word in comments.flat_map(|line| line.split(|character: char| !is_path_character(character))) {
            let word = word.trim_matches('.').trim_start_matches('/');
            if (word.ends_with(".rs") || word.ends_with(".md")) && is_missing(&files, word, false) {
                wrong.push(format!("{}: {word} does not exist", shown(&file)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn is_path_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "_-./".contains(character)
}

#[test]
fn the_map_is_short_and_answers_with_files() {
    // Proves: ARCHITECTURE.md keeps its size, and each row of "Where to look" begins its answer with one file that exists.
    let text = read(&workspace().join("ARCHITECTURE.md"));
    let lines = text.lines().count();
    assert!(lines <= MAP_LINES, "ARCHITECTURE.md has {lines} lines, and {MAP_LINES} are allowed");
    let (_, table) = text.split_once("## Where to look\n").expect("a heading");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    assert!(rows.len() >= 10, "ten questions and more are answered");
    for row in rows {
        let answer = row.split('|').nth(2).map(str::trim).unwrap_or_default();
        let file = answer.strip_prefix('`').and_then(|rest| rest.split('`').next()).unwrap_or_default();
        assert!(workspace().join(file).is_file(), "{row}: `{file}` is no file");
    }
}

/// Fenced blocks: language, and lines.
fn blocks(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, Vec<&str>)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language, Vec::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, lines))) => lines.push(line),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fenced block without an end");
    blocks
}

#[test]
fn what_a_reader_is_told_to_type_is_run() {
    // Proves: each fenced block of each document is one that scripts/readme runs, which CI does, or stands in a document
    // that is named here; and what scripts/readme leaves out, since it is a step of CI's own, is one.
    let ci = read(&workspace().join(".ci/run"));
    assert!(ci.contains("scripts/readme"), "CI runs what readers are told to type");
    let mut wrong = Vec::new();
    for document in documents(&files()) {
        let name = shown(&document);
        for (language, lines) in blocks(&read(&document)) {
            let is_configuration =
                language == "toml" && lines.iter().any(|line| line.starts_with("hostname"));
            let is_run = RUN.contains(&name.as_str()) && (language.is_empty() || is_configuration);
            if !is_run && !NOT_RUN.contains(&name.as_str()) {
                wrong.push(format!("{name}: nobody runs ```{language} {lines:?}"));
            }
            for line in lines.iter().filter(|line| is_run && line.starts_with("cargo test")) {
                if !ci.contains(*line) {
                    wrong.push(format!("{name}: `{line}` is no step of .ci/run"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_missing_file_and_heading_are_seen() {
    // Proves: the checks above tell what is there from what is not.
    let files: BTreeSet<String> =
        ["relay/src/spool/FORMAT.md", "relay/src/queue/mod.rs", "scripts/floor"].map(str::to_owned).into();
    for there in [
        "relay/src",
        "src/queue/",
        "queue/mod.rs",
        "scripts/floor",
        "FORMAT.md",
        "a.b/c",
        "4/s",
        "results/runs/",
    ] {
        assert!(!is_missing(&files, there, there.starts_with("src")), "{there}");
    }
    for gone in ["relay/source", "src/spools/", "queues/mod.rs", "mod2.rs", "scripts/flor", "DESIGN.md"] {
        assert!(is_missing(&files, gone, true), "{gone}");
    }
    assert_eq!(
        anchors("# The `log`, in 2 parts\ntext\n## A_b-c"),
        BTreeSet::from(["the-log-in-2-parts".into(), "a_b-c".into()])
    );
    assert_eq!(spans("a `b c` d\n```\n`e`\n```\n`f`"), ["b c", "f"]);
    assert_eq!(links("[a](b.md#c) and ![d](e)").collect::<Vec<_>>(), ["b.md#c", "e"]);
    assert_eq!(blocks("```toml\na = 1\n```\n```\nb\n```"), [("toml", vec!["a = 1"]), ("", vec!["b"])]);
}
