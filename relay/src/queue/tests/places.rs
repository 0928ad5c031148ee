//! Who has the places for connections: slow hosts, and those of whom nothing is known, leave the others theirs.

use super::*;

const TOTAL: usize = 16;
const PLACES: ConnectionLimits = ConnectionLimits { per_site: 20, total: TOTAL };

fn seconds(count: u64) -> Instant {
    at(count * 1_000_000_000)
}

fn site(queue: &mut Queue, name: &str, jobs: u64) -> SiteId {
    let site = queue.sites.of_route(&route(name));
    for arrived_ms in 0..jobs {
        let job = add(queue, arrived_ms);
        queue.push(site, Attempt::First, job);
    }
    site
}

/// A site that has taken a message, with so many more to send.
fn proven_site(queue: &mut Queue, name: &str, jobs: u64) -> SiteId {
    let proven = site(queue, name, 1);
    assert_eq!(open_all(queue), [proven]);
    assert!(queue.take(proven, at(0)).is_some());
    works(queue, proven, host(), true);
    closed(queue, proven, true);
    assert_eq!(site(queue, name, jobs), proven);
    proven
}

fn revoked(queue: &Queue, why: Revoked) -> Vec<Rc<Slot>> {
    queue.sites.slots().filter(|slot| slot.revoked() == Some(why)).collect()
}

fn close_revoked(queue: &mut Queue) {
    let gone: Vec<_> = queue.sites.slots().filter(|slot| slot.revoked().is_some()).collect();
    for slot in gone {
        if slot.revoked() == Some(Revoked::Slow) {
            queue.sites.failed(slot.site(), "too slow".into());
        }
        queue.sites.closed(&slot);
    }
}

/// However much mail there is to hosts of which nothing is known, they have half of the places, and sites that take mail have
/// theirs at once.
#[test]
fn unknown_sites_have_half() {
    let mut queue = queue_with(PLACES);
    let good = proven_site(&mut queue, "good", 0);
    for number in 0..100 {
        site(&mut queue, &format!("unknown{number}"), 12);
    }
    assert_eq!(open_all(&mut queue).len(), TOTAL / 2);
    site(&mut queue, "good", 3);
    assert_eq!(open_all(&mut queue), [good; 3], "it needs no proof of itself");
}

/// A few sites with much mail have three eighths, so that a new one has its first connection at once.
#[test]
fn first_connections_have_places_of_their_own() {
    let mut queue = queue_with(PLACES);
    for number in 0..3 {
        site(&mut queue, &format!("silent{number}"), 12);
    }
    assert_eq!(open_all(&mut queue).len(), 6);
    let new = site(&mut queue, "new", 5);
    assert_eq!(open_all(&mut queue), [new]);
    let failed = site(&mut queue, "failed", 1);
    assert_eq!(open_all(&mut queue), [failed]);
    assert_eq!(useless(&mut queue, failed, "refused"), Some(1));
    queue.sites.probe(failed);
    assert_eq!(open_all(&mut queue), [failed], "it has none, and takes turns with new ones");
}

/// A site that begins to take mail while it waits among those of which nothing good is known gets what such a site gets, also
/// when its only connection ends at once.
#[test]
fn a_site_that_takes_mail_waits_no_more_among_the_others() {
    let mut queue = queue_with(PLACES);
    for number in 0..6 {
        site(&mut queue, &format!("silent{number}"), 1);
    }
    assert_eq!(open_all(&mut queue).len(), 6);
    let good = site(&mut queue, "good", 3);
    assert_eq!(open_all(&mut queue), [good], "beyond its first it waits");
    assert!(queue.take(good, at(0)).is_some());
    works(&mut queue, good, host(), true);
    closed(&mut queue, good, true);
    assert_eq!(open_all(&mut queue), [good, good]);
}

/// A site without a connection that has failed is tried beside new ones, however many of them there are.
#[test]
fn failed_sites_take_turns_with_new_ones() {
    let mut queue = queue_with(PLACES);
    let failed = site(&mut queue, "failed", 1);
    assert_eq!(open_all(&mut queue), [failed]);
    assert_eq!(useless(&mut queue, failed, "refused"), Some(1));
    for number in 0..20 {
        site(&mut queue, &format!("new{number}"), 1);
    }
    queue.sites.probe(failed);
    let opened = open_all(&mut queue);
    assert_eq!((opened.len(), opened.contains(&failed)), (8, true));
}

/// Connections of a site that has others give way to a site that has none, before they are slow.
#[test]
fn surplus_connections_give_way() {
    let mut queue = queue_with(PLACES);
    let silent = site(&mut queue, "silent", 12);
    assert_eq!(open_all(&mut queue), [silent; 5]);
    let mut new = || {
        let name = format!("new{}", queue.sites.len());
        let new = site(&mut queue, &name, 1);
        let opened = open_all(&mut queue);
        (new, opened)
    };
    (0..3).for_each(|_| drop(new()));
    let (ninth, opened) = new();
    assert_eq!(opened, [], "half of all are taken");
    assert!(queue.sites.is_held_up() && queue.sites.relieve(seconds(0)));
    assert_eq!(revoked(&queue, Revoked::Surplus).len(), 0, "they have only begun");
    queue.sites.relieve(seconds(2));
    assert_eq!(revoked(&queue, Revoked::Surplus).len(), 1, "as many as are needed");
    assert_eq!(revoked(&queue, Revoked::Slow).len(), 0);
    close_revoked(&mut queue);
    assert_eq!(open_all(&mut queue), [ninth], "the one that gave way waits");
}

/// Slow connections beyond a quarter of the places end when sites wait that have a right to them, the longest-standing first;
/// without such sites they stay.
#[test]
fn slow_connections_give_way() {
    let mut queue = queue_with(PLACES);
    let silent: Vec<_> = (0..8).map(|number| site(&mut queue, &format!("silent{number}"), 1)).collect();
    assert_eq!(open_all(&mut queue), silent);
    slot(&queue, silent[7], false).enter(Stage::Opening, at(0));
    slot(&queue, silent[6], false).enter(Stage::Sending, seconds(1));
    slot(&queue, silent[5], false).enter(Stage::Final, at(0));
    assert!(!queue.sites.is_held_up());
    assert!(!queue.sites.relieve(seconds(30)), "nobody waits");
    assert_eq!(revoked(&queue, Revoked::Slow).len(), 0);
    let new: Vec<_> = (0..9).map(|number| site(&mut queue, &format!("new{number}"), 1)).collect();
    assert_eq!(open_all(&mut queue), []);
    assert!(queue.sites.relieve(seconds(30)));
    let given_up: Vec<_> = revoked(&queue, Revoked::Slow).iter().map(|slot| slot.site()).collect();
    assert_eq!(given_up.len(), TOTAL / 4);
    assert!(!given_up.contains(&silent[5]), "what was sent whole may have been taken");
    assert!(!given_up.contains(&silent[6]), "it has been slow for less long");
    close_revoked(&mut queue);
    assert_eq!(open_all(&mut queue), new[..4]);
}

/// A slow connection of a site that takes mail counts among those of the slow, and the site gets no more of them than they.
#[test]
fn a_site_that_becomes_slow_is_held_to_the_share_of_the_slow() {
    let mut queue = queue_with(PLACES);
    let good = proven_site(&mut queue, "good", 7);
    assert_eq!(open_all(&mut queue), [good; 7]);
    for _ in 0..7 {
        works(&mut queue, good, host(), true);
    }
    queue.sites.slots().for_each(|slot| slot.enter(Stage::Final, at(0)));
    site(&mut queue, "good", 20);
    queue.sites.relieve(seconds(60));
    assert_eq!(open_all(&mut queue), [], "seven of sixteen are slow");
    let new = site(&mut queue, "new", 1);
    assert_eq!(open_all(&mut queue), [new]);
    assert_eq!(revoked(&queue, Revoked::Slow).len(), 0);
    closed(&mut queue, new, false);
    for _ in 0..7 {
        closed(&mut queue, good, true);
    }
    let opened = open_all(&mut queue).into_iter().filter(|site| *site == good);
    assert_eq!(opened.count(), 10, "what is over is not held against it");
}

/// Connections that have taken mail and then keep the reply to a whole message back end after a minute, when slow ones have half
/// of the places and others wait; until then they stay, because of the duplicates that may be.
#[test]
fn silence_after_mail_was_taken_ends_too() {
    let mut queue = queue_with(PLACES);
    let names: Vec<String> = (0..8).map(|number| format!("bad{number}")).collect();
    for name in &names {
        proven_site(&mut queue, name, 0);
    }
    for name in &names {
        site(&mut queue, name, 2);
    }
    let opened = open_all(&mut queue);
    assert_eq!(opened.len(), TOTAL);
    for site in opened {
        assert!(queue.take(site, at(0)).is_some());
        works(&mut queue, site, host(), true);
    }
    queue.sites.slots().for_each(|slot| slot.enter(Stage::Final, at(0)));
    let new = site(&mut queue, "new", 1);
    assert!(queue.sites.relieve(seconds(50)));
    assert_eq!(revoked(&queue, Revoked::Slow).len(), 0);
    assert!(queue.sites.relieve(seconds(61)));
    assert_eq!(revoked(&queue, Revoked::Slow).len(), 1, "as many as are needed");
    close_revoked(&mut queue);
    assert_eq!(open_all(&mut queue), [], "slow ones have half");
    assert!(queue.sites.relieve(seconds(62)));
    for _ in 0..8 {
        queue.sites.relieve(seconds(62));
        close_revoked(&mut queue);
    }
    assert_eq!(open_all(&mut queue), [new]);
}

/// The last eighth of the places is for sites with fewer than two connections, also beside sites that take much mail.
#[test]
fn a_busy_site_leaves_some_places() {
    let mut queue = queue_with(PLACES);
    let busy = proven_site(&mut queue, "busy", 100);
    assert_eq!(open_all(&mut queue), [busy; 10], "twice as many as an unknown one has");
    (0..10).for_each(|_| assert!(works(&mut queue, busy, host(), true)));
    assert_eq!(open_all(&mut queue), [busy; 4]);
    assert!(queue.sites.is_crowded(), "its further ones wait for others to end");
    let small = site(&mut queue, "small", 1);
    assert_eq!(open_all(&mut queue), [small]);
}
