//! A file that only tests see says so by its name.

use std::path::Path;

use syn::Item;

use crate::modules::{only_for_tests, parse};
use crate::{members, rust_files, shown};

/// Modules that are for tests alone and say it in another way: support of the fuzz targets, which tests use too.
const OTHERS: &[&str] = &["fuzzing"];

/// Modules for tests alone that do not say it: file and name. One that is gone has to leave this list.
const KNOWN: &[(&str, &str)] = &[];

/// Whether a reader sees from its path that `file` holds tests.
fn looks_like_tests(file: &Path) -> bool {
    file.ends_with("tests.rs") || file.components().any(|part| part.as_os_str() == "tests")
}

#[test]
fn no_file_of_tests_looks_like_a_module_of_the_product() {
    // Proves: a module of its own file that only tests are built with is `tests`, or stands in a folder `tests`.
    let mut wrong = Vec::new();
    let mut known = KNOWN.to_vec();
    for file in members().iter().flat_map(|member| rust_files(&member.join("src"))) {
        for item in parse(&file).items {
            if let Item::Mod(module) = item
                && module.content.is_none()
                && only_for_tests(&module.attrs)
                && module.ident != "tests"
                && !looks_like_tests(&file)
                && !OTHERS.iter().any(|other| module.ident == other)
            {
                let before = known.len();
                known.retain(|(declared, name)| shown(&file) != *declared || module.ident != name);
                if known.len() < before {
                    continue;
                }
                wrong.push(format!("{}: `mod {}` is for tests alone", shown(&file), module.ident));
            }
        }
    }
    wrong.extend(known.iter().map(|(file, name)| format!("{file}: `mod {name}` is gone: correct KNOWN")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
