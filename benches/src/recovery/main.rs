//! How long a relay takes to open a spool full of mail, and what a queued message costs it in memory.
//!
//! `cargo run --release -p chasqui-benches --bin recovery -- [FOLDER] [MESSAGES]` makes a spool of one shard with
//! MESSAGES (1,000,000) queued messages of 2 KiB in FOLDER (the current one by default; 2.6 GB), removes it at the end,
//! and starts a relay on it, of one shard and in a process of its own, three times: with nothing queued, with all
//! messages waiting for their first attempt, and with all deferred. Then it empties the spool and has a relay take
//! MESSAGES by SMTP, whose next hop cannot be reached, and once more with a next hop that refuses each for the time being.
//!
//! One line of JSON per state on stdout: `open_s`, from the start of the relay until it accepts mail; `queued_s`, until
//! the last message is in the queue as well; `cpu_s`, what the process used by then, user and system; and
//! `bytes_per_message`, RssAnon less that of the relay with nothing queued. The page cache is warm.

mod live;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::control::Request;
use chasqui_protocol::smtp::data::BodyForm;
use chasqui_relay::spool::{Durability, Envelope, Spool, SpoolConfig, State, StateChange};
use chasqui_relay::{Config, Placement, start};
use chasqui_runtime::{EngineKind, SeededRng, available_cores, now, process, run, spawn, wall_clock};

const BODY_BYTES: usize = 2048;
/// Writers at a time.
const WRITERS: usize = 500;
const SPACE: u64 = 64 << 30;
/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["fill", folder, count] => number(count).map(|count| fill(Path::new(folder), count)),
        ["defer", folder] => {
            defer(Path::new(folder));
            Ok(())
        }
        ["relay", folder, route] => relay(Path::new(folder), route),
        [] => measure(Path::new("."), 1_000_000),
        [folder] => measure(Path::new(folder), 1_000_000),
        [folder, count] => number(count).and_then(|count| measure(Path::new(folder), count)),
        _ => Err("usage: recovery [FOLDER] [MESSAGES]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("recovery: {line}");
            ExitCode::from(2)
        }
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text:?} is no whole number"))
}

/// A relay in a process of its own.
pub(crate) struct Relay {
    child: Child,
    /// Its end is the relay's.
    life: Option<ChildStdin>,
    control: PathBuf,
    pub(crate) address: String,
    began: chasqui_runtime::Instant,
    open_s: f64,
}

impl Relay {
    fn start(folder: &Path, route: &str) -> Result<Relay, String> {
        let began = now();
        let mut child = this_program()?
            .args(["relay".as_ref(), folder.as_os_str(), route.as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
        let (address, open_s) = line.trim().split_once(' ').ok_or("the relay did not start")?;
        let open_s = open_s.parse().map_err(|_| "the relay says nonsense")?;
        let (life, address) = (child.stdin.take(), address.to_owned());
        Ok(Relay { child, life, control: folder.join("control"), address, began, open_s })
    }

    /// One of the numbers on the control socket.
    pub(crate) fn figure(&self, name: &str) -> Result<u64, String> {
        let ask = || {
            let mut socket = UnixStream::connect(&self.control)?;
            socket.write_all(&Request::Stats.encode())?;
            let mut line = String::new();
            BufReader::new(socket).read_line(&mut line)?;
            Ok::<_, std::io::Error>(line)
        };
        let line = ask().map_err(|error| format!("the relay does not answer: {error}"))?;
        let field = format!("\"{name}\":");
        let rest = line.split_once(&field).ok_or_else(|| format!("the relay does not tell {name}"))?.1;
        let digits = rest.split(|it: char| !it.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().map_err(|_| format!("{name} is no number"))
    }

    /// Waits until a number on the control socket is what it should be.
    pub(crate) fn wait_for(&self, name: &str, value: u64) -> Result<(), String> {
        while self.figure(name)? != value {
            pause(Duration::from_millis(5));
        }
        Ok(())
    }

    fn memory(&self) -> Result<u64, String> {
        // What was freed last is given back.
        pause(Duration::from_secs(1));
        process::anonymous_rss_bytes(self.child.id()).map_err(|error| error.to_string())
    }

    fn cpu_s(&self) -> Result<f64, String> {
        process::cpu_time(self.child.id()).map(|time| time.as_secs_f64()).map_err(|error| error.to_string())
    }

    fn end(mut self) -> Result<(), String> {
        drop(self.life.take());
        self.child.wait().map(drop).map_err(|error| error.to_string())
    }
}

#[expect(clippy::disallowed_methods, reason = "the program that measures is no shard")]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

fn this_program() -> Result<Command, String> {
    std::env::current_exe().map(Command::new).map_err(|error| error.to_string())
}

fn child(arguments: &[&std::ffi::OsStr]) -> Result<(), String> {
    let status = this_program()?.args(arguments).status().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("{arguments:?} failed")) }
}

/// Removes the spool in the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

fn measure(folder: &Path, count: usize) -> Result<(), String> {
    let folder = Folder(folder.join("recovery-bench.tmp"));
    let empty = || {
        if folder.0.exists() {
            std::fs::remove_dir_all(&folder.0).map_err(|error| error.to_string())?;
        }
        std::fs::create_dir_all(&folder.0).map_err(|error| error.to_string())
    };
    empty()?;
    let path = folder.0.as_os_str();
    let idle = Relay::start(&folder.0, NOWHERE)?;
    let baseline = idle.memory()?;
    idle.end()?;

    child(&["fill".as_ref(), path, count.to_string().as_ref()])?;
    started(&folder.0, count, baseline, "recovered, waiting")?;
    child(&["defer".as_ref(), path])?;
    started(&folder.0, count, baseline, "recovered, deferred")?;

    for (state, refuses) in [("waiting", false), ("deferred", true)] {
        empty()?;
        let hop = live::NextHop::start(refuses)?;
        let relay = Relay::start(&folder.0, &hop.address)?;
        live::send(&relay.address, count, BODY_BYTES)?;
        relay.wait_for("queued", count as u64)?;
        if refuses {
            relay.wait_for("deferred", count as u64)?;
        }
        let bytes = per_message(relay.memory()?, baseline, count);
        println!("{{\"state\":\"{state}\",\"messages\":{count},\"bytes_per_message\":{bytes:.0}}}");
        relay.end()?;
    }
    Ok(())
}

fn per_message(memory: u64, baseline: u64, count: usize) -> f64 {
    memory.saturating_sub(baseline) as f64 / count as f64
}

/// Starts a relay on a full spool.
fn started(folder: &Path, count: usize, baseline: u64, state: &str) -> Result<(), String> {
    let relay = Relay::start(folder, NOWHERE)?;
    relay.wait_for("recovering", 0)?;
    let queued_s = (now() - relay.began).as_secs_f64();
    let (cpu_s, open_s) = (relay.cpu_s()?, relay.open_s);
    let queued = relay.figure("queued")?;
    if queued != count as u64 {
        return Err(format!("{queued} of {count} messages were recovered"));
    }
    let bytes = per_message(relay.memory()?, baseline, count);
    println!(
        "{{\"state\":\"{state}\",\"messages\":{count},\"open_s\":{open_s:.2},\"queued_s\":{queued_s:.2},\
         \"cpu_s\":{cpu_s:.2},\"bytes_per_message\":{bytes:.0}}}"
    );
    relay.end()
}

/// Runs a relay until its standard input ends.
fn relay(folder: &Path, route: &str) -> Result<(), String> {
    let text = format!(
        "hostname = \"relay.test\"\nlisten = [\"127.0.0.1:0\"]\nroutes.\"*\" = [{route:?}]\n\
         [spool]\ndirectory = {folder:?}\nclass = \"buffered\"\nspace = \"{}GiB\"\n[control]\nsocket = {:?}\n\
         [limits]\nqueued = 100000000\n[retry]\nfirst = \"1h\"\n",
        SPACE >> 30,
        folder.join("control"),
    );
    let config = Config::parse(&text, "bench.toml".as_ref()).map_err(|error| error.to_string())?;
    let began = now();
    let placement = Placement { engine: EngineKind::default(), cores: vec![available_cores()[0]] };
    let relay = start(config, placement).map_err(|error| error.to_string())?;
    println!("{} {}", relay.ready().listen[0], (now() - began).as_secs_f64());
    let _rest = std::io::stdin().read_to_end(&mut Vec::new());
    relay.shutdown();
    relay.join().map_err(|error| error.to_string())
}

fn spool_config(folder: &Path) -> SpoolConfig {
    let config = SpoolConfig::new(folder.to_owned(), 0, 1);
    SpoolConfig { class: Durability::Buffered, max_space: SPACE, ..config }
}

/// Commits messages of one recipient each, of many domains.
fn fill(folder: &Path, count: usize) {
    let folder = folder.to_owned();
    let filled = move || {
        let folder = folder.clone();
        async move {
            let (spool, _) = Spool::open(spool_config(&folder)).await.expect("the spool was just made");
            let writers: Vec<_> =
                (0..WRITERS).map(|first| spawn(write(spool.clone(), first, count))).collect();
            for writer in writers {
                writer.await;
            }
            spool.close().await.expect("the disk is well");
        }
    };
    run(chasqui_runtime::Config::default(), filled).expect("the shard starts");
}

async fn write(spool: Rc<Spool>, first: usize, count: usize) {
    for number in (first..count).step_by(WRITERS) {
        let mut body = vec![0; BODY_BYTES];
        SeededRng::new(number as u64).fill(&mut body);
        let mut writer = spool.begin(None);
        writer.write(&body).await.expect("there is room");
        writer.commit(&envelope(number)).await.expect("there is room");
    }
}

fn envelope(number: usize) -> Envelope {
    Envelope {
        reverse_path: format!("bounces+{number}@newsletter.sender.example"),
        recipients: vec![format!("recipient.{number}@domain{}.receiver.example", number % 5000)],
        arrived_ms: wall_clock().as_millis() as u64,
        lead_ms: 0,
        size: BODY_BYTES as u64,
        eight_bit: false,
        form: BodyForm::default(),
        dsn: None,
    }
}

/// Defers every message for hours.
fn defer(folder: &Path) {
    let folder = folder.to_owned();
    let deferred = move || {
        let folder = folder.clone();
        async move {
            let (spool, mut recovery) = Spool::open(spool_config(&folder)).await.expect("the spool is whole");
            while let Some(batch) = recovery.queued.next().await {
                for message in batch {
                    let reason = "4.7.1 451 4.7.1 Greylisted, please try again later".into();
                    let until_ms = wall_clock().as_millis() as u64 + 6 * 3_600_000;
                    let state = State::Deferred { until_ms, attempts: 1, reason, warned: false };
                    let changes = [StateChange { id: message.id, recipients: &[0], state }];
                    spool.states(&changes).expect("it is open");
                }
                spool.flush().await.expect("the disk is well");
            }
            spool.close().await.expect("the disk is well");
        }
    };
    run(chasqui_runtime::Config::default(), deferred).expect("the shard starts");
}
