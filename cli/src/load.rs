//! `chasqui load`: the load generator against any SMTP server.

use crate::arguments::{Load, TlsOptions};
use crate::exit::Failure;
use crate::measure::{Cut, Events};
use crate::output::Output;
use crate::progress::Display;
use crate::{logging, measure, record};
use chasqui_loadgen::{Hooks, Placement, Scenario, Tls, TlsMode, TlsTrust};
use chasqui_runtime::available_cores;
use chasqui_runtime::process::{cpu_time, peak_rss_bytes};
use log::LevelFilter;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Makes the load, judges it and reports it.
pub(crate) fn run(options: &Load) -> Result<ExitCode, Failure> {
    logging::install(LevelFilter::Warn);
    let scenario = scenario(options)?;
    scenario.check().map_err(|error| Failure::Usage(error.to_string()))?;
    let output = Output::prepare(&options.output)?;
    let events = Events::listen()?;
    let cores =
        options.cores.as_ref().map_or_else(|| available_cores()[..1].to_vec(), |cores| cores.0.clone());
    let engine = options.engine.resolve();
    let placement = Placement { engine, generators: cores.clone(), readers: cores.clone() };
    let (clock, edges) = channel();
    let hooks = Hooks { window_start: Some(own_cpu(clock.clone())), window_end: Some(own_cpu(clock)) };
    let mut display = Display::new(options.load.warmup + options.load.duration);
    let outcome = measure::run(scenario, placement, hooks, &events, &mut display, || {});
    drop(display);
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(cut) => {
            output.discard();
            return Err(match cut {
                Cut::Failed(failure) => failure,
                Cut::ChildEnded(name) => Failure::Internal(format!("{name} ended")),
            });
        }
    };
    let mut run = record::record(&outcome, &options.load, engine, None);
    run.placement = ["loadgen", "verify"].map(|part| (part.to_owned(), cores.clone())).into();
    let edges: Vec<Duration> = edges.try_iter().collect();
    let own = edges.first().zip(edges.get(1)).and_then(|(start, end)| end.checked_sub(*start));
    let verify = outcome.verify_cpu;
    let own = own.map(|own| own.saturating_sub(verify.unwrap_or_default()));
    run.cpu_us_per_message.loadgen = record::us_per_message(own, Some(outcome.throughput.accepted));
    run.cpu_us_per_message.verify = record::us_per_message(verify, outcome.throughput.verified);
    run.memory_bytes.loadgen_peak_rss = peak_rss_bytes(std::process::id()).ok();
    run.judge(&options.load.gates);
    Ok(output.publish(&run, &outcome))
}

fn scenario(options: &Load) -> Result<Scenario, Failure> {
    Ok(Scenario {
        targets: options.targets.clone(),
        sources: options.sources.clone(),
        tls: tls(&options.tls)?,
        allow_target: options.allow_targets.clone(),
        zone: options.zone.clone(),
        bounce_zone: options.bounce_zone.clone(),
        pop3: options.pop3,
        imap: options.imap,
        password: options.password.password()?,
        arrival_streams: options.arrival_streams.clone(),
        relay_control: options.control.clone(),
        ..record::scenario(&options.load)
    })
}

/// TLS as the options want it; none: plaintext.
fn tls(options: &TlsOptions) -> Result<Option<Tls>, Failure> {
    let TlsOptions { tls, ca, insecure, no_resumption } = options;
    if *tls == TlsMode::Off {
        let given = [("--ca", ca.is_some()), ("--insecure", *insecure), ("--no-resumption", *no_resumption)];
        return match given.into_iter().find(|(_, is_given)| *is_given) {
            None => Ok(None),
            Some((name, _)) => Err(Failure::Usage(format!(
                "{name}: there is no TLS to use it for: add --tls, or leave it out"
            ))),
        };
    }
    let trust = if *insecure { TlsTrust::Any } else { TlsTrust::Verified(ca.clone()) };
    Ok(Some(Tls { implicit: *tls == TlsMode::Implicit, trust, resumption: !no_resumption }))
}

/// Reads this process's CPU clock when called.
fn own_cpu(to: Sender<Duration>) -> Box<dyn FnOnce() + Send> {
    Box::new(move || {
        if let Ok(cpu) = cpu_time(std::process::id()) {
            // The receiver lives until the run is over.
            let _ = to.send(cpu);
        }
    })
}
