//! Words that may stand in few places, or in none.

use crate::arrows::ARROWS;
use crate::{rust_files, workspace};

/// Where `unsafe` may stand outside runtime: the floor program, which is no part of the product.
const FLOOR: &str = "benches/src/floor";

/// `source` without line comments and without what stands between double quotes: near enough to find words in.
fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    for line in source.lines() {
        let line = line.split("//").next().unwrap_or_default();
        code.extend(line.split('"').step_by(2));
        code.push('\n');
    }
    code
}

fn has_word(code: &str, word: &str) -> bool {
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(is_name) && !code[at + word.len()..].starts_with(is_name))
}

#[test]
fn unsafe_and_thread_locals_stand_in_runtime_alone() {
    // Proves: no crate but runtime, and nothing else but the floor program, holds unsafe code or lifts the lint against
    // it; and no crate but runtime keeps state that the simulator could not give to a node (`thread_local!`, `static mut`).
    let floor = workspace().join(FLOOR);
    for (name, _) in ARROWS.iter().filter(|(name, _)| *name != "runtime") {
        for file in rust_files(&workspace().join(name)) {
            let code = code_only(&std::fs::read_to_string(&file).expect("a readable source file"));
            let may_be_unsafe = file.starts_with(&floor);
            for word in ["unsafe", "unsafe_code", "thread_local", "static mut"] {
                if may_be_unsafe && word.starts_with("unsafe") {
                    continue;
                }
                assert!(!has_word(&code, word), "{}: `{word}` belongs in runtime alone", file.display());
            }
        }
    }
}

#[test]
fn no_left_overs_stand_in_the_tree() {
    // Proves: no placeholder macro and no switched-off check is left in any crate.
    for (name, _) in ARROWS {
        for file in rust_files(&workspace().join(name)) {
            let code = code_only(&std::fs::read_to_string(&file).expect("a readable source file"));
            for left_over in ["todo!", "unimplemented!", "dbg!", "allow(dead_code", "allow(unused"] {
                assert!(!code.contains(left_over), "{}: `{left_over}` is left over", file.display());
            }
        }
    }
}
