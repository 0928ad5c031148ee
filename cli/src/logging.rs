//! The logger: one line a record on stderr.

use chasqui_report::Timestamp;
use chasqui_runtime::wall_clock;
use log::{LevelFilter, Log, Metadata, Record};
use std::io::Write;
use std::time::Duration;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // The libraries' resolver logs every query at debug; its lines say nothing about mail.
        if !record.target().starts_with("chasqui") && record.level() > log::Level::Warn {
            return;
        }
        let at = Timestamp::from_unix(Duration::from_millis(wall_clock().as_millis() as u64));
        let target = record.target().trim_start_matches("chasqui_");
        let line = format!("{at} {:5} {target}: {}\n", record.level(), record.args());
        // Nobody is left to tell when stderr is gone.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Installs the logger for the whole process. Later calls change nothing.
pub(crate) fn install(level: LevelFilter) {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
}
