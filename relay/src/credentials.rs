//! Who the relay is to next hops that ask: a file of accounts, by next hop.
//!
//! ```text
//! # next hop            account
//! smtp.example.net      relay@example.org:password with blanks
//! smtp.example.com:587  relay:password
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use chasqui_protocol::sasl::accounts::Account;
use chasqui_protocol::sasl::mistake::lines;

use crate::error::AuthError;

/// Accounts by next hop, in lower case: the host's name, or its address when the route has that, with or without a port.
#[derive(Debug, Default)]
pub(crate) struct Credentials(BTreeMap<Box<str>, Account>);

impl Credentials {
    /// Reads a file. Blocks the thread.
    pub(crate) fn read(path: &Path) -> Result<Credentials, AuthError> {
        let unreadable = |error| AuthError::CredentialsUnreadable { path: path.to_owned(), error };
        Credentials::parse(&std::fs::read_to_string(path).map_err(unreadable)?, path)
    }

    /// Reads what is in the file at `path`.
    fn parse(text: &str, path: &Path) -> Result<Credentials, AuthError> {
        let mut accounts = BTreeMap::new();
        for (line, content) in lines(text) {
            let mistake = |what: String| AuthError::Mistake { path: path.to_owned(), line, what, more: 0 };
            let (host, account) = parse(content).map_err(mistake)?;
            if accounts.insert(host.clone(), account).is_some() {
                return Err(mistake(format!("{host} stands in a line above too: remove one of the two")));
            }
        }
        Ok(Credentials(accounts))
    }

    /// The account for a host at an address.
    pub(crate) fn find(&self, host: &str, address: SocketAddr) -> Option<&Account> {
        if self.0.is_empty() {
            return None;
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        let with_port = match host.contains(':') {
            true => format!("[{host}]:{}", address.port()),
            false => format!("{host}:{}", address.port()),
        };
        self.0.get(with_port.as_str()).or_else(|| self.0.get(host))
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} accounts", self.0.len())
    }
}

fn parse(line: &str) -> Result<(Box<str>, Account), String> {
    const FORM: &str = "write NEXT-HOP USER:PASSWORD";
    let (host, account) = line.trim_start().split_once([' ', '\t']).ok_or(FORM)?;
    let (user, password) = account.trim_start().split_once(':').ok_or(FORM)?;
    let account = Account::new(user, password).map_err(|error| format!("{error}; {FORM}"))?;
    Ok((host.to_ascii_lowercase().into(), account))
}

/// Reads a fuzzer's input as a file: whoever stands in it is found, and no error tells what may be a password.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(credentials) = Credentials::parse(text, Path::new("credentials")) else { return };
    for (host, account) in &credentials.0 {
        let port = host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(25);
        let name = host.strip_suffix(&format!(":{port}")).unwrap_or(host);
        if !name.ends_with('.') && !name.contains([':', '[']) {
            let found = credentials.find(name, SocketAddr::from(([127, 0, 0, 1], port)));
            assert_eq!(found.map(Account::user), Some(account.user()), "{host}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Credentials, AuthError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("credentials");
        std::fs::write(&path, text).expect("written");
        Credentials::read(&path)
    }

    /// The line with the port goes before that without, and others have no account.
    #[test]
    fn accounts_are_found() {
        let credentials =
            read("# ours\nMX.a.test  u:p: q\nmx.a.test:587 v:p\n2001:db8::1\tw:p\n").expect("read");
        let user = |host: &str, address: &str| {
            credentials.find(host, address.parse().expect("an address")).map(|it| it.user().to_owned())
        };
        assert_eq!(user("mx.a.test", "192.0.2.1:25").as_deref(), Some("u"));
        assert_eq!(user("mx.a.test.", "192.0.2.1:587").as_deref(), Some("v"));
        assert_eq!(user("2001:db8::1", "[2001:db8::1]:25").as_deref(), Some("w"));
        assert_eq!(user("mx.b.test", "192.0.2.1:25"), None);
    }

    /// A mistake is told with its line, and nothing of a password.
    #[test]
    fn mistakes() {
        for (text, said) in [
            ("mx.a.test\n", ":1: write NEXT-HOP USER:PASSWORD"),
            ("\nmx.a.test hunter2\n", ":2: write NEXT-HOP USER:PASSWORD"),
            ("a u:hunter2\na u:hunter2\n", ":2: a stands in a line above too"),
            ("a :hunter2\n", ":1: the name must have"),
        ] {
            let line = read(text).expect_err("refused").to_string();
            assert!(line.contains(said) && !line.contains("hunter2"), "{line}");
        }
    }
}
