//! SEARCH by flags, numbers, sizes and dates of delivery. Content is not searched.

use chasqui_protocol::imap::flags::Flags;
use chasqui_protocol::imap::set;
use chasqui_protocol::imap::types::datetime::NaiveDate;
use chasqui_protocol::imap::types::search::SearchKey;

use super::view::View;
use crate::mailbox::Message;

const DAY_SECONDS: i64 = 86_400;

/// A search key that is not supported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsupported;

/// Search keys, ready to be asked of one message after the other.
#[derive(Debug)]
pub(super) enum Filter {
    Every,
    /// All of the flags are set, `\Recent` included.
    Has(Flags),
    Uid(Vec<(u32, u32)>),
    Sequence(Vec<(u32, u32)>),
    Larger(u32),
    Smaller(u32),
    /// Delivered at or after this time, in seconds since the Unix epoch.
    From(i64),
    Not(Box<Filter>),
    Either(Box<Filter>, Box<Filter>),
    Both(Vec<Filter>),
}

impl Filter {
    pub(super) fn compile(keys: &[SearchKey<'_>], view: &View) -> Result<Filter, Unsupported> {
        let filters: Result<Vec<Filter>, Unsupported> =
            keys.iter().map(|key| Filter::key(key, view)).collect();
        filters.map(Filter::Both)
    }

    pub(super) fn matches(&self, sequence: u32, flags: Flags, message: &Message) -> bool {
        match self {
            Filter::Every => true,
            Filter::Has(wanted) => flags.contains(*wanted),
            Filter::Uid(ranges) => set::contains(ranges, message.uid()),
            Filter::Sequence(ranges) => set::contains(ranges, sequence),
            Filter::Larger(size) => message.size() > *size,
            Filter::Smaller(size) => message.size() < *size,
            Filter::From(time) => message.internal_date() as i64 >= *time,
            Filter::Not(filter) => !filter.matches(sequence, flags, message),
            Filter::Either(one, other) => {
                one.matches(sequence, flags, message) || other.matches(sequence, flags, message)
            }
            Filter::Both(filters) => filters.iter().all(|filter| filter.matches(sequence, flags, message)),
        }
    }

    fn key(key: &SearchKey<'_>, view: &View) -> Result<Filter, Unsupported> {
        Ok(match key {
            SearchKey::And(keys) => Filter::compile(keys.as_ref(), view)?,
            SearchKey::Or(one, other) => {
                Filter::Either(Box::new(Filter::key(one, view)?), Box::new(Filter::key(other, view)?))
            }
            SearchKey::Not(key) => not(Filter::key(key, view)?),
            SearchKey::All => Filter::Every,
            SearchKey::SequenceSet(named) => Filter::Sequence(set::ranges(named, view.largest(false))),
            SearchKey::Uid(named) => Filter::Uid(set::ranges(named, view.largest(true))),
            SearchKey::Answered => Filter::Has(Flags::ANSWERED),
            SearchKey::Deleted => Filter::Has(Flags::DELETED),
            SearchKey::Draft => Filter::Has(Flags::DRAFT),
            SearchKey::Flagged => Filter::Has(Flags::FLAGGED),
            SearchKey::Seen => Filter::Has(Flags::SEEN),
            SearchKey::Recent => Filter::Has(Flags::RECENT),
            SearchKey::New => Filter::Both(vec![Filter::Has(Flags::RECENT), not(Filter::Has(Flags::SEEN))]),
            SearchKey::Old => not(Filter::Has(Flags::RECENT)),
            SearchKey::Unanswered => not(Filter::Has(Flags::ANSWERED)),
            SearchKey::Undeleted => not(Filter::Has(Flags::DELETED)),
            SearchKey::Undraft => not(Filter::Has(Flags::DRAFT)),
            SearchKey::Unflagged => not(Filter::Has(Flags::FLAGGED)),
            SearchKey::Unseen => not(Filter::Has(Flags::SEEN)),
            // No message has a keyword.
            SearchKey::Keyword(_) => not(Filter::Every),
            SearchKey::Unkeyword(_) => Filter::Every,
            SearchKey::Larger(size) => Filter::Larger(*size),
            SearchKey::Smaller(size) => Filter::Smaller(*size),
            SearchKey::Before(date) => not(Filter::From(midnight(date)?)),
            SearchKey::Since(date) => Filter::From(midnight(date)?),
            SearchKey::On(date) => {
                let start = midnight(date)?;
                Filter::Both(vec![Filter::From(start), not(Filter::From(start + DAY_SECONDS))])
            }
            _ => return Err(Unsupported),
        })
    }
}

fn not(filter: Filter) -> Filter {
    Filter::Not(Box::new(filter))
}

/// The start of a day, in seconds since the Unix epoch; days are those of UTC, as INTERNALDATE shows them.
fn midnight(date: &NaiveDate) -> Result<i64, Unsupported> {
    let midnight = date.as_ref().and_hms_opt(0, 0, 0).ok_or(Unsupported)?;
    Ok(midnight.and_utc().timestamp())
}
