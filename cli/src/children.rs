//! Child processes of `bench`: this same program as relay and as sinks.
//!
//! A child tells on its standard output, in one line of JSON, when it is ready; its standard error is kept, so that
//! its last lines can be shown. It is started with `--exit-with-parent`: no child outlives this process, whatever
//! ends it.

use crate::exit::Failure;
use crate::password::PASSWORD_VARIABLE;
use crate::signals::helper;
use chasqui_runtime::{now, process};
use serde::de::DeserializeOwned;
use signal_hook::consts::SIGTERM;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a child may take until it is ready: it writes and syncs its first segments before.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a child may take to drain and end: the drains of a bench (`stage::relay_config`) take 2 s and as long again for
/// what is under way.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How often a child that should end is asked whether it has.
const STOP_POLL: Duration = Duration::from_millis(10);
/// Lines of a child's standard error that are kept, half a screen, and their longest.
const TAIL_LINES: usize = 12;
const LINE_BYTES: u64 = 4096;

/// A running child.
#[derive(Debug)]
pub(crate) struct Child {
    name: &'static str,
    process: Process,
    ready: Receiver<String>,
    tail: Arc<Mutex<VecDeque<String>>>,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts this program with `arguments`, from the main thread: the kernel takes a thread that ends for a parent
    /// that dies. `on_end` is called, from a helper thread, when its standard output
    /// closes: when it has ended.
    pub(crate) fn start(
        name: &'static str,
        arguments: Vec<OsString>,
        on_end: impl FnOnce(&'static str) + Send + 'static,
    ) -> Result<Child, Failure> {
        let failed = |error| Failure::internal(format_args!("cannot start {name}"), error);
        let program = std::env::current_exe().map_err(failed)?;
        let mut process = Command::new(program)
            .args(arguments)
            .arg(format!("--exit-with-parent={}", std::process::id()))
            // It is for the mailboxes of others: our own sinks and readers have their own.
            .env_remove(PASSWORD_VARIABLE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C at the terminal reaches this process alone, which then stops its children.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let tail = Arc::new(Mutex::new(VecDeque::with_capacity(TAIL_LINES)));
        let (sender, ready) = channel();
        let (output, errors) = (process.stdout.take(), process.stderr.take());
        let child = Child { name, process, ready, tail: Arc::clone(&tail), ended: None };
        if let Some(errors) = errors {
            helper("child-stderr", move || keep_tail(errors, &tail))?;
        }
        if let Some(output) = output {
            helper("child-stdout", move || {
                forward_lines(output, &sender);
                drop(sender);
                on_end(name);
            })?;
        }
        Ok(child)
    }

    /// Waits for the child's line, at most 30 s.
    pub(crate) fn wait_ready<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        match self.ready.recv_timeout(READY_WITHIN) {
            Ok(line) => serde_json::from_str(&line)
                .map_err(|error| Failure::internal(format_args!("{} said {line:?}", self.name), error)),
            Err(RecvTimeoutError::Timeout) => {
                Err(self.failure(&format!("was not ready within {} s", READY_WITHIN.as_secs())))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.death()),
        }
    }

    /// The child's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Lets the child drain and end; one that does not end well, or not within 10 s, is a failure.
    pub(crate) fn stop(&mut self) -> Result<(), Failure> {
        // An error means that it has ended already.
        let _ = process::signal(self.pid(), SIGTERM);
        match self.wait(STOP_WITHIN) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failure(&format!("ended badly ({status})"))),
            None => Err(self.failure(&format!("did not stop within {} s", STOP_WITHIN.as_secs()))),
        }
    }

    /// What to tell when the child has ended though nobody asked it to.
    pub(crate) fn death(&mut self) -> Failure {
        let how = match self.wait(STOP_WITHIN) {
            Some(status) => format!("ended early ({status})"),
            None => "closed its output".to_owned(),
        };
        self.failure(&how)
    }

    fn failure(&self, what: &str) -> Failure {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = format!("{} (pid {}) {what}", self.name, self.pid());
        if tail.is_empty() {
            line.push_str("; it wrote nothing to stderr");
        }
        for last in tail.iter() {
            line.push_str("\n  ");
            line.push_str(last);
        }
        Failure::Internal(line)
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = now() + limit;
        loop {
            if self.ended.is_none() {
                self.ended = self.process.try_wait().ok().flatten();
            }
            if self.ended.is_some() || now() >= deadline {
                return self.ended;
            }
            let (_keep, never) = channel::<()>();
            let _ = never.recv_timeout(STOP_POLL);
        }
    }

    fn kill(&mut self) {
        if self.ended.is_none() {
            // An error means that it is gone already; wait() then reaps it.
            let _ = self.process.kill();
            self.ended = self.process.wait().ok();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends each line of `output` until it closes.
fn forward_lines(output: impl Read, lines: &Sender<String>) {
    for_each_line(output, |line| drop(lines.send(line)));
}

/// Keeps the last lines of `errors` until it closes.
fn keep_tail(errors: impl Read, tail: &Mutex<VecDeque<String>>) {
    for_each_line(errors, |line| {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    });
}

/// Reads lines of at most 4 KiB, longer ones in pieces, until the end or an error.
fn for_each_line(from: impl Read, mut take: impl FnMut(String)) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line), Ok(1..)) {
        take(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
}
