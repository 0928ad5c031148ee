//! The control socket's listing of sites and suspended domains.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use chasqui_runtime::mailbox::{self, OneshotReceiver, OneshotSender};
use chasqui_transport::Stream;
use serde::Serialize;

use super::{End, Fault, PAGE_MESSAGES, say, send};
use crate::context::Context;
use crate::process::{Order, Process};
use crate::queue::sites::ListedSite;
use crate::queue::suspensions::ListedDomain;
use crate::route::SiteKey;
use crate::suspensions::{Suspended, Target};

/// Octets of lines sent at a time.
const PIECE: usize = 64 << 10;

/// Sites of one shard, and on the first page the suspended domains.
#[derive(Debug)]
pub(crate) struct SitesPage {
    sites: Vec<ListedSite>,
    domains: Vec<ListedDomain>,
    next: Option<usize>,
    /// The relay's time.
    now_ms: u64,
}

/// Answers with a page of this shard's sites.
pub(super) fn list(shard: &Rc<Context>, cursor: usize, reply: OneshotSender<SitesPage>) {
    let queue = shard.queue.borrow();
    let (sites, next) = queue.sites.list(cursor, PAGE_MESSAGES);
    let domains = if cursor == 0 { queue.held.list() } else { Vec::new() };
    // The client may have gone.
    let _unwanted = reply.send(SitesPage { sites, domains, next, now_ms: shard.clock.now_ms() });
}

#[derive(Debug, Serialize)]
struct SiteLine<'a> {
    site: &'a str,
    queued: usize,
    retries: usize,
    deferred: usize,
    connections: usize,
    resting: bool,
    suspended: bool,
    failures: u32,
    trouble: Option<&'a str>,
    oldest_s: Option<u64>,
}

#[derive(Debug, Serialize)]
struct DomainLine<'a> {
    domain: &'a str,
    queued: usize,
    suspended: bool,
    oldest_s: Option<u64>,
}

/// All sites and suspended domains of a relay.
#[derive(Debug, Default)]
struct Listing {
    sites: BTreeMap<SiteKey, ListedSite>,
    domains: BTreeMap<String, ListedDomain>,
    now_ms: u64,
}

impl Listing {
    /// With what is suspended, known to a shard or not.
    fn new(suspended: &Suspended) -> Listing {
        let mut listing = Listing::default();
        for target in suspended.targets() {
            match target {
                Target::Domain(domain) => {
                    let listed = ListedDomain { domain: domain.clone(), jobs: 0, oldest_ms: None };
                    listing.domains.insert(domain.clone(), listed);
                }
                Target::Site(name) => {
                    let listed = ListedSite::unknown(name.as_str().into());
                    listing.sites.insert(listed.site.clone(), listed);
                }
            }
        }
        listing
    }

    fn add(&mut self, page: SitesPage) {
        self.now_ms = page.now_ms;
        for site in page.sites {
            match self.sites.get_mut(&site.site) {
                Some(known) => known.join(site),
                None => drop(self.sites.insert(site.site.clone(), site)),
            }
        }
        for domain in page.domains {
            if let Some(known) = self.domains.get_mut(&domain.domain) {
                known.jobs += domain.jobs;
                known.oldest_ms = known.oldest_ms.into_iter().chain(domain.oldest_ms).min();
            }
        }
    }
}

/// Lists the sites of all shards, each once.
pub(super) async fn list_all(process: &Process, suspended: &Suspended, stream: &Stream) -> io::Result<()> {
    let mut listing = Listing::new(suspended);
    for orders in process.shards() {
        let mut cursor = Some(0);
        while let Some(place) = cursor {
            let (reply, page): (_, OneshotReceiver<SitesPage>) = mailbox::oneshot();
            let asked = orders.send(Order::Sites { cursor: place, reply }).is_ok();
            let page = if asked { page.await } else { None };
            let Some(page) = page else {
                return say(stream, &Fault { error: "a shard does not answer; try again" }).await;
            };
            cursor = page.next;
            listing.add(page);
        }
    }
    write(&listing, stream).await
}

async fn write(listing: &Listing, stream: &Stream) -> io::Result<()> {
    let age_s = |oldest_ms: Option<u64>| oldest_ms.map(|ms| listing.now_ms.saturating_sub(ms) / 1000);
    let mut lines = Vec::new();
    for site in listing.sites.values() {
        let name = site.site.to_string();
        let line = SiteLine {
            site: &name,
            queued: site.first_attempts + site.retries,
            retries: site.retries,
            deferred: site.deferred,
            connections: site.connections,
            resting: site.resting,
            suspended: site.suspended,
            failures: site.failures,
            trouble: site.trouble.as_deref(),
            oldest_s: age_s(site.oldest_ms),
        };
        push(&mut lines, &line, stream).await?;
    }
    for domain in listing.domains.values() {
        let oldest_s = age_s(domain.oldest_ms);
        let line = DomainLine { domain: &domain.domain, queued: domain.jobs, suspended: true, oldest_s };
        push(&mut lines, &line, stream).await?;
    }
    send(stream, lines).await?;
    let entries = (listing.sites.len() + listing.domains.len()) as u64;
    say(stream, &End { end: true, entries, unread: None }).await
}

async fn push<T: Serialize>(lines: &mut Vec<u8>, line: &T, stream: &Stream) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, line).map_err(io::Error::other)?;
    lines.push(b'\n');
    if lines.len() >= PIECE {
        send(stream, std::mem::take(lines)).await?;
    }
    Ok(())
}
