//! How misbehaving receivers treat mail: data, and pure functions of it, of the message and of the moment. Nothing here runs:
//! whoever receives asks what is to be done, and does it.

use std::time::Duration;

use chasqui_runtime::SeededRng;

/// Octets of a reply line beyond what RFC 5321 (section 4.5.3.1.5) and every reader allow.
const LONG_LINE: usize = 2100;
/// Pieces of a message that are read at most before it is refused in the middle.
const PIECES_MAX: u64 = 3;

/// Where in a transaction a receiver misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// At MAIL.
    Mail,
    /// At RCPT.
    Recipient,
    /// At DATA.
    Data,
    /// While the message comes.
    Body,
    /// When all of it has come.
    Dot,
}

/// How a receiver leaves a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// With FIN, reading on until the client closes too: what was said arrives.
    Orderly,
    /// At once: what still comes is answered by a reset, which may destroy what was said.
    Abrupt,
}

/// What a receiver does in place of its ordinary answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// This reply.
    Say(&'static str),
    /// This reply, and the end of the connection.
    SayAndPart(&'static str, Parting),
    /// The end of the connection.
    Part(Parting),
    /// Nothing more is read or said.
    Silence,
    /// A reply comes octet by octet, one a second.
    Drip,
}

/// What is done to a message, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Treatment {
    /// Where.
    pub stage: Stage,
    /// At [`Stage::Recipient`]: recipients that are served before. At [`Stage::Body`]: pieces of the message.
    pub after: usize,
    /// What.
    pub deed: Deed,
}

/// A kind of trouble with a sender's mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 421 and the end of the connection.
    Closing,
    /// 421, and the connection stays.
    Busy,
    /// The end of the connection without a word.
    Gone,
    /// What is no reply.
    Garbled,
    /// 4xx.
    Deferred,
    /// 4xx to a command and the end of the connection, whatever else the client has sent.
    DeferredAndGone,
    /// 5xx and the end of the connection.
    RefusedAndGone,
    /// Nothing more.
    Silent,
    /// A reply that takes longer than anybody waits.
    Dripping,
}

impl Kind {
    /// Those that take no time.
    pub const QUICK: [Kind; 7] = [
        Kind::Closing,
        Kind::Busy,
        Kind::Gone,
        Kind::Garbled,
        Kind::Deferred,
        Kind::DeferredAndGone,
        Kind::RefusedAndGone,
    ];
    /// Those that hold a connection until somebody gives up.
    pub const SLOW: [Kind; 2] = [Kind::Silent, Kind::Dripping];
}

/// An odd form of a reply whose code is clear all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `250` and more than 2,048 octets of text.
    LongLine,
    /// `250OK`.
    Joined,
    /// `250`, TAB, `OK`.
    Tab,
    /// An empty line before it.
    EmptyLine,
    /// Lines with different codes of a kind: `250-`, `251 `.
    Mixed,
}

/// How a host is slow with everything until the trouble is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slowness {
    /// It says nothing.
    Greeting,
    /// Its greeting comes octet by octet.
    DrippingGreeting,
    /// It does not answer EHLO.
    Hello,
    /// It does not go on at this stage of every transaction.
    Transaction(Stage),
}

impl Slowness {
    /// All of them.
    pub const ALL: [Slowness; 7] = [
        Slowness::Greeting,
        Slowness::DrippingGreeting,
        Slowness::Hello,
        Slowness::Transaction(Stage::Mail),
        Slowness::Transaction(Stage::Recipient),
        Slowness::Transaction(Stage::Data),
        // It does not read on.
        Slowness::Transaction(Stage::Body),
    ];

    /// What is done to every message.
    pub fn treatment(self) -> Option<Treatment> {
        match self {
            Slowness::Transaction(stage) => {
                Some(Treatment { stage, after: usize::from(stage == Stage::Body), deed: Deed::Silence })
            }
            _ => None,
        }
    }
}

/// What the host of a domain is like, trouble or not.
#[derive(Clone, Debug, Default)]
pub struct HostHabits {
    /// More recipients of a transaction are answered 552, without (`false`) or with the enhanced code 5.5.3.
    pub recipients_max: Option<(usize, bool)>,
    /// RSET is answered 502.
    pub refuses_reset: bool,
    /// The domain has two hosts, and the one that is preferred treats this share of the mail so.
    pub first_of_two: Option<(f64, Treatment)>,
    /// Between these times after the start of the load it says 421 to everything; and closes then, or does not.
    pub shuns: Option<(Duration, Duration, bool)>,
    /// It is slow with everything.
    pub slow: Option<Slowness>,
}

/// How the receivers treat mail beyond the trouble that everybody has at random.
#[derive(Clone, Debug, Default)]
pub struct Habits {
    /// What everything is drawn from, together with the message.
    pub seed: u64,
    /// Kinds of trouble, each with the share of the senders whose mail it meets; together at most 1.
    pub shares: Vec<(Kind, f64)>,
    /// Share of the messages that are answered in odd forms.
    pub odd: f64,
    /// By domain; those that are missing have no habits.
    pub hosts: Vec<HostHabits>,
}

impl Habits {
    /// What is done to a message until the trouble is over, at each attempt the same.
    pub fn treatment(&self, sequence: u64) -> Option<Treatment> {
        let mut dice = self.dice(sequence, 1);
        let mut lot = dice.unit();
        for (kind, share) in &self.shares {
            if lot < *share {
                return Some(kind.treatment(&mut dice));
            }
            lot -= share;
        }
        None
    }

    /// What the preferred host of a domain with two does to a message.
    fn by_first_host(&self, domain: usize, sequence: u64) -> Option<Treatment> {
        let (share, treatment) = self.host(domain)?.first_of_two?;
        (self.dice(sequence, 2).unit() < share).then_some(treatment)
    }

    /// In which form a message is answered at a stage. 5xx of a message have the forms of its other replies.
    pub fn form(&self, sequence: u64, stage: Stage) -> Option<Form> {
        let mut dice = self.dice(sequence, 3);
        if dice.unit() >= self.odd {
            return None;
        }
        let stages = [Stage::Mail, Stage::Recipient, Stage::Data, Stage::Dot];
        let form =
            one_of(&mut dice, &[Form::LongLine, Form::Joined, Form::Tab, Form::EmptyLine, Form::Mixed]);
        (one_of(&mut dice, &stages) == stage).then_some(form)
    }

    /// Whether the host's connection of this number is refused in a greeting with two codes, until the trouble is over.
    pub fn refuses_in_greeting(&self, connection: u64) -> bool {
        self.dice(connection, 4).unit() < self.odd / 4.0
    }

    /// What the host of a domain is like.
    pub fn host(&self, domain: usize) -> Option<&HostHabits> {
        self.hosts.get(domain)
    }

    fn dice(&self, sequence: u64, purpose: u64) -> SeededRng {
        SeededRng::new(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (sequence << 3 | purpose))
    }
}

/// A host at a moment: what its decisions depend on besides the message.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Of all hosts.
    pub habits: &'a Habits,
    /// The domain that it receives for; `None`: one without habits of its own.
    pub domain: Option<usize>,
    /// It is the preferred one of two.
    pub is_preferred: bool,
    /// All of its mail is refused anyway: the trouble with some senders does not show.
    pub is_doomed: bool,
    /// Time since the start of the load, when that has begun.
    pub since_start: Option<Duration>,
    /// The trouble is over: what is left is for good.
    pub is_calm: bool,
}

impl Moment<'_> {
    /// What is done in place of answering MAIL, RCPT or DATA of a message, of which so many recipients were taken.
    pub fn at_command(&self, stage: Stage, sequence: u64, recipients: usize) -> Option<Deed> {
        if let Some(deed) = self.shuns().filter(|_| stage == Stage::Mail) {
            return Some(deed);
        }
        let Treatment { stage: at, after, deed } = self.treatment(sequence)?;
        let is_due = stage != Stage::Recipient || recipients >= after;
        (at == stage && is_due).then_some(deed)
    }

    /// What is done to a message that nothing happened to until its DATA.
    pub fn at_message(&self, sequence: u64) -> Option<Treatment> {
        self.treatment(sequence).filter(|treatment| matches!(treatment.stage, Stage::Body | Stage::Dot))
    }

    /// The reply to RCPT when so many recipients were taken, if it takes no more.
    pub fn at_recipient(&self, recipients: usize) -> Option<&'static str> {
        let (most, enhanced) = self.own()?.recipients_max?;
        let reply =
            if enhanced { "552 5.5.3 Too many recipients\r\n" } else { "552 Too many recipients\r\n" };
        (recipients >= most).then_some(reply)
    }

    /// The reply to RSET, if it refuses that.
    pub fn at_reset(&self) -> Option<&'static str> {
        self.own()?.refuses_reset.then_some("502 5.5.1 No such command here\r\n")
    }

    /// How it is slow with everything now.
    pub fn slowness(&self) -> Option<Slowness> {
        self.own()?.slow.filter(|_| !self.is_calm)
    }

    fn treatment(&self, sequence: u64) -> Option<Treatment> {
        let preferred = self.domain.filter(|_| self.is_preferred);
        let by_host = preferred.and_then(|domain| self.habits.by_first_host(domain, sequence));
        let shows = !self.is_doomed && !self.is_calm;
        let by_sender = || self.habits.treatment(sequence).filter(|_| shows);
        by_host.or_else(|| self.slowness()?.treatment()).or_else(by_sender)
    }

    /// What it does to everything now.
    fn shuns(&self) -> Option<Deed> {
        let (from, until, closes) = self.own()?.shuns?;
        let since_start = self.since_start.filter(|_| !self.is_calm)?;
        let reply = "421 4.3.2 Nothing now\r\n";
        let deed = if closes { Deed::SayAndPart(reply, Parting::Orderly) } else { Deed::Say(reply) };
        (from..until).contains(&since_start).then_some(deed)
    }

    fn own(&self) -> Option<&HostHabits> {
        self.habits.host(self.domain?)
    }
}

impl Kind {
    fn treatment(self, dice: &mut SeededRng) -> Treatment {
        use Stage::{Body, Data, Dot, Mail, Recipient};
        let stages: &[Stage] = match self {
            Kind::Deferred => &[Mail, Recipient, Data, Dot],
            Kind::DeferredAndGone => &[Mail, Recipient],
            Kind::Dripping => &[Mail, Recipient, Data, Dot],
            _ => &[Mail, Recipient, Data, Body, Dot],
        };
        let stage = one_of(dice, stages);
        let parting = one_of(dice, &[Parting::Orderly, Parting::Orderly, Parting::Abrupt]);
        let deed = match self {
            Kind::Closing => Deed::SayAndPart("421 4.3.2 Closing for this one\r\n", parting),
            Kind::Busy => Deed::Say("421 4.3.2 Busy for this one\r\n"),
            Kind::Gone => Deed::Part(parting),
            Kind::Garbled => Deed::Say(one_of(dice, &["Beg your pardon?\r\n", "2x0 Ok\r\n", "999 What\r\n"])),
            Kind::Deferred => Deed::Say("451 4.7.1 Not this one now\r\n"),
            Kind::DeferredAndGone => Deed::SayAndPart("451 4.7.1 Not this one now\r\n", parting),
            Kind::RefusedAndGone => Deed::SayAndPart(refusal(stage), parting),
            Kind::Silent => Deed::Silence,
            Kind::Dripping => Deed::Drip,
        };
        let after = match stage {
            Body => 1 + dice.below(PIECES_MAX) as usize,
            // Most messages have one recipient at a host.
            _ => usize::from(dice.below(4) == 0),
        };
        Treatment { stage, after, deed }
    }
}

fn refusal(stage: Stage) -> &'static str {
    match stage {
        Stage::Mail => "550 5.7.1 This sender is refused here\r\n",
        Stage::Recipient => "550 5.1.1 This user is unknown here\r\n",
        Stage::Data => "554 5.7.1 This transaction is refused\r\n",
        Stage::Body => "552 5.3.4 This message is too big\r\n",
        Stage::Dot => "554 5.6.0 This message is refused\r\n",
    }
}

impl Form {
    /// The reply of one line in this form; other replies stay as they are.
    pub fn of(self, reply: Vec<u8>) -> Vec<u8> {
        let Some((code, text)) = reply.split_at_checked(3).filter(|(_, text)| text.starts_with(b" ")) else {
            return reply;
        };
        let other = match code {
            b"250" => "251",
            b"550" => "554",
            b"554" => "550",
            _ => "",
        };
        match self {
            Form::LongLine => [code, b" ", &vec![b'x'; LONG_LINE], text].concat(),
            Form::Joined => [code, if code[0] == b'5' { b"No" } else { b"OK" }, b"\r\n"].concat(),
            Form::Tab => [code, b"\t", &text[1..]].concat(),
            Form::EmptyLine => [b"\r\n", code, text].concat(),
            Form::Mixed if other.is_empty() => reply,
            Form::Mixed => [code, b"-First\r\n", other.as_bytes(), text].concat(),
        }
    }
}

/// A greeting that begins well and refuses; not by 521, which refuses all mail for good.
pub const GREETING_WITH_TWO_CODES: &str = "220-Welcome\r\n554 5.3.2 No service here now\r\n";

/// Whether a reply refuses for good.
pub fn is_refusal(reply: &str) -> bool {
    reply.starts_with('5')
}

fn one_of<T: Copy>(dice: &mut SeededRng, choices: &[T]) -> T {
    choices[dice.below(choices.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn habits() -> Habits {
        let shares = Kind::QUICK.into_iter().chain(Kind::SLOW).map(|kind| (kind, 0.02)).collect();
        Habits { seed: 7, shares, odd: 0.2, hosts: Vec::new() }
    }

    /// A message meets the same at each attempt, its share of the messages something, and every kind comes by.
    #[test]
    fn treatment_follows_from_the_message() {
        let habits = habits();
        let treated: Vec<Treatment> = (0..5_000).filter_map(|sequence| habits.treatment(sequence)).collect();
        assert!((0..5_000).all(|sequence| habits.treatment(sequence) == habits.treatment(sequence)));
        assert!((800..1_000).contains(&treated.len()), "{}", treated.len());
        for stage in [Stage::Mail, Stage::Recipient, Stage::Data, Stage::Body, Stage::Dot] {
            let says = |what: &str| {
                treated.iter().any(|it| match it.deed {
                    Deed::Say(reply) | Deed::SayAndPart(reply, _) => {
                        it.stage == stage && reply.starts_with(what)
                    }
                    _ => false,
                })
            };
            assert!(says("421") && says("5"), "{stage:?}");
        }
        assert!(treated.iter().any(|it| it.deed == Deed::Silence));
        assert!(treated.iter().any(|it| it.deed == Deed::Drip));
        assert_eq!(Habits::default().treatment(1), None);
    }

    /// The preferred host of two treats its share of the mail, and nobody else does.
    #[test]
    fn first_hosts_treat_their_share() {
        let treatment = Treatment { stage: Stage::Mail, after: 0, deed: Deed::Say("451 4.7.1 Later\r\n") };
        let first_of_two = Some((0.5, treatment));
        let hosts = vec![HostHabits::default(), HostHabits { first_of_two, ..HostHabits::default() }];
        let habits = Habits { hosts, ..habits() };
        let treated = |domain| (0..1_000).filter(|it| habits.by_first_host(domain, *it).is_some()).count();
        assert!((400..600).contains(&treated(1)));
        assert_eq!((treated(0), treated(2)), (0, 0));
    }

    /// What a host does for good it does in calm too; what it does to senders and to everything ends then, and the latter
    /// begins and ends by the clock of the load.
    #[test]
    fn trouble_is_over_in_calm() {
        let first_of_two =
            Some((1.0, Treatment { stage: Stage::Data, after: 0, deed: Deed::Say("451 Later\r\n") }));
        let seconds = Duration::from_secs;
        let host = HostHabits {
            first_of_two,
            recipients_max: Some((2, false)),
            shuns: Some((seconds(10), seconds(20), false)),
            slow: Some(Slowness::Hello),
            ..HostHabits::default()
        };
        let habits = Habits { shares: vec![(Kind::Busy, 1.0)], hosts: vec![host], ..habits() };
        let moment = |is_preferred, is_calm, second| Moment {
            habits: &habits,
            domain: Some(0),
            is_preferred,
            is_doomed: false,
            since_start: Some(seconds(second)),
            is_calm,
        };
        let at = |is_preferred, is_calm, second| {
            moment(is_preferred, is_calm, second).at_command(Stage::Mail, 1, 0).is_some()
        };
        assert_eq!([9, 10, 19, 20].map(|second| at(true, false, second)), [false, true, true, false]);
        assert!(!at(true, true, 15) && moment(true, true, 15).at_command(Stage::Data, 1, 1).is_some());
        assert_eq!([1, 2].map(|count| moment(false, true, 0).at_recipient(count).is_some()), [false, true]);
        assert_eq!([true, false].map(|calm| moment(false, calm, 0).slowness().is_some()), [false, true]);
        let by_sender = |is_calm| {
            [Stage::Mail, Stage::Recipient, Stage::Data]
                .iter()
                .any(|stage| moment(false, is_calm, 0).at_command(*stage, 1, 9).is_some())
                || moment(false, is_calm, 0).at_message(1).is_some()
        };
        assert_eq!((by_sender(false), by_sender(true)), (true, false));
    }

    /// An odd reply keeps its code in front, in its first or second line.
    #[test]
    fn odd_replies_are_clear() {
        let of = |form: Form, reply: &str| String::from_utf8(form.of(reply.into())).expect("ASCII");
        assert_eq!(of(Form::Joined, "250 2.1.0 Fine\r\n"), "250OK\r\n");
        assert_eq!(of(Form::Joined, "550 5.1.1 Nobody\r\n"), "550No\r\n");
        assert_eq!(of(Form::Tab, "354 Go on\r\n"), "354\tGo on\r\n");
        assert_eq!(of(Form::EmptyLine, "250 Fine\r\n"), "\r\n250 Fine\r\n");
        assert_eq!(of(Form::Mixed, "250 Fine\r\n"), "250-First\r\n251 Fine\r\n");
        assert_eq!(of(Form::Mixed, "354 Go on\r\n"), "354 Go on\r\n");
        assert_eq!(of(Form::Tab, "250-a\r\n250 b\r\n"), "250-a\r\n250 b\r\n");
        let long = of(Form::LongLine, "250 Fine\r\n");
        assert!(long.len() > 2_048 && long.starts_with("250 x") && long.ends_with("\r\n"));
    }

    /// Odd forms come to their share of the messages, at one stage each.
    #[test]
    fn a_message_has_one_odd_reply() {
        let habits = habits();
        let stages = [Stage::Mail, Stage::Recipient, Stage::Data, Stage::Body, Stage::Dot];
        let odd = |sequence: u64| stages.iter().filter(|it| habits.form(sequence, **it).is_some()).count();
        assert!((0..2_000).all(|sequence| odd(sequence) <= 1));
        let count: usize = (0..2_000).map(odd).sum();
        assert!((300..500).contains(&count), "{count}");
        let refused = (0..2_000).filter(|connection| habits.refuses_in_greeting(*connection)).count();
        assert!((60..140).contains(&refused), "{refused}");
    }
}
