//! Open files: whether the limit suffices for the connections that the configuration allows, besides what the spool, the
//! control socket and the process itself need.

use crate::config::Config;
use crate::route::ResolverConfig;

/// Descriptors of the process: standard streams, the resolver without its questions, threads.
const PROCESS: u64 = 64;
/// Of a shard: rings and their bell, files of the spool that are being written, connections that are being refused.
const SHARD: u64 = 32 + REFUSED_MAX as u64;
/// Of the control socket.
const CONTROL: u64 = 64;
/// Connections refused at a time, on each shard; more are closed without a word.
pub(crate) const REFUSED_MAX: usize = 64;
/// Connections that may wait for their acceptance on one socket, at most and at least.
const BACKLOG: (u64, u64) = (64, 4096);

/// Connections that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fit {
    pub(crate) incoming: usize,
    pub(crate) outgoing: usize,
    /// For each listening socket.
    pub(crate) backlog: u32,
}

impl Fit {
    /// What the limit on open files leaves for connections. Where that is too little for what the configuration allows, a third
    /// of it is for outgoing ones, and what one kind does not want the other gets.
    pub(crate) fn new(config: &Config, shards: usize, limit: u64) -> Fit {
        let sockets = (shards * config.listeners().len()).max(1) as u64;
        // Every segment is open, and each shard has some to spare; but small segments must not leave nothing for the rest.
        let segments = config.spool.space.0 / config.spool.segment_size.0 + 4 * shards as u64;
        let segments = segments.min(limit / 4);
        let lookups = ResolverConfig::for_files(limit).sockets_max() as u64;
        let reserve = PROCESS + lookups + CONTROL + SHARD * shards as u64 + segments + BACKLOG.0 * sockets;
        // With little, half of it: not everything is open at a time.
        let left = limit - reserve.min(limit / 2);
        let (incoming, outgoing) = (config.limits.connections as u64, config.delivery.connections as u64);
        let third = (left / 3).max(1);
        let incoming_fit = incoming.min(left.saturating_sub(outgoing.min(third))).max(1);
        let outgoing_fit = outgoing.min(left.saturating_sub(incoming_fit)).max(1);
        let spare = left.saturating_sub(incoming_fit + outgoing_fit);
        let number = |octets: u64| usize::try_from(octets).unwrap_or(usize::MAX);
        Fit {
            incoming: number(incoming_fit),
            outgoing: number(outgoing_fit),
            backlog: (BACKLOG.0 + spare / sockets).min(BACKLOG.1) as u32,
        }
    }

    /// Lowers the limits of the configuration to what fits; the line that says so, if it is less.
    pub(crate) fn apply(self, config: &mut Config, limit: u64) -> Option<String> {
        let (incoming, outgoing) = (config.limits.connections, config.delivery.connections);
        if (self.incoming, self.outgoing) == (incoming, outgoing) {
            return None;
        }
        (config.limits.connections, config.delivery.connections) = (self.incoming, self.outgoing);
        Some(format!(
            "{limit} open files are too few for limits.connections = {incoming} and delivery.connections = {outgoing}: {} and {} \
             are allowed; raise the limit on open files (ulimit -n, LimitNOFILE) or lower them",
            self.incoming, self.outgoing
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config() -> Config {
        let text = "hostname = \"a.test\"\nspool.directory = \"/spool\"\n";
        Config::parse(text, Path::new("t")).unwrap()
    }

    /// Connections, spool and control together stay within any limit that leaves room for them, and what is lowered is said in
    /// one line.
    #[test]
    fn limits_fit() {
        for limit in [4096, 8192, 20_000, 1 << 20] {
            let lookups = ResolverConfig::for_files(limit).sockets_max() as u64;
            let reserve = PROCESS + lookups + CONTROL + 2 * SHARD + 64 + 8;
            let mut config = config();
            let fit = Fit::new(&config, 2, limit);
            let taken = fit.incoming as u64 + fit.outgoing as u64 + 2 * u64::from(fit.backlog) + reserve;
            assert!(taken <= limit, "{limit}: {fit:?}");
            assert!(fit.outgoing as u64 >= ((limit - reserve - 128) / 3).min(1000), "{limit}: {fit:?}");
            let line = fit.apply(&mut config, limit);
            assert_eq!(line.is_some(), limit < 12_000, "{limit}: {line:?}");
            assert!(line.is_none_or(|line| !line.contains('\n')));
            assert_eq!(
                (config.limits.connections, config.delivery.connections),
                (fit.incoming, fit.outgoing)
            );
        }
        assert_eq!(Fit::new(&config(), 2, u64::MAX), Fit { incoming: 10_000, outgoing: 1000, backlog: 4096 });
        for limit in [20, 300, 1024] {
            let Fit { incoming, outgoing, .. } = Fit::new(&config(), 2, limit);
            let all = (incoming + outgoing) as u64;
            assert!(
                all <= limit / 2 && all > limit / 3 && outgoing as u64 >= limit / 6,
                "{incoming} {outgoing}"
            );
        }
    }

    /// What incoming connections do not want is there for deliveries.
    #[test]
    fn deliveries_get_what_is_left() {
        let mut config = config();
        (config.limits.connections, config.delivery.connections) = (10, 1000);
        let fit = Fit::new(&config, 1, 1024);
        assert!(fit.incoming == 10 && fit.outgoing > 300, "{fit:?}");
    }
}
