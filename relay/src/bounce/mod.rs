//! Tells senders what could not be delivered: RFC 3464 notifications, one per message and round.
//!
//! A notification has the null reverse-path, so it never causes another. It and the states that cause it enter the
//! spool in one group: a crash leaves either both or neither.

use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::smtp::data::{Unstuff, stuff, unstuff};
use chasqui_protocol::trace::write_date;
use chasqui_runtime::{rng, wall_clock};

use crate::dispatch::{Failure, wall_clock_ms};
use crate::queue::Job;
use crate::shard::Shard;
use crate::spool::{Envelope, MessageId, SpoolError, State, StateChange};

/// Octets of the original header section that are sent back.
const HEADERS_MAX: usize = 64 * 1024;
/// Octets of a line of a notification; what a next hop said is cut to it.
const LINE_MAX: usize = 900;

/// Ends the duty for a job's recipients, all of which failed: tells the sender, if there is one to tell.
pub(crate) async fn give_up(shard: &Rc<Shard>, job: Job, envelope: &Rc<Envelope>, failures: &[Failure]) {
    let id = shard.queue.borrow().messages.facts(&job).id;
    let mut recipients: Vec<u32> = failures.iter().map(|failure| failure.recipient).collect();
    recipients.sort_unstable();
    let bounced = [StateChange { id, recipients: &recipients, state: State::Bounced }];
    if envelope.reverse_path.is_empty() || !shard.config.bounce.enabled {
        for failure in failures {
            let recipient = &envelope.recipients[failure.recipient as usize];
            log::warn!("{id}: <{recipient}> failed and nobody is told: {}", failure.reason.text);
        }
        shard.record(&bounced);
        shard.counters.bounced.add(recipients.len());
        return shard.finish(job, &recipients);
    }
    let notification = compose(shard, id, envelope, failures).await;
    match keep(shard, id, &envelope.reverse_path, &notification, &bounced).await {
        Ok((own_id, own_envelope)) => {
            shard.counters.bounced.add(recipients.len());
            shard.counters.notifications.add(1);
            shard.finish(job, &recipients);
            shard.enqueue(own_id, own_envelope);
        }
        Err(error) => {
            log::warn!("{id}: its notification cannot be kept: {error}; it is tried again later");
            shard.put_off(job);
        }
    }
}

/// Commits a notification together with the states that cause it.
async fn keep(
    shard: &Rc<Shard>,
    id: MessageId,
    sender: &str,
    notification: &[u8],
    bounced: &[StateChange<'_>],
) -> Result<(MessageId, Rc<Envelope>), SpoolError> {
    let mut wire = Vec::with_capacity(notification.len() + 16);
    stuff(notification, &mut wire);
    let reservation = shard.spool.reserve(wire.len() as u64).map_err(|_| SpoolError::NoSpace)?;
    let mut writer = shard.spool.begin_beside(id, Some(reservation));
    writer.write(&wire).await?;
    let envelope = Envelope {
        reverse_path: String::new(),
        recipients: vec![sender.to_owned()],
        arrived_ms: wall_clock_ms(),
        size: notification.len() as u64,
        eight_bit: false,
        stuffed: wire.len() != notification.len(),
    };
    let own_id = writer.commit_with(&envelope, bounced).await?;
    Ok((own_id, Rc::new(envelope)))
}

async fn compose(shard: &Rc<Shard>, id: MessageId, envelope: &Envelope, failures: &[Failure]) -> Vec<u8> {
    let headers = original_headers(shard, id).await;
    let hostname = shard.config.hostname.as_str();
    let postmaster = match &shard.config.bounce.postmaster {
        Some(address) => address.as_str().to_owned(),
        None => format!("postmaster@{hostname}"),
    };
    let random = rng().next_u64();
    Notification {
        hostname,
        postmaster: &postmaster,
        id,
        envelope,
        failures,
        headers: &headers,
        random,
        now: wall_clock(),
    }
    .write()
}

/// The header section of a message, unstuffed and cut to whole lines. Empty when it cannot be read now.
async fn original_headers(shard: &Rc<Shard>, id: MessageId) -> Vec<u8> {
    let Some(body) = shard.spool.body(id) else { return Vec::new() };
    let length = usize::try_from(body.len()).map_or(HEADERS_MAX, |length| length.min(HEADERS_MAX));
    match body.read(0, length).await {
        Ok(wire) => header_section(&wire),
        Err(error) => {
            log::warn!("{id}: its header section cannot be read: {error}");
            Vec::new()
        }
    }
}

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

/// What a notification tells.
struct Notification<'a> {
    hostname: &'a str,
    postmaster: &'a str,
    id: MessageId,
    envelope: &'a Envelope,
    failures: &'a [Failure],
    headers: &'a [u8],
    /// Makes the boundary one that nobody can have put into a message.
    random: u64,
    now: Duration,
}

impl Notification<'_> {
    /// The whole message, not stuffed, in 7-bit lines below 998 octets. Writing to a Vec cannot fail, so that results
    /// are dropped.
    fn write(&self) -> Vec<u8> {
        let Notification { hostname, postmaster, id, envelope, random, .. } = self;
        let boundary = format!("=_chasqui_{id}_{random:016x}");
        let mut out = Vec::with_capacity(2048 + self.headers.len());
        let _ = write!(out, "Date: ");
        write_date(&mut out, self.now);
        let _ = write!(
            out,
            "\r\nFrom: Mail Delivery System <{postmaster}>\r\nTo: <{}>\r\n\
             Subject: Undelivered mail returned to sender\r\n\
             Message-ID: <{id}.{random:016x}@{hostname}>\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n",
            envelope.reverse_path
        );
        self.write_text(&mut out, &boundary);
        self.write_status(&mut out, &boundary);
        let _ = write!(out, "\r\n--{boundary}\r\nContent-Type: text/rfc822-headers\r\n\r\n");
        for line in self.headers.split_inclusive(|&byte| byte == b'\n') {
            write_seven_bit(&mut out, line.strip_suffix(b"\r\n").unwrap_or(line));
            out.extend_from_slice(b"\r\n");
        }
        let _ = write!(out, "\r\n--{boundary}--\r\n");
        out
    }

    fn write_text(&self, out: &mut Vec<u8>, boundary: &str) {
        let Notification { hostname, postmaster, .. } = self;
        let _ = write!(
            out,
            "--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
             This is the mail system at {hostname}.\r\n\r\n\
             Your message could not be delivered to one or more recipients. The reasons\r\nfollow; for help, write to \
             {postmaster}.\r\n"
        );
        for failure in self.failures {
            let _ = write!(out, "\r\n<{}>:\r\n    ", self.recipient(failure));
            if let Some(remote) = &failure.reason.remote {
                let _ = write!(out, "{remote} said: ");
            }
            write_seven_bit(out, failure.reason.text.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }

    fn write_status(&self, out: &mut Vec<u8>, boundary: &str) {
        let _ = write!(
            out,
            "\r\n--{boundary}\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; {}\r\nArrival-Date: ",
            self.hostname
        );
        write_date(out, Duration::from_millis(self.envelope.arrived_ms));
        out.extend_from_slice(b"\r\n");
        for failure in self.failures {
            let reason = &failure.reason;
            let _ = write!(
                out,
                "\r\nFinal-Recipient: rfc822; {}\r\nAction: failed\r\nStatus: {}\r\n",
                self.recipient(failure),
                reason.status
            );
            let kind = if let Some(remote) = &reason.remote {
                let _ = write!(out, "Remote-MTA: dns; {remote}\r\n");
                "smtp"
            } else {
                "x-chasqui"
            };
            let _ = write!(out, "Diagnostic-Code: {kind}; ");
            write_seven_bit(out, reason.text.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }

    fn recipient(&self, failure: &Failure) -> &str {
        &self.envelope.recipients[failure.recipient as usize]
    }
}

/// Text from elsewhere on one line: what is not printable ASCII becomes `?`, what is too long is cut.
fn write_seven_bit(out: &mut Vec<u8>, text: &[u8]) {
    let printable = |&byte: &u8| if matches!(byte, b'\t' | 0x20..=0x7e) { byte } else { b'?' };
    out.extend(text.iter().take(LINE_MAX).map(printable));
}

#[cfg(test)]
mod tests;
