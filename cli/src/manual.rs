//! `chasqui completions` and `chasqui man`: what shells and man(1) want to know of the command line, made from its declaration.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};

use crate::arguments::{Arguments, Completions, Man};
use crate::exit::Failure;

/// Prints the completions of one shell.
pub(crate) fn completions(options: &Completions) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Arguments::command(), "chasqui", &mut script);
    print(&script)
}

/// Prints the manual page, or writes those of all commands into a folder.
pub(crate) fn man(options: &Man) -> Result<ExitCode, Failure> {
    let mut program = Arguments::command();
    program.build();
    let Some(folder) = &options.out else { return print(&page(&program)?) };
    let cannot = |what: &Path, error| Failure::Usage(format!("cannot write {}: {error}", what.display()));
    std::fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    for (name, text) in pages(&program)? {
        let file = folder.join(format!("{name}.1"));
        std::fs::write(&file, text).map_err(|error| cannot(&file, error))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The pages of a command and of those below it, by name: `chasqui-spool-verify`. Hidden commands have none.
fn pages(command: &Command) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut all = vec![(name, page(command)?)];
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        all.extend(pages(below)?);
    }
    Ok(all)
}

fn page(command: &Command) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let written = clap_mangen::Man::new(command.clone()).render(&mut text);
    written.map_err(|error| Failure::internal("cannot make a manual page", error))?;
    Ok(text)
}

/// A pipe that was closed is the reader's choice.
fn print(text: &[u8]) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Usage(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each command has a page of its own that tells its options, and the page of the program names the commands.
    #[test]
    fn every_command_has_a_page() {
        let mut program = Arguments::command();
        program.build();
        let pages = pages(&program).unwrap_or_else(|failure| panic!("{failure}"));
        let find = |name: &str| {
            let (_, text) = pages.iter().find(|(page, _)| page == name).expect("a page");
            String::from_utf8_lossy(text).replace('\\', "")
        };
        assert!(find("chasqui").contains("chasqui-bench(1)"));
        assert!(find("chasqui-bench").contains("--duration"));
        assert!(find("chasqui-spool-verify").contains("--json"));
    }
}
