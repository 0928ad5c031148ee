//! `chasqui relay`: the relay as a process.

use crate::arguments::Relay;
use crate::exit::Failure;
use crate::output::tell;
use crate::output::to_stdout;
use crate::{logging, signals};
use chasqui_relay::{Config, Placement, preflight};
use chasqui_runtime::available_cores;
use log::LevelFilter;
use std::path::Path;
use std::process::ExitCode;

/// Runs the relay until SIGINT or SIGTERM and its drain.
pub(crate) fn run(options: &Relay) -> Result<ExitCode, Failure> {
    logging::install(LevelFilter::Info);
    let config = Config::load(&options.config).map_err(|error| Failure::Usage(error.to_string()))?;
    if options.check {
        return check(&config, &options.config);
    }
    let cores = options.cores.as_ref().map_or_else(available_cores, |cores| cores.0.clone());
    let placement = Placement { engine: options.shards.engine.resolve(), cores };
    let relay = chasqui_relay::start(config, placement).map_err(|error| Failure::internal("relay", error))?;
    let stopper = relay.stopper();
    let reloader = relay.reloader();
    signals::on_hangup(move || match reloader.reload() {
        Ok(()) => log::info!("SIGHUP: certificates and users are read again; all else needs a restart"),
        Err(error) => log::warn!("SIGHUP: {error}; what was there before holds on"),
    });
    signals::drain_on_signals(move || stopper.shutdown(), options.shards.exit_with_parent)?;
    to_stdout(|out| writeln!(out, "{}", relay.ready().to_json_line()))?;
    relay.join().map_err(|error| Failure::internal("relay", error))?;
    Ok(ExitCode::SUCCESS)
}

/// Says what a start would warn of and what it would refuse.
fn check(config: &Config, file: &Path) -> Result<ExitCode, Failure> {
    for warning in config.warnings() {
        tell(&format!("{}: warning: {warning}", file.display()));
    }
    let refusals = preflight::refusals(config);
    if refusals.is_empty() {
        tell(&format!("{}: good", file.display()));
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::Usage(refusals.join("\nchasqui: ")))
}
