//! The first groups of an incarnation: table and cuts. Before they are durable nothing is taken or delivered, because nothing
//! could be recorded.

use std::io;

use chasqui_runtime::fs;

use super::handle::Log;
use super::inner::Inner;
use super::segment_table::LiveSegment;
use super::segments::{Active, Segments, Spare};
use crate::spool::config::Geometry;
use crate::spool::disk::{move_aside_if_room, segment_path};
use crate::spool::error::{OpenError, is_no_space};
use crate::spool::format::group::Group;
use crate::spool::format::headers::{FIRST_GROUP, GROUP_HEADER, Kind, RECORD_HEADER};
use crate::spool::format::table::{Cut, encode_cuts, encode_table};

impl Log {
    /// Makes the first groups durable; `false`: there is no room for them. Errors say what was tried, and on which file.
    pub(crate) async fn begin(&self) -> Result<bool, OpenError> {
        {
            let mut inner = self.inner();
            let is_in_place = inner.first.as_ref().is_some_and(|first| first.groups.is_some());
            if !is_in_place && !enter_first(&mut inner, &self.geometry) {
                return Ok(false);
            }
        }
        let written = write_first(&mut self.inner());
        match written {
            Ok(()) => {}
            Err(error) if is_no_space(&error) => return Ok(false),
            Err(error) => return Err(OpenError::io("write", &self.dir)(error)),
        }
        let (segment, through) = {
            let inner = self.inner();
            (inner.segments.active.segment.clone(), inner.groups.watermark.appended())
        };
        segment.sync().await.map_err(OpenError::io("sync", &self.dir))?;
        fs::sync_dir(&self.dir).await.map_err(OpenError::io("sync", &self.dir))?;
        let damaged = {
            let mut inner = self.inner();
            inner.stats.syncs += 1;
            inner.groups.watermark.synced(through, 0);
            inner.first = None;
            inner.segments.table.release()
        };
        for segment in damaged {
            let path = segment_path(&self.dir, segment.file);
            move_aside_if_room(&self.dir, &path).await.map_err(OpenError::io("move", &path))?;
            self.inner().segments.table.done(segment.identity);
        }
        Ok(true)
    }
}

/// Goes on in the spare, which is the first segment, if there is one; the groups that it begins with.
fn enter_first(inner: &mut Inner, geometry: &Geometry) -> bool {
    let Inner { first, segments, .. } = inner;
    let Some(Spare { file, identity, segment }) = segments.spare.take() else { return false };
    let first = first.get_or_insert_default();
    segments.table.insert(identity.ordinal, LiveSegment::new(file, identity.epoch, segment.clone()));
    if !first.cuts.is_empty() {
        segments.table.cut(identity.ordinal, first.recovered.iter().copied());
    }
    segments.active = first.tail.take().unwrap_or_else(|| Active::new(identity, segment, FIRST_GROUP));
    first.groups = Some(first_groups(segments, geometry, &first.cuts).into());
    true
}

/// Writes of the first groups what is still to be written.
fn write_first(inner: &mut Inner) -> io::Result<()> {
    let Inner { first, groups, segments, streams, stats, .. } = inner;
    let unwritten = first.get_or_insert_default().groups.get_or_insert_default();
    while let Some(group) = unwritten.front_mut() {
        segments.active.append(group, &mut groups.watermark, &mut streams.buffers, stats)?;
        unwritten.pop_front();
    }
    Ok(())
}

/// The table and the cuts, in as many groups as they need; all covered by one sync.
fn first_groups(segments: &Segments, geometry: &Geometry, cuts: &[Cut]) -> Vec<Group> {
    let mut groups = vec![Group::default()];
    groups[0].push(Kind::Table, 0, 0, |into| encode_table(into, segments.table.entries()), &[]);
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
