//! `chasqui load` against a sink: instruments that do not work, and outputs that fail.

use crate::support::{Server, alone, chasqui, column, text};
use serde_json::Value;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A sink of two shards, and a short load against it without its streams.
fn sink() -> (Server, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let arrivals = text(&folder.path().join("arrivals"));
    (Server::start(&["sink", "--cores", "0,0", "--arrivals", &arrivals]), folder)
}

fn load(sink: &Server, out: &Path, options: &[&str]) -> Command {
    let mut command = chasqui();
    let target = sink.address("smtp").to_string();
    command.args(["load", "--target", &target, "--rate", "50", "--duration", "1s", "--warmup", "0s"]);
    command.args(["--connections", "5", "--drain", "3s", "--json", "--out", &text(out)]).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn an_instrument_that_does_not_work_is_status_2() {
    // Proves: a stream that is not named, a wrong password and a reader without a server are told before anything is
    // sent, in one line, and leave no folder.
    let _alone = alone();
    let (sink, folder) = sink();
    let (first, pop3) = (text(&folder.path().join("arrivals.0")), sink.address("pop3").to_string());
    let password = text(&folder.path().join("password"));
    std::fs::write(&password, "wrong\n").expect("written");
    for (options, word) in [
        (&["--verify", "arrival", "--arrivals-from", &first][..], "number 1 (counted from 0) is not named"),
        (&["--pop3", &pop3, "--password-file", &password], "100 of 100 readers cannot read their mailbox"),
        (&["--imap", "127.0.0.1:1"], "100 of 100 readers cannot read their mailbox: IMAP 127.0.0.1:1"),
    ] {
        let out = folder.path().join("run");
        let output = load(&sink, &out, options).output().expect("the program can be started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{options:?}: {said}");
        assert!(said.lines().last().is_some_and(|line| line.contains(word)), "{options:?}: {said}");
        assert!(output.stdout.is_empty() && !out.exists(), "{options:?}");
    }
}

#[test]
fn outputs_that_fail_end_no_run() {
    // Proves: with a standard error that is full a run goes on to its result; a standard output that is full takes
    // nothing from the exit code; and results that cannot be written are told and printed all the same.
    let _alone = alone();
    let (sink, folder) = sink();
    let full = || OpenOptions::new().write(true).open("/dev/full").expect("/dev/full is there");
    let verify = ["--verify", "none", "--allow-unsent", "1"];

    let out = folder.path().join("stderr");
    let output = load(&sink, &out, &verify).stderr(full()).output().expect("started");
    let record: Value = serde_json::from_slice(&output.stdout).expect("run.json");
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", output.status);
    assert_eq!(column(&record, "accepted"), column(&record, "sent"), "{record}");
    assert!(record["ledger"]["lost"].is_null() && record["ledger"]["verified"].is_null(), "{record}");

    let gate = [&verify[..], &["--allow-rejected", "1", "--gate", "accept.p50<1us"]].concat();
    let out = folder.path().join("stdout");
    let output = load(&sink, &out, &gate).stdout(full()).output().expect("started");
    assert!(matches!(output.status.code(), Some(3 | 5)), "{}", output.status);
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"));

    let out = folder.path().join("gone");
    let running = load(&sink, &out, &gate).spawn().expect("started");
    crate::support::wait_for("the run's folder", || out.exists().then_some(()));
    std::fs::remove_dir(&out).expect("it is empty");
    let output = running.wait_with_output().expect("it ends");
    serde_json::from_slice::<Value>(&output.stdout).expect("run.json is printed");
    assert!(matches!(output.status.code(), Some(3 | 5)), "{}", output.status);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write results"));
}
