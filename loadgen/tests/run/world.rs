//! A small world to send mail into, on one shard: an SMTP server whose treatment of each message the test
//! chooses, an arrival stream, a control socket and POP3 mailboxes.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use chasqui_protocol::arrival::{BARRIER_TOKEN_SIZE, Kind, Record};
use chasqui_protocol::control::answer::{End, QueueRow};
use chasqui_protocol::control::{self, Request};
use chasqui_protocol::pop3::server as pop3;
use chasqui_protocol::smtp::data::stuff;
use chasqui_protocol::stamp::{self, Verdict};
use chasqui_runtime::channel::{OneshotSender, oneshot};
use chasqui_runtime::net::{ListenOptions, Received, TcpListener, TcpStream, UnixListener, UnixStream};
use chasqui_runtime::{Config, HashMap, Instant, Shards, available_cores, now, sleep, spawn};
use chasqui_testkit::{Answer, Receiver, Stage, Transaction};

/// What the world does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    Deliver,
    DeliverTwice,
    DeliverChanged,
    /// Into the mailbox, but no word on the arrival stream, and the other way round.
    DeliverUntold,
    TellUndelivered,
    Bounce,
    Queue,
    /// Queued, and left out of the first listing, as what the disk does not give.
    QueueUnread,
    /// 250, and then nothing.
    Lose,
    Refuse,
    /// The connection ends without a reply; the message is delivered all the same.
    DropReply,
    /// Delivered, and answered after this long.
    Delay(Duration),
    /// Delivered, each command answered after this long.
    Slow(Duration),
    /// Delivered, and not answered from the first time to the second, both after the first message.
    Hang(Duration, Duration),
    /// Delivered; the arrival streams then speak no more sense.
    BreakStreams,
    /// Delivered; nobody may log in after that.
    LockMailboxes,
    /// Delivered; the next login is refused.
    RefuseALogin,
    /// 421 in place of the final reply.
    Close,
}

/// Chooses by sequence.
pub(crate) type Treat = fn(u64) -> Treatment;

/// The world, and what ends it.
pub(crate) struct World {
    pub(crate) smtp: SocketAddr,
    pub(crate) pop3: SocketAddr,
    pub(crate) arrivals: PathBuf,
    pub(crate) control: PathBuf,
    folder: tempfile::TempDir,
    end: Option<OneshotSender<()>>,
    shards: Option<Shards<()>>,
}

#[derive(Default)]
struct State {
    mailboxes: HashMap<String, Vec<(u32, Vec<u8>)>>,
    next_uid: u32,
    queue: Vec<(String, String)>,
    /// Comes into the queue when it has been listed.
    unread: Vec<(String, String)>,
    subscribers: Vec<Rc<RefCell<Vec<u8>>>>,
    /// Nobody may log in.
    locked: bool,
    /// The next login is refused.
    refused_once: bool,
    /// Most SMTP connections at a time, and how many there are; 0: no limit.
    connections_max: usize,
    connections: usize,
    /// When the first message came.
    first: Option<Instant>,
}

type Shared = Rc<RefCell<State>>;

impl World {
    pub(crate) fn start(treat: Treat) -> World {
        World::crowded(treat, 0)
    }

    /// A world that says 421 to more than `connections_max` SMTP connections at a time; 0: no limit.
    pub(crate) fn crowded(treat: Treat, connections_max: usize) -> World {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (arrivals, control) = (folder.path().join("arrivals"), folder.path().join("control"));
        let (end, ended) = oneshot::<()>();
        let ended = Arc::new(Mutex::new(Some(ended)));
        let (ready, addresses) = std::sync::mpsc::channel();
        let paths = (arrivals.clone(), control.clone(), folder.path().join("silent"));
        let config = Config { name: "world".into(), cores: vec![available_cores()[0]], ..Config::default() };
        let shards = Shards::start(config, move || {
            let (ready, ended, paths) = (ready.clone(), ended.clone(), paths.clone());
            async move {
                let state = Shared::default();
                state.borrow_mut().connections_max = connections_max;
                let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
                let smtp = Receiver::start(loopback, script(state.clone(), treat));
                let pop3 = TcpListener::bind(loopback, &ListenOptions::default()).expect("a port");
                let arrivals = UnixListener::bind(&paths.0).expect("a socket");
                let control = UnixListener::bind(&paths.1).expect("a socket");
                ready.send((smtp.address, pop3.local_addr())).expect("the test waits");
                spawn(accept_pop3(pop3, state.clone()));
                spawn(accept_arrivals(arrivals, state.clone()));
                spawn(accept_control(control, state));
                let silent = UnixListener::bind(&paths.2).expect("a socket");
                spawn(async move { while silent.accept().await.is_ok() {} });
                let ended = ended.lock().expect("no panic").take().expect("one shard");
                ended.await;
            }
        })
        .expect("the world starts");
        let (smtp, pop3) = addresses.recv().expect("the world is ready");
        World { smtp, pop3, arrivals, control, folder, end: Some(end), shards: Some(shards) }
    }

    /// A control socket that answers nothing.
    pub(crate) fn silent(&self) -> PathBuf {
        self.folder.path().join("silent")
    }

    /// A path in the world's folder where nothing is.
    pub(crate) fn nowhere(&self) -> PathBuf {
        self.folder.path().join("nowhere")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(shards) = self.shards.take() {
            shards.join();
        }
    }
}

/// What the SMTP server does with a message is what `treat` says; more connections than the world takes are answered 421.
fn script(state: Shared, treat: Treat) -> impl Fn(Stage, &Transaction) -> Answer {
    move |stage, it| match stage {
        Stage::Greeting => {
            let mut state = state.borrow_mut();
            state.connections += 1;
            match state.connections_max {
                most if most > 0 && state.connections > most => {
                    Answer::close("421 4.7.0 too many connections\r\n")
                }
                _ => Answer::Usual,
            }
        }
        Stage::Mail | Stage::Rcpt(_) | Stage::Data => match treat(sequence(it)) {
            Treatment::Slow(delay) if it.waited.is_zero() => Answer::Wait(delay),
            _ => Answer::Usual,
        },
        Stage::Dot => state.borrow_mut().treat(treat(sequence(it)), it),
        Stage::Ended => {
            state.borrow_mut().connections -= 1;
            Answer::Usual
        }
        _ => Answer::Usual,
    }
}

fn sequence(it: &Transaction) -> u64 {
    stamp::parse_reverse_path(&it.reverse_path).expect("a run's own mail").1
}

/// Sends what there is to say, and gives what comes next; `None`: the connection has ended.
async fn exchange(stream: &TcpStream, output: Vec<u8>) -> Option<Received> {
    if !output.is_empty() {
        stream.write_all(output).await.ok()?;
    }
    stream.read().await.ok().filter(|received| !received.is_empty())
}

impl State {
    /// Answers a message, when its time has come.
    fn treat(&mut self, treatment: Treatment, it: &Transaction) -> Answer {
        match treatment {
            Treatment::Delay(delay) | Treatment::Slow(delay) if it.waited.is_zero() => {
                return Answer::Wait(delay);
            }
            Treatment::Hang(from, to) => {
                let hung = self.first.get_or_insert_with(now).elapsed();
                if (from..to).contains(&hung) {
                    return Answer::Wait(to - hung);
                }
            }
            _ => {}
        }
        self.take(treatment, &it.reverse_path, &it.recipients, &it.message);
        match treatment {
            Treatment::Refuse => Answer::say("550 5.7.1 not today\r\n"),
            Treatment::Close => Answer::close("421 4.3.2 come back\r\n"),
            Treatment::DropReply => Answer::Drop,
            _ => Answer::say(format!("250 2.0.0 Ok: queued as ABC{}\r\n", sequence(it))),
        }
    }

    /// The queue as the control socket lists it.
    fn list(&mut self) -> Vec<u8> {
        let mut answer = Vec::new();
        for (reverse_path, recipient) in &self.queue {
            let row = QueueRow { reverse_path: reverse_path.into(), recipient: recipient.into() };
            control::append(&row, &mut answer);
        }
        let (entries, unread) = (self.queue.len() as u64, self.unread.len() as u64);
        control::append(&End { end: true, entries, unread: Some(unread) }, &mut answer);
        self.queue.append(&mut self.unread);
        answer
    }

    fn take(&mut self, treatment: Treatment, reverse_path: &str, recipients: &[String], message: &[u8]) {
        use Treatment::*;
        let mut message = message.to_vec();
        if treatment == DeliverChanged {
            let last = message.len() - 3;
            message[last] ^= 1;
        }
        let (run, sequence) = stamp::parse_reverse_path(reverse_path).expect("a run's own mail");
        for recipient in recipients {
            let copies = match treatment {
                Bounce | Queue | QueueUnread | Lose | Refuse | Close => 0,
                DeliverTwice => 2,
                _ => 1,
            };
            for _ in 0..copies {
                if treatment != TellUndelivered {
                    self.next_uid += 1;
                    let mailbox = self.mailboxes.entry(recipient.to_ascii_lowercase()).or_default();
                    mailbox.push((self.next_uid, message.clone()));
                }
                if treatment != DeliverUntold {
                    let verdict = stamp::verify(&message).verdict;
                    self.tell(run, sequence, recipient, Kind::Delivery, verdict, message.len());
                }
            }
            match treatment {
                Bounce => self.tell(run, sequence, recipient, Kind::Bounce, Verdict::Unchecked, 0),
                Queue => self.queue.push((reverse_path.to_owned(), recipient.clone())),
                QueueUnread => self.unread.push((reverse_path.to_owned(), recipient.clone())),
                BreakStreams => {
                    let garbage = [0xff; chasqui_protocol::arrival::RECORD_SIZE];
                    self.subscribers.iter().for_each(|backlog| backlog.borrow_mut().extend(garbage));
                }
                LockMailboxes => self.locked = true,
                RefuseALogin => self.refused_once = true,
                _ => {}
            }
        }
    }

    fn tell(&mut self, run: u64, sequence: u64, recipient: &str, kind: Kind, verdict: Verdict, size: usize) {
        let recipient = stamp::recipient_hash(recipient);
        let size = u32::try_from(size).expect("test messages are small");
        let record = Record { run, sequence, recipient, time_ns: now().as_nanos(), size, kind, verdict };
        for subscriber in &self.subscribers {
            record.encode(&mut subscriber.borrow_mut());
        }
    }
}

async fn accept_arrivals(listener: UnixListener, state: Shared) {
    while let Ok(stream) = listener.accept().await {
        let backlog = Rc::new(RefCell::new(Vec::new()));
        state.borrow_mut().subscribers.push(backlog.clone());
        spawn(send_backlog(stream.clone(), backlog.clone()));
        spawn(answer_barriers(stream, backlog));
    }
}

async fn send_backlog(stream: UnixStream, backlog: Rc<RefCell<Vec<u8>>>) {
    loop {
        let mut bytes = std::mem::take(&mut *backlog.borrow_mut());
        while !bytes.is_empty() {
            // Odd pieces, so that records come torn.
            let rest = bytes.split_off(bytes.len().min(4099));
            if stream.write_all(bytes).await.is_err() {
                return;
            }
            bytes = rest;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

async fn answer_barriers(stream: UnixStream, backlog: Rc<RefCell<Vec<u8>>>) {
    while let Ok(received) = stream.read().await {
        if received.is_empty() {
            return;
        }
        for token in received.as_chunks::<BARRIER_TOKEN_SIZE>().0 {
            let record = Record::barrier(u64::from_le_bytes(*token), now().as_nanos());
            record.encode(&mut backlog.borrow_mut());
        }
    }
}

async fn accept_control(listener: UnixListener, state: Shared) {
    while let Ok(stream) = listener.accept().await {
        let Ok(question) = stream.read().await else { continue };
        if question.is_empty() {
            continue;
        }
        assert_eq!(*question, *Request::Queue.encode());
        let answer = state.borrow_mut().list();
        let _ = stream.write_all(answer).await;
    }
}

async fn accept_pop3(listener: TcpListener, state: Shared) {
    while let Ok((stream, _)) = listener.accept().await {
        spawn(serve_pop3(stream, state.clone()));
    }
}

async fn serve_pop3(stream: TcpStream, state: Shared) {
    let mut session = pop3::Session::new("world.test", pop3::Offer::default());
    let (mut user_name, mut listed): (String, Vec<(u32, Vec<u8>)>) = Default::default();
    loop {
        let Some(received) = exchange(&stream, std::mem::take(session.output())).await else { return };
        let mut rest = &received[..];
        loop {
            let (used, event) = session.handle_input(rest);
            rest = &rest[used..];
            match event {
                pop3::Event::NeedInput => break,
                pop3::Event::OutputFull => {
                    if stream.write_all(std::mem::take(session.output())).await.is_err() {
                        return;
                    }
                }
                pop3::Event::Login { user, password } => {
                    let refused_once = std::mem::take(&mut state.borrow_mut().refused_once);
                    if password != "chasqui" || state.borrow().locked || refused_once {
                        session.refuse_login(pop3::Refusal::Credentials);
                        continue;
                    }
                    listed = state.borrow().mailboxes.get(&user).cloned().unwrap_or_default();
                    user_name = user;
                    let listing = |(uid, message): &(u32, Vec<u8>)| pop3::Listed {
                        uid: *uid,
                        size: message.len() as u32,
                    };
                    let messages = listed.iter().map(listing).collect();
                    session.accept_login(pop3::Listing { uid_validity: 1, messages });
                }
                pop3::Event::Retrieve { index } => {
                    let message = &listed[index].1;
                    session.begin_message(message.len() as u32);
                    stuff(message, session.output());
                    session.output().extend_from_slice(b".\r\n");
                }
                pop3::Event::Top { .. } => session.refuse_message(),
                pop3::Event::Quit { deleted } => {
                    let uids: Vec<u32> = deleted.into_iter().map(|index| listed[index].0).collect();
                    if let Some(mailbox) = state.borrow_mut().mailboxes.get_mut(&user_name) {
                        mailbox.retain(|(uid, _)| !uids.contains(uid));
                    }
                    session.goodbye(true);
                    let _ = stream.write_all(std::mem::take(session.output())).await;
                    return;
                }
                pop3::Event::TooManyErrors => return,
                pop3::Event::StartTls | pop3::Event::Authenticate { .. } | pop3::Event::Response(_) => {
                    unreachable!("nothing of it is offered")
                }
            }
        }
    }
}
