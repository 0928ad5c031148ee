//! The JSON of `chasqui spool`; README.md names its keys. Keys are added and never renamed.

use super::text::{is_hazard, time};
use chasqui_relay::spool::offline::{Message, RecipientState, SegmentInfo, Shard};
use chasqui_relay::spool::{Finding, FindingKind};
use serde_json::{Value, json};
use std::fmt::Write;

/// One line. Beside what JSON must escape, everything that a terminal would obey is.
pub(super) fn line(value: &Value) -> String {
    let plain = value.to_string();
    let mut line = String::with_capacity(plain.len() + 1);
    for character in plain.chars() {
        if is_hazard(character) {
            // Only strings hold such characters.
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                write!(line, "\\u{unit:04x}").expect("a string takes everything");
            }
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    line
}

pub(super) fn shard(shard: &Shard) -> Value {
    json!({
        "type": "shard",
        "shard": shard.number,
        "directory": shard.dir.to_string_lossy(),
        "in_use_by": shard.in_use_by,
        "settled": shard.settled,
        "start": shard.incarnation,
        "watermark": shard.watermark,
        "messages": shard.messages().len(),
        "damaged": count(shard, FindingKind::Quarantined),
        "discarded": count(shard, FindingKind::Discarded),
        "set_aside": shard.set_aside.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(),
    })
}

pub(super) fn count(shard: &Shard, kind: FindingKind) -> u64 {
    shard.findings.iter().filter(|finding| finding.kind == kind).count() as u64
}

pub(super) fn segment(shard: u32, segment: &SegmentInfo) -> Value {
    json!({
        "type": "segment",
        "shard": shard,
        "file": segment.path.file_name().map(|name| name.to_string_lossy()),
        "ordinal": segment.identity.map(|(ordinal, _)| ordinal),
        "epoch": segment.identity.map(|(_, epoch)| format!("{epoch:016x}")),
        "state": segment.state.name(),
        "bytes": segment.bytes,
        "live_bytes": segment.live_bytes,
        "messages": segment.messages,
    })
}

pub(super) fn finding(shard: u32, finding: &Finding) -> Value {
    json!({ "type": "finding", "shard": shard, "kind": kind(finding.kind), "line": finding.line })
}

/// What a finding is called.
pub(super) fn kind(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Quarantined => "damaged",
        FindingKind::Discarded => "discarded",
        FindingKind::Detail => "detail",
    }
}

pub(super) fn message(shard: u32, message: &Message) -> Value {
    let envelope = &message.envelope;
    let dsn = envelope.dsn.as_deref();
    let recipients = envelope.recipients.iter().zip(&message.recipients).enumerate();
    let recipients: Vec<Value> = recipients
        .map(|(index, (address, state))| {
            let said = dsn.and_then(|dsn| dsn.recipient(index));
            let mut recipient = json!({
                "address": address,
                "state": state_name(state),
                "notify": said.and_then(|said| said.notify).map(|notify| notify.to_string()),
                "orcpt": said.and_then(|said| said.original.as_ref()).map(|original| original.as_xtext()),
            });
            if let RecipientState::Deferred(deferral) = state {
                recipient["until"] = time(deferral.until_ms).into();
                recipient["attempts"] = deferral.attempts.into();
                recipient["reason"] = deferral.reason.as_str().into();
                recipient["warned"] = deferral.warned.into();
            }
            recipient
        })
        .collect();
    json!({
        "type": "message",
        "id": message.id.to_string(),
        "shard": shard,
        "reverse_path": envelope.reverse_path,
        "arrived": time(envelope.arrived_ms),
        "size": envelope.size,
        "eight_bit": envelope.eight_bit,
        "ret": dsn.and_then(|dsn| dsn.mail.ret).map(|ret| ret.to_string()),
        "envid": dsn.and_then(|dsn| dsn.mail.envelope_id.as_ref()).map(|id| id.as_xtext()),
        "recipients": recipients,
    })
}

/// One word for a recipient's state.
pub(super) fn state_name(state: &RecipientState) -> &'static str {
    match state {
        RecipientState::Open => "open",
        RecipientState::Deferred(_) => "deferred",
        RecipientState::Delivered => "delivered",
        RecipientState::Bounced => "bounced",
        RecipientState::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hazards_are_escaped_and_read_back() {
        // Proves: a line of JSON holds no character that a terminal obeys, and says the same as before.
        let value = json!({ "reason": "\u{1b}]0;x\u{7}\u{9b}\u{202e}\u{e0001}\u{7f} gr\u{fc}n" });
        let line = line(&value);
        assert!(!line.trim_end().chars().any(is_hazard), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON"), value);
    }
}
