//! The first groups of an incarnation: table and cuts. Before they are durable nothing is taken or delivered, because nothing
//! could be recorded.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use chasqui_runtime::fs;

use super::handle::Log;
use super::inner::{Condition, Inner};
use super::segments::{Active, Spare};
use super::table::{LiveSegment, SegmentTable};
use crate::spool::config::Geometry;
use crate::spool::disk::{SegmentFile, move_aside_if_room, segment_path};
use crate::spool::error::{OpenError, SpoolError, is_no_space};
use crate::spool::format::group::Group;
use crate::spool::format::headers::{FIRST_GROUP, GROUP_HEADER, Kind, RECORD_HEADER};
use crate::spool::format::table::{Cut, encode_cuts, encode_table};

/// What the first groups are made of, until they are durable.
#[derive(Default)]
pub(crate) struct First {
    pub(crate) cuts: Vec<Cut>,
    /// The segments that were recovered: as long as one of them is there the cuts are needed.
    pub(crate) recovered: Vec<u32>,
    /// Those that are still to be written, once there is a segment.
    pub(crate) groups: Option<VecDeque<Group>>,
    /// Where the planted fault goes on that appends after a recovery.
    pub(crate) tail: Option<Active>,
}

impl Inner {
    /// Are the first groups durable?
    pub(crate) fn has_begun(&self) -> bool {
        self.first.is_none()
    }

    /// The disk was full at the start.
    pub(crate) fn start_full(&mut self) {
        self.is_last_room = true;
        self.spare_failed = Some(SpoolError::NoSpace);
    }

    /// Can what happens be recorded?
    pub(crate) fn can_record(&self) -> bool {
        self.has_begun() && !matches!(self.condition, Condition::Sealed(_))
    }

    /// Goes on in the spare, which is the first segment, if there is one; the groups that it begins with.
    fn enter_first(&mut self, geometry: &Geometry) -> bool {
        let Some(spare) = self.spare.take() else { return false };
        let mut first = self.first.take().unwrap_or_default();
        let Spare { file, identity, segment } = spare;
        self.table.insert(identity.ordinal, LiveSegment::new(file, identity.epoch, segment.clone()));
        if !first.cuts.is_empty() {
            self.table.cut(identity.ordinal, first.recovered.iter().copied());
        }
        self.active = first.tail.take().unwrap_or_else(|| Active::new(identity, segment, FIRST_GROUP));
        first.groups = Some(first_groups(&self.table, geometry, &first.cuts).into());
        self.first = Some(first);
        true
    }

    /// Writes of the first groups what is still to be written.
    fn write_first(&mut self) -> io::Result<()> {
        let mut first = self.first.take().unwrap_or_default();
        let mut outcome = Ok(());
        let groups = first.groups.get_or_insert_default();
        while let Some(group) = groups.front_mut() {
            outcome = self.append(group).map(drop);
            if outcome.is_err() {
                break;
            }
            groups.pop_front();
        }
        self.first = Some(first);
        outcome
    }
}

impl Log {
    /// Makes the first groups durable; `false`: there is no room for them. Errors say what was tried, and on which file.
    pub(crate) async fn begin(&self) -> Result<bool, OpenError> {
        {
            let mut inner = self.inner();
            let is_in_place = inner.first.as_ref().is_some_and(|first| first.groups.is_some());
            if !is_in_place && !inner.enter_first(&self.geometry) {
                return Ok(false);
            }
        }
        let written = self.inner().write_first();
        match written {
            Ok(()) => {}
            Err(error) if is_no_space(&error) => return Ok(false),
            Err(error) => return Err(OpenError::io("write", &self.dir)(error)),
        }
        let (segment, through) = {
            let inner = self.inner();
            (inner.active.segment.clone(), inner.gate.appended())
        };
        segment.sync().await.map_err(OpenError::io("sync", &self.dir))?;
        fs::sync_dir(&self.dir).await.map_err(OpenError::io("sync", &self.dir))?;
        let damaged = {
            let mut inner = self.inner();
            inner.stats.syncs += 1;
            inner.gate.synced(through, 0);
            inner.first = None;
            inner.table.release()
        };
        for segment in damaged {
            let path = segment_path(&self.dir, segment.file);
            move_aside_if_room(&self.dir, &path).await.map_err(OpenError::io("move", &path))?;
            self.inner().table.done(segment.identity);
        }
        Ok(true)
    }
}

/// The table and the cuts, in as many groups as they need; all covered by one sync.
fn first_groups(table: &SegmentTable<Rc<SegmentFile>>, geometry: &Geometry, cuts: &[Cut]) -> Vec<Group> {
    let mut groups = vec![Group::default()];
    groups[0].push(Kind::Table, 0, 0, |into| encode_table(into, table.entries()), &[]);
    for cut in cuts {
        let mut cut = cut.clone();
        // Only a tiny segment can be too small for its holes. Those up to the watermark are listed to not be
        // reported again, so they go first.
        let most = (geometry.records_max() - RECORD_HEADER - 24) / 16;
        if cut.holes.len() > most {
            cut.holes.retain(|hole| hole.first > cut.watermark);
            cut.holes.truncate(most);
        }
        let length = RECORD_HEADER + 24 + 16 * cut.holes.len();
        let open = groups.last().expect("starts with one");
        if open.records() > 1 && open.len() + length > geometry.records_max() + GROUP_HEADER {
            groups.push(Group::default());
        }
        let open = groups.last_mut().expect("starts with one");
        open.push(Kind::Cut, 0, 0, |into| encode_cuts(into, &[cut]), &[]);
    }
    groups
}
