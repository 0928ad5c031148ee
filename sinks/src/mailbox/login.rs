//! Who may log in.

use std::time::Duration;

/// How long a connection may go without a login.
pub(crate) const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the answer to the first wrong password of a connection waits; each further one waits twice as long.
const FAILURE_DELAY: Duration = Duration::from_millis(100);
/// Longest such wait.
const FAILURE_DELAY_MAX: Duration = Duration::from_secs(4);
/// Longest user name that is looked at: an address of RFC 5321.
const MAX_USER: usize = 320;

/// How long the answer to the wrong password of this number, from 1, waits.
pub(crate) fn delay_of_failure(number: u32) -> Duration {
    FAILURE_DELAY.saturating_mul(1 << number.saturating_sub(1).min(16)).min(FAILURE_DELAY_MAX)
}

/// The login policy of the POP3 and IMAP servers: users are mail addresses, the password is the same for all.
#[derive(Debug, Clone)]
pub struct Login {
    /// Lower case; none: any domain.
    zone: Option<String>,
    password: String,
}

impl Login {
    /// Admits addresses whose domain is `zone` or lies under it.
    pub fn within(zone: &str, password: &str) -> Login {
        Login { zone: Some(zone.trim_end_matches('.').to_ascii_lowercase()), password: password.to_owned() }
    }

    /// Admits every address.
    pub fn any(password: &str) -> Login {
        Login { zone: None, password: password.to_owned() }
    }

    /// The mailbox (address in lower case) that these credentials open.
    pub fn admit(&self, user: &str, password: &str) -> Option<String> {
        let printable = user.bytes().all(|byte| byte.is_ascii_graphic());
        if password != self.password || user.len() > MAX_USER || !printable {
            return None;
        }
        let address = user.to_ascii_lowercase();
        let (local_part, domain) = address.rsplit_once('@')?;
        if local_part.is_empty() || domain.is_empty() {
            return None;
        }
        let inside = self.zone.as_deref().is_none_or(|zone| {
            domain.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        inside.then_some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the password and addresses in the zone open a mailbox, whatever their case.
    #[test]
    fn admits_the_zone() {
        let login = Login::within("Chasqui.test.", "secret");
        assert_eq!(login.admit("U1@D2.chasqui.TEST", "secret").as_deref(), Some("u1@d2.chasqui.test"));
        assert_eq!(login.admit("a@chasqui.test", "secret").as_deref(), Some("a@chasqui.test"));
        for user in
            ["a@xchasqui.test", "a@example.org", "chasqui.test", "@chasqui.test", "a b@chasqui.test", ""]
        {
            assert_eq!(login.admit(user, "secret"), None, "{user}");
        }
        assert_eq!(login.admit("a@chasqui.test", "Secret"), None);
        assert_eq!(Login::any("x").admit("a@example.org", "x").as_deref(), Some("a@example.org"));
    }
}
