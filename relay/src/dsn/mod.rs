//! Tells senders what became of their mail: delivery status notifications (RFC 3464), one per message and attempt.
//!
//! | of a recipient that | is told, unless NOTIFY says otherwise | RFC 3461 |
//! |---|---|---|
//! | failed | `failed`; not with NEVER, or without FAILURE in a NOTIFY | 5.2.2 c, d, f; 5.2.6 |
//! | still waits at the age of a warning | `delayed`, once; not with NEVER, or without DELAY in a NOTIFY | 5.2.5 |
//! | was delivered to a next hop with DSN | nothing: it got ENVID, RET, NOTIFY and ORCPT as they came | 5.2.1 |
//! | was delivered to one without, which got none of them | `relayed`, only with SUCCESS | 5.2.2 a, b, e |
//!
//! Who is not to be told of is not in the notification either (5.2.8). What 5.2.2 d allows is not done: mail for
//! recipients with NEVER keeps its reverse-path. Failures of mail from nobody are a line in the log (5.2).
//!
//! A notification has the null reverse-path and NOTIFY=NEVER, no RET and no ENVID (6.1), so it never causes another. It and the states that cause it enter the
//! spool in one group: a crash leaves either both or neither.

mod report;

use std::rc::Rc;

use chasqui_protocol::smtp::data::{BodyForm, Unstuff, stuff, unstuff};
use chasqui_protocol::smtp::dsn::{Notify, Parameters, RcptParameters, Return};
use chasqui_runtime::{rng, wall_clock};

use crate::config::Config;
use crate::context::Context;
use crate::queue::{Failure, Reason};
use crate::spool::{Envelope, MessageId, SpoolError, StateChange};

use report::{Original, Report};

/// Notifications of a shard that may be in memory at a time, each as large as what it returns.
pub(crate) const COMPOSING_MAX: usize = 32;
/// Octets of the original header section that are sent back.
const HEADERS_MAX: usize = 64 * 1024;

/// What the sender is told of a recipient.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) recipient: u32,
    pub(crate) action: Action,
    pub(crate) reason: Reason,
}

/// What became of a recipient (RFC 3464 section 2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is given up.
    Failed,
    /// It will be tried again.
    Delayed,
    /// A next hop has it that will tell nothing.
    Relayed,
}

/// What there is to tell of an attempt.
pub(crate) struct Told<'a> {
    pub(crate) failed: Vec<Failure>,
    /// Recipients that still wait at the age of a warning, and why.
    pub(crate) late: (Reason, &'a [u32]),
    /// Recipients that a next hop has taken which will tell nothing, and what it said.
    pub(crate) relayed: Option<(Reason, &'a [u32])>,
}

/// What the sender is to be told of an attempt; nothing where there is nobody to tell.
pub(crate) fn notices(config: &Config, id: MessageId, envelope: &Envelope, told: Told<'_>) -> Vec<Notice> {
    let Told { failed, late: (reason, late), relayed } = told;
    if envelope.reverse_path.is_empty() || !config.bounce.enabled {
        for failure in failed {
            let recipient = &envelope.recipients[failure.recipient as usize];
            log::warn!("{id}: <{recipient}> failed and nobody is told: {}", failure.reason.text);
        }
        return Vec::new();
    }
    let wants = |recipient: u32, what: fn(&RcptParameters) -> bool| {
        let said = envelope.dsn.as_ref().and_then(|dsn| dsn.recipient(recipient as usize));
        said.map_or_else(|| what(&RcptParameters::default()), what)
    };
    let mut notices = Vec::new();
    for failure in failed {
        if wants(failure.recipient, RcptParameters::wants_failure) {
            let (recipient, reason) = (failure.recipient, failure.reason);
            notices.push(Notice { recipient, action: Action::Failed, reason });
        }
    }
    for &recipient in late.iter().filter(|&&recipient| wants(recipient, RcptParameters::wants_delay)) {
        notices.push(Notice { recipient, action: Action::Delayed, reason: reason.clone() });
    }
    if let Some((reason, taken)) = relayed {
        let told = taken.iter().copied().filter(|&recipient| wants(recipient, RcptParameters::wants_success));
        let relayed = |recipient| Notice { recipient, action: Action::Relayed, reason: reason.clone() };
        notices.extend(told.map(relayed));
    }
    notices
}

/// Commits a notification together with the states that cause it.
pub(crate) async fn send(
    context: &Context,
    id: MessageId,
    envelope: &Envelope,
    notices: &[Notice],
    states: &[StateChange<'_>],
) -> Result<(MessageId, Rc<Envelope>), SpoolError> {
    let composing = context.composing.acquire(1).await;
    let original = original(context, id, envelope, notices).await;
    let eight_bit = envelope.eight_bit && matches!(original, Original::Whole(_));
    let notification = write(context, id, envelope, notices, original, eight_bit);
    let size = notification.len();
    let mut wire = Vec::with_capacity(size + size / 64 + 16);
    stuff(&notification, &mut wire);
    drop(notification);
    let mut writer = context.spool.begin_notification(id, wire.len() as u64)?;
    writer.write(&wire).await?;
    let (arrived_ms, lead_ms) = context.clock.stamp();
    let own = Envelope {
        reverse_path: String::new(),
        recipients: vec![envelope.reverse_path.clone()],
        arrived_ms,
        lead_ms,
        size: size as u64,
        eight_bit,
        form: BodyForm::Lines { stuffed: wire.len() != size },
        // Nobody is to be told of a notification (RFC 3461 section 6.1).
        dsn: Some(Box::new(Parameters {
            recipients: vec![RcptParameters { notify: Some(Notify::NEVER), original: None }],
            ..Parameters::default()
        })),
    };
    // The spool has its own limit on what it holds.
    drop((wire, composing));
    let own_id = writer.commit_with(&own, states).await?;
    Ok((own_id, Rc::new(own)))
}

fn write(
    context: &Context,
    id: MessageId,
    envelope: &Envelope,
    notices: &[Notice],
    original: Original,
    eight_bit: bool,
) -> Vec<u8> {
    let hostname = context.config.hostname.as_str();
    let postmaster = match &context.config.bounce.postmaster {
        Some(address) => address.as_str().to_owned(),
        None => format!("postmaster@{hostname}"),
    };
    let report = Report {
        hostname,
        postmaster: &postmaster,
        id,
        envelope,
        notices,
        original,
        eight_bit,
        random: rng().next_u64(),
        now: wall_clock(),
        max_age: context.config.retry.max_age,
    };
    report.write()
}

/// What is returned of the message: all of it, where that is wished for a failure and it is not too large; else its
/// header section (RFC 3461 section 6.2). An empty one when it cannot be read now.
async fn original(context: &Context, id: MessageId, envelope: &Envelope, notices: &[Notice]) -> Original {
    let Ok(Some(body)) = context.spool.body(id).await else { return Original::Headers(Vec::new()) };
    let is_failure = notices.iter().any(|notice| notice.action == Action::Failed);
    let wished = envelope.dsn.as_ref().and_then(|dsn| dsn.mail.ret) == Some(Return::Full);
    let whole = is_failure && wished && body.len() <= context.config.bounce.return_size.0;
    let wanted = if whole { body.len() } else { body.len().min(HEADERS_MAX as u64) };
    let read = match usize::try_from(wanted) {
        Ok(length) => body.read(0, length).await,
        Err(_) => Ok(Vec::new()),
    };
    match read {
        Ok(wire) if whole && envelope.form.is_stuffed() => {
            let mut message = Vec::with_capacity(wire.len());
            unstuff(&mut Unstuff::default(), &wire, &mut message);
            Original::Whole(message)
        }
        Ok(wire) if whole => Original::Whole(wire),
        Ok(wire) => Original::Headers(header_section(&wire)),
        Err(error) => {
            log::warn!("{id}: what its notification returns cannot be read: {error}");
            Original::Headers(Vec::new())
        }
    }
}

/// The header section of a message, unstuffed and cut to whole lines.
fn header_section(wire: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(wire.len());
    unstuff(&mut Unstuff::default(), wire, &mut message);
    let mut end = 0;
    for line in message.split_inclusive(|&byte| byte == b'\n') {
        if !line.ends_with(b"\n") || line == b"\r\n" {
            break;
        }
        end += line.len();
    }
    message.truncate(end);
    message
}

#[cfg(test)]
mod tests;
