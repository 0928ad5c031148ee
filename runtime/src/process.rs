//! What the kernel knows of this and other processes: CPU time, memory, and the bond to a parent.

use std::io;
use std::time::Duration;

use crate::sim;
use crate::time::{clock, now};

/// The number of this process; in the simulator, of the node's process.
pub fn id() -> u32 {
    sim::here().map_or_else(std::process::id, |here| here.process_number())
}

/// CPU time of a whole process so far: all of its threads, io-wq workers included, user and kernel.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    if sim::is_running() {
        return Ok(Duration::from_nanos(now().as_nanos())); // as if it had worked all the time
    }
    let mut id: libc::clockid_t = 0;
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the call writes the local clock id and nothing else.
    match unsafe { libc::clock_getcpuclockid(pid, &mut id) } {
        0 => {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the call writes the local timespec; an id of a process that has ended gives an error.
            if unsafe { libc::clock_gettime(id, &mut time) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
        }
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// CPU time of the calling thread so far.
pub fn thread_cpu() -> Duration {
    if sim::is_running() {
        return Duration::from_nanos(now().as_nanos());
    }
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Gives freed memory back to the system, of which an allocator keeps much. May take some milliseconds.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    if !sim::is_running() {
        // SAFETY: it takes no pointers, and other threads may allocate meanwhile.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Peak resident memory of a process in bytes (`VmHWM`, which counts mapped files too).
pub fn peak_rss_bytes(pid: u32) -> io::Result<u64> {
    status_field(pid, "VmHWM:")
}

/// Resident anonymous memory of a process in bytes (`RssAnon`: without files and shared memory).
pub fn anonymous_rss_bytes(pid: u32) -> io::Result<u64> {
    status_field(pid, "RssAnon:")
}

fn status_field(pid: u32, field: &str) -> io::Result<u64> {
    if sim::is_running() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/status has no {field}"))
        })
}

/// Asks the kernel to send this process SIGTERM when its parent ends; ends it at once (exit code 1) when the
/// parent had ended before the call.
pub fn end_with_parent(parent: u32) -> io::Result<()> {
    // SAFETY: prctl with PR_SET_PDEATHSIG takes a signal number and no pointers.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if std::os::unix::process::parent_id() != parent {
        std::process::exit(1);
    }
    Ok(())
}

/// Raises the soft limit of open files to the hard limit; returns the limit now in force.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = limit_of(libc::RLIMIT_NOFILE)?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the call reads the local struct and nothing else.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// The limit of open files in force; in the simulator there is none.
pub fn open_files_max() -> io::Result<u64> {
    if sim::is_running() {
        return Ok(u64::MAX);
    }
    Ok(limit_of(libc::RLIMIT_NOFILE)?.rlim_cur)
}

/// Bytes of memory that all processes of this one's user together may lock, io_uring's rings among them; None: no limit is set
/// or known.
pub fn locked_memory_max() -> Option<u64> {
    limit_of(libc::RLIMIT_MEMLOCK)
        .ok()
        .map(|limit| limit.rlim_cur)
        .filter(|bytes| *bytes != libc::RLIM_INFINITY)
}

fn limit_of(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes the local struct and nothing else.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}

/// Sends a signal to a process this one has started.
pub fn signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: kill takes numbers only.
    if unsafe { libc::kill(pid, signal) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clocks of a process and of a thread move while it works, and memory is more than nothing.
    #[test]
    fn own_figures_are_plausible() {
        let pid = std::process::id();
        let (process, thread) = (cpu_time(pid).unwrap(), thread_cpu());
        let mut sum = 0u64;
        while thread_cpu() < thread + Duration::from_millis(5) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(cpu_time(pid).unwrap() >= process + Duration::from_millis(4));
        assert!(peak_rss_bytes(pid).unwrap() > 100_000);
        assert!(anonymous_rss_bytes(pid).unwrap() > 10_000);
        assert!(cpu_time(u32::MAX).is_err());
        assert!(open_files_max().unwrap() > 10);
    }
}
