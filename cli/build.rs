//! Hands the git revision to the program as `CHASQUI_GIT`: empty outside a git checkout, `+` for local changes.

use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn main() {
    let revision = git(&["rev-parse", "--short=12", "HEAD"]).map(|revision| {
        let changed =
            git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|list| !list.is_empty());
        if changed { format!("{revision}+") } else { revision }
    });
    println!("cargo::rustc-env=CHASQUI_GIT={}", revision.unwrap_or_default());
    // The revision moves with HEAD and with the index; without these lines every build would run git again.
    if let Some(directory) = git(&["rev-parse", "--absolute-git-dir"]) {
        for name in ["HEAD", "logs/HEAD", "index"] {
            let path = format!("{directory}/{name}");
            if std::path::Path::new(&path).exists() {
                println!("cargo::rerun-if-changed={path}");
            }
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
}
