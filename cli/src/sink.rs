//! `chasqui sink`: the receiving internet as a process.

use crate::arguments::{ANY_PORT, Certificate, Sink, SmtpAuth};
use crate::exit::Failure;
use crate::output::to_stdout;
use crate::{accounts, logging, rings, signals};
use chasqui_loadgen::ByteSize;
use chasqui_runtime::available_cores;
use chasqui_sinks::{CertificateSource, Config, SmtpUsers, Storage};
use log::LevelFilter;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Runs the sinks until SIGINT or SIGTERM, and reports what they took.
pub(crate) fn run(options: &Sink) -> Result<ExitCode, Failure> {
    logging::install(LevelFilter::Info);
    let sinks = chasqui_sinks::start(config(options)?).map_err(|error| Failure::internal("sink", error))?;
    let stopper = sinks.stopper();
    signals::drain_on_signals(move || stopper.shutdown(), options.shards.exit_with_parent)?;
    options.control.as_deref().map_or(Ok(()), rings::answer)?;
    let ready = json_line(sinks.ready())?;
    to_stdout(|out| writeln!(out, "{ready}"))?;
    let summary = sinks.join().map_err(|error| Failure::internal("sink", error))?;
    log::info!("{}", json_line(&summary)?);
    Ok(ExitCode::SUCCESS)
}

fn config(options: &Sink) -> Result<Config, Failure> {
    let has_implicit = options.certificate.is_some() && !options.discard;
    let implicit = |address: Option<SocketAddr>| has_implicit.then(|| address.unwrap_or(ANY_PORT));
    let mut config = Config {
        engine: options.shards.engine.resolve(),
        cores: options.cores.as_ref().map_or_else(available_cores, |cores| cores.0.clone()),
        hostname: options.hostname.clone(),
        zone: options.zone.clone(),
        domains: options.domains,
        smtp_port: options.smtp_port,
        smtps_port: options.certificate.is_some().then(|| options.smtps_port.unwrap_or_default()),
        smtp_users: match &options.auth {
            None => None,
            Some(SmtpAuth::Any) => Some(SmtpUsers::Any),
            Some(SmtpAuth::File(path)) => Some(SmtpUsers::Listed(accounts::read("--auth", path)?)),
        },
        pop3: Some(options.pop3).filter(|_| !options.discard),
        imap: Some(options.imap).filter(|_| !options.discard),
        pop3s: implicit(options.pop3s),
        imaps: implicit(options.imaps),
        dns: Some(options.dns),
        publish: options.publish,
        arrivals: options.arrivals.clone(),
        storage: if options.discard { Storage::Discard } else { Storage::Mailboxes },
        state: options.state.clone(),
        certificate: options.certificate.clone().map(|Certificate(source)| match source {
            CertificateSource::SelfSigned { .. } => {
                CertificateSource::SelfSigned { root: options.root.clone() }
            }
            files => files,
        }),
        catch_all: options.catch_all,
        allow_long_lines: options.allow_long_lines,
        allow_early_talkers: options.allow_early_talkers,
        password: options.password.password()?,
        ..Config::default()
    };
    config.limits.mailbox_messages_max = options.keep_messages;
    if let Some(ByteSize(bytes)) = options.keep_memory {
        (config.limits.mailbox_bytes_max, config.limits.drop_oldest) = (bytes, true);
    }
    if !options.smtp_addresses.is_empty() {
        config.smtp_addresses.clone_from(&options.smtp_addresses);
    }
    Ok(config)
}

fn json_line(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::internal("cannot write JSON", error))
}
