//! The IMAP4rev1 server (RFC 3501, with IDLE, UNSELECT and UIDPLUS) over the store. Each user has one mailbox, INBOX.

mod fetch;
mod idle;
mod list;
mod search;
mod session;
mod store;
mod view;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_protocol::deadline::ReadDeadline;
use chasqui_protocol::imap::server::{Commands, Event, Limits};
use chasqui_runtime::net::Received;
use chasqui_runtime::sync::Notified;
use chasqui_runtime::{timeout, turn_time};
use chasqui_transport::tls::{HANDSHAKE_LIMIT, ServerTls};
use chasqui_transport::{Drain, Stream};
use futures_lite::future::or;

use crate::mailbox::{LOGIN_TIMEOUT, Login, Outgoing, Store, Watch};
use crate::turns::{hang_up, let_others_run};
use session::{Next, Offer, Session};

/// How IMAP is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who may log in.
    pub login: Login,
    /// For STARTTLS; none: it is not offered.
    pub tls: Option<ServerTls>,
    /// The name in the greeting.
    pub hostname: String,
    /// A session that sends no whole command, or does not take what it asked for, for so long is closed. News that an idle
    /// client takes are as good as a command.
    pub idle_timeout: Duration,
    /// Limits on commands.
    pub limits: Limits,
    /// Ends the sessions, with BYE.
    pub drain: Drain,
}

impl Options {
    /// Defaults: thirty minutes (RFC 3501 section 5.4 wants no less).
    pub fn new(login: Login) -> Options {
        let (hostname, idle_timeout) = ("localhost".to_owned(), Duration::from_secs(1800));
        let (limits, drain) = (Limits::default(), Drain::default());
        Options { login, tls: None, hostname, idle_timeout, limits, drain }
    }
}

/// Serves one connection, which may be in TLS already, to its end.
pub async fn serve_imap(stream: Stream, peer: SocketAddr, store: Arc<Store>, options: Rc<Options>) {
    let mut connection = Connection {
        commands: Commands::new(options.limits),
        out: Outgoing::new(stream.clone(), options.idle_timeout),
        deadline: ReadDeadline::new(options.idle_timeout),
        drain: (options.drain.clone(), options.drain.notified()),
        is_forced: false,
        session: Session::new(store, options.clone(), Offer::new(&options, &stream)),
        options,
        stream,
    };
    if let Err(error) = connection.run().await {
        log::debug!("IMAP with {peer} ended: {error}");
    }
}

struct Connection {
    stream: Stream,
    commands: Commands,
    deadline: ReadDeadline,
    out: Outgoing,
    session: Session,
    options: Rc<Options>,
    /// Whether the sinks shut down, and the wait for that.
    drain: (Drain, Notified),
    /// The client has not asked for the end, and may go on sending.
    is_forced: bool,
}

/// What a wait for the client ends with.
enum Wake {
    Input(Received),
    /// The mailbox has changed.
    Changed,
    Drained,
}

impl Connection {
    async fn run(&mut self) -> io::Result<()> {
        self.session.greet(self.out.text());
        let login_by = turn_time() + LOGIN_TIMEOUT;
        loop {
            while let Some(event) = self.commands.poll_event() {
                if !self.handle_event(event).await? {
                    self.out.flush().await?;
                    self.hang_up().await;
                    return Ok(());
                }
                let_others_run().await;
            }
            self.take_replies();
            self.out.flush().await?;
            let limit = match self.session.is_logged_in() {
                true => self.deadline.left(),
                false => self.deadline.left().min(login_by.saturating_sub(turn_time())),
            };
            match self.wait(limit, None).await? {
                Some(Wake::Input(received)) => {
                    if !self.take_input(received) {
                        return Ok(());
                    }
                }
                Some(Wake::Changed) => {}
                Some(Wake::Drained) => return self.say_bye("shutting down").await,
                None => return self.say_bye("idle for too long").await,
            }
        }
    }

    /// Waits for input, for a change of what is watched, or for the end of the sinks; none: nothing of it comes in time.
    async fn wait(&mut self, limit: Duration, watch: Option<&mut Watch>) -> io::Result<Option<Wake>> {
        if self.drain.0.has_begun() {
            return Ok(Some(Wake::Drained));
        }
        let input = async { self.stream.read().await.map(Wake::Input) };
        let change = async {
            match watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
            Ok(Wake::Changed)
        };
        let drained = async {
            (&mut self.drain.1).await;
            Ok(Wake::Drained)
        };
        let begun = turn_time();
        let wake = timeout(limit, or(input, or(change, drained))).await;
        self.deadline.waited(turn_time() - begun);
        wake.ok().transpose()
    }

    /// False: the session is over.
    async fn handle_event(&mut self, event: Event) -> io::Result<bool> {
        self.deadline.renew();
        self.take_replies();
        match event {
            Event::Command(command) => {
                let next = self.session.handle(command, &self.stream, &mut self.out).await?;
                if !self.go_on(next).await? {
                    return Ok(false);
                }
            }
            Event::Response(response) => {
                let next = self.session.respond(response, &mut self.out).await?;
                if !self.go_on(next).await? {
                    return Ok(false);
                }
            }
            // The line that ends IDLE is awaited in `idle` alone.
            Event::IdleEnded { .. } | Event::OutputFull => {}
            Event::TooManyErrors => {
                self.write_bye("too many errors");
                return Ok(false);
            }
        }
        self.out.relieve().await?;
        Ok(true)
    }

    /// False: the session is over.
    async fn go_on(&mut self, next: Next) -> io::Result<bool> {
        match next {
            Next::Command => {}
            Next::Idle => return self.idle().await,
            Next::NoIdle => self.commands.cancel_idle(),
            Next::Challenge(octets) => self.commands.challenge(&octets),
            Next::StartTls => return self.start_tls().await,
            Next::Close => return Ok(false),
            Next::HangUp => {
                self.is_forced = true;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes over to TLS; false: the client has said more before it, which counts on neither side of it.
    async fn start_tls(&mut self) -> io::Result<bool> {
        let Some(tls) = &self.options.tls else { return Ok(false) };
        if self.commands.has_input() || self.stream.has_received() {
            self.write_bye("nothing may follow STARTTLS");
            return Ok(false);
        }
        self.out.flush().await?;
        let accepted = self.stream.accept_tls(tls, HANDSHAKE_LIMIT, &self.options.drain).await;
        accepted.map_err(io::Error::other)?;
        self.out = Outgoing::new(self.stream.clone(), self.options.idle_timeout);
        self.commands = Commands::new(self.options.limits);
        self.session.secured(Offer::new(&self.options, &self.stream));
        Ok(true)
    }

    /// Continuation requests and refusals of the command parser.
    fn take_replies(&mut self) {
        if !self.commands.output().is_empty() {
            self.deadline.renew();
        }
        self.out.text().append(self.commands.output());
    }

    /// False: the peer has closed.
    fn take_input(&mut self, received: Received) -> bool {
        self.commands.handle_input(&received);
        !received.is_empty()
    }

    async fn say_bye(&mut self, text: &str) -> io::Result<()> {
        self.write_bye(text);
        self.out.flush().await?;
        self.hang_up().await;
        Ok(())
    }

    fn write_bye(&mut self, text: &str) {
        self.out.text().extend_from_slice(format!("* BYE {text}\r\n").as_bytes());
        self.is_forced = true;
    }

    async fn hang_up(&self) {
        hang_up(&self.stream, self.is_forced && !self.drain.0.has_begun()).await;
    }
}
