//! How often the relay allocates for a message. A test binary of its own, because it counts those of the whole process:
//! the client and the receiver here allocate nothing while the count runs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use chasqui_relay::{Config, Placement, start};
use chasqui_runtime::counting::{Counting, allocations};
use chasqui_runtime::{EngineKind, available_cores, now};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const COMMANDS: &[u8] = b"MAIL FROM:<sender@client.test> SIZE=600\r\nRCPT TO:<user@example.test>\r\nDATA\r\n";
const WARM_UP: usize = 500;
const MESSAGES: usize = 2000;
/// Counts of so many messages, of which the least tells what a message costs: what comes with time, as on a machine that is busy, is not
/// the messages'.
const ROUNDS: usize = 3;
/// What a message may cost: nothing of its own. 0.10 when this was written, all of it by the piece of work that comes once in
/// many messages: a segment with its index and its tables, and tables that grow to their size.
const ALLOCATIONS_MAX: f64 = 0.25;

/// The way of a message through the relay, from a client's connection that stands to a pooled one, allocates
/// nothing.
#[test]
fn a_message_on_standing_connections_allocates_nothing() {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = format!(
        "hostname = \"relay.test\"\nlisten = [\"127.0.0.1:0\"]\nspool.directory = {:?}\nspool.class = \"buffered\"\n\
         spool.segment_size = \"4MiB\"\nspool.space = \"256MiB\"\nroutes.\"*\" = [\"{}\"]\n",
        directory.path().join("spool"),
        receiver.local_addr().unwrap(),
    );
    let config = Config::parse(&settings, Path::new("test.toml")).unwrap_or_else(|error| panic!("{error}"));
    let placement = Placement { engine: EngineKind::Uring, cores: vec![available_cores()[0]] };
    let relay = start(config, placement).unwrap_or_else(|error| panic!("{error}"));
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    thread::Builder::new().spawn(move || receive(&receiver, &counter)).unwrap();

    let mut client = TcpStream::connect(relay.ready().listen[0]).unwrap();
    read_lines(&mut client, 1);
    client.write_all(b"EHLO client.test\r\n").unwrap();
    read_lines(&mut client, 6);
    let message =
        [b"Subject: a\r\n\r\n".as_slice(), &b"some text in a line\r\n".repeat(28), b".\r\n"].concat();
    let (mut counts, mut sent) = (Vec::new(), 0);
    while counts.len() <= ROUNDS {
        if sent % MESSAGES == WARM_UP {
            await_taken(&taken, sent);
            counts.push(allocations());
        }
        client.write_all(COMMANDS).unwrap();
        read_lines(&mut client, 3);
        client.write_all(&message).unwrap();
        read_lines(&mut client, 1);
        sent += 1;
    }
    let least = counts.windows(2).map(|pair| pair[1] - pair[0]).min().expect("some rounds");
    let each = least as f64 / MESSAGES as f64;
    println!("{each:.2} allocations a message");
    assert!(each <= ALLOCATIONS_MAX, "{each:.2} allocations a message");
    relay.shutdown();
    relay.join().unwrap();
}

fn await_taken(taken: &AtomicUsize, count: usize) {
    let since = now();
    while taken.load(Ordering::Acquire) < count {
        assert!(since.elapsed().as_secs() < 30, "{count} messages arrive");
        thread::yield_now();
    }
}

/// Reads so many lines, of positive replies.
fn read_lines(stream: &mut TcpStream, mut missing: usize) {
    let mut buffer = [0; 1024];
    while missing > 0 {
        let length = stream.read(&mut buffer).unwrap();
        assert!(
            matches!(buffer[..length].first(), Some(b'2' | b'3')),
            "{:?}",
            str::from_utf8(&buffer[..length])
        );
        missing -= buffer[..length].iter().filter(|&&byte| byte == b'\n').count();
    }
}

/// A receiver that takes everything, a thread for each connection.
fn receive(listener: &TcpListener, taken: &Arc<AtomicUsize>) {
    for stream in listener.incoming() {
        let (mut stream, taken) = (stream.unwrap(), taken.clone());
        thread::Builder::new().spawn(move || converse(&mut stream, &taken)).unwrap();
    }
}

fn converse(stream: &mut TcpStream, taken: &AtomicUsize) {
    stream.write_all(b"220 receiver.test ESMTP\r\n").unwrap();
    let mut buffer = [0; 16 * 1024];
    let (mut filled, mut in_body) = (0, false);
    loop {
        let length = stream.read(&mut buffer[filled..]).unwrap_or(0);
        if length == 0 {
            return;
        }
        filled += length;
        let reply: &[u8] = match &buffer[..filled] {
            input if in_body && input.ends_with(b"\r\n.\r\n") => {
                taken.fetch_add(1, Ordering::Release);
                b"250 2.0.0 Ok\r\n"
            }
            input if !in_body && input.ends_with(b"DATA\r\n") => {
                b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
            }
            input if input.starts_with(b"EHLO") && input.ends_with(b"\r\n") => {
                stream.write_all(b"250-receiver.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n").unwrap();
                filled = 0;
                continue;
            }
            input if input.ends_with(b"QUIT\r\n") => return,
            _ => continue,
        };
        in_body = !in_body;
        filled = 0;
        stream.write_all(reply).unwrap();
    }
}
