//! Writes the folder of the sample run: `cargo run -p chasqui-report --example sample_run -- DIR`, to look at the
//! report, or to try a tool on the files, without a run.

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::ExitCode;

use chasqui_report::{RunFolder, render};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: sample_run DIR");
        return ExitCode::from(2);
    };
    let recording = common::recording();
    let run = common::run(&recording);
    match RunFolder::create(folder).and_then(|folder| folder.write_all(&run, &recording)) {
        Ok(()) => {
            print!("{}", render::terminal(&run, true));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
