//! Who clients are: the users of the file, and how one proves to be one of them.
//!
//! | file | job |
//! |---|---|
//! | [`exchange`] | one session's AUTH |
//! | [`verifier`] | passwords that were shown, verified beside the shards |
//! | [`failures`] | who has failed too often |
//!
//! An unknown user cannot be told from a wrong password, neither by reply nor by time: what is verified against stands for one then
//! ([`Fake`]), whose secret is kept with the spool.

mod exchange;
mod failures;
#[cfg(test)]
mod tests;
mod verifier;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use chasqui_protocol::sasl::mechanism::{Mechanism, Mechanisms};
use chasqui_protocol::sasl::stored::Fake;
use chasqui_protocol::users::{User, Users};
use chasqui_runtime::secret;

use super::rates::Rates;
use crate::config::{Auth, Config};
use crate::error::AuthError;

pub(super) use exchange::{Authenticated, Authentication};
use failures::Failures;
use verifier::Verifier;

/// Mechanisms that show the password, which a hash is enough for.
const SHOWN: Mechanisms = Mechanisms::NONE.with(Mechanism::Plain).with(Mechanism::Login);
/// Octets of the users' file: 100,000 users of 160 octets each.
const FILE_MAX: u64 = 64 << 20;
/// The file beside the spool's shards.
const SECRET_FILE: &str = "auth-secret";

/// The users, for the servers of all shards.
#[derive(Debug)]
pub(crate) struct Authenticator {
    known: Mutex<Arc<Known>>,
    secret: [u8; 32],
    verifier: Verifier,
    failures: Failures,
    /// Messages and recipients of a user in a minute.
    pub(super) rates: Rates<Box<str>>,
    connections: Arc<Mutex<BTreeMap<Box<str>, u32>>>,
}

/// The users as the file has them now.
#[derive(Debug)]
struct Known {
    users: Users,
    fake: Fake,
}

/// A user that a client has proved to be. One connection of it is counted while this lives.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) name: Box<str>,
    pub(super) user: User,
    connections: Arc<Mutex<BTreeMap<Box<str>, u32>>>,
}

impl Authenticator {
    /// Reads the users, and the secret, which is made where there is none. Without a file of users: `None`. Blocks the thread.
    pub(crate) fn start(config: &Config) -> Result<Option<Arc<Authenticator>>, AuthError> {
        let Some(file) = &config.auth.users else { return Ok(None) };
        let users = read_users(file)?;
        let directory = &config.spool.directory;
        let secret = kept_secret(directory)
            .map_err(|error| AuthError::Secret { path: directory.join(SECRET_FILE), error })?;
        let Auth { failures_per_minute, user_failures_per_minute, .. } = config.auth;
        Ok(Some(Arc::new(Authenticator {
            known: Mutex::new(Arc::new(Known::new(users, secret))),
            secret,
            verifier: Verifier::start().map_err(AuthError::Thread)?,
            failures: Failures::new(failures_per_minute, user_failures_per_minute),
            rates: Rates::new(0, 0),
            connections: Arc::default(),
        })))
    }

    /// Reads the users again; after an error those from before stay. Sessions keep who they are.
    pub(crate) fn reload(&self, file: &Path) -> Result<(), AuthError> {
        let known = Known::new(read_users(file)?, self.secret);
        if self.known().has_scram() && !known.has_scram() {
            log::warn!(
                "auth.users: SCRAM goes on to be offered until a restart, and not all users have a verifier for it now"
            );
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        Ok(())
    }

    /// What can be offered: a client that has SCRAM uses it, which fails for a user of whom a hash alone is kept. So it is offered
    /// where all users have a verifier.
    pub(super) fn mechanisms(&self) -> Mechanisms {
        if self.known().has_scram() { Mechanisms::ALL } else { SHOWN }
    }

    fn known(&self) -> Arc<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The user of this name with one more connection; none: it has as many as it may have, or is gone.
    fn identity(&self, known: &Known, name: &str) -> Option<Identity> {
        let user = known.users.find(name)?.clone();
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let count = connections.entry(name.into()).or_default();
        if user.limits.connections.is_some_and(|most| *count >= most.get()) {
            return None;
        }
        *count += 1;
        Some(Identity { name: name.into(), user, connections: self.connections.clone() })
    }
}

impl Known {
    fn new(users: Users, secret: [u8; 32]) -> Known {
        Known { fake: users.fake(secret), users }
    }

    fn has_scram(&self) -> bool {
        self.users.iter().all(|(_, user)| user.stored.as_scram().is_some())
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = connections.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.name);
            }
        }
    }
}

/// Reads a file of users. Blocks the thread.
pub(crate) fn read_users(path: &Path) -> Result<Users, AuthError> {
    let unreadable = |error| AuthError::Unreadable { path: path.to_owned(), error };
    if fs::metadata(path).map_err(unreadable)?.len() > FILE_MAX {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    Users::parse(&text).map_err(|mistakes| {
        let more = mistakes.len().saturating_sub(1);
        let first = mistakes.into_iter().next();
        let (line, what) = first.map_or((0, String::new()), |mistake| (mistake.line, mistake.what));
        AuthError::Mistake { path: path.to_owned(), line, what, more }
    })
}

/// The secret of this spool; made if there is none. It comes into being whole.
fn kept_secret(directory: &Path) -> io::Result<[u8; 32]> {
    let (path, new) = (directory.join(SECRET_FILE), directory.join(format!("{SECRET_FILE}.new")));
    match fs::read(&path) {
        Ok(octets) => octets.try_into().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "not what was written; remove it to have another one made",
            )
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(directory)?;
            let octets = secret();
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&octets)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            Ok(octets)
        }
        Err(error) => Err(error),
    }
}
