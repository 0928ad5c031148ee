//! Names and passwords of clients, as a file has them: `user:password`, one account a line.
//!
//! The name ends at the first colon; the password is all behind it, blanks and colons too. Empty lines, and those that begin with
//! `#`, say nothing.

use super::mistake::{MISTAKES_MAX, Mistake, lines};
use super::prepare::{NAME_MAX, PASSWORD_MAX};
use super::secret::Secret;
use std::collections::BTreeMap;

/// Who a client says it is. PLAIN and LOGIN send both as they are, for a server is to prepare them (RFC 4616 section 2), and not
/// all do; SCRAM prepares them.
#[derive(Debug, Clone)]
pub struct Account {
    user: String,
    password: Secret,
}

/// Why name and password make no account. Says nothing of the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// No name, more than [`NAME_MAX`] octets, or a control character in it.
    #[error("the name must have 1 to {NAME_MAX} octets, without control characters")]
    User,
    /// No password, more than [`PASSWORD_MAX`] octets, or a NUL or line end in it.
    #[error("the password must have 1 to {PASSWORD_MAX} octets, without NUL and line ends")]
    Password,
}

impl Account {
    /// An account of a name and a password.
    pub fn new(user: &str, password: &str) -> Result<Account, AccountError> {
        if user.is_empty() || user.len() > NAME_MAX || user.chars().any(char::is_control) {
            return Err(AccountError::User);
        }
        if password.is_empty() || password.len() > PASSWORD_MAX || password.contains(['\0', '\r', '\n']) {
            return Err(AccountError::Password);
        }
        Ok(Account { user: user.to_owned(), password: Secret::new(password.to_owned()) })
    }

    /// The name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    pub fn password(&self) -> &Secret {
        &self.password
    }
}

/// The accounts of a file, in its order, or what is wrong with it: at most [`MISTAKES_MAX`] lines.
pub fn parse(text: &str) -> Result<Vec<Account>, Vec<Mistake>> {
    let mut accounts = Vec::new();
    let mut mistakes = Vec::new();
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, line) in lines(text) {
        match account(line, number, &mut known) {
            Ok(account) => accounts.push(account),
            Err(what) => mistakes.push(Mistake { line: number, what }),
        }
        if mistakes.len() == MISTAKES_MAX {
            break;
        }
    }
    if mistakes.is_empty() { Ok(accounts) } else { Err(mistakes) }
}

fn account<'a>(
    line: &'a str,
    number: usize,
    known: &mut BTreeMap<&'a str, usize>,
) -> Result<Account, String> {
    let (user, password) = line.split_once(':').ok_or("there is no colon: write user:password")?;
    let account = Account::new(user, password).map_err(|error| format!("{error}: write user:password"))?;
    if let Some(earlier) = known.insert(user, number) {
        return Err(format!("the user of line {earlier} again: remove one of the two"));
    }
    Ok(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_accounts() {
        // Proves: comments and empty lines are left out, and a password has all that is behind the first colon.
        let accounts = parse("# of the load\n\nu0:p:0 \r\nu1@d.test:\u{fc}\n").unwrap();
        let pairs: Vec<_> = accounts.iter().map(|one| (one.user(), one.password().as_str())).collect();
        assert_eq!(pairs, [("u0", "p:0 "), ("u1@d.test", "\u{fc}")]);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn mistakes_are_told_without_passwords() {
        // Proves: each bad line is named once with what to do, and no error or debug text has a part of a password.
        let text =
            "hunter2secret\na:hunter2secret\n:hunter2secret\na:hunter2secret\nb:\nc\x07:hunter2secret\n";
        let mistakes = parse(text).unwrap_err();
        let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "line 1: there is no colon: write user:password",
                "line 3: the name must have 1 to 255 octets, without control characters: write user:password",
                "line 4: the user of line 2 again: remove one of the two",
                "line 5: the password must have 1 to 1024 octets, without NUL and line ends: write user:password",
                "line 6: the name must have 1 to 255 octets, without control characters: write user:password",
            ]
        );
        assert!(!format!("{:?}", parse("a:hunter2secret")).contains("hunter2"));
        assert_eq!(parse(&"x\n".repeat(100)).unwrap_err().len(), MISTAKES_MAX);
    }
}
