//! The line on standard output of a program that is ready: JSON, with where it listens.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A relay's line. `ready` is "relay" in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ready", rename = "relay")]
pub struct RelayReady {
    /// The addresses bound, ports chosen by the kernel filled in.
    pub listen: Vec<SocketAddr>,
    /// The control socket, where one is configured.
    pub control: Option<PathBuf>,
    /// The process.
    pub pid: u32,
}

impl RelayReady {
    /// One line of JSON, without its end. Its fields are in the order of their names.
    pub fn to_json_line(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

/// The line of sinks. `ready` is "sink" in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ready", rename = "sink")]
pub struct SinkReady {
    /// The receivers.
    pub smtp: Vec<SocketAddr>,
    /// The receivers in TLS from the first octet on, when there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub smtps: Vec<SocketAddr>,
    /// POP3, when it is served.
    pub pop3: Option<SocketAddr>,
    /// IMAP, when it is served.
    pub imap: Option<SocketAddr>,
    /// POP3 in TLS, when it is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pop3s: Option<SocketAddr>,
    /// IMAP in TLS, when it is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imaps: Option<SocketAddr>,
    /// The DNS authority, when there is one.
    pub dns: Option<SocketAddr>,
    /// The sockets of the arrivals, one per shard.
    pub arrivals: Vec<PathBuf>,
    /// The process.
    pub pid: u32,
}

#[cfg(test)]
mod tests {
    //! The lines are what scripts read.

    use super::*;

    /// The line of a relay, as it was always printed, and as it is read.
    #[test]
    fn a_relays_line() {
        let address = "127.0.0.1:25".parse().expect("an address");
        let ready = RelayReady { listen: vec![address], control: Some("/c".into()), pid: 7 };
        let line = "{\"control\":\"/c\",\"listen\":[\"127.0.0.1:25\"],\"pid\":7,\"ready\":\"relay\"}";
        assert_eq!(ready.to_json_line(), line);
        assert_eq!(serde_json::from_str::<RelayReady>(line).expect("a line"), ready);
    }

    /// The line of sinks, as it was always printed, and as it is read.
    #[test]
    fn the_line_of_sinks() {
        let address = "127.0.0.1:25".parse().expect("an address");
        let arrivals = vec!["/a.0".into()];
        let ready = SinkReady {
            smtp: vec![address],
            smtps: Vec::new(),
            pop3: None,
            imap: None,
            pop3s: None,
            imaps: None,
            dns: Some(address),
            arrivals,
            pid: 7,
        };
        let line = "{\"ready\":\"sink\",\"smtp\":[\"127.0.0.1:25\"],\"pop3\":null,\"imap\":null,\
                    \"dns\":\"127.0.0.1:25\",\"arrivals\":[\"/a.0\"],\"pid\":7}";
        assert_eq!(serde_json::to_string(&ready).expect("JSON"), line);
        assert_eq!(serde_json::from_str::<SinkReady>(line).expect("a line"), ready);
        let ready = SinkReady { imaps: Some(address), ..ready };
        let line = serde_json::to_string(&ready).expect("JSON");
        assert!(line.contains("\"imap\":null,\"imaps\":\"127.0.0.1:25\",\"dns\""), "{line}");
        assert_eq!(serde_json::from_str::<SinkReady>(&line).expect("a line"), ready);
    }
}
