//! The keys of SCRAM-SHA-256 (RFC 5802 section 3).

use crate::sasl::prepare::Password;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A key, signature or proof.
pub(in crate::sasl) type Key = [u8; 32];

/// `SaltedPassword`: from it follow the keys of both ends.
pub(in crate::sasl) struct Salted(Zeroizing<Key>);

impl Salted {
    /// PBKDF2 over `iterations` rounds: milliseconds.
    pub(in crate::sasl) fn derive(password: &Password, salt: &[u8], iterations: u32) -> Salted {
        let key = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), salt, iterations);
        Salted(Zeroizing::new(key))
    }

    pub(in crate::sasl) fn client_key(&self) -> Zeroizing<Key> {
        Zeroizing::new(hmac(&self.0, b"Client Key"))
    }

    pub(in crate::sasl) fn stored_key(&self) -> Key {
        hash(&self.client_key())
    }

    pub(in crate::sasl) fn server_key(&self) -> Key {
        hmac(&self.0, b"Server Key")
    }
}

/// `AuthMessage`: what both ends sign.
pub(in crate::sasl) fn auth_message(
    client_first_bare: &str,
    server_first: &str,
    without_proof: &str,
) -> String {
    [client_first_bare, server_first, without_proof].join(",")
}

/// `ClientProof`.
pub(in crate::sasl) fn client_proof(client_key: &Key, auth_message: &str) -> Key {
    let signature = hmac(&hash(client_key), auth_message.as_bytes());
    exclusive_or(client_key, &signature)
}

/// Whether a proof was made by somebody who knows the client's key.
pub(in crate::sasl) fn is_proof(proof: &Key, stored_key: &Key, auth_message: &str) -> bool {
    let signature = hmac(stored_key, auth_message.as_bytes());
    let client_key = exclusive_or(proof, &signature);
    hash(&client_key).ct_eq(stored_key).into()
}

/// `ServerSignature`.
pub(in crate::sasl) fn server_signature(server_key: &Key, auth_message: &str) -> Key {
    hmac(server_key, auth_message.as_bytes())
}

fn hmac(key: &Key, text: &[u8]) -> Key {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    hmac.update(text);
    hmac.finalize().into_bytes().into()
}

fn hash(key: &Key) -> Key {
    Sha256::digest(key).into()
}

fn exclusive_or(one: &Key, other: &Key) -> Key {
    std::array::from_fn(|at| one[at] ^ other[at])
}
