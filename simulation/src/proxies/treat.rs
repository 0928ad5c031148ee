//! How a proxy carries out what [`chasqui_sinks::behaviour`] says.

use std::io;
use std::time::Duration;

use chasqui_runtime::{now, sleep, timeout_at};
use chasqui_sinks::behaviour::{Deed, Moment, Parting, Slowness, Stage, Treatment, is_refusal};

use super::lines::{BODY_BEGINS, BODY_ENDS, Lines};
use super::{Session, Transaction, address_in, reset, sequence_of};
use crate::oracle::Key;

/// How long a proxy waits for the client to close its side too.
const PARTING_MAX: Duration = Duration::from_secs(60);
/// What is kept of what a client says meanwhile.
const REST_MAX: usize = 64 * 1024;
/// Pause between two octets of a reply that drips; less than any time limit of the relay.
const DRIP_EVERY: Duration = Duration::from_secs(1);
/// Octets that drip: more than the relay waits for.
const DRIPPED: usize = 120;
/// What a client may take beyond its time limit to leave.
const LEAVING: Duration = Duration::from_secs(15);

/// What is to be done about a command.
struct Todo {
    stage: Stage,
    deed: Deed,
    sequence: u64,
}

impl Session {
    /// Does what the host's habits or the trouble with the sender's mail want in place of serving a command. `false`:
    /// they want nothing.
    pub(crate) async fn mistreats(
        &mut self,
        word: &[u8],
        command: &[u8],
        sink: &mut Lines,
        transaction: &mut Transaction,
    ) -> io::Result<bool> {
        let host = self.moment();
        if let Some(reply) = host.at_reset().filter(|_| word == b"RSET") {
            self.may_leave = true;
            self.client.send(reply).await?;
            return Ok(true);
        }
        let taken = transaction.sequence.filter(|_| word == b"RCPT").map(|_| transaction.recipients.len());
        if let Some(reply) = taken.and_then(|taken| host.at_recipient(taken)) {
            self.say(reply).await?;
            return Ok(true);
        }
        let Some(Todo { stage, deed, sequence }) = self.todo(word, command, transaction) else {
            return Ok(false);
        };
        let keys = match stage {
            Stage::Mail => Vec::new(),
            Stage::Recipient => transaction.key(command),
            _ => transaction.keys(),
        };
        if stage == Stage::Data {
            reset(sink).await?;
            *transaction = Transaction::new(None);
        }
        self.note(stage, deed, sequence, keys);
        self.carry_out(stage, deed, sequence).await.map(|()| true)
    }

    /// Misbehaves while a message comes, or when it has come.
    pub(crate) async fn mistreat_message(
        &mut self,
        sink: &mut Lines,
        treatment: Treatment,
        transaction: &Transaction,
    ) -> io::Result<()> {
        let Treatment { stage, after, deed } = treatment;
        let sequence = transaction.sequence.unwrap_or_default();
        self.say("354 Go on\r\n").await?;
        let (mut matched, mut pieces) = (BODY_BEGINS, 0);
        while matched < BODY_ENDS && (stage == Stage::Dot || pieces < after) {
            self.client.body_piece(&mut matched).await?;
            pieces += 1;
        }
        let deed = match deed {
            _ if matched == BODY_ENDS => {
                reset(sink).await?;
                deed
            }
            Deed::Silence => {
                sleep(self.proxies.reply_limit + LEAVING).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Whoever refuses what has not come has nothing more to say.
            Deed::Say(reply) => Deed::SayAndPart(reply, Parting::Orderly),
            deed => deed,
        };
        self.note(stage, deed, sequence, transaction.keys());
        self.carry_out(stage, deed, sequence).await
    }

    /// The treatment of a message that nothing happened to until its DATA.
    pub(crate) fn treatment_of_message(&self, transaction: &Transaction) -> Option<Treatment> {
        let sequence = transaction.sequence.filter(|_| !transaction.recipients.is_empty())?;
        self.moment().at_message(sequence)
    }

    /// What the host's decisions depend on.
    fn moment(&self) -> Moment<'_> {
        Moment {
            habits: &self.proxies.habits,
            domain: self.host.domain,
            is_preferred: self.host.is_preferred,
            is_doomed: self.domain.is_doomed(),
            since_start: self.proxies.start.get().map(|start| now() - start),
            is_calm: self.proxies.is_calm(),
        }
    }

    fn todo(&self, word: &[u8], command: &[u8], transaction: &Transaction) -> Option<Todo> {
        let stage = match word {
            b"MAIL" => Stage::Mail,
            b"RCPT" => Stage::Recipient,
            b"DATA" if !transaction.recipients.is_empty() => Stage::Data,
            _ => return None,
        };
        let sequence = match stage {
            Stage::Mail => sequence_of(&address_in(command)),
            _ => transaction.sequence,
        }?;
        let deed = self.moment().at_command(stage, sequence, transaction.recipients.len())?;
        Some(Todo { stage, deed, sequence })
    }

    /// Is slow before any transaction, if that is what the host does there.
    pub(crate) async fn dawdles(&mut self, before: &[Slowness]) -> io::Result<()> {
        match self.moment().slowness().filter(|slowness| before.contains(slowness)) {
            Some(Slowness::DrippingGreeting) => self.outwait(DRIPPED).await,
            Some(_) => self.outwait(0).await,
            None => Ok(()),
        }
    }

    /// Enters what is about to be said.
    fn note(&mut self, stage: Stage, deed: Deed, sequence: u64, keys: Vec<Key>) {
        let (Deed::Say(reply) | Deed::SayAndPart(reply, _)) = deed else { return };
        if is_refusal(reply) {
            if stage == Stage::Mail {
                self.oracle().refuse_message(sequence);
            }
            self.refuse(keys);
        } else if !reply.starts_with("45") {
            self.may_leave = true;
        }
    }

    async fn carry_out(&mut self, stage: Stage, deed: Deed, sequence: u64) -> io::Result<()> {
        match deed {
            Deed::Say(reply) => self.say(reply).await,
            Deed::SayAndPart(reply, parting) => {
                self.say(reply).await?;
                let refused = Some(sequence).filter(|_| stage == Stage::Mail && is_refusal(reply));
                self.part(parting, refused).await
            }
            Deed::Part(parting) => self.part(parting, None).await,
            Deed::Silence => self.outwait(0).await,
            Deed::Drip => self.outwait(DRIPPED).await,
        }
    }

    /// Leaves. Recipients that the client has named behind the MAIL of the message `refused` are refused with it.
    async fn part(&mut self, parting: Parting, refused: Option<u64>) -> io::Result<()> {
        if parting == Parting::Abrupt {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.client.stream.shutdown();
        let limit = now() + PARTING_MAX;
        let error = loop {
            match timeout_at(limit, self.client.fill()).await {
                Ok(Ok(())) if refused.is_none() || self.client.unread.len() > REST_MAX => {
                    self.client.unread.clear()
                }
                Ok(Ok(())) => {}
                Ok(Err(error)) => break error,
                Err(_elapsed) => return Err(io::ErrorKind::TimedOut.into()),
            }
        };
        if error.kind() == io::ErrorKind::UnexpectedEof {
            if let Some(sequence) = refused {
                let unread = std::mem::take(&mut self.client.unread);
                let commands = unread.split_inclusive(|octet| *octet == b'\n');
                let recipients = commands.filter(|it| it.len() > 4 && it[..4].eq_ignore_ascii_case(b"RCPT"));
                let transaction = Transaction::new(Some(sequence));
                let keys = recipients.flat_map(|command| transaction.key(command)).collect();
                self.refuse(keys);
            }
            self.left();
        }
        Err(error)
    }

    /// Says so many octets of a reply, one at a time, and waits for the client to leave, as it must when its time is up.
    async fn outwait(&mut self, octets: usize) -> io::Result<()> {
        let from = now();
        let reply = [b"451 4.3.0 ".as_slice(), &[b'.'; DRIPPED]].concat();
        let mut next = from;
        for place in 0.. {
            if let Some(octet) = reply.get(place).filter(|_| place < octets) {
                self.client.send(vec![*octet]).await?;
            }
            next += DRIP_EVERY;
            let hearing = async {
                loop {
                    self.client.unread.clear();
                    if let Err(error) = self.client.fill().await {
                        break error;
                    }
                }
            };
            if let Ok(error) = timeout_at(next, hearing).await {
                return Err(error);
            }
            if now() > from + self.proxies.reply_limit + LEAVING {
                self.oracle().overstayed(from, now());
                break;
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}
