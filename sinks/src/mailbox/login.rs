//! Who may log in.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chasqui_protocol::sasl::mechanism::{Mechanism, Mechanisms};
use chasqui_protocol::sasl::prepare::Password;
use chasqui_protocol::sasl::scram::{ITERATIONS_MIN, ScramVerifier};
use chasqui_runtime::secret;
use chasqui_transport::Stream;

use crate::authentication::Users;

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

/// The login policy of the POP3 and IMAP servers: users are mail addresses, the password is the same for all. Clones share the
/// verifier of SCRAM.
#[derive(Debug, Clone)]
pub struct Login {
    /// Lower case; none: any domain.
    zone: Option<String>,
    password: String,
    /// As SASLprep has it; none: it cannot be one of SASL.
    prepared: Option<Password>,
    /// Of the one password, so one for all users. Made when it is first asked for.
    verifier: Arc<OnceLock<ScramVerifier>>,
}

impl Login {
    /// Admits addresses whose domain is `zone` or lies under it.
    pub fn within(zone: &str, password: &str) -> Login {
        Login { zone: Some(zone.trim_end_matches('.').to_ascii_lowercase()), ..Login::any(password) }
    }

    /// Admits every address.
    pub fn any(password: &str) -> Login {
        let prepared = Password::prepare(password.as_bytes()).ok();
        Login { zone: None, password: password.to_owned(), prepared, verifier: Arc::default() }
    }

    /// The mailbox (address in lower case) that these credentials open.
    pub fn admit(&self, user: &str, password: &str) -> Option<String> {
        if password == self.password { self.mailbox_of(user) } else { None }
    }

    /// The mechanisms on this connection: those that show the password are for TLS.
    pub(crate) fn mechanisms(&self, stream: &Stream) -> Mechanisms {
        if self.prepared.is_none() {
            return Mechanisms::NONE;
        }
        let mechanisms = Mechanisms::NONE.with(Mechanism::ScramSha256);
        match (stream.agreed(), stream.exporter()) {
            (None, _) => mechanisms,
            (Some(_), None) => mechanisms.with(Mechanism::Plain),
            (Some(_), Some(_)) => mechanisms.with(Mechanism::Plain).with(Mechanism::ScramSha256Plus),
        }
    }

    /// The mailbox (address in lower case) of a user whose password was right.
    pub(crate) fn mailbox_of(&self, user: &str) -> Option<String> {
        let printable = user.bytes().all(|byte| byte.is_ascii_graphic());
        if user.len() > MAX_USER || !printable {
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

impl Users for Login {
    fn verifier(&self, _user: &str) -> Option<&ScramVerifier> {
        let password = self.prepared.as_ref()?;
        let derive = || ScramVerifier::derive(password, &secret::<16>(), ITERATIONS_MIN);
        Some(self.verifier.get_or_init(derive))
    }

    /// Whether there is a mailbox of that name is looked at afterwards.
    fn admits(&self, _user: &str, password: &Password) -> bool {
        self.prepared.as_ref().is_some_and(|own| own.as_bytes() == password.as_bytes())
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
