//! The POP3 server (RFC 1939): mailboxes of the store as maildrops.

mod retrieval;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_protocol::deadline::ReadDeadline;
use chasqui_protocol::pop3::server::{Event, Listed, Listing, Offer, Refusal, Session};
use chasqui_protocol::sasl::line::NoResponse;
use chasqui_runtime::sync::Notified;
use chasqui_runtime::{sleep, timeout, turn_time};
use chasqui_transport::tls::{HANDSHAKE_LIMIT, ServerTls};
use chasqui_transport::{Drain, Stream};
use futures_lite::future::or;

use crate::authentication::{Answer, Authentication};
use crate::mailbox::{LOGIN_TIMEOUT, Login, Maildrop, Message, Outgoing, Store, delay_of_failure};
use crate::turns::{hang_up, let_others_run};

/// How POP3 is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who may log in.
    pub login: Login,
    /// For STLS; none: it is not offered.
    pub tls: Option<ServerTls>,
    /// The name in the greeting.
    pub hostname: String,
    /// A session that sends no whole command, or does not take what it asked for, for so long is closed without deleting
    /// anything.
    pub idle_timeout: Duration,
    /// Ends the sessions.
    pub drain: Drain,
}

impl Options {
    /// Defaults: ten minutes (RFC 1939 section 3 wants no less).
    pub fn new(login: Login) -> Options {
        let (hostname, idle_timeout) = ("localhost".to_owned(), Duration::from_secs(600));
        Options { login, tls: None, hostname, idle_timeout, drain: Drain::default() }
    }
}

/// Serves one connection, which may be in TLS already, to its end.
pub async fn serve_pop3(stream: Stream, peer: SocketAddr, store: Arc<Store>, options: Rc<Options>) {
    let mut connection = Connection {
        session: Session::new(&options.hostname, offer(&options, &stream)),
        out: Outgoing::new(stream.clone(), options.idle_timeout),
        drained: options.drain.notified(),
        store,
        options,
        maildrop: None,
        authentication: None,
        is_forced: false,
        stream,
    };
    if let Err(error) = connection.run().await {
        log::debug!("POP3 with {peer} ended: {error}");
    }
}

/// What is offered on a connection as it is.
fn offer(options: &Options, stream: &Stream) -> Offer {
    let starttls = options.tls.is_some() && stream.agreed().is_none();
    Offer { starttls, mechanisms: options.login.mechanisms(stream) }
}

struct Connection {
    stream: Stream,
    session: Session,
    out: Outgoing,
    store: Arc<Store>,
    options: Rc<Options>,
    drained: Notified,
    maildrop: Option<Maildrop>,
    authentication: Option<Authentication>,
    /// The client has not asked for the end, and may go on sending.
    is_forced: bool,
}

impl Connection {
    async fn run(&mut self) -> io::Result<()> {
        let mut deadline = ReadDeadline::new(self.options.idle_timeout);
        let login_by = turn_time() + LOGIN_TIMEOUT;
        loop {
            self.take_replies();
            self.out.flush().await?;
            let begun = turn_time();
            let limit = match self.maildrop {
                Some(_) => deadline.left(),
                None => deadline.left().min(login_by.saturating_sub(begun)),
            };
            if self.options.drain.has_begun() {
                return Ok(());
            }
            let read = async { self.stream.read().await.map(Some) };
            let drained = async {
                (&mut self.drained).await;
                Ok(None)
            };
            let received = match timeout(limit, or(read, drained)).await {
                Ok(received) => received?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            };
            // It has left, or the sinks do: there is no word for that in POP3.
            let Some(received) = received.filter(|received| !received.is_empty()) else { return Ok(()) };
            deadline.waited(turn_time() - begun);
            if received.contains(&b'\n') {
                deadline.renew();
            }
            // The pool's buffer must not wait for a slow reader, so pipelined commands are copied out of it.
            let input = received.to_vec();
            drop(received);
            if !self.handle_input(&input).await? {
                self.take_replies();
                self.out.flush().await?;
                hang_up(&self.stream, self.is_forced && !self.options.drain.has_begun()).await;
                return Ok(());
            }
        }
    }

    /// False: the session is over.
    async fn handle_input(&mut self, mut input: &[u8]) -> io::Result<bool> {
        loop {
            let (used, event) = self.session.handle_input(input);
            input = &input[used..];
            match event {
                Event::NeedInput => return Ok(true),
                Event::OutputFull => {}
                Event::Login { user, password } => {
                    let mailbox = self.options.login.admit(&user, &password);
                    self.log_in(mailbox).await;
                }
                Event::Authenticate { mechanism, initial } => {
                    let (login, initial) = (&self.options.login, initial.as_deref());
                    let exported = self.stream.exporter();
                    let (begun, answer) = Authentication::begin(login, exported, mechanism, initial);
                    self.authentication = Some(begun);
                    self.answer(answer).await;
                }
                Event::Response(response) => self.respond(response).await,
                Event::StartTls => {
                    // The next call refuses what was sent too early.
                    if input.is_empty() && !self.stream.has_received() {
                        self.start_tls().await?;
                    }
                }
                Event::Retrieve { index } => self.retrieve(index).await?,
                Event::Top { index, lines } => self.top(index, lines).await?,
                Event::Quit { deleted } => {
                    if let Some(maildrop) = self.maildrop.take() {
                        maildrop.delete(&deleted);
                    }
                    // What another session had deleted before is deleted as well.
                    self.session.goodbye(true);
                    return Ok(false);
                }
                Event::TooManyErrors => {
                    self.is_forced = true;
                    return Ok(false);
                }
            }
            self.take_replies();
            self.out.relieve().await?;
            let_others_run().await;
        }
    }

    fn take_replies(&mut self) {
        self.out.text().append(self.session.output());
    }

    async fn start_tls(&mut self) -> io::Result<()> {
        let Some(tls) = &self.options.tls else { return Ok(()) };
        self.out.text().append(self.session.output());
        self.out.flush().await?;
        let accepted = self.stream.accept_tls(tls, HANDSHAKE_LIMIT, &self.options.drain).await;
        accepted.map_err(io::Error::other)?;
        self.out = Outgoing::new(self.stream.clone(), self.options.idle_timeout);
        self.session.secured(offer(&self.options, &self.stream));
        Ok(())
    }

    async fn respond(&mut self, response: Result<Vec<u8>, NoResponse>) {
        let answer = match (response, &mut self.authentication) {
            (Ok(response), Some(under_way)) => under_way.respond(&self.options.login, &response),
            (Err(_), _) | (_, None) => Answer::Malformed,
        };
        self.answer(answer).await;
    }

    async fn answer(&mut self, answer: Answer) {
        if let Answer::Challenge(octets) = &answer {
            return self.session.challenge(octets);
        }
        self.authentication = None;
        match answer {
            Answer::User(user) => self.log_in(self.options.login.mailbox_of(&user)).await,
            Answer::Refused => self.log_in(None).await,
            Answer::Challenge(_) | Answer::Malformed => self.session.refuse_login(Refusal::Response),
        }
    }

    /// Opens the mailbox of this address; none: the password is wrong, which the client is told after a while.
    async fn log_in(&mut self, address: Option<String>) {
        let Some(address) = address else {
            self.session.refuse_login(Refusal::Credentials);
            return sleep(delay_of_failure(self.session.login_failures())).await;
        };
        let Some(mailbox) = self.store.open(&address) else {
            return self.session.refuse_login(Refusal::Unavailable);
        };
        let Some(maildrop) = mailbox.lock_maildrop() else {
            return self.session.refuse_login(Refusal::InUse);
        };
        let listed = |message: &Message| Listed { uid: message.uid(), size: message.size() };
        let messages = maildrop.messages().iter().map(listed).collect();
        self.session.accept_login(Listing { uid_validity: maildrop.uid_validity(), messages });
        self.maildrop = Some(maildrop);
    }
}
