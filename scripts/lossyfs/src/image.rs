//! What is on the disk: every file and directory as processes see it, and as a power cut would leave it.
//!
//! A file has its bytes and, apart from them, the bytes that are durable with the changes since. A sync makes the
//! changes before it durable. A cut applies a seeded choice of the others, in pieces of 512 bytes, and forgets the
//! rest.
//! A directory's entries are treated alike: synced by a sync of that directory alone, else a prefix survives a cut.
//! So a new file is there after a cut when both the file and its directory were synced, in whatever order.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

/// The inode number of the root directory.
pub(crate) const ROOT: u64 = 1;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// A number generator with a seed (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `end`, without it.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// Why an operation is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotFound,
    NotADirectory,
    IsADirectory,
    Exists,
    NotEmpty,
    NoSpace,
}

/// A file or a directory.
#[derive(Debug)]
pub(crate) enum Node {
    File(File),
    Directory(Directory),
}

/// A regular file.
#[derive(Debug, Default)]
pub(crate) struct File {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Numbered<FileChange>>,
    next_change: u64,
}

/// A directory; each of its changes is atomic and may concern several names.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    entries: Entries,
    durable: Entries,
    changes: Vec<Numbered<Vec<EntryChange>>>,
    next_change: u64,
}

type Entries = BTreeMap<OsString, u64>;
/// A name and what it stands for from now on.
type EntryChange = (OsString, Option<u64>);

#[derive(Debug)]
struct Numbered<T> {
    number: u64,
    /// A sync that covered it has failed: a later one does not make it durable, as the page cache counts it clean.
    failed: bool,
    change: T,
}

#[derive(Debug)]
enum FileChange {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

/// What a cut did to the changes that were not synced; a torn one is kept in part.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Losses {
    pub(crate) kept: usize,
    pub(crate) torn: usize,
    pub(crate) dropped: usize,
    /// Entries of directories that were forgotten.
    pub(crate) entries: usize,
}

/// Everything that is on the disk.
#[derive(Debug)]
pub(crate) struct Image {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Bytes that all files together may have.
    pub(crate) capacity: u64,
}

impl Image {
    /// An empty root directory.
    pub(crate) fn new(capacity: u64) -> Image {
        let root = Node::Directory(Directory::default());
        Image { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, capacity }
    }

    pub(crate) fn node(&self, ino: u64) -> Result<&Node, Refusal> {
        self.nodes.get(&ino).ok_or(Refusal::NotFound)
    }

    fn directory(&self, ino: u64) -> Result<&Directory, Refusal> {
        match self.node(ino)? {
            Node::Directory(directory) => Ok(directory),
            Node::File(_) => Err(Refusal::NotADirectory),
        }
    }

    fn change_directory(&mut self, ino: u64, change: Vec<EntryChange>) -> Result<(), Refusal> {
        let Some(Node::Directory(directory)) = self.nodes.get_mut(&ino) else {
            return Err(Refusal::NotADirectory);
        };
        apply_entries(&mut directory.entries, &change);
        directory.changes.push(Numbered { number: directory.next_change, failed: false, change });
        directory.next_change += 1;
        Ok(())
    }

    fn file_mut(&mut self, ino: u64) -> Result<&mut File, Refusal> {
        match self.nodes.get_mut(&ino).ok_or(Refusal::NotFound)? {
            Node::File(file) => Ok(file),
            Node::Directory(_) => Err(Refusal::IsADirectory),
        }
    }

    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<u64, Refusal> {
        self.directory(parent)?.entries.get(name).copied().ok_or(Refusal::NotFound)
    }

    /// Names and inode numbers of a directory, in order.
    pub(crate) fn list(&self, ino: u64) -> Result<impl Iterator<Item = (&OsString, u64)>, Refusal> {
        Ok(self.directory(ino)?.entries.iter().map(|(name, ino)| (name, *ino)))
    }

    /// Bytes of all files that have a name.
    pub(crate) fn used(&self) -> u64 {
        self.reachable().iter().map(|ino| self.nodes[ino].len()).sum()
    }

    /// The numbers of all files and directories.
    pub(crate) fn inodes(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    fn reachable(&self) -> BTreeSet<u64> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![ROOT]);
        while let Some(ino) = open.pop() {
            if !seen.insert(ino) {
                continue;
            }
            if let Node::Directory(directory) = &self.nodes[&ino] {
                open.extend(directory.entries.values());
            }
        }
        seen
    }

    /// A new file or directory under a name that is free.
    pub(crate) fn make(&mut self, parent: u64, name: &OsStr, node: Node) -> Result<u64, Refusal> {
        if self.directory(parent)?.entries.contains_key(name) {
            return Err(Refusal::Exists);
        }
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, node);
        self.change_directory(parent, vec![(name.to_owned(), Some(ino))])?;
        Ok(ino)
    }

    /// Removes a name; the node stays for those who have it open, until the next cut.
    pub(crate) fn remove(&mut self, parent: u64, name: &OsStr, directory: bool) -> Result<(), Refusal> {
        match (self.node(self.lookup(parent, name)?)?, directory) {
            (Node::Directory(_), false) => return Err(Refusal::IsADirectory),
            (Node::File(_), true) => return Err(Refusal::NotADirectory),
            (Node::Directory(inner), true) if !inner.entries.is_empty() => return Err(Refusal::NotEmpty),
            _ => {}
        }
        self.change_directory(parent, vec![(name.to_owned(), None)])
    }

    /// Gives a node another name, in place of a file that had it. Atomic within a directory; between two, each must be
    /// synced, and after a cut the node may be in both or in none.
    pub(crate) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<(), Refusal> {
        let ino = self.lookup(from.0, from.1)?;
        if let Ok(there) = self.lookup(to.0, to.1)
            && let Node::Directory(_) = self.node(there)?
        {
            return Err(Refusal::Exists);
        }
        let (gone, set) = ((from.1.to_owned(), None), (to.1.to_owned(), Some(ino)));
        if from.0 == to.0 {
            return self.change_directory(from.0, vec![gone, set]);
        }
        self.change_directory(to.0, vec![set])?;
        self.change_directory(from.0, vec![gone])
    }

    pub(crate) fn read(&self, ino: u64, offset: u64, length: u32) -> Result<&[u8], Refusal> {
        let Node::File(file) = self.node(ino)? else { return Err(Refusal::IsADirectory) };
        let start = file.bytes.len().min(offset as usize);
        let end = file.bytes.len().min(start + length as usize);
        Ok(&file.bytes[start..end])
    }

    pub(crate) fn write(&mut self, ino: u64, offset: u64, bytes: &[u8]) -> Result<(), Refusal> {
        let length = self.file_mut(ino)?.bytes.len() as u64;
        let grown = (offset + bytes.len() as u64).saturating_sub(length);
        if grown > 0 && self.used() + grown > self.capacity {
            return Err(Refusal::NoSpace);
        }
        let change = FileChange::Write { offset: offset as usize, bytes: bytes.to_vec() };
        self.file_mut(ino)?.change(change);
        Ok(())
    }

    pub(crate) fn set_length(&mut self, ino: u64, length: u64) -> Result<(), Refusal> {
        self.file_mut(ino)?.change(FileChange::Length(length as usize));
        Ok(())
    }

    /// Where a sync that begins now ends.
    pub(crate) fn mark(&self, ino: u64) -> Result<u64, Refusal> {
        Ok(match self.node(ino)? {
            Node::File(file) => file.next_change,
            Node::Directory(directory) => directory.next_change,
        })
    }

    /// Makes the changes before `mark` durable.
    pub(crate) fn synced(&mut self, ino: u64, mark: u64) {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(file)) => {
                let durable = &mut file.durable;
                settle(&mut file.changes, mark, |change| change.apply(durable));
            }
            Some(Node::Directory(directory)) => {
                let durable = &mut directory.durable;
                settle(&mut directory.changes, mark, |change| apply_entries(durable, change));
            }
            None => {}
        }
    }

    /// A sync of the changes before `mark` has failed: no later one covers them.
    pub(crate) fn sync_failed(&mut self, ino: u64, mark: u64) {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(file)) => fail(&mut file.changes, mark),
            Some(Node::Directory(directory)) => fail(&mut directory.changes, mark),
            None => {}
        }
    }

    /// The power goes: what is not durable is kept, dropped or torn as `random` says. What has no name is gone.
    pub(crate) fn cut(&mut self, random: &mut Random) -> Losses {
        let mut losses = Losses::default();
        for node in self.nodes.values_mut() {
            match node {
                Node::File(file) => file.cut(random, &mut losses),
                Node::Directory(directory) => directory.cut(random, &mut losses),
            }
        }
        let reachable = self.reachable();
        self.nodes.retain(|ino, _| reachable.contains(ino));
        losses
    }

    /// A disk that errs in silence: inverts one byte in each of `count` places where something is written. Returns how
    /// many places there were.
    pub(crate) fn rot(&mut self, count: usize, random: &mut Random) -> usize {
        let mut places = Vec::new();
        for (ino, node) in &self.nodes {
            if let Node::File(file) = node {
                let sectors = file.durable.chunks(SECTOR).enumerate();
                let written = sectors.filter(|(_, bytes)| bytes.iter().all(|byte| *byte != 0));
                places.extend(written.map(|(sector, _)| (*ino, sector * SECTOR)));
            }
        }
        let count = count.min(places.len());
        for _ in 0..count {
            let (ino, at) = places.swap_remove(random.below(places.len()));
            if let Some(Node::File(file)) = self.nodes.get_mut(&ino) {
                file.durable[at] ^= 0xff;
                file.bytes[at] ^= 0xff;
            }
        }
        count
    }
}

impl Node {
    /// Bytes of a file.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Node::File(file) => file.bytes.len() as u64,
            Node::Directory(_) => 0,
        }
    }
}

impl File {
    fn change(&mut self, change: FileChange) {
        change.apply(&mut self.bytes);
        self.changes.push(Numbered { number: self.next_change, failed: false, change });
        self.next_change += 1;
    }

    fn cut(&mut self, random: &mut Random, losses: &mut Losses) {
        let changes = std::mem::take(&mut self.changes);
        let pattern = random.below(5);
        let prefix = random.below(changes.len() + 1);
        for (at, numbered) in changes.iter().enumerate() {
            // All are dropped, all are kept, a prefix is kept, each is kept or dropped, each is torn.
            let keep = match pattern {
                0 => false,
                1 => true,
                2 => at < prefix,
                _ => random.coin(),
            };
            match &numbered.change {
                FileChange::Write { offset, bytes } if pattern == 4 && bytes.len() > SECTOR => {
                    tear(&mut self.durable, *offset, bytes, random);
                    losses.torn += 1;
                }
                change if keep => {
                    change.apply(&mut self.durable);
                    losses.kept += 1;
                }
                _ => losses.dropped += 1,
            }
        }
        self.bytes.clone_from(&self.durable);
    }
}

impl Directory {
    fn cut(&mut self, random: &mut Random, losses: &mut Losses) {
        let changes = std::mem::take(&mut self.changes);
        let kept = random.below(changes.len() + 1);
        changes[..kept].iter().for_each(|numbered| apply_entries(&mut self.durable, &numbered.change));
        losses.entries += changes.len() - kept;
        self.entries.clone_from(&self.durable);
    }
}

impl FileChange {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            FileChange::Write { offset, bytes } => {
                if to.len() < offset + bytes.len() {
                    to.resize(offset + bytes.len(), 0);
                }
                to[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            FileChange::Length(length) => to.resize(*length, 0),
        }
    }
}

/// Each sector of a write reaches the disk, or does not.
fn tear(durable: &mut Vec<u8>, offset: usize, bytes: &[u8], random: &mut Random) {
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
        if random.coin() {
            FileChange::Write { offset: offset + at, bytes: bytes[at..end].to_vec() }.apply(durable);
        }
        at = end;
    }
}

fn apply_entries(entries: &mut Entries, change: &[EntryChange]) {
    for (name, ino) in change {
        match ino {
            Some(ino) => entries.insert(name.clone(), *ino),
            None => entries.remove(name),
        };
    }
}

fn settle<T>(changes: &mut Vec<Numbered<T>>, mark: u64, mut apply: impl FnMut(&T)) {
    changes.retain(|numbered| {
        let covered = numbered.number < mark && !numbered.failed;
        if covered {
            apply(&numbered.change);
        }
        !covered
    });
}

fn fail<T>(changes: &mut [Numbered<T>], mark: u64) {
    changes.iter_mut().filter(|numbered| numbered.number < mark).for_each(|numbered| numbered.failed = true);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file() -> (Image, u64) {
        let mut image = Image::new(1 << 20);
        let ino = image.make(ROOT, OsStr::new("a"), Node::File(File::default())).expect("made");
        (image, ino)
    }

    fn sync(image: &mut Image, ino: u64) {
        let mark = image.mark(ino).expect("there");
        image.synced(ino, mark);
    }

    /// What was synced survives every cut; what was not survives some and not others.
    #[test]
    fn cuts_respect_syncs() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..200 {
            let (mut image, ino) = with_file();
            image.write(ino, 0, &[1; 1024]).expect("written");
            sync(&mut image, ino);
            sync(&mut image, ROOT);
            image.write(ino, 0, &[2; 1024]).expect("written");
            image.write(ino, 1024, &[3; 512]).expect("written");
            image.cut(&mut Random(seed));
            let bytes = image.read(ino, 0, 4096).expect("there").to_vec();
            assert!(bytes.len() >= 1024 && bytes[..1024].iter().all(|byte| [1, 2].contains(byte)));
            assert_eq!(bytes[0], bytes[511], "a sector is never torn");
            outcomes.insert((bytes[0], bytes[512], bytes.len()));
        }
        assert_eq!(outcomes.len(), 8, "{outcomes:?}");
    }

    /// A name that was not synced may be forgotten, one that was removed may come back.
    #[test]
    fn entries_need_their_own_sync() {
        let (mut forgotten, mut back) = (0, 0);
        for seed in 0..100 {
            let (mut image, ino) = with_file();
            sync(&mut image, ino);
            image.cut(&mut Random(seed));
            forgotten += usize::from(image.lookup(ROOT, OsStr::new("a")).is_err());
            let (mut image, _) = with_file();
            sync(&mut image, ROOT);
            image.remove(ROOT, OsStr::new("a"), false).expect("removed");
            image.cut(&mut Random(seed));
            back += usize::from(image.lookup(ROOT, OsStr::new("a")).is_ok());
        }
        assert!((10..90).contains(&forgotten) && (10..90).contains(&back), "{forgotten} {back}");
    }

    /// After a failed sync a later one that succeeds does not make the earlier writes durable.
    #[test]
    fn failed_sync_is_not_made_good() {
        let dropped = |seed| {
            let (mut image, ino) = with_file();
            sync(&mut image, ROOT);
            image.write(ino, 0, b"early").expect("written");
            image.sync_failed(ino, image.mark(ino).expect("there"));
            image.write(ino, 5, b"late").expect("written");
            sync(&mut image, ino);
            image.cut(&mut Random(seed));
            let bytes = image.read(ino, 0, 100).expect("there").to_vec();
            assert_eq!(&bytes[5..], b"late");
            bytes[0] == 0
        };
        assert!((0..50).any(dropped));
    }

    /// Growth beyond the capacity is refused, and rewriting what is there is not.
    #[test]
    fn capacity() {
        let (mut image, ino) = with_file();
        image.capacity = 1000;
        image.write(ino, 0, &[1; 1000]).expect("fits");
        assert_eq!(image.write(ino, 1000, &[1]), Err(Refusal::NoSpace));
        image.write(ino, 0, &[2; 1000]).expect("was there before");
        image.remove(ROOT, OsStr::new("a"), false).expect("removed");
        assert_eq!(image.used(), 0);
    }
}
