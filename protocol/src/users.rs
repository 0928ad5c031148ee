//! The users of a server, as its file has them: who they are, whom they may send as, and how much.
//!
//! ```text
//! # name  what is stored of the password  [key=value …]
//! ann     $argon2id$v=19$m=19456,t=2,p=1$…$…       sender=ann@example.org sender=@example.net
//! printer SCRAM-SHA-256$15000:…$…:…                messages_per_minute=10 recipients_per_minute=20 connections=2
//! ```
//!
//! Fields are parted by blanks or tabs; `chasqui password` writes the first two. Names are as SASLprep has them and have no blanks.
//! A line that begins with `#` and an empty one say nothing. No error shows what is stored.

use crate::sasl::mistake::{MISTAKES_MAX, Mistake, lines};
use crate::sasl::prepare;
use crate::sasl::scram::ScramVerifier;
use crate::sasl::stored::{Fake, Stored};
use crate::smtp::address::{Mailbox, ReversePath};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::num::NonZeroU32;

/// Addresses that one user may send as, at most.
pub const SENDERS_MAX: usize = 100;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// What is kept of the password.
    pub stored: Stored,
    /// Whom it may send as; anybody, if this is empty.
    pub senders: Vec<Sender>,
    /// How much it may send.
    pub limits: Limits,
}

/// Whom a user may send as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sender {
    /// `ADDRESS`: this one. Domains are the same in either case, local parts are not.
    Address(Mailbox<'static>),
    /// `@DOMAIN`: everybody in this domain, which is in lower case.
    Domain(String),
}

/// How much a user may send. None: as much as everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Messages in a minute.
    pub messages_per_minute: Option<NonZeroU32>,
    /// Recipients in a minute.
    pub recipients_per_minute: Option<NonZeroU32>,
    /// Connections at a time.
    pub connections: Option<NonZeroU32>,
}

/// The users of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Users(BTreeMap<Box<str>, User>);

impl User {
    /// Whether it may send with this reverse-path. The null one may everybody: notifications of disposition have it (RFC 8098).
    pub fn may_send_as(&self, path: &ReversePath<'_>) -> bool {
        let Some(mailbox) = &path.0 else { return true };
        self.senders.is_empty() || self.senders.iter().any(|sender| sender.covers(mailbox))
    }
}

impl Sender {
    fn covers(&self, mailbox: &Mailbox<'_>) -> bool {
        match self {
            Sender::Address(address) => {
                address.local_part() == mailbox.local_part()
                    && address.domain().eq_ignore_ascii_case(mailbox.domain())
            }
            Sender::Domain(domain) => domain.eq_ignore_ascii_case(mailbox.domain()),
        }
    }

    fn parse(text: &str) -> Option<Sender> {
        match text.strip_prefix('@') {
            // A domain is what may stand behind a local part.
            Some(_) => {
                format!("x{text}").parse().ok().map(|it: Mailbox| Sender::Domain(it.domain_lower().into()))
            }
            None => text.parse().ok().map(Sender::Address),
        }
    }
}

impl Users {
    /// Reads a file, or says what is wrong with it: at most [`MISTAKES_MAX`] lines.
    pub fn parse(text: &str) -> Result<Users, Vec<Mistake>> {
        let mut users = BTreeMap::new();
        let mut mistakes = Vec::new();
        for (number, line) in lines(text) {
            if let Err(what) = add(&mut users, line) {
                mistakes.push(Mistake { line: number, what });
            }
            if mistakes.len() == MISTAKES_MAX {
                break;
            }
        }
        if mistakes.is_empty() { Ok(Users(users)) } else { Err(mistakes) }
    }

    /// The user of a name that is prepared, as an exchange gives it.
    pub fn find(&self, name: &str) -> Option<&User> {
        self.0.get(name)
    }

    /// What a password that was shown is verified against: what is stored of this user, or what stands for one that there is not.
    /// Either takes the same time.
    pub fn stored(&self, name: &str, fake: &Fake) -> Stored {
        let fake = fake.stored(name);
        self.find(name).map_or(fake, |user| user.stored.clone())
    }

    /// The verifier with which SCRAM goes on: that of this user, or what stands for it. Either takes the same time.
    pub fn scram_verifier(&self, name: &str, fake: &Fake) -> ScramVerifier {
        let fake = fake.scram(name);
        self.find(name).and_then(|user| user.stored.as_scram()).cloned().unwrap_or(fake)
    }

    /// Names and users, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &User)> {
        self.0.iter().map(|(name, user)| (&**name, user))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What stands for names that are none of these users'.
    pub fn fake(&self, secret: [u8; 32]) -> Fake {
        Fake::new(secret, self.0.values().map(|user| &user.stored))
    }
}

/// Whether `name` can stand in a file as it is, or why not. For whoever writes lines.
pub fn check_name(name: &str) -> Result<(), String> {
    if Stored::looks_like(name) {
        return Err(
            "a name begins with neither `$`, `{` nor `SCRAM-SHA-256$`: write the name, a blank, and what is stored".to_owned()
        );
    }
    let shown = name.escape_debug();
    if name.starts_with('#') || name.contains(char::is_whitespace) {
        return Err(format!("the name `{shown}` begins with `#` or has blanks: choose another"));
    }
    match prepare::name(name.as_bytes()) {
        Ok(prepared) if prepared == name => Ok(()),
        Ok(prepared) => Err(format!("the name `{shown}` is not as SASLprep has it: write `{prepared}`")),
        Err(why) => Err(format!("the name `{shown}` {why}: choose another")),
    }
}

fn add(users: &mut BTreeMap<Box<str>, User>, line: &str) -> Result<(), String> {
    let mut fields = line.split_ascii_whitespace();
    let name = fields.next().ok_or("the line has blanks of another kind alone: remove it")?;
    check_name(name)?;
    let stored = fields.next();
    let stored = stored.ok_or_else(|| {
        format!("user `{name}` has nothing stored: write what `chasqui password {name}` prints")
    })?;
    let stored = stored.parse().map_err(|error| {
        format!("what is stored of user `{name}` {error}: write what `chasqui password {name}` prints")
    })?;
    let mut user = User { stored, senders: Vec::new(), limits: Limits::default() };
    for field in fields {
        set(&mut user, field).map_err(|what| format!("user `{name}`: {what}"))?;
    }
    match users.entry(name.into()) {
        Entry::Vacant(place) => {
            place.insert(user);
            Ok(())
        }
        Entry::Occupied(_) => Err(format!("user `{name}` stands in a line above too: remove one of the two")),
    }
}

/// The keys of a line, for errors.
const KEYS: &str = "sender, messages_per_minute, recipients_per_minute and connections";

fn set(user: &mut User, field: &str) -> Result<(), String> {
    let (key, value) = field.split_once('=').unwrap_or((field, ""));
    let limit = match key {
        "sender" => {
            let sender = Sender::parse(value).ok_or("`sender` is no ADDRESS and no @DOMAIN: correct it")?;
            if user.senders.len() == SENDERS_MAX {
                return Err(format!(
                    "there are more than {SENDERS_MAX} senders: name a domain in place of them"
                ));
            }
            user.senders.push(sender);
            return Ok(());
        }
        "messages_per_minute" => &mut user.limits.messages_per_minute,
        "recipients_per_minute" => &mut user.limits.recipients_per_minute,
        "connections" => &mut user.limits.connections,
        // A stray part of what is stored must not be shown; a key that is misspelt looks like one.
        _ if !key.is_empty()
            && key.len() < 32
            && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') =>
        {
            return Err(format!("there is no key `{key}`: there are {KEYS}"));
        }
        _ => return Err(format!("a field is no key=value: there are {KEYS}")),
    };
    let number =
        value.parse().map_err(|_| format!("`{key}` is no number from 1: write {key}=N, or leave it out"))?;
    if limit.replace(number).is_some() {
        return Err(format!("`{key}` stands there twice: remove one of the two"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
