//! A child process: it says where it listens, answers each line on standard input with its counts, and ends with it.
//! `end` announces that.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::RawFd;
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use chasqui_runtime::process::cpu_time;

use crate::counts::{Board, Counts};
use crate::shards;

const END: &str = "end";

/// Runs `shard` on each core with a listening socket of its own, until the parent is gone.
pub(crate) fn serve<F>(part: &str, cores: &[usize], shard: F) -> io::Result<()>
where
    F: Fn(usize, RawFd, Board) -> io::Result<()> + Clone + Send + 'static,
{
    let listeners = cores.iter().map(|_| shards::listen()).collect::<io::Result<Vec<_>>>()?;
    let board = Board::new(cores.len());
    let ports: Vec<String> = listeners.iter().map(|(_, port)| port.to_string()).collect();
    let for_shards = board.clone();
    shards::start(part, cores, move |index| shard(index, listeners[index].0, for_shards.clone()))?;
    println!("{}", ports.join(" "));
    for asked in io::stdin().lines() {
        if asked? == END {
            shards::end();
        }
        println!("{}", board.sum().to_line());
    }
    Ok(())
}

/// A running child, which ends when this is dropped.
pub(crate) struct Child {
    process: Process,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pub(crate) ports: Vec<u16>,
}

impl Child {
    /// Starts this program with `arguments` and waits until it listens.
    pub(crate) fn start(arguments: &[String]) -> io::Result<Child> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let asks = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let mut child = Child { process, asks, answers, ports: Vec::new() };
        let line = child.line()?;
        let ports = line.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        child.ports = ports.map_err(|_| io::Error::other(format!("{arguments:?} said {line:?}")))?;
        Ok(child)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line)? {
            0 => Err(io::Error::other("a child has ended early")),
            _ => Ok(line),
        }
    }

    /// CPU time, of all its threads, and counts.
    pub(crate) fn usage(&mut self) -> io::Result<(Duration, Counts)> {
        Ok((cpu_time(self.process.id())?, self.ask("counts")?))
    }

    /// Announces the end, at which its peers will be gone before it is.
    pub(crate) fn announce_end(&mut self) -> io::Result<()> {
        self.ask(END).map(drop)
    }

    fn ask(&mut self, line: &str) -> io::Result<Counts> {
        writeln!(self.asks.as_mut().expect("open until the drop"), "{line}")?;
        let answer = self.line()?;
        Counts::parse(&answer).ok_or_else(|| io::Error::other(format!("a child said {answer:?}")))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.asks = None;
        // An error means that it was reaped already.
        let _ended = self.process.wait();
    }
}
