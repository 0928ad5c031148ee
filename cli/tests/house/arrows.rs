//! Which crate may import which.

use crate::{manifest, read, workspace};

/// Every crate of the workspace with the crates of the project that it may import.
pub(crate) const ARROWS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("runtime", &[]),
    ("report", &["protocol"]),
    ("transport", &["protocol", "runtime"]),
    ("relay", &["protocol", "runtime", "transport"]),
    ("sinks", &["protocol", "runtime", "transport"]),
    ("loadgen", &["protocol", "runtime", "report", "transport"]),
    ("simulation", &["protocol", "runtime", "relay", "sinks", "loadgen"]),
    ("cli", &["protocol", "runtime", "report", "relay", "sinks", "loadgen", "simulation"]),
    ("testkit", &["protocol", "runtime"]),
    ("benches", &["protocol", "runtime", "report", "relay", "sinks", "loadgen"]),
];

/// What the tests of every crate may import, and nothing else may.
const TESTKIT: &str = "chasqui-testkit";

/// The names under every `dependencies`, `dev-dependencies` and `build-dependencies` table, at any depth
/// (`[target.….dependencies]` included), but [`TESTKIT`] where tests alone see it.
fn dependencies(table: &toml::Table, found: &mut Vec<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            let names = inner.iter().map(|(name, value)| {
                let renamed =
                    value.as_table().and_then(|table| table.get("package")).and_then(|name| name.as_str());
                renamed.unwrap_or(name).to_owned()
            });
            found.extend(names.filter(|name| key != "dev-dependencies" || name != TESTKIT));
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
    // Proves: no crate imports a sibling that its row of ARROWS does not allow.
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
    let testkit = |table: &str| {
        let text = format!("[{table}]\n{TESTKIT}.workspace = true");
        project_imports(&text.parse().expect("valid TOML"))
    };
    assert_eq!((testkit("dev-dependencies"), testkit("dependencies")), (vec![], vec!["testkit".to_owned()]));
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

#[test]
fn every_library_has_its_reason() {
    // Proves: a library cannot come into the workspace without a line in docs/design/dependencies.md.
    let root = manifest(&workspace().join("Cargo.toml"));
    let libraries = root["workspace"]["dependencies"].as_table().expect("dependencies are a table");
    let reasons = read(&workspace().join("docs/design/dependencies.md"));
    let words: Vec<&str> =
        reasons.split(|character: char| !(character.is_alphanumeric() || "-_".contains(character))).collect();
    for name in libraries.keys().filter(|name| !name.starts_with("chasqui-")) {
        assert!(words.contains(&name.as_str()), "docs/design/dependencies.md does not say why {name}");
    }
}
