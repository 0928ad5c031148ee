//! What the TLS connections of a client share.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use chasqui_runtime::net;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::any_certificate::AnyCertificate;
use super::sessions::Sessions;
use super::{HandshakeError, PROVIDER, Tls};

/// Whose certificates a client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Anybody's, also one that has expired: against whoever listens, not against whoever stands between.
    Any,
    /// One for the host's name, that leads to a root.
    Verified,
}

/// Why there are no roots to verify by: the operator mends it.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is no PEM, or has no certificate that can be a root.
    #[error("{}: no certificate of an authority in PEM form", .0.display())]
    NoRoot(PathBuf),
    /// TLS itself could not be set up.
    #[error("TLS: {0}")]
    Library(#[from] rustls::Error),
    /// The system has none.
    #[error("the system has no certificates of authorities: install ca-certificates, or name a file")]
    NoSystemRoots,
}

/// Whom to trust, and sessions that can be resumed, for all shards. Clones share them. Sessions of hosts that were
/// verified are kept apart from others.
#[derive(Clone)]
pub struct ClientTls(Arc<Shared>);

struct Shared {
    any: Arc<ClientConfig>,
    /// Made when it is first asked for: reading the system's roots takes milliseconds.
    verified: OnceLock<Arc<ClientConfig>>,
    roots: Option<PathBuf>,
    resumes: bool,
}

impl ClientTls {
    /// Verifies by the roots in the PEM file `roots`, or by the system's. `resumes`: sessions are resumed.
    pub fn new(roots: Option<&Path>, resumes: bool) -> Result<ClientTls, rustls::Error> {
        let mut any = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        any.resumption = resumption(resumes);
        let (roots, verified) = (roots.map(Path::to_owned), OnceLock::new());
        Ok(ClientTls(Arc::new(Shared { any: Arc::new(any), verified, roots, resumes })))
    }

    /// Reads the roots, for [`Trust::Verified`]. Without this the first such handshake does.
    pub fn load_roots(&self) -> Result<(), RootsError> {
        self.verified().map(drop)
    }

    fn verified(&self) -> Result<&Arc<ClientConfig>, RootsError> {
        if let Some(config) = self.0.verified.get() {
            return Ok(config);
        }
        let roots = match &self.0.roots {
            Some(path) => read_roots(path)?,
            None => system_roots()?,
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), PROVIDER.clone()).build();
        let verifier = verifier.map_err(|_| RootsError::NoSystemRoots)?;
        let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()?
            .with_webpki_verifier(verifier)
            .with_no_client_auth();
        config.resumption = resumption(self.0.resumes);
        Ok(self.0.verified.get_or_init(|| Arc::new(config)))
    }

    pub(crate) async fn connect(
        &self,
        stream: &net::Stream,
        trust: Trust,
        host: &str,
        address: Option<IpAddr>,
    ) -> Result<Tls, HandshakeError> {
        let config = match trust {
            Trust::Any => &self.0.any,
            Trust::Verified => self.verified().map_err(|error| rustls::Error::General(error.to_string()))?,
        };
        let name = host.strip_suffix('.').unwrap_or(host);
        let name = match ServerName::try_from(name.to_owned()) {
            Ok(name) => name,
            // A name of DNS that is no host name, as with an underscore: it is not asked for, and cannot be verified.
            Err(_) if trust == Trust::Any && address.is_some() => {
                address.map(ServerName::from).ok_or_else(|| HandshakeError::Name(name.to_owned()))?
            }
            Err(_) => return Err(HandshakeError::Name(name.to_owned())),
        };
        Tls::handshake(ClientConnection::new(config.clone(), name)?.into(), stream).await
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("roots", &self.0.roots).finish_non_exhaustive()
    }
}

fn resumption(resumes: bool) -> Resumption {
    if resumes { Resumption::store(Arc::new(Sessions::new())) } else { Resumption::disabled() }
}

fn read_roots(path: &Path) -> Result<RootCertStore, RootsError> {
    let no_root = || RootsError::NoRoot(path.to_owned());
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| match error {
        pem::Error::Io(error) => RootsError::Unreadable { path: path.to_owned(), error },
        _ => no_root(),
    })?;
    store(certificates).ok_or_else(no_root)
}

fn system_roots() -> Result<RootCertStore, RootsError> {
    let found = rustls_native_certs::load_native_certs();
    store(found.certs).ok_or(RootsError::NoSystemRoots)
}

fn store(certificates: Vec<CertificateDer<'static>>) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // Stores of systems hold some that webpki does not read.
    let (added, _passed_over) = roots.add_parsable_certificates(certificates);
    (added > 0).then_some(roots)
}
