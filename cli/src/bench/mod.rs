//! `chasqui bench`: the whole chain on this machine, measured.
//!
//! DNS authority, receivers and mailboxes are one child process, the relay another; the load generator and the
//! readers run in this one. Everything listens on the loopback; what was started is stopped, however this ends.

mod journey;
mod placement;
mod sample;
mod stage;

use crate::arguments::Bench;
use crate::exit::Failure;
use crate::machine::Disk;
use crate::measure::{Cut, Events};
use crate::output::Output;
use crate::progress::Display;
use crate::{logging, measure, record};
use chasqui_loadgen::{Hooks, Outcome};
use chasqui_report::Run;
use chasqui_runtime::available_cores;
use chasqui_runtime::process::{anonymous_rss_bytes, peak_rss_bytes};
use log::LevelFilter;
use placement::Placement;
use sample::{Processes, Sampler, Usage};
use serde_json::json;
use stage::{Spool, Stage};
use std::process::ExitCode;

/// Runs the bench.
pub(crate) fn run(options: &Bench) -> Result<ExitCode, Failure> {
    logging::install(LevelFilter::Warn);
    stage::check(options)?;
    placement::check(options.shards, options.oversubscribe, available_cores().len())?;
    let spool = Spool::make(options)?;
    let output = Output::prepare(&options.output)?;
    match measured(options, &spool) {
        Ok((run, outcome, stopped)) => {
            let code = output.publish(&run, &outcome);
            stopped.map(|()| code)
        }
        Err(failure) => {
            output.discard();
            Err(failure)
        }
    }
}

/// The run, and whether what was started also ended well: a relay that breaks in its drain takes no result with it.
fn measured(options: &Bench, spool: &Spool) -> Result<(Run, Outcome, Result<(), Failure>), Failure> {
    let events = Events::listen()?;
    let mut display = Display::new(options.load.warmup + options.load.duration);
    display.step("measuring the disk");
    let disk = Disk::probe(spool.path());
    // Chosen once, for all processes.
    let engine = options.engine.resolve();
    let placement = Placement::choose(&available_cores(), options.shards, engine);
    display.step("starting the receivers and the relay");
    let mut stage = Stage::start(options, spool, &placement, &events)?;
    let scenario = stage.scenario(options);

    let processes = Processes::new(&stage.relay, &stage.sinks);
    let sampler = Sampler::start(processes, stage.control().to_owned(), stage.sinks_control())?;
    let hooks = Hooks { window_start: Some(sampler.edge()), window_end: Some(sampler.edge()) };
    let mut relay_anonymous_peak = None;
    let watch = || relay_anonymous_peak = relay_anonymous_peak.max(anonymous_rss_bytes(processes.relay).ok());
    let outcome =
        measure::run(scenario, placement.for_load(), hooks, &events, &mut display, watch).map_err(|cut| {
            match cut {
                Cut::ChildEnded(name) => stage.death(name),
                Cut::Failed(failure) => failure,
            }
        })?;

    let mut run = record::record(&outcome, &options.load, engine, Some(&disk));
    run.durability = Some(options.durability);
    run.placement = placement.to_map();
    run.extra.insert("processes".to_owned(), processes.to_json());
    record_usage(&mut run, &outcome, &sampler.usage());
    run.memory_bytes.relay_peak_rss = peak_rss_bytes(processes.relay).ok();
    run.memory_bytes.sinks_peak_rss = peak_rss_bytes(processes.sinks).ok();
    run.memory_bytes.loadgen_peak_rss = peak_rss_bytes(processes.loadgen).ok();
    // Without the mapped spool, whose pages are the kernel's to drop; sampled ten times a second.
    run.memory_bytes.extra.insert("relay_peak_anonymous".to_owned(), json!(relay_anonymous_peak));
    run.judge(&options.load.gates);
    display.step("stopping");
    drop(display);
    Ok((run, outcome, stage.stop()))
}

/// CPU per message and syncs inside the window. Readers are this process's too: their CPU is told apart.
fn record_usage(run: &mut Run, outcome: &Outcome, usage: &Usage) {
    let (accepted, arrived) = (Some(outcome.throughput.accepted), outcome.throughput.arrived);
    let verify = outcome.verify_cpu;
    let loadgen = usage.loadgen.map(|cpu| cpu.saturating_sub(verify.unwrap_or_default()));
    let cpu = &mut run.cpu_us_per_message;
    cpu.relay = record::us_per_message(usage.relay, arrived);
    cpu.sinks = record::us_per_message(usage.sinks, arrived);
    cpu.loadgen = record::us_per_message(loadgen, accepted);
    cpu.verify = record::us_per_message(verify, outcome.throughput.verified);
    let messages_per_sync = usage.syncs.zip(usage.synced_messages).filter(|(syncs, _)| *syncs > 0);
    run.syncs.count = usage.syncs;
    run.syncs.messages_per_sync = messages_per_sync.map(|(syncs, messages)| messages as f64 / syncs as f64);
    run.syncs.extra.insert("appended_bytes".to_owned(), json!(usage.appended_bytes));
    run.syncs.extra.insert("read_monotonic_ns".to_owned(), json!(usage.syncs_read_ns));
    run.extra.insert("rings".to_owned(), json!(usage.rings));
}
