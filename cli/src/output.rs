//! Where a run's results go: its folder and standard output.

use crate::arguments::OutputOptions;
use crate::exit::Failure;
use crate::record;
use chasqui_loadgen::Outcome;
use chasqui_report::{Run, RunFolder, Timestamp, render};
use chasqui_runtime::wall_clock;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Folder of all runs that were given none.
const RUNS: &str = "results/runs";

/// A run's folder and what standard output shows.
#[derive(Debug)]
pub(crate) struct Output {
    folder: RunFolder,
    path: PathBuf,
    json: bool,
}

impl Output {
    /// Makes the run's folder, before anything is started: a bad `--out` ends the command here.
    pub(crate) fn prepare(options: &OutputOptions) -> Result<Output, Failure> {
        let (path, chosen) = match &options.out {
            Some(path) => (path.clone(), true),
            None => (unused_folder(), false),
        };
        let folder = RunFolder::create(&path).map_err(|error| {
            let hint = if chosen { "" } else { "; name a folder with --out" };
            Failure::Usage(format!("{error}{hint}"))
        })?;
        Ok(Output { folder, path, json: options.json })
    }

    /// Writes the run's files, shows the run, and gives the exit code of its verdict. A disk that is full takes nothing of
    /// what is shown; a standard output that fails, nothing of the verdict. Files that are missing spoil a pass.
    pub(crate) fn publish(&self, run: &Run, outcome: &Outcome) -> ExitCode {
        let written = self
            .folder
            .write("anomalies.jsonl", &record::anomalies(outcome))
            .and_then(|()| self.folder.write_all(run, &outcome.recording));
        let mut stdout = io::stdout();
        let text = if self.json {
            run.to_json()
        } else {
            let colour = stdout.is_terminal() && !is_dumb() && std::env::var_os("NO_COLOR").is_none();
            format!("{}\nResults: {}\n", render::terminal(run, colour).trim_end(), self.path.display())
        };
        if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            tell(&format!("chasqui: cannot write to standard output: {error}"));
        }
        let code = run.verdict.exit_code();
        match written {
            Err(error) => {
                tell(&format!("chasqui: cannot write results: {error}"));
                ExitCode::from(if code == 0 { 1 } else { code })
            }
            Ok(()) => ExitCode::from(code),
        }
    }

    /// Removes the folder again when nothing was written into it: the run did not come to results.
    pub(crate) fn discard(self) {
        // A folder that holds something stays.
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// A line to standard error. A run goes on without whoever was to read it.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether the terminal says that it understands no escape sequences.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Lets `print` write to standard output; a reader that has gone is the reader's choice.
pub(crate) fn to_stdout(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match print(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::internal("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

/// A folder under `results/runs` named after the present time, numbered when a run of this second has it.
fn unused_folder() -> PathBuf {
    let second = std::time::Duration::from_secs(wall_clock().as_secs());
    let name: String =
        Timestamp::from_unix(second).to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let mut path = PathBuf::from(RUNS).join(&name);
    let mut number = 1;
    while path.exists() {
        number += 1;
        path = PathBuf::from(RUNS).join(format!("{name}-{number}"));
    }
    path
}
