//! A disk whose power can be cut: a FUSE file system in memory that forgets what was not synced.
//!
//!     chasqui-lossyfs DIR [--sync-ms N]
//!
//! Mounts on DIR, says `ready`, then obeys one command a line on standard input and answers each with one line:
//!
//! - `cut SEED`: the power goes. What is not durable is kept, dropped or torn; the connection to the kernel is aborted,
//!   so that whoever uses the file system gets errors. Answers with what became of the changes that were not synced.
//! - `mount`: unmounts what is left and mounts what has survived. All users must be gone.
//! - `fault sync|write|none`: syncs or writes answer EIO from now on.
//! - `capacity BYTES`: growth beyond it answers ENOSPC.
//! - `rot COUNT SEED`: inverts single bytes on the disk, and lets the kernel forget what it has read.
//! - `stats`: writes, syncs, failures and bytes used.
//!
//! At the end of the input it unmounts and ends, so nothing stays behind a caller that died. Needs root and /dev/fuse.

mod filesystem;
mod image;

use std::fmt::Display;
use std::io::{self, BufRead, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{INodeNo, Notifier, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::filesystem::{Disk, Fault, Mounted, Sync, lock};
use crate::image::{Image, Random};

const CAPACITY: u64 = 64 << 30;
/// How long an unmount waits for users to go before it detaches the mount from under them.
const UNMOUNT_WITHIN: Duration = Duration::from_secs(5);

struct Daemon {
    directory: PathBuf,
    disk: Arc<Mutex<Disk>>,
    syncs: Sender<Sync>,
    sync_time: Duration,
    session: Option<JoinHandle<io::Result<()>>>,
    notifier: Option<Notifier>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, sync_ms) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [directory] => (directory, Some(3)),
        [directory, "--sync-ms", number] => (directory, number.parse().ok()),
        _ => ("", None),
    };
    let Some(sync_ms) = sync_ms else {
        eprintln!("usage: chasqui-lossyfs DIR [--sync-ms N]");
        return ExitCode::from(2);
    };
    match serve(directory.into(), Duration::from_millis(sync_ms)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chasqui-lossyfs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(directory: PathBuf, sync_time: Duration) -> io::Result<()> {
    let disk = Arc::new(Mutex::new(Disk {
        image: Image::new(CAPACITY),
        fault: Fault::None,
        off: false,
        life: 0,
        writes: 0,
        syncs: 0,
        failures: 0,
    }));
    let (syncs, begun) = channel::<Sync>();
    let settling = disk.clone();
    std::thread::spawn(move || begun.into_iter().for_each(|sync| sync.finish(&settling)));
    let mut daemon = Daemon { directory, disk, syncs, sync_time, session: None, notifier: None };
    daemon.mount()?;
    let served = daemon.obey();
    daemon.abort();
    daemon.unmount()?;
    served
}

impl Daemon {
    fn obey(&mut self) -> io::Result<()> {
        say("ready")?;
        for line in io::stdin().lock().lines() {
            let line = line?;
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["cut", seed] => say(self.cut(number(seed)?))?,
                ["mount"] => {
                    self.mount()?;
                    say("mounted")?;
                }
                ["fault", what] => {
                    lock(&self.disk).fault = match what {
                        "sync" => Fault::Sync,
                        "write" => Fault::Write,
                        "none" => Fault::None,
                        _ => return Err(unknown(&line)),
                    };
                    say("fault set")?;
                }
                ["capacity", bytes] => {
                    lock(&self.disk).image.capacity = number(bytes)?;
                    say("capacity set")?;
                }
                ["rot", count, seed] => {
                    let (count, mut random) = (number(count)?, Random(number(seed)?));
                    let rotten = lock(&self.disk).image.rot(count as usize, &mut random);
                    self.forget_pages();
                    say(format!("rotten {rotten}"))?;
                }
                ["stats"] => {
                    let disk = lock(&self.disk);
                    let (writes, syncs, failures) = (disk.writes, disk.syncs, disk.failures);
                    let used = disk.image.used();
                    say(format!("writes {writes} syncs {syncs} failures {failures} used {used}"))?;
                }
                _ => return Err(unknown(&line)),
            }
        }
        Ok(())
    }

    fn mount(&mut self) -> io::Result<()> {
        self.unmount()?;
        lock(&self.disk).off = false;
        let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("chasqui-lossyfs"), &self.directory, Some("fuse"), flags, Some(options.as_str()))?;
        let mounted =
            Mounted { disk: self.disk.clone(), syncs: self.syncs.clone(), sync_time: self.sync_time };
        let session = Session::from_fd(mounted, device.into(), SessionACL::Owner, fuser::Config::default())?;
        self.notifier = Some(session.notifier());
        self.session = Some(std::thread::spawn(move || session.run()));
        Ok(())
    }

    /// Freezes what survives before anybody can notice that the power is gone.
    fn cut(&mut self, seed: u64) -> String {
        let losses = {
            let mut disk = lock(&self.disk);
            disk.off = true;
            disk.life += 1;
            disk.image.cut(&mut Random(seed))
        };
        self.abort();
        let image::Losses { kept, torn, dropped, entries } = losses;
        format!("kept {kept} torn {torn} dropped {dropped} entries {entries}")
    }

    /// The kernel reads every page anew.
    fn forget_pages(&self) {
        let inodes = lock(&self.disk).image.inodes();
        if let Some(notifier) = &self.notifier {
            for ino in inodes {
                // ENOENT: the kernel has never heard of it. ENODEV: nothing is mounted.
                let _ = notifier.inval_inode(INodeNo(ino), 0, 0);
            }
        }
    }

    /// A forced unmount aborts the connection, and leaves the mount to those who have files open.
    fn abort(&mut self) {
        // EBUSY is what it says when somebody has; there is nothing to do about any other error here.
        let _ = umount2(&self.directory, MntFlags::MNT_FORCE);
    }

    /// Unmounts, if mounted, and waits for the session to end.
    fn unmount(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let deadline = Instant::now() + UNMOUNT_WITHIN;
        loop {
            match umount2(&self.directory, MntFlags::empty()) {
                // EINVAL: the forced unmount has done it already, as nobody had a file open.
                Ok(()) | Err(Errno::EINVAL) => break,
                Err(Errno::EBUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                Err(Errno::EBUSY) => umount2(&self.directory, MntFlags::MNT_DETACH)?,
                Err(error) => return Err(error.into()),
            }
        }
        session.join().map_err(|_| io::Error::other("the session panicked"))?
    }
}

fn say(line: impl Display) -> io::Result<()> {
    println!("{line}");
    io::stdout().flush()
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::Error::other(format!("not a number: {text}")))
}

fn unknown(line: &str) -> io::Error {
    io::Error::other(format!("unknown command: {line}"))
}
