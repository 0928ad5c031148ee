//! What the socket tests share: a relay in a directory of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use chasqui_protocol::smtp::server::Options;
use chasqui_relay::{Config, Placement, Running, start};
use chasqui_runtime::{EngineKind, available_cores};
use chasqui_testkit::client::Blocking;
use chasqui_testkit::receiver::Threads;
use chasqui_testkit::{Answer, PATIENCE};
use tempfile::TempDir;

pub(crate) const MESSAGE: &[u8] = b"Subject: a\r\n\r\nbody\r\n";

/// A receiver that has DSN.
pub(crate) fn with_dsn() -> Threads {
    Threads::start(Options { dsn: true, ..Options::default() }, |_, _| Answer::Usual)
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
        self.addresses()[0]
    }

    /// Of all listeners, those of `[[listener]]` last.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.running.as_ref().expect("it runs").ready().listen
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

/// Sends one message through a connection of its own, and expects it to be taken.
pub(crate) fn submit(relay: &Relay, from: &str, to: &[&str], message: &[u8]) {
    let mut sender = Blocking::connect(relay.address()).expect("a greeting");
    for reply in sender.send(from, to, message) {
        assert!(reply.starts_with("250 "), "{reply}");
    }
}

/// The setting that routes everything to a receiver.
pub(crate) fn route_to(sink: &Threads) -> String {
    format!("routes.\"*\" = [\"{}\"]", sink.address)
}
