//! `chasqui load`: the load generator against any SMTP server.

use crate::arguments::{Load, TlsOptions};
use crate::exit::Failure;
use crate::measure::{Cut, Events};
use crate::output::Output;
use crate::progress::Display;
use crate::{accounts, logging, measure, record};
use chasqui_loadgen::{
    Authentication, Hooks, MailboxServer, Placement, ReaderAccess, Scenario, Target, Tls, TlsMode, TlsTrust,
};
use chasqui_protocol::sasl::accounts::Account;
use chasqui_protocol::sasl::mechanism::Mechanisms;
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
    let accounts = accounts(&options.tls)?;
    let mechanisms = match options.tls.auth_mechanisms.as_slice() {
        [] => Mechanisms::ALL,
        named => named.iter().copied().collect(),
    };
    let reader_tls = reader_tls(&options.tls)?;
    let pop3 = server(options.pop3.as_ref(), reader_tls, options.pop3s.as_ref());
    let imap = server(options.imap.as_ref(), reader_tls, options.imaps.as_ref());
    let modes = [&pop3, &imap].into_iter().flatten().map(|server| server.tls).chain([options.tls.tls]);
    let tls = tls(&options.tls, modes.into_iter().any(|mode| mode != TlsMode::Off))?;
    Ok(Scenario {
        targets: options.targets.clone(),
        sources: options.sources.clone(),
        target_tls: options.tls.tls,
        tls,
        reader: ReaderAccess {
            mechanisms: accounts.is_some().then_some(mechanisms),
            accounts: ReaderAccess::by_address(accounts.as_deref().unwrap_or_default()),
        },
        authentication: accounts.map(|accounts| Authentication { accounts: accounts.into(), mechanisms }),
        allow_target: options.allow_targets.clone(),
        zone: options.zone.clone(),
        bounce_zone: options.bounce_zone.clone(),
        pop3,
        imap,
        password: options.password.password()?,
        arrival_streams: options.arrival_streams.clone(),
        relay_control: options.control.clone(),
        ..record::scenario(&options.load)
    })
}

/// A server of mailboxes, as one of two options names it.
fn server(plain: Option<&Target>, tls: TlsMode, implicit: Option<&Target>) -> Option<MailboxServer> {
    let plain = plain.map(|target| MailboxServer { target: target.clone(), tls });
    plain.or_else(|| implicit.map(|target| MailboxServer { target: target.clone(), tls: TlsMode::Implicit }))
}

/// TLS with servers of mailboxes that are not in TLS from the first octet.
fn reader_tls(options: &TlsOptions) -> Result<TlsMode, Failure> {
    match (options.reader_tls, options.tls) {
        (Some(TlsMode::Implicit), _) => Err(Failure::Usage(
            "--reader-tls implicit: name the servers with --pop3s and --imaps instead".to_owned(),
        )),
        (Some(mode), _) => Ok(mode),
        (None, TlsMode::Off) => Ok(TlsMode::Off),
        (None, TlsMode::Starttls | TlsMode::Implicit) => Ok(TlsMode::Starttls),
    }
}

/// TLS as the options want it; `is_spoken`: with some server.
fn tls(options: &TlsOptions, is_spoken: bool) -> Result<Tls, Failure> {
    let TlsOptions { ca, insecure, no_resumption, .. } = options;
    let given = [("--ca", ca.is_some()), ("--insecure", *insecure), ("--no-resumption", *no_resumption)];
    if let (false, Some((name, _))) = (is_spoken, given.into_iter().find(|(_, is_given)| *is_given)) {
        return Err(Failure::Usage(format!(
            "{name}: there is no TLS to use it for: add --tls, or leave it out"
        )));
    }
    let trust = if *insecure { TlsTrust::Any } else { TlsTrust::Verified(ca.clone()) };
    Ok(Tls { trust, resumption: !no_resumption })
}

/// Who logs in to send; none: nobody does.
fn accounts(options: &TlsOptions) -> Result<Option<Vec<Account>>, Failure> {
    match (&options.auth, &options.auth_user) {
        (Some(file), _) => accounts::read("--auth", file).map(Some),
        (None, Some(user)) => accounts::ask(user).map(|account| Some(vec![account])),
        (None, None) if options.auth_mechanisms.is_empty() => Ok(None),
        (None, None) => Err(Failure::Usage(
            "--auth-mechanism: nobody logs in: add --auth or --auth-user, or leave it out".to_owned(),
        )),
    }
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
