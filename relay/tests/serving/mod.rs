//! What clients may do with a relay's sockets, and what its files let others do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use chasqui_relay::{Config, Placement, start};
use chasqui_runtime::{EngineKind, available_cores, now};
use chasqui_testkit::PATIENCE;
use chasqui_testkit::client::Blocking;
use chasqui_testkit::receiver::{Threads, on_thread};

use crate::support::{Relay, route_to, submit};

const MESSAGE: &[u8] = b"Subject: a\r\n\r\nbody\r\n";

/// A client that was greeted, and says what it is told to.
fn greeted(address: SocketAddr) -> Blocking {
    let mut client = Blocking::open(address);
    assert!(client.line().starts_with("220 "));
    client
}

/// Sends commands one after the other; the first line of the answer to each.
fn say(client: &mut Blocking, commands: &[&str]) -> Vec<String> {
    let first = |command: &&str| {
        client.write(format!("{command}\r\n").as_bytes());
        client.line()
    };
    commands.iter().map(first).collect()
}

/// Sends `octets` one by one with pauses until the relay ends the connection; what it said, and after how long.
fn drip(mut client: Blocking, octets: &[u8], pause: Duration) -> (String, Duration) {
    let begun = now();
    let mut stream = client.stream().try_clone().unwrap();
    let (ended, end) = channel();
    on_thread(move || {
        ended.send(client.rest()).unwrap();
    });
    for octet in octets.iter().cycle() {
        // It fails once the connection has ended.
        let _ended = stream.write_all(&[*octet]);
        match end.recv_timeout(pause) {
            Ok(said) => return (said, begun.elapsed()),
            Err(RecvTimeoutError::Timeout) => assert!(begun.elapsed() < PATIENCE, "it is held for ever"),
            Err(RecvTimeoutError::Disconnected) => panic!("the reader is gone"),
        }
    }
    unreachable!("octets go round")
}

/// A command line has its time as a whole, whatever octets come; so has a message whose octets only drip.
#[test]
fn dripping_clients_are_ended() {
    let relay = Relay::start("limits.idle = \"600ms\"");
    for (commands, octets) in [
        ([].as_slice(), b"N".as_slice()),
        (&["HELO a", "MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>", "DATA"], b"x\r\n"),
    ] {
        let mut client = greeted(relay.address());
        say(&mut client, commands);
        let (said, time) = drip(client, octets, Duration::from_millis(50));
        assert!(said.is_empty() || said.starts_with("421 4.4.2"), "{said}");
        assert!(time >= Duration::from_millis(500) && time < Duration::from_secs(10), "{time:?}");
    }
}

/// Lines that come slowly but whole, and a message at a fair rate, take as long as they like.
#[test]
fn slow_clients_are_served() {
    let sink = Threads::taking();
    let relay = Relay::start(&format!("limits.idle = \"500ms\"\n{}", route_to(&sink)));
    let mut client = greeted(relay.address());
    let (_held, pause) = channel::<()>();
    let wait = || pause.recv_timeout(Duration::from_millis(200)).expect_err("nothing is sent");
    for command in ["HELO a", "NOOP", "NOOP", "MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>"] {
        wait();
        assert!(say(&mut client, &[command])[0].starts_with("250"));
    }
    assert!(say(&mut client, &["DATA"])[0].starts_with("354"));
    for _ in 0..8 {
        wait();
        client.write(&[b'x'; 398]);
        client.write(b"\r\n");
    }
    client.write(b".\r\n");
    assert!(client.line().starts_with("250"));
    assert_eq!(sink.next().original().len(), 8 * 400);
}

/// A message has an end in time, however evenly it comes; an outsider's session has one without mail, whatever it says, and
/// a session from `networks` has none.
#[test]
fn messages_and_sessions_without_mail_have_an_end() {
    let limits = "limits.message_time = \"800ms\"\nlimits.without_mail = \"700ms\"";
    let relay = Relay::start(limits);
    let mut client = greeted(relay.address());
    say(&mut client, &["HELO a", "MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>", "DATA"]);
    let (said, time) = drip(client, &[b'x'; 1], Duration::from_millis(1));
    assert_eq!(said, "421 4.4.2 The message takes too long\r\n");
    assert!(time >= Duration::from_millis(600) && time < Duration::from_secs(10), "{time:?}");
    let mut trusted = greeted(relay.address());
    let outside = Relay::start(&format!("networks = [\"192.0.2.0/24\"]\n{limits}"));
    let mut client = greeted(outside.address());
    let (_held, pause) = channel::<()>();
    let begun = now();
    let ended = loop {
        assert!(say(&mut trusted, &["MAIL FROM:<a@x.test>", "RSET"])[1].starts_with("250"));
        pause.recv_timeout(Duration::from_millis(50)).expect_err("nothing is sent");
        client.write(b"MAIL FROM:<a@x.test>\r\n");
        let line = client.line();
        if !line.starts_with("503") {
            break line;
        }
        assert!(begun.elapsed() < PATIENCE, "it is held for ever");
    };
    assert_eq!(ended, "421 4.4.2 No mail for too long\r\n");
    pause.recv_timeout(Duration::from_millis(800)).expect_err("nothing is sent");
    assert!(say(&mut trusted, &["NOOP"])[0].starts_with("250"));
}

/// A message far over the limit is cut off, and its client hears why though it is sending still.
#[test]
fn what_is_far_too_large_is_cut_off() {
    let relay = Relay::start("limits.message_size = \"64KiB\"");
    let mut client = greeted(relay.address());
    say(&mut client, &["HELO a", "MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>", "DATA"]);
    let lines = [&[b'x'; 998][..], b"\r\n"].concat().repeat(100);
    for _ in 0..40 {
        client.write(&lines);
    }
    assert!(client.line().starts_with("552 5.3.4"));
    assert_eq!(client.line(), "");
}

/// A client that sends what it must not send yet is ended with 554 5.5.0, and nothing of it is taken; the option takes it.
#[test]
fn early_talkers_are_refused() {
    let message = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\nSubject: a\r\n\r\n.\r\n";
    for (option, codes) in [
        ("", ["250 2.1.0", "250 2.1.5", "354", "554 5.5.0", ""]),
        ("compat.early_talkers = \"allow\"", ["250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "221"]),
    ] {
        let relay = Relay::start(option);
        let mut client = greeted(relay.address());
        client.write(b"EHLO a\r\n");
        while client.line().starts_with("250-") {}
        client.write(&[message.as_slice(), b"QUIT\r\n"].concat());
        for code in codes {
            let line = client.line();
            assert!(line.starts_with(code) && line.is_empty() == code.is_empty(), "{code}: {line}");
        }
        assert_eq!(relay.stats()["accepted"], u64::from(!option.is_empty()));
    }
}

/// However many addresses the relay listens on, who is refused is told why.
#[test]
fn refusals_are_told_on_many_listeners() {
    let mut relay = Relay::start("");
    relay.stop();
    relay.restart(1, |config| {
        config.listen = vec![([127, 0, 0, 1], 0).into(); 80];
        config.limits.connections = 1;
    });
    let _only = greeted(relay.address());
    assert!(Blocking::open(relay.address()).line().starts_with("421 4.7.0 Too many connections"));
}

/// Junk ends a session, by default at Postfix's limit.
#[test]
fn junk_ends_a_session() {
    let relay = Relay::start("");
    let mut client = greeted(relay.address());
    say(&mut client, &["HELO a"]);
    for _ in 0..100 {
        assert!(say(&mut client, &["NOOP"])[0].starts_with("250"));
    }
    assert!(say(&mut client, &["NOOP"])[0].starts_with("421 4.7.0"));
    assert_eq!(client.line(), "");
}

/// NUL in a message is refused, made a blank, or passed on.
#[test]
fn nul_octets_do_as_the_option_says() {
    let sink = Threads::taking();
    for (option, taken) in
        [("refuse", None), ("repair", Some(b"Subject: a b\r\n")), ("allow", Some(b"Subject: a\0b\r\n"))]
    {
        let relay = Relay::start(&format!("compat.nul_octets = {option:?}\n{}", route_to(&sink)));
        let mut sender = Blocking::connect(relay.address()).expect("a greeting");
        let reply = sender.send("a@x.test", &["b@y.test"], b"Subject: a\0b\r\n").remove(0);
        match taken {
            None => assert!(reply.starts_with("554 5.6.0 "), "{reply}"),
            // The receiver here refuses it in turn.
            Some(_) if option == "allow" => assert!(reply.starts_with("250 "), "{reply}"),
            Some(taken) => assert_eq!(sink.next().original(), taken),
        }
    }
}

/// An HTTP request that carries mail, or a TLS hello, is no session.
#[test]
fn other_protocols_are_not_served() {
    let relay = Relay::start("");
    for said in [
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO x\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n\r\n.\r\n"
            .as_slice(),
        b"\x16\x03\x01\x00\xa5",
    ] {
        let mut client = greeted(relay.address());
        client.write(said);
        assert_eq!(client.line(), "421 4.7.0 This is SMTP\r\n");
        assert_eq!(client.line(), "", "it is closed");
    }
    assert_eq!(relay.stats()["accepted"], 0);
}

/// Everybody may write to the postmaster, in both forms, once a message, and to nobody else; it goes where it is told to.
#[test]
fn mail_for_the_postmaster_is_taken_from_everybody() {
    let sink = Threads::taking();
    let relay = Relay::start(&format!(
        "postmaster = \"admin@ops.test\"\nnetworks = [\"192.0.2.0/24\"]\n{}",
        route_to(&sink)
    ));
    let mut client = greeted(relay.address());
    assert!(say(&mut client, &["HELO a", "MAIL FROM:<a@x.test>"])[1].starts_with("250 "));
    let said = say(
        &mut client,
        &[
            "RCPT TO:<Postmaster>",
            "RCPT TO:<postmaster@RELAY.test>",
            "RCPT TO:<pOSTMASTER>",
            "RCPT TO:<admin@ops.test>",
            "RCPT TO:<postmaster@y.test>",
            "RCPT TO:<@relay.test:postmaster>",
            "DATA",
        ],
    );
    let codes: Vec<&str> = said.iter().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["250", "250", "250", "550", "550", "501", "354"], "{said:?}");
    client.write(b"Subject: a\r\n\r\n.\r\n");
    assert!(client.line().starts_with("250 "));
    assert_eq!(sink.next().recipients, ["admin@ops.test"]);
    relay.await_empty();
    assert_eq!(sink.rest(), []);
}

/// Without an address of its own the postmaster's mail goes the way of the relay's own name, in the form it was given.
#[test]
fn the_postmaster_is_at_the_own_name_otherwise() {
    let sink = Threads::taking();
    let relay = Relay::start(&format!("routes.\"relay.test\" = [\"{}\"]", sink.address));
    submit(&relay, "a@x.test", &["postmaster@relay.test"], MESSAGE);
    assert_eq!(sink.next().recipients, ["postmaster@relay.test"]);
}

/// Local parts of more than 64 octets, as SRS and VERP make them, are taken, sent on and reported on.
#[test]
fn long_local_parts_arrive() {
    let sink = Threads::taking();
    let relay = Relay::start(&route_to(&sink));
    let (from, to) = (format!("{}@x.test", "s".repeat(200)), format!("{}@y.test", "r".repeat(247)));
    submit(&relay, &from, &[&to], MESSAGE);
    let arrival = sink.next();
    assert_eq!((arrival.reverse_path, arrival.recipients), (from, vec![to]));
}

/// A first line that would go on with our Received field becomes text behind an empty line.
#[test]
fn a_first_line_does_not_continue_our_field() {
    let sink = Threads::taking();
    let relay = Relay::start(&route_to(&sink));
    for message in [b" for x; forged\r\nSubject: a\r\n\r\nbody\r\n".as_slice(), b"\tReceived: a\r\n"] {
        submit(&relay, "a@x.test", &["b@y.test"], message);
        assert_eq!(sink.next().original(), [b"\r\n", message].concat());
    }
}

/// A few Received fields of our own are those of a content filter, more are a loop; those of others count as before.
#[test]
fn own_hops_are_a_loop() {
    let sink = Threads::taking();
    let relay = Relay::start(&format!("limits.own_hops = 2\n{}", route_to(&sink)));
    let ours =
        b"Received: from f.test ([192.0.2.1])\r\n\tby Relay.Test with ESMTP id a;\r\n\tdate\r\n".as_slice();
    let theirs = b"Received: from relay.test by mx.test\r\n".as_slice();
    let mut sender = Blocking::connect(relay.address()).expect("a greeting");
    let mut send = |own: usize| {
        sender.send("a@x.test", &["b@y.test"], &[&ours.repeat(own), &theirs.repeat(9), MESSAGE].concat())
    };
    assert!(send(2)[0].starts_with("250 "));
    assert!(send(3)[0].starts_with("554 5.4.6 "));
}

fn control(relay: &Relay) -> UnixStream {
    let stream = UnixStream::connect(relay.spool().with_file_name("control.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Octets that a read gives. With a time limit a signal to the process interrupts it.
fn read_some(stream: &mut UnixStream) -> usize {
    loop {
        match stream.read(&mut [0; 10]) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => return read.unwrap(),
        }
    }
}

/// Whoever is silent on the control socket makes way: the one that has been for longest is closed, and others are answered
/// at once.
#[test]
fn silent_clients_of_the_control_socket_make_way() {
    let relay = Relay::start("");
    let mut silent: Vec<UnixStream> = (0..40).map(|_| control(&relay)).collect();
    silent[39].write_all(b"{\"comm").unwrap();
    let begun = now();
    assert_eq!(relay.stats()["accepted"], 0);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(read_some(&mut silent[0]), 0, "the first is closed");
    silent[39].write_all(b"and\":\"stats\"}\n").unwrap();
    assert!(read_some(&mut silent[39]) > 0, "the last is not");
}

/// On the control socket a line that is no JSON ends the connection: what follows an HTTP request line is no request.
#[test]
fn the_control_socket_speaks_json_alone() {
    let relay = Relay::start("");
    let ask = |said: &[u8]| {
        let mut stream = control(&relay);
        stream.write_all(said).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut lines = String::new();
        // What was not read may reset the connection.
        let _reset = stream.read_to_string(&mut lines);
        lines.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let lines = ask(b"POST / HTTP/1.1\r\n{\"command\":\"suspend\",\"domain\":\"a.test\"}\n");
    assert!(lines.len() <= 1 && !lines.concat().contains("done"), "{lines:?}");
    let lines = ask(b"{\"command\":\"fly\"}\n{\"command\":\"stats\"}\n");
    assert!(lines.len() == 2 && lines[0].contains("error") && lines[1].contains("accepted"), "{lines:?}");
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn for_each(folder: &Path, each: &mut impl FnMut(&Path)) {
    each(folder);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { for_each(&path, each) } else { each(&path) }
    }
}

/// Spool and control socket are their owner's alone, also a spool that was left open to others; a folder that was there
/// keeps its mode.
#[test]
fn files_are_their_owners_alone() {
    let mut relay = Relay::start("");
    submit(&relay, "", &["b@[192.0.2.1]"], MESSAGE);
    let spool = relay.spool();
    let folder = spool.parent().unwrap().to_owned();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(mode(&folder.join("control.sock")), 0o600);
    let is_private = |path: &Path| assert_eq!(mode(path) & 0o077, 0, "{}", path.display());
    for_each(&spool, &mut |path| is_private(path));
    relay.stop();
    for_each(&spool, &mut |path| {
        let wide = if path.is_dir() { 0o755 } else { 0o644 };
        std::fs::set_permissions(path, PermissionsExt::from_mode(wide)).unwrap();
    });
    relay.restart(1, |_| ());
    for_each(&spool, &mut |path| is_private(path));
    assert_eq!(mode(&folder), 0o755, "what was there keeps its mode");
    relay.stop();
    // A folder that others use, too, keeps its mode; what is the spool's in it does not.
    std::fs::write(spool.join("notes.txt"), "").unwrap();
    std::fs::set_permissions(&spool, PermissionsExt::from_mode(0o755)).unwrap();
    relay.restart(1, |_| ());
    assert_eq!((mode(&spool), mode(&spool.join("shard-0"))), (0o755, 0o700));
}

fn start_on(listen: SocketAddr, folder: &Path) -> Result<(), String> {
    let (spool, control) = (folder.join("spool"), folder.join("control"));
    let text = format!(
        "hostname = \"other.test\"\nlisten = [\"{listen}\"]\nspool.directory = {spool:?}\n\
         spool.segment_size = \"4MiB\"\nspool.space = \"256MiB\"\ncontrol.socket = {control:?}\n"
    );
    let config = Config::parse(&text, Path::new("test.toml")).unwrap();
    let placement = Placement { engine: EngineKind::Uring, cores: vec![available_cores()[0]] };
    let running = start(config, placement).map_err(|error| error.to_string())?;
    running.shutdown();
    running.join().map_err(|error| error.to_string())
}

/// A port that another relay listens on is refused, though both would share it.
#[test]
fn a_port_is_not_shared() {
    let relay = Relay::start("");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let refusal = start_on(relay.address(), folder.path()).unwrap_err();
    assert!(refusal.contains(&relay.address().to_string()) && refusal.contains("`listen`"), "{refusal}");
    assert!(!folder.path().join("spool").exists(), "its spool is not begun");
}

/// A regular file in the control socket's place is left alone, and a stale socket there is replaced.
#[test]
fn only_sockets_are_replaced() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("control");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    std::fs::write(&path, "precious").unwrap();
    let refusal = start_on(any, folder.path()).unwrap_err();
    assert!(refusal.contains("no socket") && refusal.contains("`control.socket`"), "{refusal}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(std::fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    start_on(any, folder.path()).expect("the stale one is replaced");
}
