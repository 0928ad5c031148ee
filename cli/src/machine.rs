//! Facts about this machine that a figure means nothing without.

use crate::mounts::Mount;
use chasqui_runtime::now;
use std::io::{self, Write};
use std::path::Path;

/// Writes of the disk probe, each 4 KiB and synced: enough for a median, few enough to cost under 0.2 s on most disks.
const PROBE_SYNCS: usize = 64;
const PROBE_BLOCK: [u8; 4096] = [0x43; 4096];

/// What the kernel tells of the machine; `None` where it does not.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) kernel: Option<String>,
    pub(crate) cpu: Option<String>,
    pub(crate) cores: Option<u32>,
    pub(crate) memory_bytes: Option<u64>,
}

impl Facts {
    /// Reads them from /proc.
    pub(crate) fn read() -> Facts {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        let cpu = std::fs::read_to_string("/proc/cpuinfo").ok();
        let memory = std::fs::read_to_string("/proc/meminfo").ok();
        Facts {
            kernel: kernel.map(|kernel| kernel.trim().to_owned()),
            cpu: cpu.as_deref().and_then(|cpu| field(cpu, "model name")).map(str::to_owned),
            cores: std::thread::available_parallelism().ok().map(|cores| cores.get() as u32),
            memory_bytes: memory.as_deref().and_then(|memory| {
                let kib: u64 = field(memory, "MemTotal")?.strip_suffix(" kB")?.parse().ok()?;
                Some(kib * 1024)
            }),
        }
    }
}

/// The value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// The disk under the spool.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) mount: Option<Mount>,
    /// Median time of a 4 KiB append and its fdatasync, microseconds.
    pub(crate) fdatasync_us_p50: Option<f64>,
}

impl Disk {
    /// Measures the disk under `folder` with a few synced writes to a file that is gone afterwards.
    pub(crate) fn probe(folder: &Path) -> Disk {
        Disk { mount: Mount::of(folder), fdatasync_us_p50: fdatasync_us_p50(folder).ok() }
    }
}

fn fdatasync_us_p50(folder: &Path) -> io::Result<f64> {
    // Written once before, so that the measured syncs are of data and not of the file's growth, as in a spool segment.
    let mut file = tempfile::tempfile_in(folder)?;
    for _ in 0..PROBE_SYNCS {
        file.write_all(&PROBE_BLOCK)?;
    }
    file.sync_all()?;
    io::Seek::rewind(&mut file)?;
    let mut times_us = Vec::with_capacity(PROBE_SYNCS);
    for _ in 0..PROBE_SYNCS {
        let start = now();
        file.write_all(&PROBE_BLOCK)?;
        file.sync_data()?;
        times_us.push(start.elapsed().as_nanos() as f64 / 1000.0);
    }
    times_us.sort_by(f64::total_cmp);
    Ok(times_us[PROBE_SYNCS / 2])
}

#[cfg(test)]
mod tests {
    //! Prove: the facts of a Linux machine are found, and the probe measures.
    use super::*;

    #[test]
    fn facts_are_found() {
        let facts = Facts::read();
        assert!(facts.kernel.is_some_and(|kernel| !kernel.is_empty()));
        assert!(facts.cores.is_some_and(|cores| cores > 0));
        assert!(facts.memory_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(field("processor : 0\nmodel name\t: Some CPU\n", "model name"), Some("Some CPU"));
    }

    #[test]
    fn the_disk_is_measured() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(Disk::probe(folder.path()).fdatasync_us_p50.is_some_and(|us| us > 0.0));
    }
}
