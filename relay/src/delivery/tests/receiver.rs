//! A receiver that does as it is told, and writes down what it sees.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::net::{ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::{Instant, now, sleep, spawn};

/// Where in a session the receiver is asked what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Greeting,
    Ehlo,
    Reset,
    Mail,
    /// The number of the recipient in its transaction.
    Rcpt(usize),
    Data,
    /// So much of the message has come.
    Body,
    Dot,
}

/// What it does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// As a receiver does that takes everything.
    Usual,
    Say(&'static str),
    /// Says the last, or nothing, and closes.
    Close(&'static str),
    /// Is silent from now on.
    Silence,
    /// Says it octet by octet, one a second.
    Drip(&'static str),
}

/// What is known of a transaction.
#[derive(Debug, Clone, Default)]
pub(super) struct Dialogue {
    pub(super) sender: String,
    /// Those that were taken.
    pub(super) recipients: Vec<String>,
    /// RCPT commands of the transaction.
    pub(super) asked_for: usize,
    /// Transactions begun on this connection.
    pub(super) transactions: usize,
    pub(super) message: Vec<u8>,
}

impl Dialogue {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.message).into_owned()
    }
}

/// What it has seen.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) connections: usize,
    /// Senders of the transactions, in order, with their times.
    pub(super) mails: Vec<(String, Instant)>,
    /// Senders of the messages that came whole.
    pub(super) bodies: Vec<String>,
    pub(super) taken: Vec<Dialogue>,
}

impl Log {
    /// What was taken from a sender.
    pub(super) fn taken_from(&self, sender: &str) -> Vec<Dialogue> {
        self.taken.iter().filter(|taken| taken.sender == sender).cloned().collect()
    }
}

/// What to do at each stage.
type Script = dyn Fn(Stage, &Dialogue) -> Answer;

/// A receiver; clones share it.
#[derive(Clone)]
pub(super) struct Receiver {
    script: Rc<Script>,
    pub(super) log: Rc<RefCell<Log>>,
}

impl Receiver {
    /// Listens at this address, port 25.
    pub(super) fn start(host: [u8; 4], script: impl Fn(Stage, &Dialogue) -> Answer + 'static) -> Receiver {
        let receiver = Receiver { script: Rc::new(script), log: Rc::default() };
        let listener = TcpListener::bind(SocketAddr::from((host, 25)), &ListenOptions::default()).unwrap();
        let serving = receiver.clone();
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.log.borrow_mut().connections += 1;
                let receiver = serving.clone();
                spawn(async move {
                    let session =
                        Session { receiver, stream, unread: Vec::new(), dialogue: Dialogue::default() };
                    // The end of the stream is the end of the session.
                    let _ended = session.run().await;
                });
            }
        });
        receiver
    }
}

struct Session {
    receiver: Receiver,
    stream: TcpStream,
    unread: Vec<u8>,
    dialogue: Dialogue,
}

/// The session is over.
struct Over;

impl Session {
    async fn run(mut self) -> Result<(), Over> {
        self.answer(Stage::Greeting, "220 mx.test ESMTP\r\n").await?;
        loop {
            let line = self.line().await?;
            let word = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            let address = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
            match word.as_str() {
                "EHLO" => self.answer(Stage::Ehlo, "250-mx.test\r\n250 PIPELINING\r\n").await?,
                "RSET" => self.answer(Stage::Reset, "250 ok\r\n").await?,
                "MAIL" => {
                    (self.dialogue.sender, self.dialogue.recipients) = (address, Vec::new());
                    self.dialogue.asked_for = 0;
                    self.dialogue.transactions += 1;
                    self.receiver.log.borrow_mut().mails.push((self.dialogue.sender.clone(), now()));
                    self.answer(Stage::Mail, "250 2.1.0 ok\r\n").await?;
                }
                "RCPT" => {
                    let stage = Stage::Rcpt(self.dialogue.asked_for);
                    self.dialogue.asked_for += 1;
                    let answer = self.asked(stage);
                    if answer == Answer::Usual {
                        self.dialogue.recipients.push(address);
                    }
                    self.give(answer, "250 2.1.5 ok\r\n").await?;
                }
                "DATA" => self.data().await?,
                "QUIT" => {
                    let _gone = self.stream.write_all(b"221 bye\r\n".to_vec()).await;
                    return Err(Over);
                }
                _ => self.say("500 what\r\n").await?,
            }
        }
    }

    async fn data(&mut self) -> Result<(), Over> {
        self.dialogue.message.clear();
        if self.dialogue.recipients.is_empty() {
            return self.say("503 5.5.1 no recipients\r\n").await;
        }
        let answer = self.asked(Stage::Data);
        if answer != Answer::Usual {
            return self.give(answer, "").await;
        }
        self.say("354 go\r\n").await?;
        while !self.unread.ends_with(b"\r\n.\r\n") && self.unread != b".\r\n" {
            self.fill().await?;
            self.dialogue.message.clone_from(&self.unread);
            self.answer(Stage::Body, "").await?;
        }
        self.unread.clear();
        self.receiver.log.borrow_mut().bodies.push(self.dialogue.sender.clone());
        let answer = self.asked(Stage::Dot);
        if answer == Answer::Usual {
            self.receiver.log.borrow_mut().taken.push(self.dialogue.clone());
        }
        self.give(answer, "250 2.0.0 taken\r\n").await
    }

    fn asked(&self, stage: Stage) -> Answer {
        (self.receiver.script)(stage, &self.dialogue)
    }

    async fn answer(&mut self, stage: Stage, usual: &'static str) -> Result<(), Over> {
        let answer = self.asked(stage);
        self.give(answer, usual).await
    }

    async fn give(&mut self, answer: Answer, usual: &'static str) -> Result<(), Over> {
        match answer {
            Answer::Usual => self.say(usual).await,
            Answer::Say(text) => self.say(text).await,
            Answer::Close(text) => {
                self.say(text).await?;
                self.stream.shutdown();
                // Closed at once, what still comes would be answered by a reset, which may destroy what was said.
                loop {
                    self.fill().await?;
                    self.unread.clear();
                }
            }
            Answer::Silence => std::future::pending().await,
            Answer::Drip(text) => {
                for octet in text.bytes() {
                    sleep(Duration::from_secs(1)).await;
                    self.stream.write_all(vec![octet]).await.map_err(|_| Over)?;
                }
                Ok(())
            }
        }
    }

    async fn say(&self, text: &str) -> Result<(), Over> {
        if text.is_empty() {
            return Ok(());
        }
        self.stream.write_all(text.as_bytes().to_vec()).await.map(drop).map_err(|_| Over)
    }

    async fn fill(&mut self) -> Result<(), Over> {
        let piece = self.stream.read().await.map_err(|_| Over)?;
        if piece.is_empty() {
            return Err(Over);
        }
        self.unread.extend_from_slice(&piece);
        Ok(())
    }

    async fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(end + 1);
                let line = std::mem::replace(&mut self.unread, rest);
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.fill().await?;
        }
    }
}
