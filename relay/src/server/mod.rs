//! Mail comes in: listeners, sessions, who may do what, and what each peer may take of connections, messages and recipients a
//! minute, memory and space in the spool.

pub(crate) mod admission;
pub(crate) mod auth;
mod connection_limits;
pub(crate) mod listener;
mod policy;
pub(crate) mod rates;
mod session;
pub(crate) mod space;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use chasqui_protocol::sasl::mechanism::Mechanisms;
use chasqui_protocol::smtp::server;
use chasqui_runtime::net::TcpListener;
use chasqui_runtime::{Seldom, spawn};
use chasqui_transport::smtp_server::TimeLimits;
use chasqui_transport::tls::ServerTls;
use chasqui_transport::{Acceptor, ConnectionLimiter, Refusals, TaskTracker};

use crate::config::{BareNewlines, Config, EarlyTalkers, ListenerKind, LongLines, NulOctets};
use crate::context::Context;
use crate::descriptors::REFUSED_MAX;
use crate::error::SetupError;
use crate::tls;

use admission::Memory;
use auth::Authenticator;
use listener::Listener;
use policy::Client;
use rates::Rates;
use space::Space;

/// What the servers of all shards share: what clients may take of the whole relay.
#[derive(Debug)]
pub(crate) struct Shared {
    connections: ConnectionLimiter,
    /// Of each listener that has limits of its own.
    of_listeners: Vec<Option<ConnectionLimiter>>,
    rates: Rates<IpAddr>,
    pub(crate) memory: Arc<Memory>,
    /// None: there are no certificates.
    pub(crate) tls: Option<ServerTls>,
    /// None: there are no users.
    pub(crate) auth: Option<Arc<Authenticator>>,
}

impl Shared {
    /// Reads certificates and users.
    pub(crate) fn new(config: &Config) -> Result<Shared, SetupError> {
        let limits = &config.limits;
        Ok(Shared {
            connections: connection_limits::of_relay(limits),
            of_listeners: config
                .listeners()
                .iter()
                .map(|listener| connection_limits::of_listener(listener, limits))
                .collect(),
            rates: Rates::new(limits.messages_per_minute, limits.recipients_per_minute),
            memory: Arc::new(Memory::new(limits.memory.0)),
            tls: tls::of_listeners(config)?,
            auth: Authenticator::start(config)?,
        })
    }
}

/// What the listeners and sessions of a shard share.
pub(crate) struct Server {
    context: Rc<Context>,
    /// By the kind of the listener, for clients that may not say XCLIENT and for those that may.
    options: [[Rc<server::Options>; 2]; 3],
    shared: Arc<Shared>,
    /// What peers hold of the spool for messages on their way.
    space: Rc<Space>,
    /// Of clients that may relay, and of the others.
    time_limits: [Rc<TimeLimits>; 2],
    listeners: TaskTracker,
    refusals: Refusals,
    /// Of PROXY headers.
    bad_headers: Seldom,
}

impl Server {
    /// Serves clients on sockets, one for each of [`Config::listeners`].
    pub(crate) fn start(context: Rc<Context>, shared: Arc<Shared>, sockets: Vec<TcpListener>) -> Rc<Server> {
        let server = Rc::new(Server {
            options: ListenerKind::ALL.map(|kind| {
                let options = session_options(&context.config, &shared, kind);
                [false, true].map(|xclient| Rc::new(server::Options { xclient, ..options.clone() }))
            }),
            shared,
            space: Rc::default(),
            time_limits: [true, false].map(|may_relay| Rc::new(time_limits(&context.config, may_relay))),
            listeners: TaskTracker::default(),
            refusals: Refusals::new(REFUSED_MAX),
            bad_headers: Seldom::default(),
            context,
        });
        let settings = server.context.config.listeners().into_iter();
        let limits = server.shared.of_listeners.iter().cloned();
        for ((socket, settings), limits) in sockets.into_iter().zip(settings).zip(limits) {
            let acceptor = Acceptor::tcp(socket, server.context.drain.clone(), server.refusals.clone());
            let listener = Listener { acceptor, settings: Rc::new(settings), limits };
            spawn(listener::accept(server.clone(), Rc::new(listener), server.listeners.track()));
        }
        server
    }

    fn limits_of(&self, client: &Client) -> Rc<TimeLimits> {
        self.time_limits[usize::from(!client.may_relay)].clone()
    }

    /// Waits until every listener and session has ended, as they do when the relay does.
    pub(crate) async fn ended(&self) {
        self.listeners.empty().await;
        self.refusals.empty().await;
        self.context.sessions.empty().await;
    }
}

fn time_limits(config: &Config, may_relay: bool) -> TimeLimits {
    let limits = &config.limits;
    let without_mail = (!may_relay).then_some(limits.without_mail);
    TimeLimits { idle: limits.idle, message: limits.message_time, without_mail }
}

fn session_options(config: &Config, shared: &Shared, kind: ListenerKind) -> server::Options {
    server::Options {
        hostname: config.hostname.as_str().to_owned(),
        max_message_size: config.limits.message_size.0,
        max_recipients: config.limits.recipients,
        max_errors: config.limits.errors,
        max_junk: config.limits.junk,
        bare_newline: match config.compat.bare_newlines {
            BareNewlines::Refuse => server::BareNewline::Refuse,
            BareNewlines::Repair => server::BareNewline::Repair,
        },
        long_lines: match config.compat.long_lines {
            LongLines::Refuse => server::LongLines::Refuse,
            LongLines::Allow => server::LongLines::Allow,
        },
        nul_octets: match config.compat.nul_octets {
            NulOctets::Refuse => server::NulOctets::Refuse,
            NulOctets::Repair => server::NulOctets::Repair,
            NulOctets::Allow => server::NulOctets::Allow,
        },
        early_talkers: match config.compat.early_talkers {
            EarlyTalkers::Refuse => server::EarlyTalkers::Refuse,
            EarlyTalkers::Allow => server::EarlyTalkers::Allow,
        },
        // Who sends no notifications must not promise them.
        dsn: config.bounce.enabled,
        starttls: shared.tls.is_some(),
        auth: server::AuthOptions {
            mechanisms: shared.auth.as_ref().map_or(Mechanisms::NONE, |auth| auth.mechanisms()),
            shows_passwords: false,
            is_required: kind.is_submission(),
            requires_tls: kind.is_submission(),
        },
        ..server::Options::default()
    }
}
