//! What stands for users that there are not, so that neither a reply nor its time tells them from those that there are.

use super::{Argon2Hash, Argon2Options, Stored};
use crate::sasl::scram::{ITERATIONS_DEFAULT, ScramVerifier};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt;

/// Gives each name that has nothing stored something of the kinds that are stored, always the same, that no password fits.
///
/// Kind, costs and length of salt follow from secret and name, in the proportions that real users have them: with what is stored
/// of two kinds, one answer's time says which kind a name has, but not whether it is one of a user. The secret has to outlive
/// restarts and to be the same for all servers of these users: a salt that changes tells.
pub struct Fake {
    secret: [u8; 32],
    /// For PLAIN and LOGIN: kinds, each with the number of users up to and with it.
    stored: Vec<(u64, Kind)>,
    /// The same for SCRAM.
    scram: Vec<(u64, Kind)>,
}

/// What an observer could see of something stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Argon2 { options: Argon2Options, salt_len: usize, hash_len: usize },
    Scram { iterations: u32, salt_len: usize },
}

const SALT_LEN: usize = 16;
const HASH_LEN: usize = 32;

impl Fake {
    /// Stands for users beside these. Where there are none of a kind, that of new passwords is taken.
    pub fn new<'a>(secret: [u8; 32], users: impl Iterator<Item = &'a Stored>) -> Fake {
        let mut kinds: BTreeMap<Kind, u64> = BTreeMap::new();
        for stored in users {
            *kinds.entry(Kind::of(stored)).or_default() += 1;
        }
        let of_scram = kinds.iter().filter(|(kind, _)| matches!(kind, Kind::Scram { .. }));
        let scram = summed(of_scram, Kind::Scram { iterations: ITERATIONS_DEFAULT, salt_len: SALT_LEN });
        let usual =
            Kind::Argon2 { options: Argon2Options::default(), salt_len: SALT_LEN, hash_len: HASH_LEN };
        Fake { secret, stored: summed(kinds.iter(), usual), scram }
    }

    /// For a password that was shown: verifying it costs what it costs for a user, and is never true.
    pub fn stored(&self, user: &str) -> Stored {
        match self.pick("kind", &self.stored, user) {
            Kind::Argon2 { options, salt_len, hash_len } => Stored::Argon2(Argon2Hash {
                options,
                salt: self.octets("salt", user, salt_len),
                hash: self.octets("hash", user, hash_len),
            }),
            Kind::Scram { iterations, salt_len } => Stored::Scram(self.verifier(user, iterations, salt_len)),
        }
    }

    /// For SCRAM: no client can make a proof for it. Where [`Fake::stored`] has a verifier for the name, it is this one.
    pub fn scram(&self, user: &str) -> ScramVerifier {
        let kind = match self.pick("kind", &self.stored, user) {
            Kind::Argon2 { .. } => self.pick("kind for SCRAM", &self.scram, user),
            scram => scram,
        };
        match kind {
            Kind::Scram { iterations, salt_len } => self.verifier(user, iterations, salt_len),
            Kind::Argon2 { .. } => unreachable!("the list has verifiers of SCRAM alone"),
        }
    }

    fn verifier(&self, user: &str, iterations: u32, salt_len: usize) -> ScramVerifier {
        let salt = self.octets("salt", user, salt_len);
        let (stored_key, server_key) = (self.block("stored key", user, 0), self.block("server key", user, 0));
        ScramVerifier { iterations, salt, stored_key, server_key }
    }

    fn pick(&self, what: &str, kinds: &[(u64, Kind)], user: &str) -> Kind {
        let users = kinds.last().map_or(1, |(users, _)| *users);
        let [a, b, c, d, e, f, g, h, ..] = self.block(what, user, 0);
        let drawn = u64::from_le_bytes([a, b, c, d, e, f, g, h]) % users;
        kinds[kinds.partition_point(|(users, _)| *users <= drawn)].1
    }

    fn octets(&self, what: &str, user: &str, len: usize) -> Box<[u8]> {
        (0..).flat_map(|block| self.block(what, user, block)).take(len).collect()
    }

    /// HMAC-SHA-256 of what is derived, for whom, and its part.
    fn block(&self, what: &str, user: &str, part: u32) -> [u8; 32] {
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        for text in [what, "\0", user, "\0"] {
            hmac.update(text.as_bytes());
        }
        hmac.update(&part.to_le_bytes());
        hmac.finalize().into_bytes().into()
    }
}

impl Kind {
    fn of(stored: &Stored) -> Kind {
        match stored {
            Stored::Argon2(Argon2Hash { options, salt, hash }) => {
                Kind::Argon2 { options: *options, salt_len: salt.len(), hash_len: hash.len() }
            }
            Stored::Scram(ScramVerifier { iterations, salt, .. }) => {
                Kind::Scram { iterations: *iterations, salt_len: salt.len() }
            }
        }
    }
}

impl fmt::Debug for Fake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Fake").field("stored", &self.stored).finish_non_exhaustive()
    }
}

/// Running sums of users over kinds; `usual` where there is none.
fn summed<'a>(kinds: impl Iterator<Item = (&'a Kind, &'a u64)>, usual: Kind) -> Vec<(u64, Kind)> {
    let mut sum = 0;
    let mut sums: Vec<(u64, Kind)> = kinds
        .map(|(kind, users)| {
            sum += users;
            (sum, *kind)
        })
        .collect();
    if sums.is_empty() {
        sums.push((1, usual));
    }
    sums
}
