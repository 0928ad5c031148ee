//! The places for lookups, and who gets the next one. Knows nothing of the DNS, of time or of tasks.
//!
//! The tail of a domain (the part that its owner has registered, as far as its look tells) stands for its owner: one tail
//! has an eighth of a lane's places at most, and a lookup that waits has nothing but its own tail's before it. Of three free
//! places one goes to the tail that came last, one to the tail that came first, both with nothing under way, and one to a
//! tail that has some under way. So a new domain has a place soon, however many wait, and those that wait get theirs too.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The part of a lane's places that one tail has at most.
const TAIL_PLACES_PART: usize = 8;
/// The part of those that may wait that one tail has at most.
const TAIL_WAITING_PART: usize = 4;
/// Longest label below a country that is taken for a registry's, as in `co.uk` and `com.au`.
const REGISTRY_LABEL_MAX: usize = 3;

/// The tail of a domain in lower case: its last two labels, or three below a registry such as `co.uk`.
pub(super) fn tail(domain: &str) -> &str {
    let mut dots = domain.rmatch_indices('.').map(|(at, _)| at);
    let (Some(last), Some(second)) = (dots.next(), dots.next()) else { return domain };
    let is_registry = domain.len() - last == 3 && last - second - 1 <= REGISTRY_LABEL_MAX;
    if !is_registry {
        return &domain[second + 1..];
    }
    dots.next().map_or(domain, |third| &domain[third + 1..])
}

/// Places, and what waits for them.
#[derive(Debug)]
pub(super) struct Lane<T> {
    places_max: usize,
    under_way: usize,
    waiting_max: usize,
    waiting: usize,
    tails: BTreeMap<Arc<str>, Tail<T>>,
    /// Tails that may have a place and had nothing under way when they came here, by when that was.
    idle: VecDeque<Arc<str>>,
    /// Likewise those that had something under way.
    busy: VecDeque<Arc<str>>,
    turn: u8,
}

#[derive(Debug)]
struct Tail<T> {
    under_way: usize,
    waiting: VecDeque<T>,
    /// Stands in `idle` or `busy`.
    is_in_line: bool,
}

impl<T> Default for Tail<T> {
    fn default() -> Self {
        Tail { under_way: 0, waiting: VecDeque::new(), is_in_line: false }
    }
}

impl<T> Lane<T> {
    pub(super) fn new(places_max: usize, waiting_max: usize) -> Lane<T> {
        Lane {
            places_max: places_max.max(1),
            under_way: 0,
            waiting_max: waiting_max.max(1),
            waiting: 0,
            tails: BTreeMap::new(),
            idle: VecDeque::new(),
            busy: VecDeque::new(),
            turn: 0,
        }
    }

    /// Has `item` wait. Gives back what there is no room for: `item`, or one that waited before it.
    pub(super) fn put(&mut self, tail: &Arc<str>, item: T) -> Option<T> {
        let waiting = self.tails.get(tail).map_or(0, |tail| tail.waiting.len());
        let is_full = self.waiting >= self.waiting_max;
        if waiting >= (self.waiting_max / TAIL_WAITING_PART).max(1) || (is_full && waiting > 0) {
            return Some(item);
        }
        let displaced = if is_full { self.displace() } else { None };
        self.tails.entry(tail.clone()).or_default().waiting.push_back(item);
        self.waiting += 1;
        self.line_up(tail);
        displaced
    }

    /// Takes what may begin now; it has a place until [`Lane::leave`].
    pub(super) fn next(&mut self) -> Option<T> {
        if self.under_way >= self.places_max {
            return None;
        }
        let (name, tail) = loop {
            let name = self.next_tail()?;
            let tail_places = self.tail_places();
            let tail = self.tails.get_mut(&name)?;
            tail.is_in_line = false;
            // While it stood in line it may have entered; it comes back when one of its own leaves.
            if tail.under_way < tail_places {
                break (name, tail);
            }
        };
        let item = tail.waiting.pop_front()?;
        tail.under_way += 1;
        self.waiting -= 1;
        self.under_way += 1;
        self.line_up(&name);
        Some(item)
    }

    /// Takes a place for something that does not wait; false when there is none for its tail.
    pub(super) fn enter(&mut self, tail: &Arc<str>) -> bool {
        let under_way = self.tails.get(tail).map_or(0, |tail| tail.under_way);
        if self.under_way >= self.places_max || under_way >= self.tail_places() {
            return false;
        }
        self.tails.entry(tail.clone()).or_default().under_way += 1;
        self.under_way += 1;
        true
    }

    /// Gives a place back.
    pub(super) fn leave(&mut self, tail: &Arc<str>) {
        if let Some(state) = self.tails.get_mut(tail) {
            state.under_way -= 1;
            self.under_way -= 1;
            self.line_up(tail);
        }
    }

    /// Whether something waits for a place that its tail may have.
    pub(super) fn is_wanted(&self) -> bool {
        !self.idle.is_empty() || !self.busy.is_empty()
    }

    /// Whether more wait than there are places.
    pub(super) fn is_crowded(&self) -> bool {
        self.idle.len() + self.busy.len() > self.places_max
    }

    fn tail_places(&self) -> usize {
        (self.places_max / TAIL_PLACES_PART).max(1)
    }

    fn next_tail(&mut self) -> Option<Arc<str>> {
        self.turn = (self.turn + 1) % 3;
        let next = match self.turn {
            0 => self.busy.pop_front(),
            1 => self.idle.pop_back(),
            _ => self.idle.pop_front(),
        };
        next.or_else(|| self.idle.pop_front()).or_else(|| self.busy.pop_front())
    }

    /// Brings a tail in line for its next place, or forgets it when it has nothing here.
    fn line_up(&mut self, name: &Arc<str>) {
        let tail_places = self.tail_places();
        let Some(tail) = self.tails.get_mut(name) else { return };
        if tail.is_in_line || tail.under_way >= tail_places {
            return;
        }
        match (tail.waiting.is_empty(), tail.under_way) {
            (true, 0) => {
                self.tails.remove(name);
            }
            (true, _) => {}
            (false, under_way) => {
                tail.is_in_line = true;
                if under_way == 0 { &mut self.idle } else { &mut self.busy }.push_back(name.clone());
            }
        }
    }

    /// Makes room for one, at the cost of a tail that has some under way, or of who waits longest.
    fn displace(&mut self) -> Option<T> {
        let in_line = self.busy.pop_front().or_else(|| self.idle.pop_front());
        // Else all that wait belong to tails whose places are taken, and those are few.
        let longest =
            || self.tails.iter().max_by_key(|(_, tail)| tail.waiting.len()).map(|(name, _)| name.clone());
        let name = in_line.or_else(longest)?;
        let tail = self.tails.get_mut(&name)?;
        tail.is_in_line = false;
        let item = tail.waiting.pop_back()?;
        self.waiting -= 1;
        self.line_up(&name);
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(lane: &mut Lane<String>, domain: &str) -> Option<String> {
        lane.put(&tail(domain).into(), domain.to_owned())
    }

    fn leave(lane: &mut Lane<String>, domain: &str) {
        lane.leave(&tail(domain).into());
    }

    /// Proves which part of a domain stands for its owner.
    #[test]
    fn tails() {
        for (domain, its_tail) in [
            ("q1.silent.test", "silent.test"),
            ("silent.test", "silent.test"),
            ("a.b.example.co.uk", "example.co.uk"),
            ("example.co.uk", "example.co.uk"),
            ("co.uk", "co.uk"),
            ("mail.example.de", "example.de"),
            ("a.b.web.de", "b.web.de"),
            ("localhost", "localhost"),
            ("a..", "."),
            ("", ""),
        ] {
            assert_eq!(tail(domain), its_tail, "{domain}");
        }
    }

    /// Proves that one tail has an eighth of the places, and that the others' come at once.
    #[test]
    fn a_tail_has_an_eighth() {
        let mut lane = Lane::new(16, 1000);
        for i in 0..100 {
            assert_eq!(put(&mut lane, &format!("q{i}.flood.test")), None);
        }
        assert_eq!([lane.next(), lane.next()].map(Option::unwrap), ["q0.flood.test", "q1.flood.test"]);
        assert_eq!(lane.next(), None);
        assert!(!lane.is_wanted());
        assert!(!lane.enter(&"flood.test".into()));
        assert_eq!(put(&mut lane, "other.test"), None);
        assert_eq!(lane.next().unwrap(), "other.test");
        leave(&mut lane, "q0.flood.test");
        assert_eq!(lane.next().unwrap(), "q2.flood.test");
        assert_eq!(lane.next(), None);
    }

    /// Proves that a tail which enters while it stands in line has no more than its eighth, and gets the next place all the same.
    #[test]
    fn an_eighth_is_an_eighth_in_line_too() {
        let mut lane = Lane::new(8, 100);
        put(&mut lane, "a.flood.test");
        put(&mut lane, "other.test");
        assert!(lane.enter(&"flood.test".into()));
        assert_eq!(lane.next().unwrap(), "other.test");
        assert_eq!(lane.next(), None);
        leave(&mut lane, "flood.test");
        assert_eq!(lane.next().unwrap(), "a.flood.test");
        assert_eq!(lane.next(), None);
    }

    /// Proves that a place which becomes free goes to the newest domain within three turns, however many wait and whatever one
    /// tail has waiting, and that the oldest get theirs too.
    #[test]
    fn the_newest_and_the_oldest_take_turns() {
        let mut lane = Lane::new(16, 10_000);
        for i in 0..16 {
            put(&mut lane, &format!("first{i}.test"));
            assert!(lane.next().is_some());
        }
        for i in 0..1000 {
            put(&mut lane, &format!("waits{i}.test"));
            put(&mut lane, &format!("q{i}.flood.test"));
        }
        let mut begun = Vec::new();
        for i in 0..15 {
            put(&mut lane, &format!("new{i}.test"));
            leave(&mut lane, &format!("first{i}.test"));
            begun.push(lane.next().unwrap());
        }
        for kind in ["new", "waits"] {
            let of_kind = begun.iter().filter(|domain| domain.starts_with(kind)).count();
            assert!(of_kind >= 5, "{kind}: {begun:?}");
        }
        assert!(begun.contains(&"waits0.test".to_owned()), "{begun:?}");
    }

    /// Proves that what waits is bounded, for a tail too, that a new domain finds room all the same, and that nothing is kept of
    /// tails that have gone.
    #[test]
    fn what_waits_is_bounded() {
        let mut lane = Lane::new(8, 8);
        assert!(lane.enter(&"busy.test".into()));
        for name in ["a", "b", "c", "d"] {
            assert_eq!(put(&mut lane, &format!("1.{name}.test")), None);
            assert_eq!(put(&mut lane, &format!("2.{name}.test")), None);
            assert_eq!(put(&mut lane, &format!("3.{name}.test")).unwrap(), format!("3.{name}.test"));
        }
        assert_eq!(put(&mut lane, "new.test").unwrap(), "2.a.test");
        assert_eq!(put(&mut lane, "2.b.test").unwrap(), "2.b.test");
        let mut begun = Vec::new();
        while let Some(domain) = lane.next() {
            leave(&mut lane, &domain);
            begun.push(domain);
        }
        assert_eq!(begun.len(), 8);
        lane.leave(&"busy.test".into());
        assert!(lane.tails.is_empty() && (lane.waiting, lane.under_way) == (0, 0));
    }

    /// Proves that tails whose places are taken cannot keep a new domain from waiting.
    #[test]
    fn blocked_tails_make_room() {
        let mut lane = Lane::new(8, 4);
        for name in ["a", "b", "c", "d"] {
            assert_eq!(put(&mut lane, &format!("1.{name}.test")), None);
            assert!(lane.next().is_some());
            assert_eq!(put(&mut lane, &format!("2.{name}.test")), None);
        }
        assert!(put(&mut lane, "new.test").unwrap().starts_with("2."));
        assert_eq!(lane.next().unwrap(), "new.test");
    }
}
