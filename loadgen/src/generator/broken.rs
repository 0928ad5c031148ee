//! Why a connection is of no more use.

use std::fmt;
use std::io;

use chasqui_protocol::smtp::client::ClientError;
use chasqui_protocol::smtp::reply::Reply;
use chasqui_transport::smtp_client::{self, AuthError, StartTlsError};
use chasqui_transport::tls::HandshakeError;

/// ENFILE and EMFILE.
const NO_DESCRIPTOR: [i32; 2] = [23, 24];

/// Why a connection is of no more use.
#[derive(Debug)]
pub(super) enum Broken {
    Connect(io::Error),
    Io(io::Error),
    Closed,
    TimedOut(&'static str),
    Refused(String),
    /// TLS is wanted, and the server has none.
    NoStartTls,
    /// In words: the error itself is large, and every connection keeps room for it.
    Handshake(String),
    /// The server does not let this account in. In words, as well.
    Login(String),
    Protocol(ClientError),
}

impl Broken {
    /// The connection failed while it waited for `what`.
    pub(super) fn awaiting(what: &'static str) -> impl Fn(smtp_client::Broken) -> Broken {
        move |broken| match broken {
            smtp_client::Broken::Send(error) | smtp_client::Broken::Receive(error) => Broken::Io(error),
            smtp_client::Broken::SendTimedOut | smtp_client::Broken::TimedOut => Broken::TimedOut(what),
            smtp_client::Broken::Closed => Broken::Closed,
            smtp_client::Broken::Protocol(error) => Broken::Protocol(error),
        }
    }

    /// The server said no.
    pub(super) fn refused(reply: &Reply) -> Broken {
        Broken::Refused(format!("{} {}", reply.code, reply.lines().next().unwrap_or_default()))
    }

    /// Whoever was asked for a connection would not give one.
    pub(super) fn is_refusal(&self) -> bool {
        !self.is_no_descriptor() && !matches!(self, Self::Protocol(_) | Self::Handshake(_) | Self::Login(_))
    }

    pub(super) fn is_421(&self) -> bool {
        matches!(self, Self::Refused(reply) if reply.starts_with("421"))
    }

    pub(super) fn is_no_descriptor(&self) -> bool {
        let (Self::Connect(error) | Self::Io(error)) = self else { return false };
        error.raw_os_error().is_some_and(|code| NO_DESCRIPTOR.contains(&code))
    }

    pub(super) fn is_login(&self) -> bool {
        matches!(self, Self::Login(_))
    }

    pub(super) fn is_handshake(&self) -> bool {
        matches!(self, Self::Handshake(_))
    }
}

impl From<HandshakeError> for Broken {
    fn from(error: HandshakeError) -> Broken {
        Broken::Handshake(error.to_string())
    }
}

impl From<StartTlsError> for Broken {
    fn from(error: StartTlsError) -> Broken {
        match error {
            StartTlsError::Refused(reply) => Broken::refused(&reply),
            StartTlsError::Handshake(error) => error.into(),
            StartTlsError::Broken(broken) => Broken::awaiting("answer to STARTTLS")(broken),
        }
    }
}

impl From<AuthError> for Broken {
    fn from(error: AuthError) -> Broken {
        match error {
            AuthError::Broken(broken) => Broken::awaiting("answer to AUTH")(broken),
            AuthError::Refused(reply) => Broken::Login(format!("the server does not let us in: {reply}")),
            AuthError::Failed(failure) => Broken::Login(format!("authentication: {failure}")),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                write!(f, "cannot connect: {error}: is the server running?")
            }
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Io(error) => write!(f, "broken: {error}"),
            Self::Closed => f.write_str("closed by the server"),
            Self::TimedOut(what) => write!(f, "no {what} in time"),
            Self::Refused(reply) => write!(f, "the server said {reply}"),
            Self::NoStartTls => f.write_str("the server does not offer STARTTLS"),
            Self::Handshake(error) | Self::Login(error) => f.write_str(error),
            Self::Protocol(error) => write!(f, "{error}"),
        }
    }
}
