//! The house's rules that the compiler does not hold, one file each.

use std::path::{Path, PathBuf};

mod arrows;
mod circles;
mod documents;
mod functions;
mod left_overs;
mod modules;
mod test_files;
mod uses;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cli/ stands in the workspace").to_path_buf()
}

fn manifest(path: &Path) -> toml::Table {
    let text = read(path);
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `path` as it is written in the repository.
fn shown(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap_or(path).display().to_string()
}

/// The folders of the workspace's crates.
fn members() -> Vec<PathBuf> {
    let root = manifest(&workspace().join("Cargo.toml"));
    let members = root["workspace"]["members"].as_array().expect("members is an array");
    members.iter().map(|member| workspace().join(member.as_str().expect("a member is a path"))).collect()
}

/// Every file of the workspace's members that a library or a program begins with.
fn roots() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for member in members() {
        let own = manifest(&member.join("Cargo.toml"));
        let named = own.get("bin").and_then(toml::Value::as_array).into_iter().flatten();
        let named = named.filter_map(|program| Some(member.join(program.get("path")?.as_str()?)));
        let usual = ["src/lib.rs", "src/main.rs"].map(|file| member.join(file));
        let before = found.len();
        found.extend(usual.into_iter().filter(|file| file.is_file()));
        for file in named {
            if !found.contains(&file) {
                found.push(file);
            }
        }
        assert!(found.len() > before, "{} begins nowhere", member.display());
    }
    found
}

/// Every Rust file under `directory`, build output left out.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    add_rust_files(directory, &mut found);
    found.sort();
    found
}

fn add_rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries =
        std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() && !path.ends_with("target") {
            add_rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
