//! `chasqui simulate`: has plays of the whole chain made, and prints what comes of them.

use std::io::{self, Write};
use std::process::{ExitCode, exit};

use chasqui_simulation::{Said, Series};
use log::LevelFilter;

use crate::arguments::Simulate;
use crate::exit::Failure;
use crate::logging;

/// Exit code when mail was lost, duplicated without cause, corrupted or stuck.
const BROKEN: u8 = 4;
/// Exit code when the results could not be written.
const UNREAD: i32 = 1;

/// Plays the seeds, or a crash at every operation of the disk.
pub(crate) fn run(options: &Simulate) -> Result<ExitCode, Failure> {
    logging::install(if options.verbose { LevelFilter::Debug } else { LevelFilter::Off });
    let kept = series(options).run(&say);
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}

fn series(options: &Simulate) -> Series {
    let Simulate { from, seeds: count, quiet, bug, first, .. } = *options;
    match options.every_disk_operation {
        Some(step) => Series::EveryDiskOperation { seed: from, step },
        None if options.neighbours => Series::Neighbours { from, count, bug },
        None => Series::Seeds { from, count, quiet, bug, first },
    }
}

fn say(said: Said<'_>) {
    match said {
        Said::Line(line) => print(&line.to_string()),
        Said::Broken { what, violations, again } => {
            eprintln!("{what}: {}\n  scripts/simulate {}", violations.join("; "), arguments(&again));
        }
        Said::Progress { played, count, after } => eprintln!("{played} of {count} in {} s", after.as_secs()),
    }
}

/// The arguments that have the series played.
fn arguments(series: &Series) -> String {
    let planted = |bug: &Option<&str>| bug.map_or_else(String::new, |name| format!(" --bug {name}"));
    match series {
        Series::Seeds { from, count, quiet, bug, first } => {
            let quiet = if *quiet { " --quiet" } else { "" };
            let first = if *first { " --first" } else { "" };
            format!("--seeds {count} --from {from}{quiet}{first}{}", planted(bug))
        }
        Series::Neighbours { from, count, bug } => {
            format!("--neighbours --seeds {count} --from {from}{}", planted(bug))
        }
        Series::EveryDiskOperation { seed, step } => format!("--every-disk-operation {step} --from {seed}"),
    }
}

/// Prints a line; when nobody reads any more, there is nobody to play on for.
fn print(line: &str) {
    if let Err(error) = writeln!(io::stdout(), "{line}") {
        if error.kind() != io::ErrorKind::BrokenPipe {
            eprintln!("chasqui: cannot write to standard output: {error}");
        }
        exit(UNREAD);
    }
}
