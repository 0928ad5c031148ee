//! The simulator: that a seed repeats, and that what it finds is told as it should be.

use std::process::Stdio;

use serde_json::Value;

use crate::support::{chasqui, run};

/// The lines that `chasqui simulate` prints, in order of the seeds, with the last one apart.
fn simulate(arguments: &str) -> (Vec<Value>, Value, Option<i32>, String) {
    let words: Vec<&str> = ["simulate"].into_iter().chain(arguments.split(' ')).collect();
    let output = run(&words);
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    let mut lines: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let last = lines.pop().expect("a last line");
    lines.sort_by_key(|line| line["seed"].as_u64());
    (lines, last, output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn one_seed_is_one_course_of_the_whole_chain() {
    // Proves: two processes play a seed of relay, sinks and load generator step by step alike, and seeds differ.
    let (first, last, ..) = simulate("--seeds 3 --from 100");
    let (second, ..) = simulate("--seeds 3 --from 100");
    assert_eq!(first, second);
    assert_eq!(last["seeds"], 3);
    assert_ne!(first[0]["trace"], first[1]["trace"]);
    for seed in &first {
        assert!(seed["messages"].as_u64() >= Some(200) && seed["accepted"].as_u64() > Some(0), "{seed}");
    }
}

#[test]
fn what_a_seed_finds_is_told_with_its_replay() {
    // Proves: a planted fault is found; the exit code, the last line and the command to play it again say so.
    let (_, last, code, said) = simulate("--seeds 20 --from 7 --bug no-unstuffing --first");
    let failed = last["failed"].as_array().and_then(|failed| failed[0].as_u64()).expect("a seed");
    assert_eq!(code, Some(4));
    assert!(
        said.contains(&format!("scripts/simulate --seeds 1 --from {failed} --bug no-unstuffing")),
        "{said}"
    );
    assert!(said.contains("changed"), "{said}");
}

#[test]
fn it_ends_when_nobody_reads() {
    // Proves: a reader that goes ends the plays, quietly.
    let mut child = chasqui()
        .args(["simulate", "--seeds", "500"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
