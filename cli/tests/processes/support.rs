//! What the whole-chain tests share: this program as processes, and clients that say what they are told to say.

use chasqui_runtime::{Instant, now, process};
use chasqui_testkit::PATIENCE;
use chasqui_testkit::client::Blocking;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// How often a state that sends no event is looked at.
const POLL: Duration = Duration::from_millis(20);
const SIGTERM: i32 = 15;

/// Held by every test that loads the machine: two at once would be late for each other's reasons.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program under test.
pub(crate) fn chasqui() -> Command {
    Command::new(env!("CARGO_BIN_EXE_chasqui"))
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    chasqui().args(arguments).stdin(Stdio::null()).output().expect("the program can be started")
}

/// `chasqui bench --json` with `options`, its results in `out`.
pub(crate) fn bench(options: &str, out: &Path) -> Command {
    let mut command = chasqui();
    command.arg("bench").args(options.split(' ')).arg("--json").arg("--out").arg(out);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command that prints run.json: the record, the exit code, and what it said.
pub(crate) fn record(mut command: Command) -> (Value, Option<i32>, String) {
    let output = command.output().expect("the program can be started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let record = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (record, output.status.code(), said)
}

/// [`record`] of a bench that must end with `code`. A machine that is busy with something else makes the generator late
/// and the run invalid, which says nothing about the chain: then up to three runs are made, and if all were late for
/// that reason alone the last one counts for everything but its exit code (.ci/run insists on a valid one).
/// `out` is the folder of the last run.
pub(crate) fn record_ending(code: i32, options: &str, out: &Path) -> Value {
    let mut tries = 0;
    loop {
        tries += 1;
        let (run, ended, said) = record(bench(options, out));
        if ended == Some(code) {
            return run;
        }
        let reasons = run["invalid_reasons"].as_array().expect("a list of reasons");
        let is_late = |reason: &Value| {
            reason.as_str().is_some_and(|reason| reason.contains(" late ") || reason.contains(" wanted "))
        };
        let only_late = !reasons.is_empty() && reasons.iter().all(is_late);
        assert!(ended == Some(5) && only_late, "expected exit code {code}, got {ended:?}: {said}\n{run}");
        if tries == 3 {
            return run;
        }
        std::fs::remove_dir_all(out).expect("the invalid run's folder can be removed");
    }
}

/// Looks at `state` until it gives something; fails with `what` when it takes too long.
pub(crate) fn wait_for<T>(what: &str, mut state: impl FnMut() -> Option<T>) -> T {
    let deadline: Instant = now() + PATIENCE;
    loop {
        if let Some(found) = state() {
            return found;
        }
        assert!(now() < deadline, "{what}: not within {PATIENCE:?}");
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        let _ = never.recv_timeout(POLL);
    }
}

/// A server process that has said where it listens; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) ready: Value,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Server {
        Server::spawn(chasqui().args(arguments))
    }

    pub(crate) fn spawn(command: &mut Command) -> Server {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the program can be started");
        let mut line = String::new();
        let output = child.stdout.take().expect("stdout is piped");
        BufReader::new(output).read_line(&mut line).expect("a line from the server");
        let ready =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{command:?}: {line:?}: {error}"));
        Server { child, ready }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The socket address under `key` of the ready line, the first when it is a list.
    pub(crate) fn address(&self, key: &str) -> SocketAddr {
        let value = &self.ready[key];
        let text =
            value.as_str().or_else(|| value[0].as_str()).unwrap_or_else(|| panic!("{key}: {}", self.ready));
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server can be reaped");
    }

    /// Ends it with SIGTERM and waits for its drain.
    pub(crate) fn stop(mut self) -> ExitStatus {
        process::signal(self.pid(), SIGTERM).expect("the server can be signalled");
        wait_for("drain", || self.child.try_wait().expect("the server can be waited for"))
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("the server can be waited for").is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sinks and a relay in front of them, with a folder of their own.
pub(crate) struct Chain {
    pub(crate) sink: Server,
    pub(crate) relay: Server,
    pub(crate) folder: TempDir,
}

impl Chain {
    /// Starts both; `more` is added to the relay's configuration.
    pub(crate) fn start(more: &str) -> Chain {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let arrivals = folder.path().join("arrivals");
        let sink = Server::start(&["sink", "--arrivals", &text(&arrivals)]);
        let config = relay_config(&sink, folder.path(), "127.0.0.1:0", more);
        let relay = start_relay(folder.path(), &config);
        Chain { sink, relay, folder }
    }

    /// Kills the relay and starts another on the same spool and the same port.
    pub(crate) fn kill_and_restart_relay(self, more: &str) -> Chain {
        let Chain { sink, relay, folder } = self;
        let listen = relay.address("listen").to_string();
        relay.kill();
        let config = relay_config(&sink, folder.path(), &listen, more);
        let relay = start_relay(folder.path(), &config);
        Chain { sink, relay, folder }
    }

    /// The relay's control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// A connection to the relay, greeted and after EHLO.
    pub(crate) fn client(&self) -> Blocking {
        Blocking::connect(self.relay.address("listen")).expect("a greeting")
    }

    /// Sends `wire`, the message as it goes over the wire without the final dot, to one mailbox; the reply must be 250.
    pub(crate) fn send(&self, mailbox: &str, wire: &[u8]) {
        let mut client = self.client();
        envelope(&mut client, mailbox);
        client.write(wire);
        client.expect(".", "250");
        client.expect("QUIT", "221");
    }

    /// The messages of a mailbox once it holds `count`, without the trace fields before them.
    pub(crate) fn read(&self, mailbox: &str, count: usize) -> Vec<Vec<u8>> {
        wait_for(&format!("{count} messages for {mailbox}"), || {
            let messages = pop3_messages(self.sink.address("pop3"), mailbox);
            (messages.len() >= count).then(|| messages.iter().map(|message| without_trace(message)).collect())
        })
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("temporary paths are UTF-8").to_owned()
}

fn start_relay(folder: &Path, config: &str) -> Server {
    let path = folder.join("relay.toml");
    std::fs::write(&path, config).expect("the configuration can be written");
    Server::start(&["relay", "--config", &text(&path)])
}

fn relay_config(sink: &Server, folder: &Path, listen: &str, more: &str) -> String {
    let retry = if more.contains("retry.first") { "" } else { "retry.first = \"1s\"\n" };
    format!(
        "hostname = \"relay.chasqui.test\"\n\
         listen = [\"{listen}\"]\n\
         networks = [\"127.0.0.1/32\"]\n\
         spool.directory = \"{spool}\"\n\
         spool.segment_size = \"8MiB\"\n\
         dns.servers = [\"{dns}\"]\n\
         delivery.port = {port}\n\
         {retry}\
         control.socket = \"{control}\"\n\
         {more}\n",
        spool = text(&folder.join("spool")),
        control = text(&folder.join("control")),
        dns = sink.address("dns"),
        port = sink.address("smtp").port(),
    )
}

/// One question to a relay's control socket, and its one-line answer.
pub(crate) fn ask(control: &Path, command: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(control).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    writeln!(stream, "{{\"command\":\"{command}\"}}").ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// MAIL, RCPT and DATA, up to the 354.
pub(crate) fn envelope(client: &mut Blocking, mailbox: &str) {
    client.expect("MAIL FROM:<sender@client.test> BODY=8BITMIME", "250");
    client.expect(&format!("RCPT TO:<{mailbox}>"), "250");
    client.expect("DATA", "354");
}

/// Every message of a mailbox, unstuffed, as POP3 gives it.
fn pop3_messages(address: SocketAddr, mailbox: &str) -> Vec<Vec<u8>> {
    let stream = TcpStream::connect(address).expect("POP3 listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit can be set");
    let mut reader = BufReader::new(stream);
    let mut command = |command: &str| {
        if !command.is_empty() {
            reader.get_mut().write_all(format!("{command}\r\n").as_bytes()).expect("POP3 reads");
        }
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).expect("a POP3 reply in time");
        let reply = String::from_utf8_lossy(&line).into_owned();
        assert!(reply.starts_with("+OK"), "{command}: {reply}");
        let mut lines = Vec::new();
        if command.starts_with("RETR") {
            loop {
                line.clear();
                reader.read_until(b'\n', &mut line).expect("a message in time");
                assert!(!line.is_empty(), "POP3 closed the connection inside a message");
                if line == b".\r\n" {
                    break;
                }
                lines.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            }
        }
        (reply, lines)
    };
    command("");
    command(&format!("USER {mailbox}"));
    command("PASS chasqui");
    let (stat, _) = command("STAT");
    let count: usize = stat.split(' ').nth(1).and_then(|count| count.parse().ok()).expect("a count in STAT");
    let messages = (1..=count).map(|number| command(&format!("RETR {number}")).1).collect();
    command("QUIT");
    messages
}

/// What stands after the Return-Path and Received fields that relays prepend.
fn without_trace(message: &[u8]) -> Vec<u8> {
    let mut rest = message;
    let mut in_trace = false;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..=end];
        let starts = |name: &[u8]| line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name);
        let folded = in_trace && matches!(line[0], b' ' | b'\t');
        if !folded && !starts(b"received:") && !starts(b"return-path:") {
            break;
        }
        in_trace = true;
        rest = &rest[end + 1..];
    }
    rest.to_vec()
}

/// Reads a process's output to its end.
pub(crate) fn read_all(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).expect("UTF-8 output");
    text
}

/// A column of a record's ledger.
pub(crate) fn column(record: &Value, name: &str) -> u64 {
    record["ledger"][name].as_u64().unwrap_or_else(|| panic!("ledger.{name} in {record}"))
}

/// Process ids of the children of `parent`.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether `pid` runs; one that has ended and was not reaped does not.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}
