//! The command line, of the whole and of its children.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Which of the three processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The generator, which starts the others and measures.
    Bench,
    Relay,
    Sink,
}

/// What the processes are told.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) role: Role,
    pub(crate) connections: usize,
    pub(crate) window: Duration,
    pub(crate) warmup: Duration,
    /// Octets of a message as the generator sends it, without the final dot.
    pub(crate) size: usize,
    pub(crate) relay_cores: Vec<usize>,
    pub(crate) sink_cores: Vec<usize>,
    pub(crate) generator_cores: Vec<usize>,
    /// Where the segments lie.
    pub(crate) spool: PathBuf,
    /// Where the relay finds the sink: the ports of its shards.
    pub(crate) ports: Vec<u16>,
}

impl Options {
    /// Reads the arguments; the error is one line.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            role: Role::Bench,
            connections: 200,
            window: Duration::from_secs(6),
            warmup: Duration::from_secs(2),
            size: 2048,
            relay_cores: vec![0],
            sink_cores: vec![1],
            generator_cores: vec![1],
            spool: std::env::temp_dir(),
            ports: Vec::new(),
        };
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
            match name.as_str() {
                "relay" => options.role = Role::Relay,
                "sink" => options.role = Role::Sink,
                "--connections" => options.connections = number(&name, &value()?, 1)?,
                "--seconds" => options.window = Duration::from_secs(number(&name, &value()?, 1)?),
                "--warmup" => options.warmup = Duration::from_secs(number(&name, &value()?, 0)?),
                "--size" => options.size = number(&name, &value()?, 64)?,
                "--relay-cores" => options.relay_cores = list(&name, &value()?)?,
                "--sink-cores" => options.sink_cores = list(&name, &value()?)?,
                "--generator-cores" => options.generator_cores = list(&name, &value()?)?,
                "--spool" => options.spool = value()?.into(),
                "--ports" => options.ports = list(&name, &value()?)?,
                _ => return Err(format!("{name:?} is no option; the head of benches/src/floor names them")),
            }
        }
        Ok(options)
    }

    /// The arguments that tell a child the same.
    pub(crate) fn for_child(&self, role: &str, ports: &[u16]) -> Vec<String> {
        let mut arguments = vec![role.to_owned()];
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        add("--connections", self.connections.to_string());
        add("--size", self.size.to_string());
        add("--relay-cores", joined(&self.relay_cores));
        add("--sink-cores", joined(&self.sink_cores));
        add("--spool", self.spool.to_string_lossy().into_owned());
        if !ports.is_empty() {
            add("--ports", joined(ports));
        }
        arguments
    }
}

/// Numbers with commas between.
pub(crate) fn joined<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

fn number<T: FromStr + PartialOrd>(name: &str, text: &str, least: T) -> Result<T, String> {
    let value = text.parse().ok().filter(|value| *value >= least);
    value.ok_or_else(|| format!("{name} {text:?} is no whole number in range"))
}

fn list<T: FromStr>(name: &str, text: &str) -> Result<Vec<T>, String> {
    let values: Result<Vec<T>, T::Err> = text.split(',').map(str::parse).collect();
    values.map_err(|_| format!("{name} {text:?} is no list of whole numbers with commas between"))
}
