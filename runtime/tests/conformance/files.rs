//! Files, segments and directories, and their errors.

use chasqui_runtime::fs::{self, File, OpenOptions, Segment};

use crate::{Folder, on_every_engine};

on_every_engine!(files, segments, directories, errors_come_through, locks);

const ALL: OpenOptions =
    OpenOptions { read: true, write: true, create: true, create_new: false, truncate: false, regular: false };

/// Files keep what was written, and reads stop at the end.
async fn files() {
    let folder = Folder::new().await;
    let path = folder.join("file");
    let file = File::open(&path, &ALL).await.unwrap();
    let returned = file.write_at(b"0123456789".to_vec(), 5).await.unwrap();
    assert!(returned.is_empty() && returned.capacity() >= 10);
    file.allocate(0, 100).await.unwrap();
    file.sync_data().await.unwrap();
    assert_eq!(file.len().await.unwrap(), 100);
    assert_eq!(file.read_at(5, 10).await.unwrap(), b"0123456789");
    assert_eq!(file.read_at(95, 10).await.unwrap(), [0; 5]);
    let long: Vec<u8> = (0..300_000u32).map(|index| (index % 247) as u8).collect();
    file.write_at(long.clone(), 5000).await.unwrap();
    assert!(file.read_at(5000, 400_000).await.unwrap() == long);
    let again = File::open(&path, &OpenOptions { truncate: true, ..ALL }).await.unwrap();
    assert_eq!((again.len().await.unwrap(), file.len().await.unwrap()), (0, 0));
}

/// Segments start as zeros, keep what is appended, and open again.
async fn segments() {
    let folder = Folder::new().await;
    let path = folder.join("segment");
    let segment = Segment::create(&path, 1 << 20).await.unwrap();
    segment.append_at(4096, &[b"ab", b"", b"cd"]).unwrap();
    let many: Vec<&[u8]> = (0..200).map(|_| &b"xyz"[..]).collect();
    segment.append_at(8192, &many).unwrap();
    segment.sync().await.unwrap();
    assert_eq!(segment.read(4095, 6).unwrap(), b"\0abcd\0");
    assert_eq!(segment.read(8192, 601).unwrap(), [&b"xyz".repeat(200)[..], b"\0"].concat());
    assert!(segment.append_at((1 << 20) - 1, &[b"ab"]).is_err(), "nothing is written past the end");
    let again = Segment::open(&path).await.unwrap();
    assert_eq!((again.len(), again.read_async(4096, 4).await.unwrap()), (1 << 20, b"abcd".to_vec()));
    assert!(Segment::create(&path, 1).await.is_err());
    fs::remove_file(&path).await.unwrap();
    assert_eq!(segment.read(4096, 4).unwrap(), b"abcd", "an open file outlives its name");
    let memory = Segment::anonymous(10_000).unwrap();
    memory.append_at(9_990, &[b"0123456789"]).unwrap();
    assert_eq!(memory.read(9_995, 5).unwrap(), b"56789");
    assert!(memory.read(9_995, 6).is_err());
}

/// Whoever wants regular files gets no others: a pipe in the place of one hangs nobody, and a link is not followed. A
/// segment knows whether it has a name, a lock whether its directory is where it was.
#[test]
fn regular_files_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    chasqui_runtime::run(chasqui_runtime::Config::default(), move || {
        let path = path.clone();
        async move {
            let regular = OpenOptions { regular: true, ..ALL };
            let (file, pipe, link) = (path.join("file"), path.join("pipe"), path.join("link"));
            drop(File::open(&file, &regular).await.unwrap());
            assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            std::os::unix::fs::symlink(&file, &link).unwrap();
            let only = |read| OpenOptions { read, write: !read, regular: true, ..OpenOptions::default() };
            for other in [&pipe, &link, &path] {
                for options in [only(true), only(false)] {
                    assert!(File::open(other, &options).await.is_err(), "{}", other.display());
                }
                assert!(Segment::open(other).await.is_err(), "{}", other.display());
            }
            let segment = Segment::create(&path.join("segment"), 4096).await.unwrap();
            assert!(segment.is_linked());
            fs::remove_file(&path.join("segment")).await.unwrap();
            assert!(!segment.is_linked());
            let (place, other) = (path.join("place"), path.join("other"));
            fs::create_dir_all(&place).await.unwrap();
            let lock = fs::lock_dir(&place).await.unwrap();
            assert!(lock.is_at(&place));
            fs::rename(&place, &other).await.unwrap();
            assert!(!lock.is_at(&place) && lock.is_at(&other));
            fs::create_dir_all(&place).await.unwrap();
            assert!(!lock.is_at(&place), "another directory has its name");
        }
    })
    .unwrap();
}

/// Entries are made, listed in order, renamed over one another, and removed.
async fn directories() {
    let folder = Folder::new().await;
    let inner = folder.join("a/b");
    fs::create_dir_all(&inner).await.unwrap();
    fs::create_dir_all(&inner).await.unwrap();
    for name in ["two", "one", "three"] {
        let file = File::open(&inner.join(name), &ALL).await.unwrap();
        file.write_at(name.as_bytes().to_vec(), 0).await.unwrap();
    }
    fs::sync_dir(&inner).await.unwrap();
    let listed = fs::read_dir(&inner).await.unwrap();
    assert_eq!(listed, ["one", "three", "two"].map(|name| inner.join(name)));
    fs::rename(&inner.join("one"), &inner.join("two")).await.unwrap();
    assert_eq!(fs::read_dir(&inner).await.unwrap(), ["three", "two"].map(|name| inner.join(name)));
    let file = File::open(&inner.join("two"), &ALL).await.unwrap();
    assert_eq!(file.read_at(0, 10).await.unwrap(), b"one");
    fs::rename(&folder.join("a"), &folder.join("c")).await.unwrap();
    assert_eq!(fs::read_dir(&folder.join("c/b")).await.unwrap().len(), 2);
    assert_eq!(fs::read_dir(&folder.path).await.unwrap(), [folder.join("c")]);
    assert!(fs::available_bytes(&folder.path).await.unwrap() > 0);
    fs::filesystem_kind(&folder.path).await.unwrap();
}

/// What is not there is not found, and what is there is not made anew.
async fn errors_come_through() {
    use std::io::ErrorKind::{AlreadyExists, NotFound};
    let folder = Folder::new().await;
    let missing = folder.join("missing");
    let read = OpenOptions { read: true, ..OpenOptions::default() };
    let kind = |outcome: std::io::Result<()>| outcome.unwrap_err().kind();
    assert_eq!(kind(File::open(&missing, &read).await.map(drop)), NotFound);
    assert_eq!(kind(File::open(&missing.join("below"), &ALL).await.map(drop)), NotFound);
    assert_eq!(kind(Segment::open(&missing).await.map(drop)), NotFound);
    assert_eq!(kind(fs::read_dir(&missing).await.map(drop)), NotFound);
    assert_eq!(kind(fs::remove_file(&missing).await), NotFound);
    assert_eq!(kind(fs::rename(&missing, &folder.join("other")).await), NotFound);
    assert_eq!(kind(fs::sync_dir(&missing).await), NotFound);
    File::open(&missing, &OpenOptions { create_new: true, ..ALL }).await.unwrap();
    let again = File::open(&missing, &OpenOptions { create_new: true, ..ALL }).await;
    assert_eq!(kind(again.map(drop)), AlreadyExists);
    assert_eq!(kind(Segment::create(&missing, 1).await.map(drop)), AlreadyExists);
}

/// A locked directory is refused until the lock is given up.
async fn locks() {
    let folder = Folder::new().await;
    let lock = fs::lock_dir(&folder.path).await.unwrap();
    let refused = fs::lock_dir(&folder.path).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
    drop(lock);
    fs::lock_dir(&folder.path).await.unwrap();
}
