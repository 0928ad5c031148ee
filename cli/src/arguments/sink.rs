//! Options of `chasqui sink`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use chasqui_loadgen::ByteSize;
use chasqui_sinks::CertificateSource;
use clap::Args;

use super::ShardOptions;
use crate::password::PasswordOptions;
use crate::values::{Cores, address, cores, count, ip, number};

pub(crate) const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Options of `chasqui sink`.
#[derive(Debug, Args)]
pub(crate) struct Sink {
    /// Address of an SMTP receiver; repeat for more [default: 127.0.1.1]
    #[arg(long = "smtp-address", value_name = "HOST", value_parser = ip)]
    pub(crate) smtp_addresses: Vec<IpAddr>,
    /// Port of the SMTP receivers, the same on every address; 0: a free one
    #[arg(long, value_name = "PORT", default_value_t = 0, value_parser = number::<u16>)]
    pub(crate) smtp_port: u16,
    /// Port of receivers in TLS from the first octet, on the same addresses, for which --certificate is needed; 0: a free one
    /// [default: 0 where there is a certificate]
    #[arg(long, value_name = "PORT", value_parser = number::<u16>, requires = "certificate")]
    pub(crate) smtps_port: Option<u16>,
    /// Have SMTP clients log in before they send: with an account of this file, one user:password a line, or (any) with whatever
    /// name and password they have. Passwords are shown in TLS, or by clients on this machine [default: whoever comes may send]
    #[arg(long, value_name = "any|FILE")]
    pub(crate) auth: Option<SmtpAuth>,
    /// Where POP3 listens; port 0: a free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = ANY_PORT, value_parser = address)]
    pub(crate) pop3: SocketAddr,
    /// Where IMAP listens; port 0: a free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = ANY_PORT, value_parser = address)]
    pub(crate) imap: SocketAddr,
    /// Where POP3 in TLS listens, for which --certificate is needed [default: a free port where there is a certificate]
    #[arg(long, value_name = "HOST:PORT", value_parser = address, requires = "certificate", conflicts_with = "discard")]
    pub(crate) pop3s: Option<SocketAddr>,
    /// Where IMAP in TLS listens, for which --certificate is needed [default: a free port where there is a certificate]
    #[arg(long, value_name = "HOST:PORT", value_parser = address, requires = "certificate", conflicts_with = "discard")]
    pub(crate) imaps: Option<SocketAddr>,
    /// Where the DNS authority listens, UDP and TCP; port 0: a free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = ANY_PORT, value_parser = address)]
    pub(crate) dns: SocketAddr,
    /// Address that the zone names in place of an --smtp-address or --dns that stands for all of the machine's [default: another
    /// one that is listened on]
    #[arg(long, value_name = "HOST", value_parser = ip)]
    pub(crate) publish: Option<IpAddr>,
    /// Zone that the authority serves and the receivers accept mail for
    #[arg(long, value_name = "NAME", default_value = "chasqui.test")]
    pub(crate) zone: String,
    /// Mail domains d0, d1, … in the zone
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number::<u32>)]
    pub(crate) domains: u32,
    /// Name in the receivers' greeting
    #[arg(long, value_name = "NAME", default_value = "sink.chasqui.test")]
    pub(crate) hostname: String,
    /// Offer STARTTLS, in POP3 and IMAP too, and all three in TLS from the start: with a certificate of an authority made at the start (self-signed), or from PEM files (CHAIN,KEY)
    /// [default: no TLS]
    #[arg(long, value_name = "self-signed|CHAIN,KEY")]
    pub(crate) certificate: Option<Certificate>,
    /// File that the certificate of that authority is written to, for those who verify [default: none]
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub(crate) root: Option<PathBuf>,
    /// Take mail for every recipient in every domain; each has a mailbox [default: the zone's alone]
    #[arg(long)]
    pub(crate) catch_all: bool,
    /// Take messages with lines over 998 octets [default: they get 554]
    #[arg(long)]
    pub(crate) allow_long_lines: bool,
    /// Messages kept in all mailboxes together: the oldest makes room for a new one [default: as many as there is memory for,
    /// then new ones get 452]
    #[arg(long, value_name = "N", value_parser = count, conflicts_with = "discard")]
    pub(crate) keep_messages: Option<usize>,
    /// Memory for the messages in mailboxes, such as 512MiB: the oldest make room for a new one [default: 8GiB, then new ones get
    /// 452]
    #[arg(long, value_name = "SIZE", conflicts_with = "discard")]
    pub(crate) keep_memory: Option<ByteSize>,
    /// Serve SMTP clients that do not wait for a reply that they must wait for [default: they get 554]
    #[arg(long)]
    pub(crate) allow_early_talkers: bool,
    #[command(flatten)]
    pub(crate) password: PasswordOptions,
    /// Verify and count messages, keep none: POP3 and IMAP are off
    #[arg(long)]
    pub(crate) discard: bool,
    /// File that keeps the last UIDVALIDITY, one for each sink: the next is higher even if the clock was set back. Without it the
    /// clock alone tells the mailboxes of two starts apart [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Unix sockets that stream arrivals to a load generator: PATH.0 and so on, one a shard [default: none]
    #[arg(long, value_name = "PATH")]
    pub(crate) arrivals: Option<PathBuf>,
    /// Unix socket that answers each line with the counts of the process's rings as JSON [default: none]
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    /// Cores to run on, one shard each, such as 0,2 or 0-3 [default: every core]
    #[arg(long, value_name = "LIST", value_parser = cores)]
    pub(crate) cores: Option<Cores>,
    #[command(flatten)]
    pub(crate) shards: ShardOptions,
}

/// `--auth` of the receivers: whoever logs in, or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SmtpAuth {
    Any,
    File(PathBuf),
}

impl From<&str> for SmtpAuth {
    fn from(text: &str) -> SmtpAuth {
        if text == "any" { SmtpAuth::Any } else { SmtpAuth::File(text.into()) }
    }
}

/// `--certificate`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate(pub(crate) CertificateSource);

impl FromStr for Certificate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "self-signed" {
            return Ok(Certificate(CertificateSource::SelfSigned { root: None }));
        }
        match text.split_once(',') {
            Some((chain, key)) if !chain.is_empty() && !key.is_empty() => {
                Ok(Certificate(CertificateSource::Files { chain: chain.into(), key: key.into() }))
            }
            _ => Err("write self-signed, or two PEM files: CHAIN,KEY".to_owned()),
        }
    }
}
