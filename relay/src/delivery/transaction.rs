//! One transaction: envelope, message from the spool's pages, and the replies sorted by recipient.

use std::io;
use std::rc::Rc;

use chasqui_protocol::smtp::client::{Event, Extension, Outcome as Replies, StartError, Transaction};
use chasqui_protocol::smtp::dsn::{Parameters, RcptParameters};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_runtime::net::{Parts, is_shortage};
use chasqui_runtime::{sim, turn_time};

use super::jobs;
use super::link::Link;
use super::outcome::{Outcome, Recipients};
use super::retry::Met;
use crate::config::EightBit;
use crate::context::Context;
use crate::queue::{Failure, Job, Reason, Stage};
use crate::spool::{self, Envelope};

/// The end of a message that ends in CR LF.
const FINAL_DOT: &[u8] = b".\r\n";

/// What came of a transaction.
pub(super) struct Sent {
    /// Of every recipient but those of `surplus`.
    pub(super) outcome: Outcome,
    /// Recipients beyond what the server takes in one transaction, when it has taken the message for others.
    pub(super) surplus: Recipients,
    pub(super) end: End,
    pub(super) body: Body,
    /// It took too long to answer.
    pub(super) is_late: bool,
}

impl Sent {
    /// The host has ended the transaction by closing the connection.
    pub(super) fn is_cut_off(&self) -> bool {
        matches!(self.end, End::Untouched | End::CutOff)
    }
}

/// How far the message itself has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// Not sent to its end.
    Unsent,
    Answered,
    /// It may have been taken.
    Unanswered,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By replies.
    Answered,
    /// By the loss of the connection, or by 421, before anything else was answered.
    Untouched,
    /// By either of them later.
    CutOff,
    /// By trouble on our side.
    Ours,
    /// Before it began: the host does not have what the message needs.
    Unfit,
}

/// Sends a message to some of its recipients.
pub(super) async fn send(
    context: &Rc<Context>,
    link: &mut Link,
    job: &Job,
    envelope: &Envelope,
    recipients: &[u32],
) -> Sent {
    // Mail from the null reverse-path could only be dropped, a notification that returns 8-bit mail for one: it is sent
    // as it is.
    if envelope.eight_bit
        && !envelope.reverse_path.is_empty()
        && !link.connection.capabilities().has(Extension::EightBitMime)
        && context.config.compat.eight_bit == EightBit::Bounce
    {
        return all_failed(recipients, "5.6.3", "the next hop takes no 8-bit mail", link);
    }
    let id = context.queue.borrow().messages.facts(job).id;
    let body = match context.spool.body(id).await {
        Ok(Some(body)) => body,
        unreadable => {
            let is_damaged =
                unreadable.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData);
            let text =
                if is_damaged { "the message is damaged in the spool" } else { "the spool cannot read it" };
            log::warn!("the body of {id} cannot be read: {text}");
            return ours(recipients, text, if is_damaged { Met::Damage } else { Met::OwnTrouble });
        }
    };
    let takes_dsn = link.connection.capabilities().has(Extension::Dsn);
    let dsn = envelope.dsn.as_ref().filter(|_| takes_dsn).map(|dsn| share(dsn, recipients));
    let transaction = transaction(link.connection.take_spent(), envelope, recipients, dsn);
    match link.connection.start(transaction) {
        Ok(()) => {}
        Err(StartError::NotIdle) => {
            link.connection.close();
            return ours(recipients, "the connection was not ready", Met::OwnTrouble);
        }
        Err(StartError::NoRecipients | StartError::Address) => {
            return all_failed(recipients, "5.1.3", "the address does not fit a command", link);
        }
        Err(error @ StartError::RawBody) => {
            return all_failed(recipients, "5.6.1", &error.to_string(), link);
        }
    }
    let (ended, sent_whole) = converse(context, link, job, &body).await;
    let (replies, lost) = match ended {
        Ok(replies) => (Some(replies), None),
        Err(error) => (
            link.connection.cut_off().filter(|_| !sim::PlantedFault::DropReplyAtClose.is_planted()),
            Some(error),
        ),
    };
    let is_ours = lost.as_ref().is_some_and(is_shortage) && !sent_whole;
    if is_ours && replies.as_ref().is_none_or(|replies| replies.is_untouched()) {
        return ours(recipients, "the system lacks memory", Met::OwnTrouble);
    }
    let (end, body) = how_far(replies.as_ref(), lost.is_some(), sent_whole);
    let is_late = lost.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
    let (outcome, surplus) = sort(replies, lost, recipients, envelope, link);
    Sent { outcome, surplus, end, body, is_late }
}

/// How a transaction ended, and how far its message came.
fn how_far(replies: Option<&Replies>, is_lost: bool, sent_whole: bool) -> (End, Body) {
    let end = match replies {
        Some(replies) if !is_lost && !replies.is_closing() => End::Answered,
        Some(replies) if !replies.is_untouched() => End::CutOff,
        _ => End::Untouched,
    };
    let is_answered = replies.is_some_and(|replies| replies.data.is_some());
    let body = match (sent_whole, is_answered) {
        (false, _) => Body::Unsent,
        (true, true) => Body::Answered,
        (true, false) => Body::Unanswered,
    };
    (end, body)
}

/// Drives a transaction to its replies, or to the loss of the connection; and whether the message was sent to its end.
async fn converse(
    context: &Rc<Context>,
    link: &mut Link,
    job: &Job,
    body: &spool::Body,
) -> (io::Result<Replies>, bool) {
    let delivery = &context.config.delivery;
    link.enter(Stage::Sending);
    let mut sent_whole = false;
    let mut limit = delivery.command_timeout;
    loop {
        match link.connection.poll_event() {
            Some(Event::SendBody) => match send_body(context, link, job, body).await {
                Ok(()) => {
                    link.connection.body_sent();
                    link.enter(Stage::Final);
                    sent_whole = true;
                    limit = delivery.final_timeout;
                }
                Err((error, was_last)) => {
                    link.last_words().await;
                    if let Some(Event::Finished(replies)) = link.connection.poll_event() {
                        return (Ok(replies), false);
                    }
                    // Without its last octet sent, the message cannot have been taken; after a time limit nobody knows what
                    // was sent.
                    let in_doubt = was_last && error.kind() == io::ErrorKind::TimedOut;
                    return (Err(error), in_doubt);
                }
            },
            Some(Event::Finished(replies)) => return (Ok(replies), sent_whole),
            Some(Event::Closing(_) | Event::Closed | Event::Refused(_)) => {
                return (Err(io::ErrorKind::ConnectionAborted.into()), sent_whole);
            }
            // Nothing was asked for that others answer.
            Some(_) => {}
            None => {
                let exchanged = match too_late(context, link, job) {
                    Some(error) if !sent_whole => Err(error),
                    _ => link.exchange(limit).await,
                };
                if let Err(error) = exchanged {
                    // What was read before the loss counts.
                    return match link.connection.poll_event() {
                        Some(Event::Finished(replies)) => (Ok(replies), sent_whole),
                        _ => (Err(error), sent_whole),
                    };
                }
            }
        }
    }
}

/// Why a message is not sent on: the host is slow, and the message has become too old meanwhile.
fn too_late(context: &Context, link: &Link, job: &Job) -> Option<io::Error> {
    let is_too_late = link.is_slow() && jobs::is_expired(context, job);
    is_too_late.then(|| io::Error::new(io::ErrorKind::TimedOut, "the message has become too old meanwhile"))
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
    let (size, eight_bit, form) = (Some(envelope.size), envelope.eight_bit, envelope.form);
    Transaction { reverse_path, recipients: addresses, size, eight_bit, form, dsn }
}

/// Sends the message and its end. An error comes with whether it was in the last piece.
async fn send_body(
    context: &Rc<Context>,
    link: &mut Link,
    job: &Job,
    body: &spool::Body,
) -> Result<(), (io::Error, bool)> {
    let limit = context.config.delivery.block_timeout;
    let mut head = link.connection.take_output();
    let Some(last) = body.pieces().checked_sub(1) else {
        let sent = link.send(limit, Parts::new().bytes(head).fixed(FINAL_DOT), &|| false).await;
        return sent.map(drop).map_err(|error| (error, true));
    };
    for piece in 0..=last {
        if let Some(error) = too_late(context, link, job) {
            return Err((error, false));
        }
        link.enter(Stage::Sending);
        // Also when the piece is copied meanwhile, and the rest sent from the copy.
        let by = turn_time() + limit;
        let send =
            async |parts: Parts, stop: &dyn Fn() -> bool| link.send(by - turn_time(), parts, stop).await;
        let tail = if piece == last { FINAL_DOT } else { b"" };
        let sent = body.send_piece(piece, std::mem::take(&mut head), tail, send).await;
        sent.map_err(|error| (error, piece == last))?;
    }
    Ok(())
}

fn all_failed(recipients: &[u32], status: &'static str, text: &str, link: &Link) -> Sent {
    let text = format!("{text} ({})", link.host.name);
    let reason = Reason { status: status.into(), text, remote: None };
    let fail = |&recipient| Failure { recipient, reason: reason.clone() };
    let outcome = Outcome { failed: recipients.iter().map(fail).collect(), ..Outcome::default() };
    Sent { outcome, surplus: Recipients::new(), end: End::Unfit, body: Body::Unsent, is_late: false }
}

/// Nothing could be tried, and not because of the next hop.
fn ours(recipients: &[u32], text: &str, met: Met) -> Sent {
    let reason = Reason { status: "4.3.0".into(), text: text.into(), remote: None };
    let outcome = Outcome { deferred: recipients.to_vec(), reason, met, ..Outcome::default() };
    Sent { outcome, surplus: Recipients::new(), end: End::Ours, body: Body::Unsent, is_late: false }
}

/// What is said of notifications for some of the recipients: what the client said, and nothing else (RFC 3461 section
/// 5.2.1).
fn share(dsn: &Parameters, recipients: &[u32]) -> Box<Parameters> {
    let of = |&index: &u32| dsn.recipient(index as usize).cloned().unwrap_or_default();
    Box::new(Parameters { mail: dsn.mail.clone(), recipients: recipients.iter().map(of).collect() })
}

/// Sorts a transaction's replies by what they mean for each recipient; `lost` says why there are not all of them.
fn sort(
    replies: Option<Replies>,
    lost: Option<io::Error>,
    recipients: &[u32],
    envelope: &Envelope,
    link: &Link,
) -> (Outcome, Recipients) {
    let host = &link.host.name;
    let (mut outcome, mut surplus) = (Outcome::default(), Recipients::new());
    let Some(replies) = replies else {
        outcome.deferred = recipients.to_vec();
        outcome.reason = loss(lost, host);
        return (outcome, surplus);
    };
    let mut is_any_taken = false;
    let mut refusal = None;
    for (place, &recipient) in recipients.iter().enumerate() {
        let rcpt = replies.recipients.get(place).and_then(Option::as_ref);
        match replies.decisive(place) {
            _ if replies.is_accepted(place) => outcome.delivered.push(recipient),
            Some(reply) if rcpt == Some(reply) && is_too_many(reply, is_any_taken) => {
                surplus.push(recipient);
                refusal = Some(Reason { status: "4.5.3".into(), ..reason(reply, host) });
            }
            Some(reply) if reply.is_permanent() => {
                outcome.failed.push(Failure { recipient, reason: reason(reply, host) });
            }
            // Temporary, or nothing that decides: the recipient was not taken.
            reply => {
                outcome.deferred.push(recipient);
                refusal = reply.filter(|reply| reply.is_transient()).map(|it| reason(it, host)).or(refusal);
            }
        }
        is_any_taken |= rcpt.is_some_and(Reply::is_positive);
    }
    if outcome.delivered.is_empty() {
        // In a transaction of their own they would be as many.
        outcome.deferred.extend(surplus.drain(..));
        outcome.deferred.sort_unstable();
    }
    if !outcome.deferred.is_empty() {
        outcome.reason = refusal.unwrap_or_else(|| loss(lost, host));
    }
    // RFC 3461 section 5.2.2 b: whoever wants to know of success and was accepted by a next hop without DSN.
    if let Some(dsn) = envelope.dsn.as_ref().filter(|_| !link.connection.capabilities().has(Extension::Dsn)) {
        let mut said = outcome.delivered.iter().filter_map(|&index| dsn.recipient(index as usize));
        if said.any(RcptParameters::wants_success) {
            outcome.relayed = replies.data.as_ref().map(|reply| reason(reply, host));
        }
    }
    (outcome, surplus)
}

/// Whether a server refuses a recipient because the transaction has as many as it takes. RFC 5321 section 4.5.3.1.10: by
/// 452, and older ones by 552; both are something else with another enhanced code, or while it has taken nobody.
fn is_too_many(reply: &Reply, is_any_taken: bool) -> bool {
    let is_code = matches!(reply.code, 452 | 552);
    is_code && reply.enhanced.map_or(is_any_taken, |it| (it.subject, it.detail) == (5, 3))
}

/// Why those wait whose replies have not come.
fn loss(lost: Option<io::Error>, host: &Rc<str>) -> Reason {
    let text = match lost {
        Some(error) => format!("connection lost: {error}"),
        None => "the replies decide nothing".to_owned(),
    };
    Reason { status: "4.4.2".into(), text, remote: Some(host.clone()) }
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
