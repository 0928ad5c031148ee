//! What a bench in TLS stands on beside the rest: certificates and the authorities of them, and users with their passwords.

use crate::arguments::Bench;
use crate::exit::Failure;
use chasqui_loadgen::TlsMode;
use chasqui_protocol::sasl::accounts::Account;
use chasqui_protocol::sasl::base64;
use chasqui_protocol::sasl::prepare::Password;
use chasqui_protocol::sasl::scram::ITERATIONS_MIN;
use chasqui_protocol::sasl::stored::Stored;
use chasqui_runtime::secret;
use chasqui_sinks::{CertificateFiles, write_certificate};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Users of the relay; connections log in as each in turn.
const USERS: usize = 10;

/// Refuses options that do not go together.
pub(crate) fn check(options: &Bench) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    match (options.tls, options.auth, options.no_resumption) {
        (TlsMode::Off, true, _) => usage("--auth: nobody logs in without TLS: add --tls"),
        (TlsMode::Off, _, true) => usage("--no-resumption: there is no TLS to use it for: add --tls"),
        (TlsMode::Implicit, false, _) => {
            usage("--tls=implicit: port 465 is for users: add --auth, or have --tls=starttls")
        }
        _ => Ok(()),
    }
}

/// The folder that certificates and users lie in.
#[derive(Debug)]
pub(crate) struct Journey {
    folder: PathBuf,
    /// Who sends; empty: nobody logs in.
    pub(crate) accounts: Vec<Account>,
}

impl Journey {
    /// Makes the relay's certificate and its users, as far as they are wanted.
    pub(crate) fn make(
        options: &Bench,
        folder: &Path,
        host: &str,
        address: IpAddr,
    ) -> Result<Journey, Failure> {
        let mut journey = Journey { folder: folder.to_owned(), accounts: Vec::new() };
        if options.tls != TlsMode::Off {
            write_certificate(host, address, &journey.certificate())
                .map_err(|error| Failure::internal("the relay's certificate", error))?;
        }
        if options.auth {
            journey.accounts =
                journey.write_users().map_err(|error| Failure::internal("the relay's users", error))?;
        }
        Ok(journey)
    }

    /// The relay's certificate, and that of its authority.
    pub(crate) fn certificate(&self) -> CertificateFiles {
        let [chain, key, root] =
            ["relay.pem", "relay.key", "relay-root.pem"].map(|name| self.folder.join(name));
        CertificateFiles { chain, key, root }
    }

    /// Where the sinks write the certificate of their authority.
    pub(crate) fn sinks_root(&self) -> PathBuf {
        self.folder.join("sinks-root.pem")
    }

    /// The relay's users.
    pub(crate) fn users(&self) -> PathBuf {
        self.folder.join("users")
    }

    /// The file of both authorities, once the sinks have started.
    pub(crate) fn write_roots(&self) -> Result<PathBuf, Failure> {
        let path = self.folder.join("roots.pem");
        let write = || -> io::Result<()> {
            let roots =
                fs::read_to_string(self.certificate().root)? + &fs::read_to_string(self.sinks_root())?;
            fs::write(&path, roots)
        };
        write().map_err(|error| Failure::internal("the authorities' certificates", error))?;
        Ok(path)
    }

    fn write_users(&self) -> io::Result<Vec<Account>> {
        let (mut accounts, mut lines) = (Vec::new(), String::new());
        for number in 0..USERS {
            let (name, password) = (format!("user{number}@chasqui.test"), base64::encode(secret::<18>()));
            let prepared = Password::prepare(password.as_bytes()).map_err(io::Error::other)?;
            let stored = Stored::scram(&prepared, ITERATIONS_MIN, secret());
            // Writing to a String does not fail.
            let _ = writeln!(lines, "{name} {stored}");
            accounts.push(Account::new(&name, &password).map_err(io::Error::other)?);
        }
        fs::write(self.users(), lines)?;
        Ok(accounts)
    }
}
