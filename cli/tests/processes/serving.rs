//! Servers as processes: their signals, their control sockets, and what `--check` finds.

use crate::support::{Chain, Server, alone, ask, chasqui, envelope, run, text, wait_for};
use chasqui_runtime::process::signal;
use chasqui_testkit::PATIENCE;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

const HUP: i32 = 1;
const USR1: i32 = 10;
const USR2: i32 = 12;
const TERM: i32 = 15;

#[test]
fn signals_that_ask_for_nothing_end_nothing() {
    // Proves: SIGHUP, SIGUSR1 and SIGUSR2 leave relay and sinks alive and serving.
    let _alone = alone();
    let mut chain = Chain::start("");
    for number in [HUP, USR1, USR2] {
        for pid in [chain.relay.pid(), chain.sink.pid()] {
            signal(pid, number).expect("the server can be signalled");
        }
    }
    chain.send("u0@d0.chasqui.test", b"Subject: a\r\n\r\na\r\n");
    assert_eq!(chain.read("u0@d0.chasqui.test", 1).len(), 1);
    assert!(chain.relay.is_alive() && chain.sink.is_alive());
}

#[test]
fn a_signal_sent_twice_is_one() {
    // Proves: a second SIGTERM right behind the first does not cut the drain: the transaction under way is finished.
    let _alone = alone();
    let mut chain = Chain::start("");
    let mut client = chain.client();
    envelope(&mut client, "u0@d0.chasqui.test");
    for _ in 0..2 {
        signal(chain.relay.pid(), TERM).expect("the server can be signalled");
    }
    client.write(b"Subject: a\r\n\r\na\r\n");
    client.expect(".", "250");
    drop(client);
    wait_for("the end of the drain", || (!chain.relay.is_alive()).then_some(()));
}

#[test]
fn the_control_socket_of_the_sinks_serves_all_and_is_reclaimed() {
    // Proves: silent clients keep nobody from being answered, a line of another protocol gets no answer, and a start after a
    // kill replaces the socket, which is the owner's alone.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let control = folder.path().join("control");
    let options = ["sink", "--control", &text(&control)];
    Server::start(&options).kill();
    assert!(control.exists(), "a killed process leaves its socket");
    let sink = Server::start(&options);
    let mode = std::fs::metadata(&control).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let connect = || {
        let stream = UnixStream::connect(&control).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit can be set");
        stream
    };
    let silent: Vec<UnixStream> = (0..40).map(|_| connect()).collect();
    assert!(ask(&control, "stats").is_some_and(|answer| answer.get("ring").is_some()));
    drop(silent);
    let mut foreign = connect();
    foreign.write_all(b"GET / HTTP/1.1\r\n").expect("it reads");
    let mut said = Vec::new();
    foreign.read_to_end(&mut said).expect("an end");
    assert_eq!(said, b"");
    assert!(sink.stop().success());
}

#[test]
fn a_restart_takes_the_port_of_a_killed_relay() {
    // Proves: a relay that takes the place of one that was killed binds its port at once, with connections left of it.
    let _alone = alone();
    let chain = Chain::start("");
    let mut client = chain.client();
    envelope(&mut client, "u0@d0.chasqui.test");
    let chain = chain.kill_and_restart_relay("");
    drop(client);
    chain.send("u0@d0.chasqui.test", b"Subject: a\r\n\r\na\r\n");
}

#[test]
fn check_finds_what_a_start_would_refuse() {
    // Proves: `relay --check` names a spool that loses mail, a file in the socket's place and a missing folder, warns of an
    // open relay, and starts nothing.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, config) = (folder.path().join("file"), folder.path().join("relay.toml"));
    std::fs::write(&file, "").expect("written");
    let check = |spool: &str, control: &str, more: &str| {
        let written = format!(
            "hostname = \"a.test\"\nlisten = [\"127.0.0.1:0\"]\n{more}\n[spool]\ndirectory = \"{spool}\"\n\
             class = \"buffered\"\n[control]\nsocket = \"{control}\"\n"
        );
        let written = written.replace("FOLDER", &text(folder.path()));
        std::fs::write(&config, written).expect("written");
        let output = run(&["relay", "--check", "--config", &text(&config)]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = check("FOLDER/spool", "FOLDER/control", "postmaster = \"a@b.test\"");
    assert_eq!((code, said.lines().count()), (Some(0), 1), "{said}");
    let (code, said) = check("FOLDER/spool", "FOLDER/control", "networks = [\"10.0.0.0/8\", \"0.0.0.0/0\"]");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("0.0.0.0/0 lets strangers relay") && said.contains("postmaster is not set"),
        "{said}"
    );
    for (spool, control, named) in [
        ("FOLDER/file/spool", "FOLDER/control", "spool.directory"),
        ("FOLDER/spool", "FOLDER/file", "no socket"),
        ("FOLDER/spool", "FOLDER/missing/control", "its folder"),
    ] {
        let (code, said) = check(spool, control, "");
        assert!(code == Some(2) && said.contains(named), "{code:?}: {said}");
    }
    assert!(!folder.path().join("spool").exists());
}

/// What POP3 says to the first mailbox's password.
fn log_in(pop3: SocketAddr, password: &str) -> String {
    let mut stream = TcpStream::connect(pop3).expect("POP3 listens");
    let commands = format!("USER u0@d0.chasqui.test\r\nPASS {password}\r\nQUIT\r\n");
    stream.write_all(commands.as_bytes()).expect("sent");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("answered");
    said
}

#[test]
fn sinks_take_names_and_passwords_from_elsewhere() {
    // Proves: every address of a sink may be a host name; its password may stand in a file or in the environment; and a second
    // sink with the state of one that runs is refused in one line.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (password, state) = (text(&folder.path().join("password")), text(&folder.path().join("state")));
    std::fs::write(&password, "from-a-file\nnot this\n").expect("written");
    let mut arguments = vec!["sink", "--cores", "0", "--password-file", &password, "--state", &state];
    arguments.extend(["--smtp-address", "localhost", "--publish", "localhost", "--pop3", "localhost:0"]);
    arguments.extend(["--imap", "localhost:0", "--dns", "localhost:0"]);
    let sink = Server::start(&arguments);
    for service in ["smtp", "pop3", "imap", "dns"] {
        assert!(sink.address(service).ip().is_loopback(), "{}", sink.ready);
    }
    assert!(log_in(sink.address("pop3"), "from-a-file").contains("+OK maildrop has"));
    assert!(log_in(sink.address("pop3"), "chasqui").contains("-ERR"));

    let refused = run(&["sink", "--cores", "0", "--state", &state]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("chasqui: ")).collect();
    assert!(lines.len() == 1 && lines[0].contains("the state of a sink that runs"), "{said}");

    let sink = Server::spawn(chasqui().args(["sink", "--cores", "0"]).env("CHASQUI_PASSWORD", "around-it"));
    assert!(log_in(sink.address("pop3"), "around-it").contains("+OK maildrop has"));
}
