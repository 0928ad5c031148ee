//! What the sinks show in TLS: certificates from files, or one of an authority that is made for this process.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use chasqui_transport::tls::{Certificates, ServerTls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::PrivateKeyDer;
use thiserror::Error;

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// Of an authority that is made at the start.
    SelfSigned {
        /// Where the authority's own certificate is written, in PEM form, for whoever verifies.
        root: Option<PathBuf>,
    },
    /// PEM files.
    Files {
        /// The certificate, then those that lead from it to a root.
        chain: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

/// Why there is no certificate. Whoever started the process acts on it.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The files are not what they should be.
    #[error("certificate: {0}")]
    Files(#[from] chasqui_transport::tls::CertificateError),
    /// It could not be made.
    #[error("certificate: {0}")]
    Made(#[from] rcgen::Error),
    /// TLS itself could not be set up.
    #[error("TLS: {0}")]
    Library(#[from] chasqui_transport::tls::Error),
    /// The root cannot be written.
    #[error("{}: {error}", path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// What a certificate that is made names.
pub(crate) struct Names {
    pub(crate) hosts: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
}

/// TLS with a certificate from `source`; one that is made is for these names, of which the first host is its subject. Blocks the
/// thread.
pub(crate) fn server_tls(source: &CertificateSource, names: Names) -> Result<ServerTls, CertificateError> {
    let certificates = match source {
        CertificateSource::Files { chain, key } => Certificates::read([(chain.as_path(), key.as_path())])?,
        CertificateSource::SelfSigned { root } => make(names, root.as_deref())?,
    };
    Ok(ServerTls::new(certificates)?)
}

fn make(names: Names, root: Option<&Path>) -> Result<Certificates, CertificateError> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "Chasqui sinks");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let Names { hosts, addresses } = names;
    let subject = hosts.first().cloned().unwrap_or_default();
    let mut server = CertificateParams::new(hosts)?;
    server.distinguished_name.push(DnType::CommonName, subject);
    server.use_authority_key_identifier_extension = true;
    server.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &authority)?;
    if let Some(path) = root {
        std::fs::write(path, authority.pem())
            .map_err(|error| CertificateError::Root { path: path.to_owned(), error })?;
    }
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok(Certificates::from_der(vec![certificate.der().clone()], key)?)
}
