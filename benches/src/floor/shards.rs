//! Threads, one for each core of a part, and the sockets they begin with.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The measurement is over: connections may end.
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// Lets the shards end without a word.
pub(crate) fn end() {
    IS_OVER.store(true, Ordering::Relaxed);
}

/// Ends the process with the shard, however that ends before the time: the others would wait for it.
struct EndsAll;

impl Drop for EndsAll {
    fn drop(&mut self) {
        if !IS_OVER.load(Ordering::Relaxed) {
            std::process::exit(1);
        }
    }
}

/// Runs `shard` with its number on a thread for each core.
pub(crate) fn start<F>(part: &str, cores: &[usize], shard: F) -> io::Result<()>
where
    F: Fn(usize) -> io::Result<()> + Clone + Send + 'static,
{
    for (index, core) in cores.iter().copied().enumerate() {
        let (shard, part) = (shard.clone(), format!("{part}-{index}"));
        std::thread::Builder::new().name(part.clone()).spawn(move || {
            let _ends_all = EndsAll;
            match pin(core).and_then(|()| shard(index)) {
                Err(error) if !IS_OVER.load(Ordering::Relaxed) => eprintln!("floor: {part}: {error}"),
                _ => {}
            }
        })?;
    }
    Ok(())
}

/// A listening socket on a free port of the loopback, for a shard of its own: the peers share themselves out.
pub(crate) fn listen() -> io::Result<(RawFd, u16)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let socket = listener.into_raw_fd();
    // SAFETY: listen() takes no pointers; called again it lengthens the backlog, which std keeps at 128.
    if unsafe { libc::listen(socket, 4096) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((socket, port))
}

/// The connections of shard `shard` of `shards`, which have `connections` together, to the ports in turn.
pub(crate) fn connect(
    connections: usize,
    shard: usize,
    shards: usize,
    ports: &[u16],
) -> io::Result<Vec<RawFd>> {
    (0..connections)
        .filter(|connection| connection % shards == shard)
        .map(|connection| {
            let stream = TcpStream::connect(("127.0.0.1", ports[connection % ports.len()]))?;
            stream.set_nodelay(true)?;
            Ok(stream.into_raw_fd())
        })
        .collect()
}

/// Switches off Nagle's algorithm on a connection that was accepted.
pub(crate) fn set_no_delay(socket: RawFd) {
    let on: libc::c_int = 1;
    // SAFETY: the call reads an int of the given length.
    unsafe {
        libc::setsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as u32,
        );
    }
}

fn pin(core: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: CPU_SET checks the index against the set's size.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the call reads the given size from the local set.
    if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The socket of a completed accept.
pub(crate) fn accepted(result: i32) -> io::Result<RawFd> {
    if result < 0 { Err(failed("accept", result)) } else { Ok(result) }
}

/// What a completion tells that should not have been.
pub(crate) fn failed(what: &str, result: i32) -> io::Error {
    let error =
        if result < 0 { io::Error::from_raw_os_error(-result) } else { io::ErrorKind::WriteZero.into() };
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
