//! `chasqui spool`: beside a relay that runs, and on what one left behind.

use crate::support::{Chain, alone, chasqui, column, record, run, text, wait_for};
use serde_json::Value;
use std::path::Path;

fn json(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn verify(spool: &Path) -> (Option<i32>, Value) {
    let output = run(&["spool", "verify", "--json", &text(spool)]);
    (output.status.code(), json(&output))
}

#[test]
fn verify_finds_no_damage_beside_a_relay_under_load() {
    // Proves: while a relay receives, delivers and overwrites segments, verify never tells of damage and the load
    // loses nothing by it.
    let _alone = alone();
    let chain = Chain::start("");
    let spool = chain.folder.path().join("spool");
    let mut load = chasqui();
    load.args("load --rate 150 --size 64KiB --duration 5s --warmup 0s --connections 20 --json".split(' '))
        .arg(format!("--target={}", chain.relay.address("listen")))
        .arg(format!("--pop3={}", chain.sink.address("pop3")))
        .arg(format!("--imap={}", chain.sink.address("imap")))
        .arg(format!("--control={}", chain.control().display()))
        .arg(format!("--out={}", chain.folder.path().join("run").display()));
    for stream in chain.sink.ready["arrivals"].as_array().expect("arrival streams") {
        load.arg("--arrivals-from").arg(stream.as_str().expect("a path"));
    }
    let load = std::thread::Builder::new().spawn(move || record(load)).expect("a thread");
    let (mut rounds, mut highest) = (0, 0);
    while !load.is_finished() {
        let (code, told) = verify(&spool);
        assert_eq!((code, &told["verdict"]), (Some(0), &Value::from("clean")), "{told}");
        assert_eq!(told["shards"][0]["in_use_by"], chain.relay.pid(), "{told}");
        for shard in told["shards"].as_array().expect("shards") {
            highest = highest.max(shard["watermark"].as_u64().expect("a number"));
        }
        rounds += 1;
    }
    let (record, _, _) = load.join().expect("a record");
    assert_eq!(column(&record, "accepted"), column(&record, "verified"), "{record}");
    assert!(rounds > 5 && highest > 100, "{rounds} rounds, up to record {highest}");

    assert!(chain.relay.stop().success());
    let (code, told) = verify(&spool);
    assert_eq!(
        (code, &told["discarded"], &told["shards"][0]["in_use_by"]),
        (Some(0), &0.into(), &Value::Null)
    );
}

#[test]
fn stuck_mail_is_listed_exported_and_its_damage_told() {
    // Proves: mail that cannot be delivered is listed with its reason beside the relay; after the relay's end it is
    // exported as it was received, with an envelope that can be sent again; damage to it gives exit code 4.
    let chain = Chain::start("routes.\"stuck.test\" = [\"127.0.0.1:1\"]");
    let spool = chain.folder.path().join("spool");
    let mut client = chain.client();
    client.expect("MAIL FROM:<sender@client.test> RET=HDRS ENVID=a+2Bb", "250");
    client.expect("RCPT TO:<one@stuck.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;One@stuck.test", "250");
    client.expect("DATA", "354");
    client.write(b"Subject: dots\r\n\r\n..\r\n...two\r\nplain\r\n");
    client.expect(".", "250");
    client.expect("QUIT", "221");
    let list = |options: &[&str]| {
        let output = run(&[&["spool", "inspect", &text(&spool)], options].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let message = wait_for("a deferral in the spool", || {
        let lines = list(&["--json", "--domain", "STUCK.test"]);
        let values = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        values.into_iter().find(|it| it["type"] == "message" && it["recipients"][0]["state"] == "deferred")
    });
    let id = message["id"].as_str().expect("an id").to_owned();
    let recipient = &message["recipients"][0];
    assert_eq!(
        (&message["reverse_path"], &message["ret"], &message["envid"]),
        (&"sender@client.test".into(), &"HDRS".into(), &"a+2Bb".into())
    );
    assert_eq!(
        (&recipient["address"], &recipient["notify"], &recipient["orcpt"]),
        (&"one@stuck.test".into(), &"FAILURE,DELAY".into(), &"rfc822;One@stuck.test".into())
    );
    let words = list(&["--id", &id]);
    assert!(words.contains("deferred  <one@stuck.test>, until ") && words.contains(&id), "{words}");
    assert!(!list(&["--sender", "<>"]).contains(&id));

    assert!(chain.relay.stop().success());
    let out = chain.folder.path().join("out");
    let output = run(&["spool", "export", &text(&spool), "--out", &text(&out), "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((&json(&output)["exported"], &json(&output)["damaged"]), (&1.into(), &Value::Array(vec![])));
    let eml = std::fs::read(out.join(format!("{id}.eml"))).expect("the message");
    let received = b"Subject: dots\r\n\r\n.\r\n..two\r\nplain\r\n";
    assert!(eml.starts_with(b"Received: ") && eml.ends_with(received), "{}", String::from_utf8_lossy(&eml));
    let envelope = std::fs::read(out.join(format!("{id}.json"))).expect("the envelope");
    let envelope: Value = serde_json::from_slice(&envelope).expect("JSON");
    assert_eq!((&envelope["id"], &envelope["recipients"][0]["state"]), (&id.into(), &"deferred".into()));
    let again = run(&["spool", "export", &text(&spool), "--out", &text(&out)]);
    assert_eq!(again.status.code(), Some(2), "a folder with files in it is refused");

    let shards = std::fs::read_dir(&spool).expect("the spool").map(|entry| entry.expect("an entry").path());
    let segments =
        shards.filter(|path| path.is_dir()).flat_map(|shard| std::fs::read_dir(shard).expect("a shard"));
    let holds_it = segments.map(|entry| entry.expect("an entry").path()).find_map(|path| {
        let bytes = std::fs::read(&path).expect("a segment");
        let place = bytes.windows(7).position(|it| it == b"...two\r")?;
        Some((path, bytes, place))
    });
    let (path, mut bytes, place) = holds_it.expect("the message lies in a segment");
    bytes[place + 4] ^= 1;
    std::fs::write(&path, bytes).expect("damaged");
    let (code, told) = verify(&spool);
    assert_eq!((code, &told["verdict"]), (Some(4), &Value::from("damaged")), "{told}");
    let rest = chain.folder.path().join("rest");
    let output = run(&["spool", "export", &text(&spool), "--out", &text(&rest), "--quarantine", "--json"]);
    assert_eq!((&json(&output)["exported"], &json(&output)["salvaged"]), (&0.into(), &1.into()));
    let files = std::fs::read_dir(rest.join("quarantine")).expect("what was left of it");
    assert_eq!(files.count(), 2);
}
