//! One transaction: envelope, message from the spool's pages, and the replies sorted by recipient.

use std::io;
use std::rc::Rc;

use chasqui_protocol::smtp::client::{Event, Outcome as Replies, Transaction};
use chasqui_protocol::smtp::dsn::{Parameters, RcptParameters};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_runtime::net::Parts;

use super::link::{Link, Loss};
use crate::config::EightBit;
use crate::queue::Job;
use crate::settle::{Failure, Outcome, Reason};
use crate::shard::Shard;
use crate::spool::{Body, Envelope};

/// The end of a message that ends in CR LF.
const FINAL_DOT: &[u8] = b".\r\n";

/// Sends a message to some of its recipients.
pub(super) async fn send(
    shard: &Rc<Shard>,
    link: &mut Link,
    job: &Job,
    envelope: &Envelope,
    recipients: &[u32],
) -> Result<Outcome, Loss> {
    // Mail from the null reverse-path could only be dropped, a notification that returns 8-bit mail for one: it is sent
    // as it is.
    if envelope.eight_bit
        && !envelope.reverse_path.is_empty()
        && !link.capabilities().eight_bit_mime
        && shard.config.compat.eight_bit == EightBit::Bounce
    {
        return Ok(all_failed(recipients, "5.6.3", "the next hop takes no 8-bit mail", link));
    }
    let id = shard.queue.borrow().messages.facts(job).id;
    let body = match shard.spool.body(id).await {
        Ok(Some(body)) => body,
        unreadable => {
            let is_damaged =
                unreadable.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData);
            let text =
                if is_damaged { "the message is damaged in the spool" } else { "the spool cannot read it" };
            log::warn!("the body of {id} cannot be read: {text}");
            // It is tried again on its schedule, and at its end its sender is told.
            let reason = Reason { status: "4.3.0".into(), text: text.into(), remote: None };
            return Ok(Outcome { deferred: recipients.to_vec(), reason, ..Outcome::default() });
        }
    };
    let dsn = envelope.dsn.as_ref().filter(|_| link.capabilities().dsn).map(|dsn| share(dsn, recipients));
    let transaction = transaction(link.take_spent(), envelope, recipients, dsn);
    if !link.start(transaction) {
        return Ok(all_failed(recipients, "5.1.3", "the address does not fit a command", link));
    }
    let delivery = &shard.config.delivery;
    let mut sent_whole = false;
    let mut limit = delivery.command_timeout;
    let failed: io::Error = loop {
        match link.poll_event() {
            Some(Event::SendBody) => {
                sent_whole = true;
                if let Err(error) = send_body(shard, link, &body).await {
                    // Without its last octet sent, the message cannot have been taken; after a time limit nobody
                    // knows what was sent.
                    sent_whole = error.kind() == io::ErrorKind::TimedOut;
                    break error;
                }
                link.body_sent();
                limit = delivery.final_timeout;
            }
            Some(Event::Finished(replies)) => return Ok(sort(replies, recipients, envelope, link)),
            Some(Event::Closing(_) | Event::Closed | Event::Refused(_)) => {
                break io::ErrorKind::ConnectionAborted.into();
            }
            Some(Event::Ready) => {}
            None => {
                if let Err(error) = link.exchange(limit).await {
                    // What was read before the loss counts.
                    match link.poll_event() {
                        Some(Event::Finished(replies)) => {
                            return Ok(sort(replies, recipients, envelope, link));
                        }
                        _ => break error,
                    }
                }
            }
        }
    };
    Err(Loss { error: failed, began: link.began, sent_whole })
}

/// What the next hop is told of a message; `spent` gives the memory.
fn transaction(
    spent: Transaction,
    envelope: &Envelope,
    recipients: &[u32],
    dsn: Option<Box<Parameters>>,
) -> Transaction {
    let Transaction { mut reverse_path, recipients: mut addresses, .. } = spent;
    reverse_path.clone_from(&envelope.reverse_path);
    addresses.resize_with(recipients.len(), String::new);
    for (address, &index) in addresses.iter_mut().zip(recipients) {
        address.clone_from(&envelope.recipients[index as usize]);
    }
    let (size, eight_bit) = (Some(envelope.size), envelope.eight_bit);
    Transaction { reverse_path, recipients: addresses, size, eight_bit, dsn }
}

async fn send_body(shard: &Rc<Shard>, link: &mut Link, body: &Body) -> io::Result<()> {
    let limit = shard.config.delivery.block_timeout;
    let mut head = link.take_output();
    let send = async |parts: Parts, stop: &dyn Fn() -> bool| link.send(limit, parts, stop).await;
    let Some(last) = body.pieces().checked_sub(1) else {
        return send(Parts::new().bytes(head).fixed(FINAL_DOT), &|| false).await.map(drop);
    };
    for piece in 0..=last {
        let tail = if piece == last { FINAL_DOT } else { b"" };
        body.send_piece(piece, std::mem::take(&mut head), tail, send).await?;
    }
    Ok(())
}

fn all_failed(recipients: &[u32], status: &'static str, text: &str, link: &Link) -> Outcome {
    let reason = Reason { status: status.into(), text: format!("{text} ({})", link.host()), remote: None };
    let fail = |&recipient| Failure { recipient, reason: reason.clone() };
    Outcome { failed: recipients.iter().map(fail).collect(), ..Outcome::default() }
}

/// What is said of notifications for some of the recipients: what the client said, and nothing else (RFC 3461 section
/// 5.2.1).
fn share(dsn: &Parameters, recipients: &[u32]) -> Box<Parameters> {
    let of = |&index: &u32| dsn.recipient(index as usize).cloned().unwrap_or_default();
    Box::new(Parameters { mail: dsn.mail.clone(), recipients: recipients.iter().map(of).collect() })
}

/// Sorts a transaction's replies by what they mean for each recipient.
fn sort(replies: Replies, recipients: &[u32], envelope: &Envelope, link: &Link) -> Outcome {
    let host = &link.host();
    let mut outcome = Outcome::default();
    for (place, &recipient) in recipients.iter().enumerate() {
        let reply = replies.decisive(place);
        if replies.is_accepted(place) {
            outcome.delivered.push(recipient);
        } else if reply.is_permanent() {
            outcome.failed.push(Failure { recipient, reason: reason(reply, host) });
        } else {
            // Temporary, or a positive reply that decides nothing: the recipient was not taken.
            outcome.reason = reason(reply, host);
            outcome.deferred.push(recipient);
        }
    }
    // RFC 3461 section 5.2.2 b: whoever wants to know of success and was accepted by a next hop without DSN.
    if let Some(dsn) = envelope.dsn.as_ref().filter(|_| !link.capabilities().dsn) {
        let mut said = outcome.delivered.iter().filter_map(|&index| dsn.recipient(index as usize));
        if said.any(RcptParameters::wants_success) {
            outcome.relayed = replies.data.as_ref().map(|reply| reason(reply, host));
        }
    }
    outcome
}

/// What a reply says, with a status code of the kind even where the server gave none.
fn reason(reply: &Reply, host: &Rc<str>) -> Reason {
    let status = match reply.enhanced {
        Some(enhanced) => enhanced.to_string().into(),
        None if reply.is_positive() => "2.0.0".into(),
        None if reply.is_permanent() => "5.0.0".into(),
        None => "4.0.0".into(),
    };
    Reason { status, text: reply.to_string(), remote: Some(host.clone()) }
}
