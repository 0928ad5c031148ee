//! What the sinks show in TLS: certificates from files, or one of an authority that is made for this process; and such a
//! certificate in files, for another process.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use chasqui_transport::tls::{Certificates, ServerTls};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
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
    /// A file cannot be written.
    #[error("{}: {error}", path.display())]
    Unwritable {
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

/// Files in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificate of its authority.
    pub root: PathBuf,
}

/// Writes a certificate for `host` and `address`, of an authority that is made for it. The key's file is as private as its folder.
/// Blocks the thread.
pub fn write_certificate(
    host: &str,
    address: IpAddr,
    files: &CertificateFiles,
) -> Result<(), CertificateError> {
    let Issued { certificate, key, root } =
        issue(Names { hosts: vec![host.to_owned()], addresses: vec![address] })?;
    write(&files.chain, &certificate.pem())?;
    write(&files.key, &key.serialize_pem())?;
    write(&files.root, &root)
}

/// A certificate of an authority of its own.
struct Issued {
    certificate: Certificate,
    key: KeyPair,
    /// The authority's certificate in PEM form. Its key is gone.
    root: String,
}

fn make(names: Names, root_file: Option<&Path>) -> Result<Certificates, CertificateError> {
    let Issued { certificate, key, root } = issue(names)?;
    if let Some(path) = root_file {
        write(path, &root)?;
    }
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok(Certificates::from_der(vec![certificate.der().clone()], key)?)
}

fn issue(names: Names) -> Result<Issued, CertificateError> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "Chasqui");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let Names { hosts, addresses } = names;
    let subject = hosts.first().cloned().unwrap_or_default();
    let mut server = CertificateParams::new(hosts)?;
    server.distinguished_name.push(DnType::CommonName, subject);
    server.use_authority_key_identifier_extension = true;
    server.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &authority)?;
    Ok(Issued { certificate, key, root: authority.pem() })
}

fn write(path: &Path, pem: &str) -> Result<(), CertificateError> {
    std::fs::write(path, pem).map_err(|error| CertificateError::Unwritable { path: path.to_owned(), error })
}
