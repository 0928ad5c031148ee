//! `chasqui spool verify`.

use super::text::{Escaped, count};
use super::{DAMAGED, json, open};
use crate::arguments::Check;
use crate::exit::Failure;
use crate::output::to_stdout;
use chasqui_relay::spool::FindingKind;
use chasqui_relay::spool::offline::Shard;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::process::ExitCode;

/// The sums over all shards.
struct Sums {
    damaged: u64,
    discarded: u64,
    set_aside: u64,
    segments: u64,
    groups: u64,
    bytes: u64,
    messages: u64,
}

pub(super) fn run(options: &Check) -> Result<ExitCode, Failure> {
    let shards = open(&options.dir)?;
    let sum = |of: &dyn Fn(&Shard) -> u64| shards.iter().map(of).sum();
    let sums = Sums {
        damaged: sum(&|shard| json::count(shard, FindingKind::Quarantined)),
        discarded: sum(&|shard| json::count(shard, FindingKind::Discarded)),
        set_aside: sum(&|shard| shard.set_aside.len() as u64),
        segments: sum(&|shard| shard.segments.len() as u64),
        groups: sum(&|shard| shard.groups),
        bytes: sum(&|shard| shard.segments.iter().map(|segment| segment.bytes).sum()),
        messages: sum(&|shard| shard.messages().len() as u64),
    };
    to_stdout(|out| match options.json {
        true => out.write_all(json::line(&summary(&shards, &sums)).as_bytes()),
        false => print(&shards, &sums, out),
    })?;
    Ok(if sums.damaged > 0 { ExitCode::from(DAMAGED) } else { ExitCode::SUCCESS })
}

fn summary(shards: &[Shard], sums: &Sums) -> Value {
    let findings = |shard: &Shard| -> Vec<Value> {
        shard.findings.iter().map(|finding| json::finding(shard.number, finding)).collect()
    };
    json!({
        "verdict": if sums.damaged > 0 { "damaged" } else { "clean" },
        "settled": shards.iter().all(|shard| shard.settled),
        "damaged": sums.damaged,
        "discarded": sums.discarded,
        "set_aside": sums.set_aside,
        "segments": sums.segments,
        "groups": sums.groups,
        "bytes": sums.bytes,
        "messages": sums.messages,
        "findings": shards.iter().flat_map(findings).collect::<Vec<_>>(),
        "shards": shards.iter().map(json::shard).collect::<Vec<_>>(),
    })
}

fn print(shards: &[Shard], sums: &Sums, out: &mut dyn Write) -> io::Result<()> {
    for shard in shards {
        let number = shard.number;
        for finding in &shard.findings {
            writeln!(out, "{}: shard {number}: {}", json::kind(finding.kind), Escaped(&finding.line))?;
        }
        for path in &shard.set_aside {
            writeln!(out, "set aside: shard {number}: {}", Escaped(&path.to_string_lossy()))?;
        }
        if !shard.settled {
            writeln!(
                out,
                "unsettled: shard {number}: the relay writes faster than it can be read; verify it again"
            )?;
        }
    }
    let verdict = if sums.damaged > 0 { "damaged" } else { "clean" };
    writeln!(
        out,
        "{verdict}: {} in {}, {} read, {} in {} bytes; {} damaged, {} discarded, {} set aside",
        count(sums.messages, "message"),
        count(shards.len() as u64, "shard"),
        count(sums.segments, "segment"),
        count(sums.groups, "group"),
        sums.bytes,
        sums.damaged,
        sums.discarded,
        sums.set_aside,
    )
}
