//! The check of a server that may show any certificate: opportunistic TLS (RFC 7435) asks for secrecy, not for a name.
//!
//! The server must have the key of what it shows all the same: otherwise whoever stands between could show the certificate of
//! another. Certificates of X.509 version 1, which webpki does not read, are taken too: of them the key alone is looked at.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature_with_raw_key;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use webpki::RawPublicKeyEntity;

use super::PROVIDER;

/// Takes any certificate whose key signs the handshake.
#[derive(Debug)]
pub(super) struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(public_key(certificate).ok_or_else(unreadable)?);
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

fn verify_tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let key = SubjectPublicKeyInfoDer::from(public_key(certificate).ok_or_else(unreadable)?);
    let key = RawPublicKeyEntity::try_from(&key).map_err(|_| unreadable())?;
    let algorithms = PROVIDER.signature_verification_algorithms.mapping;
    let algorithms = algorithms.iter().find(|(scheme, _)| *scheme == signed.scheme).map(|(_, them)| *them);
    let is_signed = algorithms
        .unwrap_or_default()
        .iter()
        .any(|&algorithm| key.verify_signature(algorithm, message, signed.signature()).is_ok());
    if is_signed {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(Error::InvalidCertificate(rustls::CertificateError::BadSignature))
    }
}

fn unreadable() -> Error {
    Error::InvalidCertificate(rustls::CertificateError::BadEncoding)
}

/// The SubjectPublicKeyInfo of a certificate of any version (RFC 5280 section 4.1, X.509 (1988)).
fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (certificate, _) = element(certificate).filter(|(it, _)| it.tag == SEQUENCE)?;
    let (to_be_signed, _) = element(certificate.content).filter(|(it, _)| it.tag == SEQUENCE)?;
    let mut rest = to_be_signed.content;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.1;
    }
    // Serial number, signature, issuer, validity, subject.
    for _ in 0..5 {
        rest = element(rest)?.1;
    }
    element(rest).filter(|(it, _)| it.tag == SEQUENCE).map(|(key, _)| key.whole)
}

/// An element of DER.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// With tag and length.
    whole: &'a [u8],
}

/// The first element of `bytes`, and what follows it.
fn element(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, &octet| length << 8 | usize::from(octet)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    let whole = &bytes[..bytes.len() - rest.len()];
    Some((Element { tag, content, whole }, rest))
}
