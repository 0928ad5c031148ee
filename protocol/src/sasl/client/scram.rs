//! SCRAM at the client, message by message.

use super::{Failure, Options};
use crate::sasl::Nonce;
use crate::sasl::accounts::Account;
use crate::sasl::mechanism::Mechanism;
use crate::sasl::prepare::{self, Password};
use crate::sasl::scram::{
    BindingFlag, ClientFinal, ITERATIONS_MAX, ITERATIONS_MIN, Key, Malformed, Salted, ServerFinal,
    ServerFirst, auth_message, client_first_bare, client_proof, escaped, nonce_text, server_signature,
};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What a password becomes with a server's salt: who has it needs the password no more. For all exchanges of one account with
/// one server; the caller keeps it.
#[derive(Clone)]
pub struct ClientKeys {
    salt: Box<[u8]>,
    iterations: u32,
    client_key: Zeroizing<Key>,
    server_key: Zeroizing<Key>,
}

impl ClientKeys {
    fn fits(&self, salt: &[u8], iterations: u32) -> bool {
        *self.salt == *salt && self.iterations == iterations
    }
}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ClientKeys({} iterations, ..)", self.iterations)
    }
}

/// The work that a server's salt asks for. It can go to another thread.
#[derive(Debug, Clone)]
pub struct Derivation {
    password: Password,
    salt: Box<[u8]>,
    iterations: u32,
}

impl Derivation {
    /// Derives the keys: a millisecond for some 4,000 iterations.
    pub fn derive(self) -> ClientKeys {
        let salted = Salted::derive(&self.password, &self.salt, self.iterations);
        ClientKeys {
            client_key: salted.client_key(),
            server_key: Zeroizing::new(salted.server_key()),
            salt: self.salt,
            iterations: self.iterations,
        }
    }

    /// Rounds of PBKDF2.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }
}

/// Before the first message.
#[derive(Debug)]
pub(super) struct First {
    header: String,
    binding: Vec<u8>,
    bare: String,
    nonce: String,
    password: Password,
    keys: Option<ClientKeys>,
}

impl First {
    pub(super) fn new(
        mechanism: Mechanism,
        options: &Options,
        account: &Account,
        nonce: Nonce,
        keys: Option<ClientKeys>,
    ) -> Result<First, Failure> {
        let user = prepare::name(account.user().as_bytes())?;
        let password = Password::prepare(account.password().as_str().as_bytes())?;
        let (flag, binding) = match &options.channel_binding {
            Some(binding) if mechanism.needs_channel_binding() => {
                (BindingFlag::Bound(binding.name()), binding.data().to_vec())
            }
            // Chosen because -PLUS is not in the list: the server will know whether it had been.
            Some(_) => (BindingFlag::NotOffered, Vec::new()),
            None => (BindingFlag::No, Vec::new()),
        };
        let nonce = nonce_text(nonce);
        let bare = client_first_bare(&escaped(&user), &nonce);
        Ok(First { header: format!("{flag},,"), binding, bare, nonce, password, keys })
    }

    pub(super) fn response(self) -> (Vec<u8>, Waiting) {
        (format!("{}{}", self.header, self.bare).into_bytes(), Waiting(self))
    }
}

/// Between the first message and its answer.
#[derive(Debug)]
pub(super) struct Waiting(First);

impl Waiting {
    /// What waits for keys, and those that were there already.
    pub(super) fn handle_challenge(
        self,
        challenge: &[u8],
    ) -> Result<(Deriving, Option<ClientKeys>), Failure> {
        let First { header, binding, bare, nonce, password, keys } = self.0;
        if let Ok(ServerFinal::Error(error)) = ServerFinal::parse(challenge) {
            return Err(refused(error));
        }
        let first = ServerFirst::parse(challenge)?;
        if !first.nonce.starts_with(&nonce) || first.nonce.len() == nonce.len() {
            return Err(Failure::Nonce);
        }
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&first.iterations) {
            return Err(Failure::Iterations);
        }
        let keys = keys.filter(|keys| keys.fits(&first.salt, first.iterations));
        let without_proof = ClientFinal::without_proof(&header, &binding, first.nonce);
        let server_first = str::from_utf8(challenge).map_err(|_| Failure::Malformed)?;
        let message = auth_message(&bare, server_first, &without_proof);
        let derivation = Derivation { password, salt: first.salt.into(), iterations: first.iterations };
        Ok((Deriving { without_proof, message, derivation }, keys))
    }
}

/// While keys are derived.
#[derive(Debug)]
pub(super) struct Deriving {
    without_proof: String,
    message: String,
    derivation: Derivation,
}

impl Deriving {
    pub(super) fn derivation(&self) -> Derivation {
        self.derivation.clone()
    }

    /// The last message, unless the keys are others.
    pub(super) fn response(self, keys: &ClientKeys) -> Option<(Vec<u8>, Proved)> {
        if !keys.fits(&self.derivation.salt, self.derivation.iterations) {
            return None;
        }
        let proof = crate::sasl::base64::encode(client_proof(&keys.client_key, &self.message));
        let response = format!("{},p={proof}", self.without_proof).into_bytes();
        Some((response, Proved { signature: server_signature(&keys.server_key, &self.message) }))
    }
}

/// The server's signature is waited for.
pub(super) struct Proved {
    signature: Key,
}

impl Proved {
    pub(super) fn verify(self, octets: &[u8]) -> Result<(), Failure> {
        match ServerFinal::parse(octets)? {
            ServerFinal::Error(error) => Err(refused(error)),
            ServerFinal::Signature(signature) if signature.ct_eq(&self.signature).into() => Ok(()),
            ServerFinal::Signature(_) => Err(Failure::Signature),
        }
    }
}

impl fmt::Debug for Proved {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Proved(..)")
    }
}

/// The server's word for its refusal, which goes to logs.
fn refused(error: &str) -> Failure {
    let is_plain = |character: &char| character.is_ascii_alphanumeric() || *character == '-';
    Failure::Refused(error.chars().filter(is_plain).take(64).collect())
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Failure {
        Failure::Malformed
    }
}
