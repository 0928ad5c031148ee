//! Argon2id (RFC 9106) hashes.

use super::StoredError;
use crate::sasl::prepare::Password;
use ::argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use ::argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Params, Version};
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;

/// What one computation of Argon2id costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Argon2Options {
    /// Memory in KiB, from 8 for each lane to 1 GiB.
    pub memory_kib: u32,
    /// Passes over the memory, up to 64.
    pub passes: u32,
    /// Lanes, up to 16. They are computed one after the other.
    pub lanes: u32,
}

const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;
/// Octets of a new hash.
const HASH_LEN: usize = 32;

impl Default for Argon2Options {
    /// 19 MiB, two passes, one lane: the least that OWASP's Password Storage Cheat Sheet recommends.
    fn default() -> Argon2Options {
        Argon2Options { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
}

impl Argon2Options {
    fn context(self, hash_len: usize) -> Result<Argon2<'static>, StoredError> {
        let Argon2Options { memory_kib, passes, lanes } = self;
        if memory_kib > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
            return Err(StoredError::Bounds);
        }
        let params =
            Params::new(memory_kib, passes, lanes, Some(hash_len)).map_err(|_| StoredError::Bounds)?;
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }
}

/// A salted hash with what it costs. Displays as a PHC string.
#[derive(Clone, PartialEq, Eq)]
pub struct Argon2Hash {
    pub(super) options: Argon2Options,
    pub(super) salt: Box<[u8]>,
    pub(super) hash: Box<[u8]>,
}

impl Argon2Hash {
    pub(super) fn derive(
        password: &Password,
        options: Argon2Options,
        salt: &[u8],
    ) -> Result<Argon2Hash, StoredError> {
        let mut hash = vec![0; HASH_LEN];
        let context = options.context(HASH_LEN)?;
        context.hash_password_into(password.as_bytes(), salt, &mut hash).map_err(|_| StoredError::Bounds)?;
        Ok(Argon2Hash { options, salt: salt.into(), hash: hash.into() })
    }

    /// False also where the memory for it cannot be had.
    pub(super) fn verify(&self, password: &Password) -> bool {
        let mut hash = vec![0; self.hash.len()];
        let computed = self.options.context(hash.len()).is_ok_and(|context| {
            context.hash_password_into(password.as_bytes(), &self.salt, &mut hash).is_ok()
        });
        computed & bool::from(hash.ct_eq(&self.hash))
    }

    /// What a computation costs.
    pub fn options(&self) -> Argon2Options {
        self.options
    }

    fn phc(&self) -> Option<PasswordHash> {
        let context = self.options.context(self.hash.len()).ok()?;
        Some(PasswordHash {
            algorithm: ARGON2ID_IDENT,
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(context.params()).ok()?,
            salt: Some(Salt::new(&self.salt).ok()?),
            hash: Some(Output::new(&self.hash).ok()?),
        })
    }
}

impl FromStr for Argon2Hash {
    type Err = StoredError;

    fn from_str(text: &str) -> Result<Argon2Hash, StoredError> {
        let phc = PasswordHash::new(text).map_err(|_| StoredError::Damaged)?;
        if phc.algorithm != ARGON2ID_IDENT {
            return Err(StoredError::Scheme);
        }
        if phc.version != Some(Version::V0x13.into()) {
            return Err(StoredError::Version);
        }
        // No others: a hash with a key id or associated data needs what is not in the file.
        let cost = |name: &str| phc.params.get_decimal(name).ok_or(StoredError::Damaged);
        let options = Argon2Options { memory_kib: cost("m")?, passes: cost("t")?, lanes: cost("p")? };
        let (Some(salt), Some(hash), 3) = (&phc.salt, &phc.hash, phc.params.iter().count()) else {
            return Err(StoredError::Damaged);
        };
        options.context(hash.len())?;
        Ok(Argon2Hash { options, salt: salt.as_ref().into(), hash: hash.as_bytes().into() })
    }
}

impl fmt::Display for Argon2Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Salt and hash are within the bounds of the form, for they were parsed from it or made by this module.
        self.phc().ok_or(fmt::Error)?.fmt(formatter)
    }
}

impl fmt::Debug for Argon2Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Argon2Hash({:?}, ..)", self.options)
    }
}
