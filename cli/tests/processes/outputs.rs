//! `chasqui load` where what it prints to, writes to or needs from the system is short.

use crate::support::{Server, alone, chasqui, column, text};
use chasqui_testkit::receiver::Threads;
use chasqui_testkit::{Answer, Stage};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A shell that runs the program with `options`, which follow a load's first ones, after `before` and with `redirected`.
fn shell(before: &str, redirected: &str, target: SocketAddr, options: &[&str]) -> Command {
    let program = chasqui().get_program().to_owned();
    let mut command = Command::new("bash");
    command.arg("-c").arg(format!("{before} exec \"$0\" \"$@\" {redirected}")).arg(program);
    command.args(["load", "--target", &target.to_string(), "--rate", "50", "--duration", "1s"]);
    command.args(["--warmup", "0s", "--drain", "1s"]).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const ACCEPT_ALONE: [&str; 6] = ["--verify", "none", "--allow-unsent", "1", "--allow-rejected", "1"];
const FAILS: [&str; 2] = ["--gate", "accept.p50<1us"];

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An SMTP server that takes every message, queues it as ABC123, and lets it come nowhere.
fn black_hole() -> SocketAddr {
    let receiver = Threads::scripted(|stage, _| match stage {
        Stage::Dot => Answer::say("250 2.0.0 Ok: queued as ABC123\r\n"),
        _ => Answer::Usual,
    });
    receiver.address
}

#[test]
fn what_never_came_is_named_with_its_queue_id() {
    // Proves: a message that a server accepted and nobody found stands in anomalies.jsonl with the id that the server gave it.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sink = Server::start(&["sink", "--cores", "0", "--domains", "2"]);
    let (out, pop3) = (folder.path().join("out"), sink.address("pop3").to_string());
    let options = ["--pop3", &pop3, "--domains", "2", "--mailboxes", "1", "--out", &text(&out)];
    let output = shell("", "", black_hole(), &options).output().expect("started");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let lines = std::fs::read_to_string(out.join("anomalies.jsonl")).expect("anomalies.jsonl");
    assert!(lines.lines().count() > 10, "{lines}");
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("a JSON object");
        assert_eq!((&line["what"], &line["queue_id"]), (&"missing".into(), &"ABC123".into()), "{line}");
    }
}

#[test]
fn a_dumb_terminal_gets_plain_lines() {
    // Proves: with TERM=dumb what a terminal sees has no escape sequence and no line that is written over.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = black_hole();
    for (term, plain) in [("dumb", true), ("xterm", false)] {
        let out = text(&folder.path().join(term));
        let options = [&ACCEPT_ALONE[..], &["--out", &out]].concat();
        let mut command = shell("", "", target, &options);
        let seen = on_a_terminal(command.env("TERM", term));
        assert!(seen.contains("accept"), "{seen}");
        let written_over = seen.replace("\r\n", "\n").contains('\r');
        assert_eq!(seen.contains('\u{1b}') || written_over, !plain, "{term}: {seen:?}");
    }
}

/// What a terminal shows of a program, by script(1), which stands in each Linux system's base.
fn on_a_terminal(command: &Command) -> String {
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    let line = words.collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            script.env(name, value);
        }
    }
    let output = script.output().expect("script(1) of util-linux can be started");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_full_disk_keeps_summary_and_json() {
    // Proves: where no file can grow, as on a full disk, the record is printed, the failure is told in a line, and the exit
    // code is the verdict's.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (out, second) = (text(&folder.path().join("out")), text(&folder.path().join("second")));
    let json = [&ACCEPT_ALONE[..], &FAILS, &["--json", "--out", &out]].concat();
    let output = shell("ulimit -f 0;", "", black_hole(), &json).output().expect("started");
    assert!(matches!(output.status.code(), Some(3 | 5)), "{}: {}", output.status, said(&output));
    let record: Value = serde_json::from_slice(&output.stdout).expect("run.json is printed");
    assert_eq!(column(&record, "accepted"), column(&record, "sent"), "{record}");
    assert!(said(&output).contains("cannot write results"), "{}", said(&output));

    let human = [&ACCEPT_ALONE[..], &FAILS, &["--out", &second]].concat();
    let output = shell("ulimit -f 0;", "", black_hole(), &human).output().expect("started");
    assert!(matches!(output.status.code(), Some(3 | 5)), "{}: {}", output.status, said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("accept"), "the summary is printed");
}

#[test]
fn closed_outputs_keep_the_verdict() {
    // Proves: whichever of the two outputs is closed or full, the exit code is the verdict's, and the results are written.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = black_hole();
    for (number, redirected) in
        ["2>&-", "2>/dev/full", ">&-", ">/dev/full", ">&- 2>&-", ">/dev/full 2>/dev/full"].iter().enumerate()
    {
        let out = folder.path().join(number.to_string());
        let to = text(&out);
        let options = [&ACCEPT_ALONE[..], &FAILS, &["--out", &to]].concat();
        let output = shell("", redirected, target, &options).output().expect("started");
        assert!(matches!(output.status.code(), Some(3 | 5)), "{redirected}: {}", output.status);
        let record = std::fs::read(out.join("run.json")).expect("run.json is written");
        let record: Value = serde_json::from_slice(&record).expect("and whole");
        assert_eq!(column(&record, "accepted"), column(&record, "sent"), "{redirected}");
        assert!(out.join("junit.xml").exists(), "{redirected}");
    }
}

#[test]
fn connections_without_descriptors_are_counted() {
    // Proves: a load whose descriptors run out, as it was started with many that are open, goes on over the connections that it
    // has, and counts the failures of the others.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = text(&folder.path().join("out"));
    let options = [&ACCEPT_ALONE[..], &["--json", "--connections", "60", "--out", &out]].concat();
    // Of 130 descriptors, which would do, 90 are taken.
    let taken = "for n in $(seq 10 99); do eval \"exec $n</dev/null\"; done; ulimit -n 130;";
    let output = shell(taken, "", black_hole(), &options).output().expect("started");
    let record: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    let connections = &record["connections"];
    let count = |name: &str| connections[name].as_u64().expect("a count");
    assert!(count("emfile") > 0 && (1..60).contains(&count("reached")), "{connections}");
    assert!(column(&record, "accepted") > 0, "{record}");
}

/// The folder in which a socket's path would be longer than the kernel takes (108 octets).
fn long_folder(within: &Path) -> std::path::PathBuf {
    let long = within.join("a".repeat(100)).join("b".repeat(60));
    std::fs::create_dir_all(&long).expect("a folder");
    long
}

#[test]
fn a_long_temporary_folder() {
    // Proves: `bench` works with a TMPDIR that is longer than a socket's path may be, and with a password for others' mailboxes in
    // the environment.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = text(&folder.path().join("out"));
    let mut bench = chasqui();
    bench.args(["bench", "--rate", "50", "--duration", "1s", "--warmup", "0s", "--json", "--out", &out]);
    bench.env("TMPDIR", long_folder(folder.path())).env("CHASQUI_PASSWORD", "others").stdin(Stdio::null());
    let output = bench.output().expect("started");
    let record: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    assert_eq!(column(&record, "verified"), column(&record, "sent"), "{record}");
}
