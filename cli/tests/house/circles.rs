//! Nobody calls up: the children of one folder, each with all that lies below it, use each other in no circle. Parent and
//! child may. What only tests see does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use crate::modules::Tree;
use crate::uses::{Use, uses};
use crate::{roots, shown};

/// Circles that stand: folder, and members by name. One that is gone, or has fewer members, has to leave this list.
/// Those of runtime stay.
const KNOWN: &[(&str, &[&str])] = &[
    (
        "runtime/src",
        &[
            "blocking",
            "descriptor",
            "engine",
            "executor",
            "fs",
            "map",
            "net",
            "process",
            "rng",
            "seldom",
            "shard",
            "sim",
            "time",
        ],
    ),
    ("runtime/src/net", &["listener", "socket", "stream"]),
    ("runtime/src/sim", &["disk", "driver", "event", "handle", "net", "nodes", "world"]),
];

/// Members of one circle in a folder, and one use for each arrow between them.
struct Circle {
    folder: String,
    members: BTreeSet<String>,
    arrows: BTreeMap<(String, String), String>,
}

impl fmt::Display for Circle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<&str> = self.members.iter().map(String::as_str).collect();
        writeln!(formatter, "{}: {} in a circle: {}", self.folder, members.len(), members.join(", "))?;
        for ((from, to), at) in &self.arrows {
            writeln!(formatter, "    {from} -> {to}: {at}")?;
        }
        Ok(())
    }
}

/// The circles of every crate, by folder.
fn circles() -> Vec<Circle> {
    let mut found = Vec::new();
    for root in roots() {
        found.extend(circles_below(&root));
    }
    found.sort_by(|one, other| (&one.folder, &one.members).cmp(&(&other.folder, &other.members)));
    found
}

fn circles_below(root: &Path) -> Vec<Circle> {
    let tree = Tree::read(root);
    let folders = folders(&tree, &uses(&tree));
    folders.iter().flat_map(|(folder, arrows)| circles_among(folder, arrows)).collect()
}

/// Arrows between two children of a folder, each with the first use that makes it.
type Arrows = BTreeMap<(String, String), String>;

fn folders(tree: &Tree, uses: &[Use]) -> BTreeMap<String, Arrows> {
    let mut folders: BTreeMap<String, Arrows> = BTreeMap::new();
    let root = tree.modules[0].file.parent().expect("a file stands in a folder");
    for Use { from, to, line, path } in uses {
        let file = |module: usize| &tree.modules[tree.modules[module].of_file];
        let (user, used) = (&file(*from).path, &file(*to).path);
        let shared = user.iter().zip(used).take_while(|(one, other)| one == other).count();
        if shared == user.len() || shared == used.len() {
            continue;
        }
        let folder = user[..shared].iter().fold(root.to_path_buf(), |folder, name| folder.join(name));
        let file = shown(&file(*from).file);
        folders
            .entry(shown(&folder))
            .or_default()
            .entry((user[shared].clone(), used[shared].clone()))
            .or_insert_with(|| format!("{file}:{line} {path}"));
    }
    folders
}

/// The sets of children that reach each other.
fn circles_among(folder: &str, arrows: &Arrows) -> Vec<Circle> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in arrows.keys() {
        next.entry(from).or_default().push(to);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        next.keys().map(|from| (*from, reachable(from, &next))).collect();
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    let mut circles = Vec::new();
    for (from, goals) in &reached {
        if !goals.contains(from) || placed.contains(from) {
            continue;
        }
        let back = |other: &str| reached.get(other).is_some_and(|goals| goals.contains(from));
        let circle: BTreeSet<&str> = goals.iter().copied().filter(|other| back(other)).collect();
        placed.extend(&circle);
        let members: BTreeSet<String> = circle.into_iter().map(str::to_owned).collect();
        let within = arrows.iter().filter(|((from, to), _)| members.contains(from) && members.contains(to));
        let arrows = within.map(|(arrow, at)| (arrow.clone(), at.clone())).collect();
        circles.push(Circle { folder: folder.to_owned(), members, arrows });
    }
    circles
}

fn reachable<'a>(from: &str, next: &BTreeMap<&'a str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = next.get(from).cloned().unwrap_or_default();
    while let Some(name) = open.pop() {
        if reached.insert(name) {
            open.extend(next.get(name).into_iter().flatten());
        }
    }
    reached
}

#[test]
fn nobody_calls_up() {
    // Proves: no folder of any crate has a circle that does not stand in KNOWN, and KNOWN names none that is gone.
    let mut wrong = Vec::new();
    let found = circles();
    let is = |circle: &Circle, (folder, members): &(&str, &[&str])| {
        circle.folder == *folder && circle.members.iter().eq(*members)
    };
    for circle in &found {
        println!("{circle}");
        if !KNOWN.iter().any(|known| is(circle, known)) {
            wrong.push(circle.to_string());
        }
    }
    for known in KNOWN {
        if !found.iter().any(|circle| is(circle, known)) {
            wrong.push(format!(
                "{}: {:?} is no circle any more, or not a whole one: correct KNOWN",
                known.0, known.1
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The members of the circles of a crate that consists of these files.
fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let folder = tempfile::tempdir().expect("a scratch folder");
    for (name, text) in files {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder is made");
        std::fs::write(file, text).expect("a file is written");
    }
    let circles = circles_below(&folder.path().join("lib.rs"));
    circles.into_iter().map(|circle| circle.members.into_iter().collect()).collect()
}

#[test]
fn a_circle_is_seen_through_re_exports_macros_and_globs() {
    // Proves: two children that use each other are found, however they write it, and their parent is no part of it.
    let root = "mod one; mod two; pub use two::Two; pub fn shared() {} fn both() { one::f(); two::g(); }";
    let one = ("one/mod.rs", "mod deep; pub fn f() { crate::shared() }");
    for (deep, two) in [
        ("use crate::Two;", "pub struct Two; fn g() { crate::one::f() }"),
        (
            "fn f() -> Option<crate::two::Two> { None }",
            "pub struct Two; fn g() { assert!(crate::one::f() == ()) }",
        ),
        (
            "use super::super::*; fn f(_: Two) {}",
            "use crate::{one, shared}; pub struct Two; fn g() { one::f() }",
        ),
        ("fn f() { use crate::Two as Other; }", "pub struct Two; impl crate::one::f for Two {}"),
    ] {
        let found = circles_of(&[("lib.rs", root), one, ("one/deep.rs", deep), ("two.rs", two)]);
        assert_eq!(found, [["one", "two"]], "{deep} {two}");
    }
}

#[test]
fn parents_and_tests_make_no_circle() {
    // Proves: what only tests use does not count, nor what a child takes from its parent.
    let root = "mod one; mod two; pub use two::Two; pub fn shared() {} fn both() { one::f(); two::g(); }";
    let one = "use super::shared; use crate::two; pub fn f(_: two::Two) {}";
    for two in [
        "pub struct Two; #[cfg(test)] mod tests { use crate::one; }",
        "pub struct Two; #[cfg(all(test, unix))] use crate::one; fn g() { super::shared() }",
        "pub struct Two; impl Two { #[cfg(test)] fn g() { crate::one::f() } }",
        "pub struct Two; pub(in crate::one) fn g() { one::f() } /// As [`crate::one::f`].\n struct Third;",
    ] {
        let found = circles_of(&[("lib.rs", root), ("one.rs", one), ("two.rs", two)]);
        assert_eq!(found, Vec::<Vec<String>>::new(), "{two}");
    }
}
