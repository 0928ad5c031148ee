//! A receiver that takes mail as the server of `protocol` does, but where its script wants something else.

use std::borrow::Cow;
use std::cell::RefCell;
use std::convert::Infallible;
use std::mem::take;
use std::net::{self, SocketAddr};
use std::rc::Rc;
use std::sync::mpsc::{self, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use chasqui_protocol::smtp::data::{Unstuff, unstuff};
use chasqui_protocol::smtp::dsn::Parameters;
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::{Event, Options, Session};
use chasqui_runtime::net::{ListenOptions, TcpListener};
use chasqui_runtime::{Instant, now, spawn};

use crate::stream::{limited, on_this_thread};
use crate::{PATIENCE, Stream};

/// Where in a session the script is asked what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A connection has come.
    Greeting,
    /// At EHLO or HELO.
    Ehlo,
    /// At RSET.
    Reset,
    /// At MAIL.
    Mail,
    /// At RCPT: the number of the recipient in its transaction, from 0.
    Rcpt(usize),
    /// At DATA.
    Data,
    /// So much of the message has come.
    Body,
    /// The message has come.
    Dot,
    /// At QUIT.
    Quit,
    /// The connection has ended: nothing can be done any more.
    Ended,
}

/// What the receiver does.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// As a receiver does that takes everything.
    Usual,
    /// Says this, with its line ends.
    Say(Cow<'static, str>),
    /// Says the last, or nothing, and closes.
    Close(Cow<'static, str>),
    /// Closes at once; what still comes is answered by a reset.
    Drop,
    /// Is silent from now on.
    Silence,
    /// Says it octet by octet, one a second.
    Drip(&'static str),
    /// Asks again after this time; [`Transaction::waited`] says for how long it has.
    Wait(Duration),
}

impl Answer {
    /// [`Answer::Say`].
    pub fn say(text: impl Into<Cow<'static, str>>) -> Answer {
        Answer::Say(text.into())
    }

    /// [`Answer::Close`].
    pub fn close(text: impl Into<Cow<'static, str>>) -> Answer {
        Answer::Close(text.into())
    }
}

/// What is known of a connection's transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// As MAIL names it.
    pub reverse_path: String,
    /// Those that were taken.
    pub recipients: Vec<String>,
    /// What MAIL said of notifications, and RCPT for those that were taken.
    pub dsn: Parameters,
    /// What the last RCPT names.
    pub recipient: String,
    /// RCPT commands of the transaction.
    pub asked_for: usize,
    /// Its number on the connection, from 1.
    pub number: usize,
    /// The message as far as it has come, unstuffed.
    pub message: Vec<u8>,
    /// How long the answer was put off by [`Answer::Wait`].
    pub waited: Duration,
}

impl Transaction {
    /// The message as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.message).into_owned()
    }

    /// The message without the Received field that a relay has put in front.
    pub fn original(&self) -> &[u8] {
        assert!(self.message.starts_with(b"Received: from "), "the relay's trace field comes first");
        let text = &self.message;
        let end =
            (0..text.len()).find(|&at| text[at..].starts_with(b"\r\n") && !text[at..].starts_with(b"\r\n\t"));
        &text[end.expect("the field ends") + 2..]
    }
}

/// What a receiver has seen.
#[derive(Debug, Default)]
pub struct Log {
    /// Connections that came.
    pub connections: usize,
    /// Reverse-paths of the transactions, in order, with their times.
    pub mails: Vec<(String, Instant)>,
    /// Reverse-paths of the messages that came whole.
    pub bodies: Vec<String>,
    /// What was answered as usual.
    pub taken: Vec<Transaction>,
}

impl Log {
    /// What was taken from a sender.
    pub fn taken_from(&self, reverse_path: &str) -> Vec<Transaction> {
        self.taken.iter().filter(|taken| taken.reverse_path == reverse_path).cloned().collect()
    }

    fn enter(&mut self, stage: Stage, transaction: &Transaction, answer: &Answer) {
        match stage {
            Stage::Greeting => self.connections += 1,
            Stage::Mail => self.mails.push((transaction.reverse_path.clone(), now())),
            Stage::Dot => {
                self.bodies.push(transaction.reverse_path.clone());
                if *answer == Answer::Usual {
                    self.taken.push(transaction.clone());
                }
            }
            _ => {}
        }
    }
}

/// A receiver on the shard of the test.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it has seen.
    pub log: Rc<RefCell<Log>>,
}

impl Receiver {
    /// A receiver at this address.
    pub fn start(
        address: impl Into<SocketAddr>,
        script: impl Fn(Stage, &Transaction) -> Answer + 'static,
    ) -> Receiver {
        let listener = TcpListener::bind(address.into(), &ListenOptions::default()).expect("a free address");
        let log: Rc<RefCell<Log>> = Rc::default();
        let receiver = Receiver { address: listener.local_addr(), log: log.clone() };
        let script = Rc::new(move |stage, transaction: &Transaction| {
            let answer = script(stage, transaction);
            if !matches!(answer, Answer::Wait(_)) {
                log.borrow_mut().enter(stage, transaction, &answer);
            }
            answer
        });
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = script.clone();
                spawn(async move { serve(stream, patient(), &*script).await });
            }
        });
        receiver
    }
}

/// A receiver with a thread for each connection.
#[derive(Debug)]
pub struct Threads {
    /// Where it listens.
    pub address: SocketAddr,
    arrivals: mpsc::Receiver<Transaction>,
}

impl Threads {
    /// One that takes everything.
    pub fn taking() -> Threads {
        Threads::start(Options::default(), |_, _| Answer::Usual)
    }

    /// One that does as the script says.
    pub fn scripted(script: impl FnMut(Stage, &Transaction) -> Answer + Send + 'static) -> Threads {
        Threads::start(Options::default(), script)
    }

    /// The same with other options. The script is asked by one thread at a time.
    pub fn start(
        options: Options,
        script: impl FnMut(Stage, &Transaction) -> Answer + Send + 'static,
    ) -> Threads {
        let listener = net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (sender, arrivals) = channel();
        let script = Arc::new(Mutex::new(script));
        on_thread(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, sender, options) = (script.clone(), sender.clone(), options.clone());
                on_thread(move || {
                    on_this_thread(serve(limited(stream), options, &|stage, transaction: &Transaction| {
                        let answer = script.lock().expect("no script panics")(stage, transaction);
                        if stage == Stage::Dot && answer == Answer::Usual {
                            // The test may be over.
                            let _unwanted = sender.send(transaction.clone());
                        }
                        answer
                    }));
                });
            }
        });
        Threads { address, arrivals }
    }

    /// The next message that was taken.
    pub fn next(&self) -> Transaction {
        self.arrivals.recv_timeout(PATIENCE).expect("a message arrives")
    }

    /// Whatever was taken and was not looked at.
    pub fn rest(&self) -> Vec<Transaction> {
        self.arrivals.try_iter().collect()
    }
}

/// However much the script refuses, it is no junk.
fn patient() -> Options {
    Options { max_errors: usize::MAX, max_junk: usize::MAX, ..Options::default() }
}

/// Runs on a thread that nobody waits for.
pub fn on_thread(work: impl FnOnce() + Send + 'static) {
    drop(thread::Builder::new().spawn(work).expect("a thread"));
}

/// Whether a reply, however odd, accepts what it answers.
fn is_acceptance(reply: &str) -> bool {
    let code = reply.trim_start().get(..3).and_then(|code| code.parse::<u16>().ok());
    code.is_some_and(|code| (200..400).contains(&code))
}

/// The session is over.
struct Over;

/// One connection.
struct Connection<'a, C, S> {
    stream: C,
    session: Session,
    script: &'a S,
    transaction: Transaction,
    unstuffing: Unstuff,
}

async fn serve<C: Stream, S: Fn(Stage, &Transaction) -> Answer>(stream: C, options: Options, script: &S) {
    let session = Session::new(Rc::new(options));
    let (transaction, unstuffing) = (Transaction::default(), Unstuff::default());
    let mut connection = Connection { stream, session, script, transaction, unstuffing };
    let Err(Over) = connection.run().await;
    script(Stage::Ended, &connection.transaction);
}

impl<C: Stream, S: Fn(Stage, &Transaction) -> Answer> Connection<'_, C, S> {
    async fn run(&mut self) -> Result<Infallible, Over> {
        let greeting = take(self.session.output());
        self.answer(Stage::Greeting, &greeting).await?;
        loop {
            let piece = self.read().await?;
            let mut rest = &piece[..];
            loop {
                let (used, event) = self.session.handle_input(rest);
                rest = &rest[used..];
                if event == Event::NeedInput {
                    break;
                }
                self.handle(event).await?;
            }
            self.flush().await?;
        }
    }

    async fn handle(&mut self, event: Event<'_>) -> Result<(), Over> {
        match event {
            Event::Mail(request) => {
                let number = self.transaction.number + 1;
                self.transaction = Transaction { number, ..Transaction::default() };
                self.transaction.reverse_path = request.reverse_path.as_str().to_owned();
                self.transaction.dsn.mail = request.dsn;
                self.decide(Stage::Mail).await?;
            }
            Event::Rcpt(request) => {
                let stage = Stage::Rcpt(self.transaction.asked_for);
                self.transaction.asked_for += 1;
                self.transaction.recipient = request.mailbox.to_string();
                if self.decide(stage).await? {
                    self.transaction.recipients.push(self.transaction.recipient.clone());
                    self.transaction.dsn.recipients.push(request.dsn);
                }
            }
            Event::Data => {
                self.transaction.message.clear();
                self.unstuffing = Unstuff::default();
                self.decide(Stage::Data).await?;
            }
            Event::Body(piece) => {
                unstuff(&mut self.unstuffing, piece, &mut self.transaction.message);
                self.answer(Stage::Body, b"").await?;
            }
            Event::BodyEnd(_) => drop(self.decide(Stage::Dot).await?),
            Event::Hello { .. } => {
                let usual = take(self.session.output());
                self.answer(Stage::Ehlo, &usual).await?;
            }
            Event::Reset => {
                let usual = take(self.session.output());
                // EHLO resets too, and is answered later.
                if !usual.is_empty() {
                    self.answer(Stage::Reset, &usual).await?;
                }
            }
            Event::Quit | Event::TooManyErrors => {
                let usual = take(self.session.output());
                self.answer(Stage::Quit, &usual).await?;
                return Err(Over);
            }
            // STARTTLS and AUTH are not offered.
            Event::Auth(_) | Event::AuthResponse(_) | Event::AuthCancelled | Event::Xclient(_) => {}
            Event::NeedInput | Event::OutputFull | Event::BodyRefused | Event::StartTls => {
                self.flush().await?
            }
        }
        Ok(())
    }

    /// Decides what the session asks for. `true`: in the client's favour.
    async fn decide(&mut self, stage: Stage) -> Result<bool, Over> {
        let answer = self.ask(stage).await;
        let is_accepted = match &answer {
            Answer::Usual => true,
            Answer::Say(text) => is_acceptance(text),
            Answer::Drip(text) => is_acceptance(text),
            _ => false,
        };
        self.flush().await?;
        match is_accepted {
            true => self.session.accept(),
            false => self.session.reject(&Reply::plain(450, "")),
        }
        let usual = take(self.session.output());
        self.give(answer, &usual).await.map(|()| is_accepted)
    }

    async fn answer(&mut self, stage: Stage, usual: &[u8]) -> Result<(), Over> {
        let answer = self.ask(stage).await;
        self.give(answer, usual).await
    }

    async fn ask(&mut self, stage: Stage) -> Answer {
        loop {
            match (self.script)(stage, &self.transaction) {
                Answer::Wait(time) => {
                    self.stream.pause(time).await;
                    self.transaction.waited += time;
                }
                answer => {
                    self.transaction.waited = Duration::ZERO;
                    return answer;
                }
            }
        }
    }

    async fn give(&mut self, answer: Answer, usual: &[u8]) -> Result<(), Over> {
        match answer {
            Answer::Usual => self.say(usual).await,
            Answer::Say(text) => self.say(text.as_bytes()).await,
            Answer::Close(text) => {
                self.say(text.as_bytes()).await?;
                self.stream.finish();
                // Closed at once, what still comes would be answered by a reset, which may destroy what was said.
                loop {
                    self.read().await?;
                }
            }
            Answer::Silence => match self.stream.hang().await {},
            Answer::Drip(text) => {
                for octet in text.bytes() {
                    self.stream.pause(Duration::from_secs(1)).await;
                    self.say(&[octet]).await?;
                }
                Ok(())
            }
            Answer::Drop | Answer::Wait(_) => Err(Over),
        }
    }

    async fn flush(&mut self) -> Result<(), Over> {
        let output = take(self.session.output());
        self.say(&output).await
    }

    async fn say(&self, octets: &[u8]) -> Result<(), Over> {
        self.stream.send(octets).await.map_err(|_| Over)
    }

    /// The next octets; the end of the stream is the end of the session.
    async fn read(&self) -> Result<Vec<u8>, Over> {
        self.stream.receive().await.ok().filter(|piece| !piece.is_empty()).ok_or(Over)
    }
}
