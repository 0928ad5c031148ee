//! What the TLS connections of a server share.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};

use super::certificates::Certificates;
use super::{PROVIDER, Tls};
use chasqui_runtime::net;

use super::HandshakeError;

/// Tickets that a client gets with a handshake: it opens one connection at a time as a rule, and gets another there.
const TICKETS: usize = 1;

/// Certificates, and the key of the tickets by which clients resume their sessions, for all shards. Clones share them.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    chosen: Arc<Chosen>,
}

/// The certificates as they are now.
#[derive(Debug)]
struct Chosen(ArcSwap<Certificates>);

impl ResolvesServerCert for Chosen {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().choose(&hello)
    }
}

impl ServerTls {
    /// Shows these certificates.
    pub fn new(certificates: Certificates) -> Result<ServerTls, rustls::Error> {
        let chosen = Arc::new(Chosen(ArcSwap::from_pointee(certificates)));
        let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(chosen.clone());
        // A ticket is all that is kept of a session, and the client keeps it; its key changes twice a day and is no shard's.
        config.ticketer = Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = TICKETS;
        Ok(ServerTls { config: Arc::new(config), chosen })
    }

    /// Shows other certificates from now on. Connections stay, and sessions can be resumed as before.
    pub fn replace(&self, certificates: Certificates) {
        self.chosen.0.store(Arc::new(certificates));
    }

    pub(crate) async fn accept(&self, stream: &net::Stream) -> Result<Tls, HandshakeError> {
        Tls::handshake(ServerConnection::new(self.config.clone())?.into(), stream).await
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerTls").field(&self.chosen).finish()
    }
}
