//! `chasqui spool inspect`.

use super::text::{Escaped, count, time};
use super::{json, open};
use crate::arguments::Inspect;
use crate::exit::Failure;
use crate::output::to_stdout;
use chasqui_relay::spool::offline::{Message, MessageError, Queued, RecipientState, Shard};
use serde_json::json;
use std::io::{self, Write};
use std::process::ExitCode;

pub(super) fn run(options: &Inspect) -> Result<ExitCode, Failure> {
    let shards = open(&options.dir)?;
    to_stdout(|out| match options.json {
        true => print_json(&shards, options, out),
        false => shards.iter().try_for_each(|shard| print_shard(shard, options, out)),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The messages asked for, those finished meanwhile left out.
fn selected<'a>(
    shard: &'a Shard,
    options: &'a Inspect,
) -> impl Iterator<Item = (Queued<'a>, Result<Message, MessageError>)> {
    let read = shard.messages().filter_map(|queued| {
        if !options.selection.ids.is_empty() && !options.selection.ids.contains(&queued.id()) {
            return None;
        }
        match queued.message() {
            Err(MessageError::Gone) => None,
            Ok(message) if !options.selection.takes(&message) => None,
            message => Some((queued, message)),
        }
    });
    read.take(options.limit.unwrap_or(usize::MAX))
}

fn print_json(shards: &[Shard], options: &Inspect, out: &mut dyn Write) -> io::Result<()> {
    let (mut messages, mut listed) = (0, 0);
    for shard in shards {
        messages += shard.messages().len();
        out.write_all(json::line(&json::shard(shard)).as_bytes())?;
        for segment in &shard.segments {
            out.write_all(json::line(&json::segment(shard.number, segment)).as_bytes())?;
        }
        for finding in &shard.findings {
            out.write_all(json::line(&json::finding(shard.number, finding)).as_bytes())?;
        }
        for (queued, message) in selected(shard, options) {
            listed += 1;
            let value = match message {
                Ok(message) => json::message(shard.number, &message),
                Err(error) => json!({
                    "type": "message", "id": queued.id().to_string(), "shard": shard.number, "error": error.to_string(),
                }),
            };
            out.write_all(json::line(&value).as_bytes())?;
        }
    }
    let end = json!({ "type": "end", "shards": shards.len(), "messages": messages, "listed": listed });
    out.write_all(json::line(&end).as_bytes())
}

fn print_shard(shard: &Shard, options: &Inspect, out: &mut dyn Write) -> io::Result<()> {
    let dir = shard.dir.to_string_lossy();
    write!(out, "shard {}: {}", shard.number, Escaped(&dir))?;
    if let Some(process) = shard.in_use_by {
        write!(out, ", in use by process {process}")?;
    }
    let settled = if shard.settled { "yes" } else { "no" };
    let (start, watermark) = (shard.incarnation, shard.watermark);
    writeln!(out, "\n  start {start}, durable through record {watermark}, settled {settled}")?;
    writeln!(
        out,
        "  {:<24} {:>9} {:<16}  {:<8} {:>11} {:>11} {:>9}",
        "segment", "ordinal", "epoch", "state", "bytes", "live bytes", "messages"
    )?;
    for segment in &shard.segments {
        let name = segment.path.file_name().unwrap_or_default().to_string_lossy();
        let (ordinal, epoch) = match segment.identity {
            Some((ordinal, epoch)) => (ordinal.to_string(), format!("{epoch:016x}")),
            None => ("-".into(), "-".into()),
        };
        writeln!(
            out,
            "  {:<24} {ordinal:>9} {epoch:<16}  {:<8} {:>11} {:>11} {:>9}",
            Escaped(&name).to_string(),
            segment.state.name(),
            segment.bytes,
            segment.live_bytes,
            segment.messages
        )?;
    }
    for finding in &shard.findings {
        writeln!(out, "  {}: {}", json::kind(finding.kind), Escaped(&finding.line))?;
    }
    for path in &shard.set_aside {
        writeln!(out, "  set aside: {}", Escaped(&path.to_string_lossy()))?;
    }
    writeln!(out, "  {} queued", count(shard.messages().len() as u64, "message"))?;
    for (queued, message) in selected(shard, options) {
        match message {
            Ok(message) => print_message(&message, out)?,
            Err(error) => writeln!(out, "  {} {}", queued.id(), Escaped(&error.to_string()))?,
        }
    }
    Ok(())
}

fn print_message(message: &Message, out: &mut dyn Write) -> io::Result<()> {
    let envelope = &message.envelope;
    let (arrived, size) = (time(envelope.arrived_ms), envelope.size);
    writeln!(out, "\n  {} {arrived} {size} octets, from <{}>", message.id, Escaped(&envelope.reverse_path))?;
    for (address, state) in envelope.recipients.iter().zip(&message.recipients) {
        write!(out, "    {:<9} <{}>", json::state_name(state), Escaped(address))?;
        if let RecipientState::Deferred(deferral) = state {
            let (until, reason) = (time(deferral.until_ms), Escaped(&deferral.reason));
            write!(out, ", until {until} after {}: {reason}", count(deferral.attempts.into(), "attempt"))?;
        }
        writeln!(out)?;
    }
    Ok(())
}
