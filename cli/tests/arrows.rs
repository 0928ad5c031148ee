//! The house's rules that the compiler does not hold: which crate may import which, where `unsafe` may stand,
//! and which left-overs may not.

use std::path::{Path, PathBuf};

/// Every crate of the workspace with the crates of the project that it may import.
const ARROWS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("runtime", &[]),
    ("report", &[]),
    ("transport", &["protocol", "runtime"]),
    ("relay", &["protocol", "runtime", "transport"]),
    ("sinks", &["protocol", "runtime", "transport"]),
    ("loadgen", &["protocol", "runtime", "report", "transport"]),
    ("cli", &["protocol", "runtime", "report", "relay", "sinks", "loadgen"]),
    ("benches", &["protocol", "runtime", "report", "relay", "sinks", "loadgen"]),
];

/// Where `unsafe` may stand outside runtime: the floor program, which is no part of the product.
const FLOOR: &str = "benches/src/floor";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cli/ stands in the workspace").to_path_buf()
}

fn manifest(path: &Path) -> toml::Table {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names under every `dependencies`, `dev-dependencies` and `build-dependencies` table, at any depth
/// (`[target.….dependencies]` included).
fn dependencies(table: &toml::Table, found: &mut Vec<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            found.extend(inner.iter().map(|(name, value)| {
                let renamed =
                    value.as_table().and_then(|table| table.get("package")).and_then(|name| name.as_str());
                renamed.unwrap_or(name).to_owned()
            }));
        } else {
            dependencies(inner, found);
        }
    }
}

/// The crates that `manifest` imports from this project, without their `chasqui-` prefix.
fn project_imports(manifest: &toml::Table) -> Vec<String> {
    let mut names = Vec::new();
    dependencies(manifest, &mut names);
    names.iter().filter_map(|name| name.strip_prefix("chasqui-")).map(str::to_owned).collect()
}

fn forbidden<'a>(imports: &'a [String], allowed: &[&str]) -> Vec<&'a String> {
    imports.iter().filter(|name| !allowed.contains(&name.as_str())).collect()
}

#[test]
fn crates_import_only_along_the_arrows() {
    // Proves: no crate imports a sibling that design.md's arrows do not allow.
    for (name, allowed) in ARROWS {
        let imports = project_imports(&manifest(&workspace().join(name).join("Cargo.toml")));
        let wrong = forbidden(&imports, allowed);
        assert!(wrong.is_empty(), "{name} may import {allowed:?} alone, not {wrong:?}");
    }
}

#[test]
fn a_forbidden_import_is_seen() {
    // Proves: the check above fails when relay imports sinks, plainly, under a target or under another name.
    for text in [
        "[dependencies]\nchasqui-sinks.workspace = true",
        "[dev-dependencies]\nchasqui-sinks = { path = \"../sinks\" }",
        "[target.'cfg(unix)'.dependencies]\nchasqui-sinks.workspace = true",
        "[dependencies]\nother = { package = \"chasqui-sinks\", path = \"../sinks\" }",
    ] {
        let imports = project_imports(&text.parse().expect("valid TOML"));
        assert_eq!(forbidden(&imports, &["protocol", "runtime"]), ["sinks"], "{text}");
    }
}

#[test]
fn every_member_has_its_arrows_and_the_shared_lints() {
    // Proves: a crate cannot join the workspace outside these rules.
    let root = manifest(&workspace().join("Cargo.toml"));
    let members = root["workspace"]["members"].as_array().expect("members is an array");
    for member in members.iter().map(|member| member.as_str().expect("a member is a path")) {
        assert!(ARROWS.iter().any(|(name, _)| *name == member), "{member} has no row in ARROWS");
        let own = manifest(&workspace().join(member).join("Cargo.toml"));
        match member {
            "runtime" => {}
            "benches" => assert_eq!(own["lints"], toml::Value::Table(lints_of_benches(&root)), "{member}"),
            _ => {
                let shared = own.get("lints").and_then(|lints| lints.get("workspace")?.as_bool());
                assert!(shared == Some(true), "{member}/Cargo.toml lacks `lints.workspace = true`");
            }
        }
    }
    let level = root["workspace"]["lints"]["rust"]["unsafe_code"].as_str();
    assert!(matches!(level, Some("deny" | "forbid")), "unsafe_code must be denied in the root Cargo.toml");
}

/// The workspace's lints, but that `unsafe_code` can be lifted, which `forbid` does not allow, and that each block then
/// needs its reason.
fn lints_of_benches(root: &toml::Table) -> toml::Table {
    let mut lints = root["workspace"]["lints"].as_table().expect("lints are a table").clone();
    for (tool, lint) in [
        ("rust", "unsafe_code"),
        ("rust", "unsafe_op_in_unsafe_fn"),
        ("clippy", "undocumented_unsafe_blocks"),
    ] {
        lints[tool].as_table_mut().expect("a table").insert(lint.to_owned(), "deny".into());
    }
    lints
}

/// Every Rust file under `directory`, build output left out.
fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries =
        std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

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
        let mut files = Vec::new();
        rust_files(&workspace().join(name), &mut files);
        for file in files {
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
        let mut files = Vec::new();
        rust_files(&workspace().join(name), &mut files);
        for file in files {
            let code = code_only(&std::fs::read_to_string(&file).expect("a readable source file"));
            for left_over in ["todo!", "unimplemented!", "dbg!", "allow(dead_code", "allow(unused"] {
                assert!(!code.contains(left_over), "{}: `{left_over}` is left over", file.display());
            }
        }
    }
}
