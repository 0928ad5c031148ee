//! What happens to a spool's files: octets and sectors change, files are cut, lost, copied.

use std::collections::BTreeSet;

use crc32c::{crc32c, crc32c_append};

use super::model::{Model, Sent};
use super::{Image, Program};
use crate::spool::format::headers::{BLOCK, GROUP_HEADER, GroupHeader, RECORD_HEADER, RecordHeader};

/// A spool's files with the damage so far.
pub(super) struct Damaged {
    pub(super) images: Vec<Image>,
    /// Checksums were made to agree with what was changed.
    pub(super) forged: bool,
    /// Where groups were, by the index of their file in the undamaged spool.
    groups: Vec<(usize, u64, u64)>,
    /// What was changed, likewise.
    touched: Vec<(usize, u64, u64)>,
    /// Files that were cut or lost.
    gone: BTreeSet<usize>,
}

impl Damaged {
    pub(super) fn new(images: Vec<Image>, model: &Model) -> Damaged {
        let groups = model.groups().to_vec();
        Damaged { images, forged: false, groups, touched: Vec::new(), gone: BTreeSet::new() }
    }

    /// Whether the message's groups, and the headers of their files, are as they were written.
    pub(super) fn spares(&self, sent: &Sent) -> bool {
        let meets = |(file, from, to): (usize, u64, u64)| {
            self.touched.iter().any(|(other, first, last)| *other == file && *first < to && from < *last)
        };
        sent.places
            .iter()
            .all(|place| !self.gone.contains(&place.0) && !meets(*place) && !meets((place.0, 0, BLOCK)))
    }

    pub(super) fn step(&mut self, program: &mut Program<'_>) {
        if self.images.is_empty() {
            return;
        }
        match program.byte() % 10 {
            0..=2 => {
                let (file, from, to) = self.groups[program.word() % self.groups.len()];
                let at = from + program.word() as u64 % (to - from);
                self.change(file, at, 1, |bytes| bytes[0] ^= program.byte().max(1));
            }
            3 => {
                let (file, at) = self.any_place(program);
                self.change(file, at, 1, |bytes| bytes[0] ^= program.byte().max(1));
            }
            4 => {
                let (file, at) = self.any_place(program);
                self.change(file, at / 512 * 512, 512, |bytes| bytes.fill(0));
            }
            5 => {
                let ((from, source), (to, target)) = (self.any_place(program), self.any_place(program));
                let block = |at: u64| at / BLOCK * BLOCK;
                let copied = self.read(from, block(source));
                self.change(to, block(target), copied.len(), |bytes| {
                    let length = bytes.len();
                    bytes.copy_from_slice(&copied[..length]);
                });
            }
            6 => {
                let index = program.word() % self.images.len();
                let image = &mut self.images[index];
                let most = image.bytes.len() - BLOCK as usize - 1;
                image.bytes.truncate(BLOCK as usize + 1 + program.word() % most.max(1));
                self.gone.insert(image.file as usize - 1);
            }
            7 => {
                let lost = self.images.remove(program.word() % self.images.len());
                self.gone.insert(lost.file as usize - 1);
            }
            8 => {
                let copy = self.images[program.word() % self.images.len()].clone();
                let file = 1000 + self.images.len() as u32;
                self.images.push(Image { file, ..copy });
            }
            _ => self.forge(program),
        }
    }

    /// A file of the undamaged spool and an offset in it.
    fn any_place(&self, program: &mut Program<'_>) -> (usize, u64) {
        let (file, _, _) = self.groups[program.word() % self.groups.len()];
        (file, program.word() as u64)
    }

    /// The block there, as far as there is one.
    fn read(&self, file: usize, at: u64) -> Vec<u8> {
        let image = self.images.iter().find(|image| image.file as usize == file + 1);
        let bytes = image.map_or(&[][..], |image| &image.bytes);
        bytes.get(at as usize..).unwrap_or_default().iter().copied().take(BLOCK as usize).collect()
    }

    fn change(&mut self, file: usize, at: u64, length: usize, how: impl FnOnce(&mut [u8])) {
        let Some(image) = self.images.iter_mut().find(|image| image.file as usize == file + 1) else {
            return;
        };
        let end = (at as usize + length).min(image.bytes.len());
        // Of a file that was cut off right there, nothing is left to change.
        if let Some(bytes) = image.bytes.get_mut(at as usize..end).filter(|bytes| !bytes.is_empty()) {
            how(bytes);
            self.touched.push((file, at, end as u64));
        }
    }

    /// Changes a field of a group, and every checksum with it.
    fn forge(&mut self, program: &mut Program<'_>) {
        let (file, from, _) = self.groups[program.word() % self.groups.len()];
        let (within, how, value) = (program.word() % 400, program.byte(), program.byte());
        let Some(image) = self.images.iter_mut().find(|image| image.file as usize == file + 1) else {
            return;
        };
        let at = from as usize + 8 + within;
        let Some(field) = image.bytes.get_mut(at..at + 8) else { return };
        match how % 4 {
            0 => field[0] = value,
            1 => field[..4].fill(if value % 2 == 0 { 0xff } else { 0 }),
            2 => field.fill(0xff),
            _ => field[0] ^= 1 << (value % 8),
        }
        self.forged = true;
        refit(&mut image.bytes[from as usize..]);
    }
}

/// Makes the checksums of the group that starts here right, as far as it can be read.
fn refit(bytes: &mut [u8]) {
    let Some((header, _)) = GroupHeader::decode(bytes) else { return };
    let Some(group) = bytes.get_mut(..header.length as usize) else { return };
    let mut crc = header.checksum();
    let mut at = GROUP_HEADER;
    for index in 0..header.records {
        let Some((mut record, _)) = group.get(at..).and_then(RecordHeader::decode) else { return };
        let payload = at + RECORD_HEADER;
        let end = payload + record.payload_length() as usize;
        let Some(payload_crc) = group.get(payload..end).map(crc32c) else { return };
        record.sequence = header.first_sequence.wrapping_add(index.into());
        record.epoch = header.identity.epoch;
        record.encode(&mut group[at..payload], payload_crc);
        crc = crc32c_append(crc, &group[at..payload]);
        at = end;
    }
    if group.len() >= GROUP_HEADER {
        header.encode(group, crc);
    }
}
