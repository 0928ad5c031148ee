//! `chasqui simulate`: has plays of the whole chain made, and prints what comes of them.

use std::io::{self, Write};
use std::process::{ExitCode, exit};

use chasqui_runtime::sim::PlantedFault;
use chasqui_simulation::{Said, Series};
use log::LevelFilter;

use crate::arguments::Simulate;
use crate::exit::Failure;
use crate::logging;

/// Exit code when mail was lost, duplicated without cause, corrupted or stuck.
const BROKEN: u8 = 4;
/// Exit code when the results could not be written.
const UNREAD: i32 = 1;

/// Has the series played that the options ask for, or lists the faults that can be planted.
pub(crate) fn run(options: &Simulate) -> Result<ExitCode, Failure> {
    if options.list_bugs {
        for fault in PlantedFault::ALL {
            print(&format!("{}\t{}\t{}", fault.name(), fault.spoils(), fault.found_by()));
        }
        return Ok(ExitCode::SUCCESS);
    }
    logging::install(if options.verbose { LevelFilter::Debug } else { LevelFilter::Off });
    let kept = series(options).run(&say);
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}

fn series(options: &Simulate) -> Series {
    let Simulate { from, seeds: count, quiet, bug: planted, first, .. } = *options;
    match options.every_disk_operation {
        Some(step) => Series::EveryDiskOperation { seed: from, step },
        None if options.neighbours => Series::Neighbours { from, count, planted },
        None => Series::Seeds { from, count, quiet, planted, first },
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
    let bug = |planted: &Option<PlantedFault>| {
        planted.map_or_else(String::new, |fault| format!(" --bug {}", fault.name()))
    };
    match series {
        Series::Seeds { from, count, quiet, planted, first } => {
            let quiet = if *quiet { " --quiet" } else { "" };
            let first = if *first { " --first" } else { "" };
            format!("--seeds {count} --from {from}{quiet}{first}{}", bug(planted))
        }
        Series::Neighbours { from, count, planted } => {
            format!("--neighbours --seeds {count} --from {from}{}", bug(planted))
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
