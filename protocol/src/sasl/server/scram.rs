//! SCRAM at the server, between the client's first message and its last.

use super::Failure;
use crate::sasl::Nonce;
use crate::sasl::binding::ChannelBinding;
use crate::sasl::mechanism::Mechanism;
use crate::sasl::prepare;
use crate::sasl::scram::{
    BindingFlag, ClientFinal, ClientFirst, Key, Malformed, ScramVerifier, ServerFinal, ServerFirst,
    auth_message, is_proof, nonce_text, server_signature,
};

/// A first message that was taken, while the verifier of its user is looked for.
#[derive(Debug)]
pub(super) struct Lookup {
    user: String,
    /// What the last message must repeat: the header of the first, and the data of the channel binding.
    binding: Vec<u8>,
    bare: String,
    client_nonce: String,
}

impl Lookup {
    pub(super) fn parse(
        response: &[u8],
        mechanism: Mechanism,
        channel_binding: Option<&ChannelBinding>,
    ) -> Result<Lookup, Failure> {
        let first = ClientFirst::parse(response)?;
        let binding = bound(first.flag, mechanism, channel_binding)?;
        let user = prepare::name(first.user.as_bytes())?;
        if let Some(authorization) = &first.authorization
            && prepare::name(authorization.as_bytes())? != user
        {
            return Err(Failure::Authorization);
        }
        let binding = [first.header.as_bytes(), binding].concat();
        Ok(Lookup { user, binding, bare: first.bare.to_owned(), client_nonce: first.nonce.to_owned() })
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// The server's first message, and what waits for the answer.
    pub(super) fn challenge(self, verifier: &ScramVerifier, nonce: Nonce) -> (Vec<u8>, Final) {
        let nonce = self.client_nonce + &nonce_text(nonce);
        let (salt, iterations) = (verifier.salt.to_vec(), verifier.iterations);
        let server_first = ServerFirst { nonce: &nonce, salt, iterations }.to_string();
        let last = Final {
            user: self.user,
            binding: self.binding,
            bare: self.bare,
            server_first: server_first.clone(),
            nonce,
            stored_key: verifier.stored_key,
            server_key: verifier.server_key,
        };
        (server_first.into_bytes(), last)
    }
}

/// The data that the client's flag asks to be bound to (RFC 5802 section 6): none, or that of this connection.
fn bound<'a>(
    flag: BindingFlag<'_>,
    mechanism: Mechanism,
    channel_binding: Option<&'a ChannelBinding>,
) -> Result<&'a [u8], Failure> {
    match (flag, mechanism.needs_channel_binding(), channel_binding) {
        (BindingFlag::Bound(name), true, Some(binding)) if name == binding.name() => Ok(binding.data()),
        (BindingFlag::No, false, _) | (BindingFlag::NotOffered, false, None) => Ok(&[]),
        // `y` where -PLUS is offered: somebody took it out of the list that the client has seen.
        _ => Err(Failure::ChannelBinding),
    }
}

/// What waits for the client's last message.
pub(super) struct Final {
    user: String,
    binding: Vec<u8>,
    bare: String,
    server_first: String,
    nonce: String,
    stored_key: Key,
    server_key: Key,
}

impl Final {
    /// The user, and the server's last message, if the proof is right.
    pub(super) fn verify(self, response: &[u8]) -> Result<(String, Vec<u8>), Failure> {
        let last = ClientFinal::parse(response)?;
        if last.binding != self.binding {
            return Err(Failure::ChannelBinding);
        }
        let message = auth_message(&self.bare, &self.server_first, last.without_proof);
        if last.nonce != self.nonce || !is_proof(&last.proof, &self.stored_key, &message) {
            return Err(Failure::Proof);
        }
        let signature = server_signature(&self.server_key, &message);
        Ok((self.user, ServerFinal::signed(&signature).into_bytes()))
    }
}

impl std::fmt::Debug for Final {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Final").field("user", &self.user).finish_non_exhaustive()
    }
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Failure {
        Failure::Malformed
    }
}
