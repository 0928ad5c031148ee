//! The whole chain as processes: bench, its verdicts and exit codes, and its ends.

use crate::support::{
    alone, bench, children_of, column, is_running, read_all, record, record_ending, wait_for,
};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// Figures that a bench on one machine always knows.
const KNOWN: &[&str] = &[
    "/chasqui/engine",
    "/machine/kernel",
    "/machine/spool/fs",
    "/machine/spool/fdatasync_us_p50",
    "/latency_us/schedule_lag/p99",
    "/latency_us/accept/p99",
    "/latency_us/arrive/p99",
    "/latency_us/visible/p999",
    "/latency_us/visible_imap/p50",
    "/latency_us/visible_pop3/p50",
    "/throughput/verified_per_s",
    "/cpu_us_per_message/relay",
    "/cpu_us_per_message/loadgen",
    "/cpu_us_per_message/sinks",
    "/cpu_us_per_message/verify",
    "/syncs/messages_per_sync",
    "/syncs/appended_bytes",
    "/rings/relay/enters",
    "/rings/sinks/enters",
    "/rings/loadgen/enters",
    "/memory_bytes/relay_peak_rss",
    "/backlog_end",
];
/// Columns of the ledger that are empty when nothing went wrong.
const UNWELCOME: &[&str] = &[
    "unsent",
    "rejected",
    "unknown",
    "bounced",
    "corrupted",
    "lost",
    "missing",
    "pending",
    "duplicated",
    "phantom",
];

#[test]
fn a_short_bench_passes_and_writes_its_folder() {
    // Proves: bench starts the chain, every message is accounted for, the record has every key that the schema
    // requires, and the folder holds every file.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run");
    let record = record_ending(0, "--rate 300 --duration 2s --warmup 0s --connections 10", &out);
    assert_eq!(column(&record, "scheduled"), 600);
    assert_eq!(column(&record, "accepted"), column(&record, "verified"));
    for name in UNWELCOME {
        assert_eq!(column(&record, name), 0, "{name}: {record}");
    }
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../report/schema/run.schema.json");
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(schema).expect("a schema")).expect("JSON");
    for key in schema["required"].as_array().expect("required keys") {
        assert!(record.get(key.as_str().expect("a key")).is_some(), "{key} is missing: {record}");
    }
    for known in KNOWN {
        assert!(record.pointer(known).is_some_and(|value| !value.is_null()), "{known} is unknown: {record}");
    }
    let anomalies = std::fs::read_to_string(out.join("anomalies.jsonl")).expect("anomalies.jsonl");
    assert_eq!(anomalies, "", "nothing went wrong");
    for file in ["run.json", "latency.hlog", "summary.md", "junit.xml", "report.html"] {
        let size = std::fs::metadata(out.join(file)).map_or(0, |file| file.len());
        assert!(size > 0, "{file} is missing or empty");
    }
}

#[test]
fn a_bench_in_tls_passes_and_says_so() {
    // Proves: with --tls the load reaches the relay in verified TLS and the relay its receivers, and run.json and the first line
    // say so; with a connection for each message, sessions are resumed.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run");
    let options = "--tls --rate 200 --duration 2s --warmup 0s --connections 10 --messages-per-connection 1";
    let record = record_ending(0, options, &out);
    assert_eq!(column(&record, "verified"), column(&record, "scheduled"), "{record}");
    let figure = |path: &str| {
        record.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}: {record}"))
    };
    assert_eq!(record.pointer("/scenario/tls"), Some(&Value::from("starttls")));
    assert_eq!(record.pointer("/scenario/tls_verified"), Some(&Value::from(true)));
    assert!(figure("/connections/opened") >= 400 && figure("/connections/resumed") > 200, "{record}");
    assert_eq!(figure("/connections/tls"), figure("/connections/opened"), "{record}");
    assert_eq!(figure("/latency_us/tls/count"), figure("/connections/tls"), "{record}");
    assert_eq!(figure("/connections/handshakes_failed"), 0, "{record}");
    let summary = std::fs::read_to_string(out.join("summary.md")).expect("summary.md");
    assert!(summary.contains("1 message a connection · STARTTLS · "), "{summary}");
}

#[test]
fn a_bench_with_accounts_passes_and_says_so() {
    // Proves: with --auth each connection logs in at the relay, in TLS from the first octet or after STARTTLS, mailboxes are read in TLS,
    // and run.json and the first line say so; messages have as many recipients as they are to have.
    let _alone = alone();
    for (tls, told) in [
        ("--tls", "· STARTTLS · AUTH by 10 accounts · POP3 STLS, IMAP STARTTLS ·"),
        ("--tls=implicit", "· TLS from the first octet · AUTH by 10 accounts · POP3S, IMAPS ·"),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let out = folder.path().join("run");
        let options =
            format!("{tls} --auth --recipients 1..3 --rate 200 --duration 2s --warmup 0s --connections 12");
        let record = record_ending(0, &options, &out);
        assert_eq!(column(&record, "verified"), column(&record, "scheduled"), "{record}");
        let recipients = column(&record, "sent");
        assert!((500..1100).contains(&recipients), "{recipients} recipients of 400 messages");
        let figure = |path: &str| {
            record.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}: {record}"))
        };
        assert_eq!(figure("/latency_us/auth/count"), 12, "{record}");
        assert_eq!(figure("/connections/logins_failed"), 0, "{record}");
        assert_eq!(record.pointer("/scenario/recipients"), Some(&Value::from("1..3")));
        let summary = std::fs::read_to_string(out.join("summary.md")).expect("summary.md");
        assert!(summary.contains(told), "{summary}");
        let everything = record.to_string() + &summary;
        assert!(!everything.contains("password") && !everything.contains("SCRAM"), "{everything}");
    }
}

#[test]
fn a_bench_on_the_other_engine_passes() {
    // Proves: relay, receivers, load generator and readers work on glommio, and the record names it.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = "--engine glommio --rate 300 --duration 2s --warmup 0s --connections 10";
    let record = record_ending(0, options, &folder.path().join("run"));
    assert_eq!(record["chasqui"]["engine"], "glommio");
    assert_eq!(column(&record, "verified"), 600);
    for name in UNWELCOME {
        assert_eq!(column(&record, name), 0, "{name}: {record}");
    }
}

#[test]
fn a_closed_loop_drains_and_verifies_after_the_window() {
    // Proves: at --rate max every message is read back once the window is over, and no latency is made up for it; the
    // result names the durability class.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    for class in ["buffered", "memory"] {
        let options = format!("--rate max --duration 1s --warmup 0s --connections 8 --durability {class}");
        let (record, code, said) = record(bench(&options, &folder.path().join(class)));
        assert_eq!(code, Some(0), "{said}\n{record}");
        assert!(column(&record, "accepted") > 100, "{record}");
        assert_eq!(column(&record, "accepted"), column(&record, "verified"), "{record}");
        assert_eq!(record["durability"], class);
        assert!(
            record["latency_us"]["visible"].is_null() && record["latency_us"]["schedule_lag"].is_null(),
            "{record}"
        );
    }
}

#[test]
fn a_failed_gate_is_status_3() {
    // Proves: a gate that no run can keep fails the run, and nothing else about it.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = "--rate 100 --duration 1s --warmup 0s --connections 5 --gate accept.p50<1us";
    let record = record_ending(3, options, &folder.path().join("run"));
    assert_eq!(record["gates"][0]["verdict"], "fail", "{record}");
}

#[test]
fn a_first_signal_ends_the_run_early_with_a_result() {
    // Proves: SIGINT while the load runs drains, judges and reports, and leaves no child behind.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = "--rate 200 --duration 60s --warmup 0s --connections 5";
    let mut bench = bench(options, &folder.path().join("run")).spawn().expect("the program can be started");
    let mut progress = BufReader::new(bench.stderr.take().expect("stderr is piped"));
    let mut line = String::new();
    while !line.contains("window") {
        line.clear();
        let read = progress.read_line(&mut line).expect("progress");
        assert!(read > 0, "bench ended before its window began");
    }
    let children = children_of(bench.id());
    assert_eq!(children.len(), 2, "relay and sinks");
    chasqui_runtime::process::signal(bench.id(), 2).expect("bench can be signalled");
    let output = read_all(bench.stdout.take().expect("stdout is piped"));
    let rest = read_all(progress);
    let status = bench.wait().expect("bench can be reaped");
    let record: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {rest}"));
    assert_eq!(column(&record, "lost") + column(&record, "pending"), 0, "{record}");
    assert!(record["window_s"].as_f64().is_some_and(|window| window < 30.0), "{record}");
    assert_eq!(status.code(), Some(5), "a run that was cut short is invalid: {rest}");
    assert!(record["invalid_reasons"].to_string().contains("planned end"), "{record}");
    for child in children {
        wait_for("the end of a child", || (!is_running(child)).then_some(()));
    }
}

#[test]
fn a_dead_child_ends_the_bench_with_its_last_lines() {
    // Proves: when the relay dies in the middle of a run, bench says so in its own words and the relay's, ends with
    // status 1, and stops the sinks.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = "--rate 50 --duration 60s --connections 5";
    let mut bench = bench(options, &folder.path().join("run")).spawn().expect("the program can be started");
    let children =
        wait_for("relay and sinks", || Some(children_of(bench.id())).filter(|found| found.len() == 2));
    let relay = *children.iter().max().expect("two children");
    chasqui_runtime::process::signal(relay, 9).expect("the relay can be signalled");
    let said = read_all(bench.stderr.take().expect("stderr is piped"));
    let status = bench.wait().expect("bench can be reaped");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("relay (pid {relay}) ended early")), "{said}");
    for child in children {
        assert!(!is_running(child), "a child is left behind");
    }
}

#[test]
fn children_end_with_a_killed_bench() {
    // Proves: SIGKILL of bench leaves neither relay nor sinks behind.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut bench = bench("--rate 50 --duration 60s --connections 5", &folder.path().join("run"))
        .arg("--spool")
        .arg(folder.path())
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program can be started");
    let children =
        wait_for("relay and sinks", || Some(children_of(bench.id())).filter(|found| found.len() == 2));
    bench.kill().expect("bench can be killed");
    bench.wait().expect("bench can be reaped");
    for child in children {
        wait_for("the end of a child", || (!is_running(child)).then_some(()));
    }
}
