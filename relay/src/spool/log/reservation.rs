//! Space that is kept for messages to come.

use std::rc::Rc;

use super::handle::Log;
use super::inner::Inner;
use crate::spool::error::SpoolError;

/// Space that is kept for a message to come; given back when dropped.
pub struct Reservation {
    pub(crate) log: Rc<Log>,
    purpose: Purpose,
    pub(crate) bytes: u64,
}

/// What is to be written, and so what it may have of a spool that is nearly full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Mail,
    /// It ends a message in the same log: a spool that is full of mail which can only go back would stay full without it.
    Notification,
}

impl Reservation {
    /// Keeps `bytes`, if they are there.
    pub(crate) fn new(log: &Rc<Log>, purpose: Purpose, bytes: u64) -> Result<Reservation, SpoolError> {
        let mut reservation = Reservation::empty(log, purpose);
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    pub(crate) fn empty(log: &Rc<Log>, purpose: Purpose) -> Reservation {
        Reservation { log: log.clone(), purpose, bytes: 0 }
    }

    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), SpoolError> {
        let mut inner = self.log.inner();
        let available = match self.purpose {
            Purpose::Mail => inner.room(&self.log.geometry).available(),
            Purpose::Notification => inner.room(&self.log.geometry).available_to_notifications(),
        };
        if available < bytes {
            inner.space.has_refused = true;
            return Err(inner.refusal().unwrap_or(SpoolError::NoSpace));
        }
        inner.space.reserved += bytes;
        self.bytes += bytes;
        Ok(())
    }

    /// These bytes have entered a group, which counts for itself.
    pub(crate) fn used(&mut self, inner: &mut Inner, bytes: u64) {
        let used = bytes.min(self.bytes);
        self.bytes -= used;
        inner.space.reserved -= used;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.log.inner().space.reserved -= self.bytes;
    }
}

impl Log {
    /// Bytes that can still be promised to mail.
    pub(crate) fn free(&self) -> u64 {
        self.inner().room(&self.geometry).available()
    }

    /// Whether `bytes` of mail, and be it one octet, could be promised now.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), SpoolError> {
        let inner = self.inner();
        match inner.room(&self.geometry).available() >= bytes.max(1) {
            true => Ok(()),
            false => Err(inner.refusal().unwrap_or(SpoolError::NoSpace)),
        }
    }
}
