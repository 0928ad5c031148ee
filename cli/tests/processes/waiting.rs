//! Mail that has to wait: for the operator's word, and for what the relay itself lacks.

use crate::support::{Chain, alone, ask, envelope, run, text, wait_for};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

/// Deferred for long: nobody listens where it goes.
const NOWHERE: &str = "routes.\"*\" = [\"127.0.0.1:1\"]\nretry.first = \"1h\"\n";

/// Sets the limit on open files of a running process.
fn limit_files(pid: u32, files: u64) {
    let (pid, limit) = (pid.to_string(), format!("--nofile={files}:20000"));
    let limited = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(limited.expect("prlimit runs").success());
}

#[test]
fn deferred_mail_is_retried_on_demand() {
    // Proves: `chasqui retry` has deferred mail tried at once, all or of one domain, and says what is wrong with its
    // arguments.
    let _alone = alone();
    let chain = Chain::start(NOWHERE);
    chain.send("u1@d1.chasqui.test", b"Subject: first\r\n\r\n");
    chain.send("u1@d2.chasqui.test", b"Subject: second\r\n\r\n");
    let deferred = || ask(&chain.control(), "stats").and_then(|stats| stats["deferred"].as_u64());
    wait_for("the first attempts", || deferred().filter(|count| *count >= 1));
    let chain = chain.kill_and_restart_relay("retry.first = \"1h\"\n");
    let control = text(&chain.control());
    let misspelt = run(&["retry", "--control", &control, "--message", "seven"]);
    assert_eq!(misspelt.status.code(), Some(2), "{misspelt:?}");
    let nobody = run(&["retry", "--control", &format!("{control}.none")]);
    assert_eq!(nobody.status.code(), Some(2), "{nobody:?}");
    let one = run(&["retry", "--control", &control, "--domain", "D1.chasqui.test"]);
    assert!(one.status.success(), "{one:?}");
    assert_eq!(chain.read("u1@d1.chasqui.test", 1).len(), 1);
    assert!(run(&["retry", "--control", &control]).status.success());
    assert_eq!(chain.read("u1@d2.chasqui.test", 1).len(), 1);
}

#[test]
fn our_own_shortage_is_no_attempt() {
    // Proves: while the relay has no descriptor for a connection, mail waits without being deferred or bounced, and
    // leaves soon after there is one.
    let _alone = alone();
    let chain = Chain::start("retry.first = \"1h\"\nroutes.\"*\" = [\"127.0.1.1\"]\n");
    let mut control = BufReader::new(UnixStream::connect(chain.control()).expect("the control socket"));
    let mut stats = || {
        control.get_mut().write_all(b"{\"command\":\"stats\"}\n").expect("the relay is asked");
        let mut line = String::new();
        control.read_line(&mut line).expect("the relay answers");
        let stats: Value = serde_json::from_str(&line).expect("JSON");
        (stats["queued"].as_u64(), stats["deferred"].as_u64(), stats["bounced"].as_u64())
    };
    assert_eq!(stats(), (Some(0), Some(0), Some(0)));
    let mut client = chain.client();
    // What is open stays so, and nothing else can be opened.
    limit_files(chain.relay.pid(), 1);
    envelope(&mut client, "u1@d1.chasqui.test");
    client.write(b"Subject: patience\r\n\r\n");
    client.expect(".", "250");
    for _ in 0..3 {
        std::thread::park_timeout(std::time::Duration::from_secs(1));
        assert_eq!(stats(), (Some(1), Some(0), Some(0)));
    }
    limit_files(chain.relay.pid(), 20_000);
    assert_eq!(chain.read("u1@d1.chasqui.test", 1).len(), 1);
    assert_eq!(stats().1, Some(0));
}
