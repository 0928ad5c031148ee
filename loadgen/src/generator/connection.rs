//! One SMTP connection: used for message after message, opened anew when it has had its messages, and with a back-off when it
//! breaks.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::smtp::client::{Event, Extension, Outcome, Transaction};
use chasqui_protocol::smtp::data::BodyForm;
use chasqui_protocol::stamp::Sender;
use chasqui_runtime::net::buffer;
use chasqui_runtime::{Instant, now, rng, sleep, turn_time, wall_clock};
use chasqui_transport::smtp_client::{self, ClientConnection, WaitLimit};
use futures_lite::future::or;

use super::broken::Broken;
use super::opening;
use super::pacer::{Due, Order, Slot};
use super::shard::Shard;
use crate::message::{Envelope, Message};
use crate::scenario::Target;

/// First and longest wait before a connection is opened again.
const BACK_OFF: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// The longest while the server says 421 to connections, or this machine has no descriptors left: it has too many. And where an
/// account is not let in: servers count that against it.
const BACK_OFF_CROWDED_MAX: Duration = Duration::from_secs(10);
/// Octets of a message that are handed to the socket at once.
const CHUNK_OCTETS: usize = 128 * 1024;
/// What the end of the data may add to that.
const END_OCTETS: usize = 8;
/// Bodies up to this go out in the buffer that their connection keeps.
const SMALL_OCTETS: u64 = 8 * 1024;
/// A QUIT is answered within this, or the connection is closed without.
const QUIT_LIMIT: Duration = Duration::from_secs(1);

/// Keeps one connection to `target` until there is nothing more to send.
pub(crate) async fn keep(shard: Rc<Shard>, target: Target) {
    let mut failures = 0u32;
    let mut attempted = false;
    while !shard.pacer.has_ended() {
        let source = shard.next_source(target.address);
        let opened = Box::pin(Connection::open(&shard, &target, source)).await; // not part of the hot future
        if !std::mem::replace(&mut attempted, true) {
            shard.attempted.set(shard.attempted.get() + 1);
        }
        let broken = match opened {
            Ok(mut connection) => {
                shard.count_opened(&connection.connection);
                shard.connected.set(shard.connected.get() + 1);
                shard.connected_max.set(shard.connected_max.get().max(shard.connected.get()));
                let served = connection.serve(&shard).await;
                if served.is_ok() {
                    // All its mail is answered; how the session ends is of no consequence. Rare too, as a rule.
                    Box::pin(connection.connection.quit(QUIT_LIMIT)).await;
                }
                shard.connected.set(shard.connected.get() - 1);
                if connection.messages > 0 {
                    failures = 0;
                }
                match served {
                    Ok(Served::All) => return,
                    Ok(Served::Enough) => continue,
                    Err(broken) => broken,
                }
            }
            Err(broken) => {
                shard.count(|figures| {
                    figures.refused += u64::from(broken.is_refusal());
                    figures.handshakes_failed += u64::from(broken.is_handshake());
                    figures.logins_failed += u64::from(broken.is_login());
                });
                broken
            }
        };
        shard.count(|figures| {
            figures.replies_421 += u64::from(broken.is_421());
            figures.emfile += u64::from(broken.is_no_descriptor());
        });
        let from = source.map(|source| format!(" from {source}")).unwrap_or_default();
        shard.note(&format!("connection to {}{from}: {broken}", target.address));
        // Half of the wait is random, so that connections that broke together do not come back together.
        let crowded = broken.is_421() || broken.is_no_descriptor() || broken.is_login();
        let longest = if crowded { BACK_OFF_CROWDED_MAX } else { BACK_OFF_MAX };
        let wait = (BACK_OFF * 2u32.saturating_pow(failures)).min(longest);
        failures = (failures + 1).min(16);
        or(sleep(wait.mul_f64(0.5 + rng().unit() / 2.0)), shard.pacer.ended()).await;
    }
}

/// Why a connection ended that had not broken.
enum Served {
    /// There is nothing more to send.
    All,
    /// It has had the messages that one connection is to have.
    Enough,
}

/// What ends a connection's idleness.
enum Woken {
    Order(Order),
    Said(Result<(), smtp_client::Broken>),
}

/// A connection to the server, with what its messages need.
struct Connection {
    connection: ClientConnection,
    slot: Rc<Slot>,
    /// Messages that got a final reply.
    messages: u64,
    /// Wire form under way to the socket; reused.
    wire: Vec<u8>,
    mailboxes: Vec<u32>,
}

impl Connection {
    async fn open(shard: &Shard, target: &Target, source: Option<IpAddr>) -> Result<Self, Broken> {
        let connection = opening::open(shard, target, source).await?;
        Ok(Self { connection, slot: Rc::default(), messages: 0, wire: Vec::new(), mailboxes: Vec::new() })
    }

    /// Sends what it is told to until there is nothing more, or until it has had its messages.
    async fn serve(&mut self, shard: &Shard) -> Result<Served, Broken> {
        let messages_max = shard.plan.scenario.messages_per_connection.unwrap_or(u64::MAX);
        loop {
            if self.messages >= messages_max {
                return Ok(Served::Enough);
            }
            let at = now();
            let order = match shard.pacer.take(at) {
                Some(order) => order,
                None => match self.idle(shard, at).await {
                    Woken::Order(order) => order,
                    Woken::Said(said) => {
                        said.map_err(Broken::awaiting("reply"))?;
                        match self.connection.poll_event() {
                            Some(Event::Closing(reply)) => return Err(Broken::refused(&reply)),
                            Some(Event::Closed) => return Err(Broken::Closed),
                            _ => continue,
                        }
                    }
                },
            };
            match order {
                Order::Send(due) => self.send(shard, due).await?,
                Order::End => return Ok(Served::All),
            }
        }
    }

    /// Waits, free since `at`, for an order or for what the server says unasked.
    async fn idle(&mut self, shard: &Shard, at: Instant) -> Woken {
        shard.pacer.park(&self.slot, at);
        let order = async { Woken::Order(self.slot.order().await) };
        let said = async { Woken::Said(self.connection.unasked().await) };
        let woken = or(order, said).await;
        if matches!(woken, Woken::Said(_)) {
            shard.pacer.leave(&self.slot);
        }
        woken
    }

    /// Sends one message, counting it whatever happens.
    async fn send(&mut self, shard: &Shard, due: Due) -> Result<(), Broken> {
        shard.recipients.borrow_mut().pick(&mut self.mailboxes);
        let sequence = shard.begin(due, now(), &self.mailboxes);

        shard.busy.set(shard.busy.get() + 1);
        let exchanged = self.exchange(shard, sequence, due.at).await;
        shard.busy.set(shard.busy.get() - 1);
        match exchanged {
            Ok(None) => Ok(()),
            Ok(Some(closing)) => Err(closing),
            Err(broken) => {
                shard.lose_reply(sequence, due.at, &broken.to_string()); // no effect on a message that has its final reply
                Err(broken)
            }
        }
    }

    /// One transaction from MAIL to the final reply. `Some`: it has one, and the connection is at its end.
    async fn exchange(
        &mut self,
        shard: &Shard,
        sequence: u64,
        due: Instant,
    ) -> Result<Option<Broken>, Broken> {
        let plan = &shard.plan;
        let (transaction, mut message) = self.prepare(shard, sequence);
        let octets = message.size;
        if self.connection.start(transaction).is_err() {
            return Err(Broken::Closed); // not idle: the session is over
        }
        let mut finished = false;
        loop {
            let limit = WaitLimit::Until(turn_time() + plan.scenario.reply_timeout);
            match self.connection.next_event(limit).await.map_err(Broken::awaiting("reply"))? {
                Event::SendBody => {
                    let mut more = self.fill_wire(&mut message);
                    if !more {
                        self.connection.body_sent();
                    }
                    loop {
                        let posted =
                            self.connection.post_body(&mut self.wire, plan.scenario.reply_timeout).await;
                        posted.map_err(Broken::awaiting("progress of the data"))?;
                        if !more {
                            break;
                        }
                        more = self.fill_wire(&mut message);
                    }
                    self.connection.body_sent();
                }
                Event::Finished(outcome) => {
                    self.finish(shard, sequence, due, octets, &outcome);
                    finished = true;
                    if self.connection.is_idle() {
                        return Ok(None);
                    }
                    // Closing or Closed follows.
                }
                Event::Closing(reply) if finished => return Ok(Some(Broken::refused(&reply))),
                Event::Closed if finished => return Ok(Some(Broken::Closed)),
                Event::Closing(reply) | Event::Refused(reply) => return Err(Broken::refused(&reply)),
                Event::Closed => return Err(Broken::Closed),
                // Nothing was asked for that others answer.
                _ => {}
            }
        }
    }

    /// The next message, of which nothing is written yet, and its envelope.
    fn prepare(&mut self, shard: &Shard, sequence: u64) -> (Transaction, Message) {
        let plan = &shard.plan;
        let size = plan.scenario.size.sample(&mut shard.sizes.borrow_mut());
        let Transaction { mut reverse_path, mut recipients, .. } = self.connection.take_spent();
        recipients.resize_with(self.mailboxes.len(), String::new);
        for (address, mailbox) in recipients.iter_mut().zip(&self.mailboxes) {
            address.clear();
            plan.directory.write_address(*mailbox, address);
        }
        reverse_path.clear();
        // Writing to a String cannot fail.
        let _ = write!(reverse_path, "{}", Sender { run: plan.run, sequence, zone: &plan.bounce_zone });
        let eight_bit = self.connection.capabilities().has(Extension::EightBitMime);
        let envelope = Envelope { run: plan.run, sequence, recipients: &recipients };
        self.wire.clear();
        let message = shard.maker.borrow_mut().make(&envelope, size, eight_bit, wall_clock(), &mut self.wire);
        let transaction = Transaction {
            reverse_path,
            recipients,
            size: Some(message.size),
            eight_bit: message.eight_bit,
            form: BodyForm::default(),
            dsn: None,
        };
        (transaction, message)
    }

    fn finish(&mut self, shard: &Shard, sequence: u64, due: Instant, octets: u64, outcome: &Outcome) {
        self.messages += 1;
        shard.finish(sequence, due, octets, outcome, now());
    }

    /// Adds the next of the message, a large one's in a buffer of the shard's. Whether there is more.
    fn fill_wire(&mut self, message: &mut Message) -> bool {
        if message.size > SMALL_OCTETS {
            let mut large = buffer(CHUNK_OCTETS + END_OCTETS);
            large.extend_from_slice(&self.wire);
            self.wire = large;
        }
        message.fill(&mut self.wire, CHUNK_OCTETS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection's future stays small: there are thousands of them.
    #[test]
    fn future_size() {
        fn size_of_future<F>(_: impl FnOnce(Rc<Shard>, Target) -> F) -> usize {
            size_of::<F>()
        }
        let octets = size_of_future(keep);
        assert!(octets <= 2048, "{octets}");
    }
}
