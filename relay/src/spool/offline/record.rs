//! One record, read at a known place and checked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::spool::format::headers::{GROUP_MAX, Kind, RECORD_HEADER, RecordHeader, flag, record_is_whole};
use crate::spool::format::message::{Envelope, decode_message};

/// Where a record is, and which it must be.
pub(super) struct Place {
    /// Offset of its header.
    pub(super) start: u64,
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) epoch: u64,
}

/// A whole record.
pub(super) struct Record {
    pub(super) header: RecordHeader,
    /// Meta part and body.
    pub(super) payload: Vec<u8>,
}

impl Record {
    pub(super) fn body(&self) -> &[u8] {
        &self.payload[self.header.meta_length as usize..]
    }

    /// Of a message record.
    pub(super) fn envelope(&self) -> Option<Envelope> {
        let meta = &self.payload[..self.header.meta_length as usize];
        let eight_bit = self.header.flags & flag::EIGHT_BIT != 0;
        decode_message(meta, eight_bit, self.is_stuffed()).map(|meta| meta.envelope)
    }

    pub(super) fn is_stuffed(&self) -> bool {
        self.header.flags & flag::STUFFED != 0
    }
}

/// Why there is none.
pub(super) enum Fault {
    Read(io::Error),
    /// Other bytes stand there.
    Damaged,
}

/// Reads the record at `place` and checks that it is that one and whole.
pub(super) fn read_record(file: &File, place: &Place) -> Result<Record, Fault> {
    let mut head = [0; RECORD_HEADER];
    read_at(file, &mut head, place.start)?;
    let (header, crc) = RecordHeader::decode(&head).ok_or(Fault::Damaged)?;
    let is_it = (header.kind, header.id, header.epoch) == (place.kind, place.id, place.epoch);
    if !is_it || header.payload_length() > GROUP_MAX {
        return Err(Fault::Damaged);
    }
    let mut payload = vec![0; header.payload_length() as usize];
    read_at(file, &mut payload, place.start + RECORD_HEADER as u64)?;
    match record_is_whole(&head, &payload, crc) {
        true => Ok(Record { header, payload }),
        false => Err(Fault::Damaged),
    }
}

fn read_at(file: &File, into: &mut [u8], offset: u64) -> Result<(), Fault> {
    file.read_exact_at(into, offset).map_err(|error| match error.kind() {
        // Somebody has cut the file.
        io::ErrorKind::UnexpectedEof => Fault::Damaged,
        _ => Fault::Read(error),
    })
}
