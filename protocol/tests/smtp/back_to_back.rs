//! Client and session in one memory: whatever both intend, both learn, at every split and with and without
//! pipelining.

use std::rc::Rc;

use chasqui_protocol::smtp::client::{Client, Event as ClientEvent, Outcome, Transaction};
use chasqui_protocol::smtp::data::{BodyForm, Unstuff, stuff, unstuff};
use chasqui_protocol::smtp::dsn::{
    EnvelopeId, MailParameters, Notify, OriginalRecipient, Parameters, RcptParameters, Return,
};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::{Event, Options, RcptRequest, Session};
use proptest::prelude::*;

const MAX_SIZE: u64 = 4000;

/// What the server's owner will say.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Say {
    Yes,
    Later,
    No,
}

impl Say {
    fn reply(self, stage: &'static str) -> Option<Reply> {
        match self {
            Say::Yes => None,
            Say::Later => Some(Reply::new(451, "4.3.0", stage)),
            Say::No => Some(Reply::new(550, "5.7.1", stage)),
        }
    }
}

#[derive(Debug, Clone)]
struct Intent {
    mail: Say,
    recipients: Vec<Say>,
    data: Say,
    body: Say,
    /// Not yet stuffed; all lines end in CRLF, but there may be bare ones within.
    message: Vec<u8>,
    announce: bool,
    dsn: Option<Parameters>,
}

impl Intent {
    fn transaction(&self, number: usize) -> Transaction {
        let recipient = |index| format!("u{index}@d{number}.chasqui.test");
        Transaction {
            reverse_path: if number.is_multiple_of(3) {
                String::new()
            } else {
                format!("s{number}@example.org")
            },
            recipients: (0..self.recipients.len()).map(recipient).collect(),
            size: self.announce.then_some(self.message.len() as u64),
            eight_bit: !self.message.is_ascii(),
            form: BodyForm::default(),
            dsn: self.dsn.clone().map(Box::new),
        }
    }

    fn is_too_large(&self) -> bool {
        self.message.len() as u64 > MAX_SIZE
    }

    fn has_bare_newline(&self) -> bool {
        let mut rest = self.message.clone();
        while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
            rest.splice(at..at + 2, *b"x");
        }
        rest.contains(&b'\r') || rest.contains(&b'\n')
    }

    /// The code and enhanced code that decide over a recipient.
    fn verdict(&self, recipient: usize) -> (u16, &'static str) {
        let code = |say: Say, stage| match say.reply(stage) {
            Some(reply) => (reply.code, stage),
            None => (250, stage),
        };
        if self.announce && self.is_too_large() {
            (552, "Message size exceeds the limit")
        } else if self.mail != Say::Yes {
            code(self.mail, "mail")
        } else if self.recipients[recipient] != Say::Yes {
            code(self.recipients[recipient], "rcpt")
        } else if self.data != Say::Yes {
            code(self.data, "data")
        } else if self.has_bare_newline() {
            (554, "Message contains a bare CR or LF")
        } else if self.is_too_large() {
            (552, "Message size exceeds the limit")
        } else {
            code(self.body, "body")
        }
    }
}

/// The server's owner: carries out the intents in order and writes down what it received.
struct Server {
    session: Session,
    intents: Vec<Intent>,
    current: Option<usize>,
    rcpts: usize,
    state: Unstuff,
    message: Vec<u8>,
    envelope: Vec<String>,
    received: Vec<(usize, Vec<String>, Vec<u8>)>,
    has_dsn: bool,
    closed: bool,
}

impl Server {
    fn handle(&mut self, mut input: &[u8]) {
        loop {
            let (used, event) = self.session.handle_input(input);
            input = &input[used..];
            let reply = match event {
                Event::NeedInput => return,
                Event::OutputFull => unreachable!("the replies to 128 commands are shorter"),
                Event::Hello { esmtp, .. } => {
                    assert!(esmtp);
                    continue;
                }
                Event::Mail(mail) => {
                    let number = self.next_intent(&mail);
                    self.current = Some(number);
                    self.rcpts = 0;
                    self.envelope = vec![mail.reverse_path.to_string()];
                    self.intents[number].mail.reply("mail")
                }
                Event::Rcpt(RcptRequest { mailbox, dsn, .. }) => {
                    let say = self.intent().recipients[self.rcpts];
                    let said = self.intent().dsn.as_ref().filter(|_| self.has_dsn);
                    assert_eq!(
                        dsn,
                        said.and_then(|said| said.recipient(self.rcpts)).cloned().unwrap_or_default()
                    );
                    self.rcpts += 1;
                    if say == Say::Yes {
                        self.envelope.push(mailbox.to_string());
                    }
                    say.reply("rcpt")
                }
                Event::Data => {
                    self.message.clear();
                    self.state = Unstuff::default();
                    self.intent().data.reply("data")
                }
                Event::Body(piece) => {
                    unstuff(&mut self.state, piece, &mut self.message);
                    continue;
                }
                Event::BodyEnd(info) => {
                    assert_eq!(info.size, self.message.len() as u64);
                    assert_eq!(info.eight_bit, !self.message.is_ascii());
                    let reply = self.intent().body.reply("body");
                    if reply.is_none() {
                        let number = self.current.unwrap();
                        self.received.push((number, self.envelope.clone(), self.message.clone()));
                    }
                    reply
                }
                Event::BodyRefused | Event::Reset => continue,
                Event::Quit => {
                    self.closed = true;
                    return;
                }
                Event::TooManyErrors => panic!("the client made errors"),
                Event::StartTls
                | Event::Auth(_)
                | Event::AuthResponse(_)
                | Event::AuthCancelled
                | Event::Xclient(_) => panic!("it is not offered"),
            };
            match reply {
                Some(reply) => self.session.reject(&reply),
                None => self.session.accept(),
            }
        }
    }

    /// The intents in order, without those whose MAIL the session refused for its SIZE.
    fn next_intent(&self, mail: &chasqui_protocol::smtp::server::MailRequest) -> usize {
        let from = self.current.map_or(0, |current| current + 1);
        let refused = |intent: &Intent| intent.announce && intent.is_too_large();
        let number = (from..self.intents.len()).find(|&number| !refused(&self.intents[number])).unwrap();
        assert_eq!(mail.reverse_path.to_string(), self.intents[number].transaction(number).reverse_path);
        assert_eq!(mail.size, self.intents[number].transaction(number).size);
        let said = self.intents[number].dsn.as_ref().filter(|_| self.has_dsn);
        assert_eq!(mail.dsn, said.map(|said| said.mail.clone()).unwrap_or_default());
        number
    }

    fn intent(&self) -> &Intent {
        &self.intents[self.current.unwrap()]
    }
}

/// Runs all intents over one connection whose pieces have the given lengths, and returns what both sides know.
fn converse(intents: &[Intent], pieces: &[usize], pipelining: bool, has_dsn: bool) -> (Vec<Outcome>, Server) {
    let options = Options { max_message_size: MAX_SIZE, max_errors: 0, dsn: has_dsn, ..Options::default() };
    let mut server = Server {
        session: Session::new(Rc::new(options)),
        intents: intents.to_vec(),
        current: None,
        rcpts: 0,
        state: Unstuff::default(),
        message: Vec::new(),
        envelope: Vec::new(),
        received: Vec::new(),
        has_dsn,
        closed: false,
    };
    let mut client = Client::new("client.example");
    let mut outcomes = Vec::new();
    let mut started = 0;
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let mut lengths = pieces.iter().copied().cycle();
    let mut open = true;
    while open {
        while let Some(event) = client.poll_event() {
            match event {
                ClientEvent::SendBody => {
                    let message = &intents[started - 1].message;
                    up.append(client.output());
                    stuff(message, &mut up);
                    up.extend_from_slice(b".\r\n");
                    client.body_sent();
                    continue;
                }
                ClientEvent::Closed => open = false,
                ClientEvent::Ready => {}
                ClientEvent::Finished(outcome) => outcomes.push(outcome),
                ClientEvent::Refused(reply) | ClientEvent::Closing(reply) => panic!("{reply}"),
                event => panic!("it was not asked for: {event:?}"),
            }
            if started < intents.len() {
                client.start(intents[started].transaction(started)).unwrap();
                started += 1;
            } else if open {
                client.quit();
            }
        }
        up.append(client.output());
        down.append(server.session.output());
        let carried = up.len() + down.len();
        let length = lengths.next().unwrap();
        let piece: Vec<u8> = up.drain(..length.min(up.len())).collect();
        server.handle(&piece);
        let piece: Vec<u8> = down.drain(..length.min(down.len())).collect();
        let mut piece = String::from_utf8(piece).unwrap();
        if !pipelining {
            piece = piece.replace('P', "X");
        }
        client.handle_input(piece.as_bytes()).unwrap();
        assert!(carried > 0 || !open, "both sides wait");
    }
    (outcomes, server)
}

/// xtext of what may be shown.
fn xtext(longest: usize) -> impl Strategy<Value = String> {
    let octet =
        prop_oneof![8 => "[!-*,-<>-~]", 1 => Just("+20".to_owned()), 1 => "[+]([2-6][0-9A-F]|7[0-9A-E])"];
    prop::collection::vec(octet, 1..longest / 3).prop_map(|octets| octets.concat())
}

fn parameters() -> impl Strategy<Value = Parameters> {
    let ret = prop_oneof![Just(None), Just(Some(Return::Full)), Just(Some(Return::Headers))];
    let id = prop::option::of(xtext(100));
    let rcpt = (prop::option::of(0_u8..8), prop::option::of(xtext(493))).prop_map(|(bits, original)| {
        RcptParameters {
            notify: bits.and_then(Notify::from_bits),
            original: original.map(|it| OriginalRecipient::parse(format!("rfc822;{it}").as_bytes()).unwrap()),
        }
    });
    (ret, id, prop::collection::vec(rcpt, 0..7)).prop_map(|(ret, id, recipients)| Parameters {
        mail: MailParameters { ret, envelope_id: id.map(|id| EnvelopeId::parse(id.as_bytes()).unwrap()) },
        recipients,
    })
}

fn intents() -> impl Strategy<Value = Intent> {
    let say = || prop_oneof![6 => Just(Say::Yes), 1 => Just(Say::Later), 1 => Just(Say::No)];
    let line = prop_oneof![
        6 => "[a-z .]{0,60}\r\n",
        2 => Just("..\r\n.a\r\n".to_owned()),
        1 => Just("caf\u{e9}\r\n".to_owned()),
        1 => Just(format!("{}\r\n", "x".repeat(998)).repeat(3)),
        1 => prop::sample::select(vec!["\n.\r\n".to_owned(), "a\rb\r\n".to_owned()]),
    ];
    let message = prop::collection::vec(line, 0..8).prop_map(|lines| lines.concat().into_bytes());
    let recipients = prop::collection::vec(say(), 1..6);
    (say(), recipients, say(), say(), message, any::<bool>(), prop::option::of(parameters())).prop_map(
        |(mail, recipients, data, body, message, announce, dsn)| Intent {
            mail,
            recipients,
            data,
            body,
            message,
            announce,
            dsn,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Outcomes at the client and mail at the server are what was intended.
    #[test]
    fn outcomes_equal_intentions(
        intents in prop::collection::vec(intents(), 1..12),
        pieces in prop::collection::vec(prop_oneof![1_usize..20, 1000_usize..5000], 1..20),
        pipelining in any::<bool>(),
        has_dsn in any::<bool>(),
    ) {
        let (outcomes, server) = converse(&intents, &pieces, pipelining, has_dsn);
        prop_assert!(server.closed);
        prop_assert_eq!(outcomes.len(), intents.len());
        let mut received = server.received.iter();
        for (number, (intent, outcome)) in intents.iter().zip(&outcomes).enumerate() {
            let transaction = intent.transaction(number);
            let mut accepted = vec![transaction.reverse_path];
            for (index, recipient) in transaction.recipients.into_iter().enumerate() {
                let (code, text) = intent.verdict(index);
                let decisive = outcome.decisive(index).expect("a reply");
                prop_assert_eq!(decisive.code, code, "{}", decisive);
                prop_assert_eq!(outcome.is_accepted(index), code == 250);
                if code == 250 {
                    accepted.push(recipient);
                } else {
                    prop_assert_eq!(decisive.text.as_ref(), text);
                }
            }
            if accepted.len() > 1 {
                let (of, envelope, message) = received.next().unwrap();
                prop_assert_eq!((*of, envelope, message), (number, &accepted, &intent.message));
            }
        }
        prop_assert!(received.next().is_none());
    }
}
