//! A server's certificates: PEM files, and the choice among them by the name that a client asks for.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

use super::PROVIDER;

/// Octets of a PEM file: a chain of dozens of certificates.
const FILE_MAX: u64 = 1 << 20;

/// Why certificates cannot be used: the operator mends the file that is named.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file holds nothing of what it should.
    #[error("{}: no {what} in PEM form", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// A file is no PEM.
    #[error("{}: {error}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        error: pem::Error,
    },
    /// A certificate is not what a server can show, or the key is not that of the certificate.
    #[error("{}: {error}", path.display())]
    Unfit {
        /// The file with the certificate.
        path: PathBuf,
        /// Why.
        error: rustls::Error,
    },
    /// There is none.
    #[error("no certificate is given")]
    None,
}

/// Certificates with their keys. The first is shown to clients that ask for no name, or for one that none has.
pub struct Certificates {
    first: Vec<Arc<CertifiedKey>>,
    /// By the names in them, in lower case; `*.` in front of the parent's name for a wildcard.
    by_name: BTreeMap<String, Vec<Arc<CertifiedKey>>>,
    count: usize,
}

impl Certificates {
    /// Reads pairs of files: a chain whose first certificate is the server's own, and its private key (PKCS#8, PKCS#1 or SEC1).
    /// They may be one file. Blocks the thread.
    pub fn read<'a>(
        files: impl IntoIterator<Item = (&'a Path, &'a Path)>,
    ) -> Result<Certificates, CertificateError> {
        let keys = files.into_iter().map(|(chain, key)| read_pair(chain, key));
        Certificates::of(keys.collect::<Result<_, _>>()?)
    }

    /// Of a chain and a key that are in memory already.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Certificates, CertificateError> {
        Certificates::of(vec![certified(chain, key, Path::new("certificate"))?])
    }

    fn of(keys: Vec<CertifiedKey>) -> Result<Certificates, CertificateError> {
        let mut certificates =
            Certificates { first: Vec::new(), by_name: BTreeMap::new(), count: keys.len() };
        for key in keys.into_iter().map(Arc::new) {
            let names = names_of(&key);
            let is_first_name = certificates.first.first().is_some_and(|first| names_of(first) == names);
            if certificates.first.is_empty() || is_first_name {
                certificates.first.push(key.clone());
            }
            for name in names {
                certificates.by_name.entry(name).or_default().push(key.clone());
            }
        }
        if certificates.first.is_empty() { Err(CertificateError::None) } else { Ok(certificates) }
    }

    /// The certificate for a client. Of several for one name, as of RSA and ECDSA, the first that the client can check.
    pub(super) fn choose(&self, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.named(&name.to_ascii_lowercase()));
        let is_fit = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        named.unwrap_or(&self.first).iter().find(is_fit).cloned()
    }

    fn named(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(name).or_else(wildcard)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("count", &self.count).finish_non_exhaustive()
    }
}

fn names_of(key: &CertifiedKey) -> Vec<String> {
    let certificate = key.cert.first().and_then(|first| EndEntityCert::try_from(first).ok());
    let names = certificate.iter().flat_map(|certificate| certificate.valid_dns_names());
    names.map(str::to_ascii_lowercase).collect()
}

fn read_pair(chain: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let (chain_text, key_text) = (read_file(chain)?, read_file(key)?);
    let pem = |path: &Path, error| CertificateError::Pem { path: path.to_owned(), error };
    let missing = |path: &Path, what| CertificateError::Missing { path: path.to_owned(), what };
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&chain_text).collect::<Result<_, _>>().map_err(|e| pem(chain, e))?;
    if certificates.is_empty() {
        return Err(missing(chain, "certificate"));
    }
    let key_der = PrivateKeyDer::from_pem_slice(&key_text).map_err(|error| match error {
        pem::Error::NoItemsFound => missing(key, "private key"),
        error => pem(key, error),
    })?;
    certified(certificates, key_der, chain)
}

fn read_file(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |error| CertificateError::Unreadable { path: path.to_owned(), error };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > FILE_MAX {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    std::fs::read(path).map_err(unreadable)
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    path: &Path,
) -> Result<CertifiedKey, CertificateError> {
    CertifiedKey::from_der(chain, key, &PROVIDER)
        .map_err(|error| CertificateError::Unfit { path: path.to_owned(), error })
}
