//! What the socket tests share: a relay in a directory of its own, a receiver that does as it is told, a client.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use chasqui_protocol::smtp::client::{self, Client, Transaction};
use chasqui_protocol::smtp::data::{BodyForm, Unstuff, stuff, unstuff};
use chasqui_protocol::smtp::dsn::Parameters;
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::{Event, Options, Session};
use chasqui_relay::{Config, Placement, Running, start};
use chasqui_runtime::{EngineKind, available_cores};
use tempfile::TempDir;

/// Longest wait for anything; a test that works never comes near.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A message as a receiver got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) reverse_path: String,
    pub(crate) recipients: Vec<String>,
    /// What was said of notifications.
    pub(crate) dsn: Parameters,
    /// Unstuffed.
    pub(crate) message: Vec<u8>,
}

impl Arrival {
    /// The message without the Received field that the relay put in front.
    pub(crate) fn original(&self) -> &[u8] {
        assert!(self.message.starts_with(b"Received: from "), "the relay's trace field comes first");
        let text = &self.message;
        let end =
            (0..text.len()).find(|&at| text[at..].starts_with(b"\r\n") && !text[at..].starts_with(b"\r\n\t"));
        &text[end.expect("the field ends") + 2..]
    }
}

/// What a receiver is asked to decide.
pub(crate) enum Question<'a> {
    Connection,
    Mail,
    Rcpt(&'a str),
    Message,
}

type Policy = Box<dyn FnMut(Question<'_>) -> Option<Reply> + Send>;

/// A receiver on a thread per connection.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    arrivals: Receiver<Arrival>,
}

impl Sink {
    /// A receiver that takes everything.
    pub(crate) fn start() -> Sink {
        Sink::with(|_| None)
    }

    /// A receiver with a mind of its own: a reply is a refusal.
    pub(crate) fn with(policy: impl FnMut(Question<'_>) -> Option<Reply> + Send + 'static) -> Sink {
        Sink::on("127.0.0.1:0".parse().unwrap(), false, policy)
    }

    /// A receiver that takes everything, and tells when a connection begins and ends.
    pub(crate) fn counting(changed: impl Fn(bool) + Send + Sync + 'static) -> Sink {
        Sink::start_on("127.0.0.1:0".parse().unwrap(), false, |_| None, changed)
    }

    /// A receiver that has DSN.
    pub(crate) fn with_dsn() -> Sink {
        Sink::on("127.0.0.1:0".parse().unwrap(), true, |_| None)
    }

    fn on(
        address: SocketAddr,
        dsn: bool,
        policy: impl FnMut(Question<'_>) -> Option<Reply> + Send + 'static,
    ) -> Sink {
        Sink::start_on(address, dsn, policy, |_| ())
    }

    fn start_on(
        address: SocketAddr,
        dsn: bool,
        policy: impl FnMut(Question<'_>) -> Option<Reply> + Send + 'static,
        changed: impl Fn(bool) + Send + Sync + 'static,
    ) -> Sink {
        let changed = Arc::new(changed);
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, arrivals) = channel();
        let policy: Arc<Mutex<Policy>> = Arc::new(Mutex::new(Box::new(policy)));
        on_thread(move || {
            for stream in listener.incoming() {
                let (policy, sender, changed) = (policy.clone(), sender.clone(), changed.clone());
                changed(true);
                on_thread(move || {
                    receive(stream.unwrap(), dsn, &policy, &sender, || changed(false));
                });
            }
        });
        Sink { address, arrivals }
    }

    /// The next message to arrive.
    pub(crate) fn next(&self) -> Arrival {
        self.arrivals.recv_timeout(PATIENCE).expect("a message arrives")
    }

    /// Whatever has arrived and was not looked at.
    pub(crate) fn rest(&self) -> Vec<Arrival> {
        self.arrivals.try_iter().collect()
    }
}

pub(crate) fn on_thread(work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().spawn(work).unwrap();
}

/// `quitting` is told before the reply to QUIT: the client may open its next connection at once.
fn receive(
    mut stream: TcpStream,
    dsn: bool,
    policy: &Mutex<Policy>,
    arrivals: &Sender<Arrival>,
    quitting: impl Fn(),
) {
    if let Some(refusal) = policy.lock().unwrap()(Question::Connection) {
        let mut line = Vec::new();
        refusal.encode(&mut line);
        let _gone = stream.write_all(&line);
        return;
    }
    let mut session =
        Session::new(Rc::new(Options { hostname: "sink.test".into(), dsn, ..Options::default() }));
    let nothing = Arrival {
        reverse_path: String::new(),
        recipients: Vec::new(),
        dsn: Parameters::default(),
        message: Vec::new(),
    };
    let (mut arrival, mut wire) = (nothing.clone(), Vec::new());
    let mut buffer = vec![0; 65536];
    loop {
        if stream.write_all(&std::mem::take(session.output())).is_err() {
            return;
        }
        let Some(length) = read(&mut stream, &mut buffer) else { return };
        let mut rest = &buffer[..length];
        loop {
            let (used, event) = session.handle_input(rest);
            rest = &rest[used..];
            let question = match &event {
                Event::NeedInput => break,
                Event::OutputFull => {
                    if stream.write_all(&std::mem::take(session.output())).is_err() {
                        return;
                    }
                    continue;
                }
                Event::Mail(request) => {
                    arrival = nothing.clone();
                    arrival.reverse_path = request.reverse_path.as_str().to_owned();
                    arrival.dsn.mail = request.dsn.clone();
                    Question::Mail
                }
                Event::Rcpt(request) => Question::Rcpt(request.mailbox.as_str()),
                Event::Data => {
                    wire.clear();
                    session.accept();
                    continue;
                }
                Event::Body(piece) => {
                    wire.extend_from_slice(piece);
                    continue;
                }
                Event::BodyEnd(_) => Question::Message,
                Event::Quit | Event::TooManyErrors => {
                    quitting();
                    let _gone = stream.write_all(session.output());
                    return;
                }
                _ => continue,
            };
            match policy.lock().unwrap()(question) {
                Some(refusal) => session.reject(&refusal),
                None => {
                    match event {
                        Event::Mail(_) => {}
                        Event::Rcpt(request) => {
                            arrival.recipients.push(request.mailbox.to_string());
                            arrival.dsn.recipients.push(request.dsn);
                        }
                        _ => {
                            unstuff(&mut Unstuff::default(), &wire, &mut arrival.message);
                            // The test may be over.
                            let _unwanted = arrivals.send(std::mem::replace(&mut arrival, nothing.clone()));
                        }
                    }
                    session.accept();
                }
            }
        }
    }
}

/// A relay, and the directory that its spool outlives it in.
pub(crate) struct Relay {
    running: Option<Running>,
    config: Config,
    directory: TempDir,
}

impl Relay {
    /// A relay on one shard with these settings besides hostname, listen address, spool and control socket.
    pub(crate) fn start(settings: &str) -> Relay {
        Relay::on_shards(1, settings)
    }

    pub(crate) fn on_shards(shards: usize, settings: &str) -> Relay {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (spool, control) = (directory.path().join("spool"), directory.path().join("control.sock"));
        let text = format!(
            "hostname = \"relay.test\"\nlisten = [\"127.0.0.1:0\"]\nspool.directory = {spool:?}\n\
             spool.segment_size = \"4MiB\"\nspool.space = \"256MiB\"\ncontrol.socket = {control:?}\n{settings}\n"
        );
        let config =
            Config::parse(&text, Path::new("test.toml")).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut relay = Relay { running: None, config, directory };
        relay.run(shards);
        relay
    }

    fn run(&mut self, shards: usize) {
        let cores = (0..shards).map(|shard| available_cores()[shard % available_cores().len()]).collect();
        let placement = Placement { engine: EngineKind::Uring, cores };
        self.running = Some(start(self.config.clone(), placement).unwrap_or_else(|error| panic!("{error}")));
    }

    /// Drains, as at SIGTERM.
    pub(crate) fn stop(&mut self) {
        let running = self.running.take().expect("it runs");
        running.shutdown();
        running.join().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts again on the same spool, with the configuration changed.
    pub(crate) fn restart(&mut self, shards: usize, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.run(shards);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("it runs").ready().listen[0]
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    fn ask(&self, command: &str) -> BufReader<UnixStream> {
        self.request(serde_json::json!({ "command": command }))
    }

    fn request(&self, request: serde_json::Value) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(self.directory.path().join("control.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(stream, "{request}").unwrap();
        BufReader::new(stream)
    }

    /// Asks the control socket something, and gives every line of the answer.
    pub(crate) fn tell(&self, request: serde_json::Value) -> Vec<serde_json::Value> {
        let stream = self.request(request);
        stream.get_ref().shutdown(Shutdown::Write).unwrap();
        stream.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    }

    /// The queue as (reverse-path, recipient), sorted.
    pub(crate) fn queue(&self) -> Vec<(String, String)> {
        let mut entries = Vec::new();
        for line in self.ask("queue").lines() {
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            if line["end"] == true {
                assert_eq!(line["entries"], entries.len());
                entries.sort();
                return entries;
            }
            let field = |name: &str| line[name].as_str().unwrap().to_owned();
            entries.push((field("reverse_path"), field("recipient")));
        }
        panic!("the listing ends with its end");
    }

    pub(crate) fn stats(&self) -> serde_json::Value {
        let mut line = String::new();
        self.ask("stats").read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Waits until the queue is empty. Each question goes through the shards, so that asking lets them work.
    pub(crate) fn await_empty(&self) {
        let since = chasqui_runtime::now();
        while !self.queue().is_empty() {
            assert!(since.elapsed() < PATIENCE, "the queue stays full: {:?}", self.queue());
        }
    }
}

impl Drop for Relay {
    /// Rings that a test leaves behind would keep locked memory from the others.
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown();
            let _failed_already = running.join();
        }
    }
}

/// The next octets, `None` at the end. A read with a time limit can be interrupted without a signal handler.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome.ok().filter(|&length| length > 0),
        }
    }
}

/// A connection to the relay.
pub(crate) struct Sender25 {
    stream: TcpStream,
    client: Client,
}

impl Sender25 {
    /// Connects and says EHLO; the refusal if there is one.
    pub(crate) fn connect(address: SocketAddr) -> Result<Sender25, Reply> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut sender = Sender25 { stream, client: Client::new("client.test") };
        match sender.event() {
            Some(client::Event::Ready) => Ok(sender),
            Some(client::Event::Refused(reply) | client::Event::Closing(reply)) => Err(reply),
            other => panic!("{other:?}"),
        }
    }

    fn event(&mut self) -> Option<client::Event> {
        loop {
            if let Some(event) = self.client.poll_event() {
                return Some(event);
            }
            self.stream.write_all(&std::mem::take(self.client.output())).ok()?;
            let mut buffer = [0; 4096];
            let length = read(&mut self.stream, &mut buffer)?;
            self.client.handle_input(&buffer[..length]).unwrap();
        }
    }

    /// Sends a message (unstuffed); `None` when the connection was lost before an answer.
    pub(crate) fn try_send(&mut self, from: &str, to: &[&str], message: &[u8]) -> Option<client::Outcome> {
        let transaction = Transaction {
            reverse_path: from.into(),
            recipients: to.iter().map(|&recipient| recipient.into()).collect(),
            size: Some(message.len() as u64),
            eight_bit: !message.is_ascii(),
            form: BodyForm::default(),
            dsn: None,
        };
        self.transact(transaction, message)
    }

    /// As [`Sender25::try_send`], with everything that can be said.
    pub(crate) fn transact(&mut self, transaction: Transaction, message: &[u8]) -> Option<client::Outcome> {
        self.client.start(transaction).ok()?;
        loop {
            match self.event()? {
                client::Event::SendBody => {
                    let mut wire = std::mem::take(self.client.output());
                    stuff(message, &mut wire);
                    wire.extend_from_slice(b".\r\n");
                    self.stream.write_all(&wire).ok()?;
                    self.client.body_sent();
                }
                client::Event::Finished(outcome) => return Some(outcome),
                client::Event::Closing(_) | client::Event::Closed => return None,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Sends a message and gives the reply that decided over each recipient.
    pub(crate) fn send(&mut self, from: &str, to: &[&str], message: &[u8]) -> Vec<String> {
        let outcome = self.try_send(from, to, message).expect("an answer");
        (0..to.len()).map(|place| outcome.decisive(place).expect("a reply").to_string()).collect()
    }

    /// What the relay advertises.
    pub(crate) fn capabilities(&self) -> client::Capabilities {
        self.client.capabilities()
    }

    /// The next thing the relay says of itself.
    pub(crate) fn hear(&mut self) -> Option<client::Event> {
        self.event()
    }
}

/// Sends one message through a connection of its own, and expects it to be taken.
pub(crate) fn submit(relay: &Relay, from: &str, to: &[&str], message: &[u8]) {
    let mut sender = Sender25::connect(relay.address()).expect("a greeting");
    for reply in sender.send(from, to, message) {
        assert!(reply.starts_with("250 "), "{reply}");
    }
}

/// The setting that routes everything to a receiver.
pub(crate) fn route_to(sink: &Sink) -> String {
    format!("routes.\"*\" = [\"{}\"]", sink.address)
}
