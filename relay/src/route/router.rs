//! The router of one shard: cache first, one lookup per name, everything else waits for it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::{now, rng, spawn, turn_time};

use super::build::{self, Rules};
use super::cache::{Answer, Cache, Cached, Flight};
use super::ourselves::Ourselves;
use super::question::{Failure, Found, FoundHost, Outcome, Question};
use super::{Resolver, RouteError};
use crate::config::{NextHop, TlsPolicy};
use crate::metrics::RouteStats;

/// Static routes to addresses alone hold as long as an answer of the DNS may.
const STATIC_TTL: Duration = Duration::MAX;

/// What a router has to know beside the DNS.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Next hops in order of preference, per domain (lower case) or for `*`, every other domain.
    pub static_routes: BTreeMap<String, Vec<NextHop>>,
    /// The port of every next hop that names none.
    pub port: u16,
    /// Our host names, in lower case.
    pub own_names: Vec<String>,
    /// Where we listen: a host that would be reached at one of these is ourselves.
    pub own_addresses: Vec<SocketAddr>,
    /// Gives the addresses of this machine's interfaces, all of which are ours where we listen on every address.
    pub interfaces: fn() -> io::Result<Vec<IpAddr>>,
    /// What next hops must offer: of all domains, and of single ones (lower case).
    pub tls: TlsPolicy,
    /// See `tls`.
    pub tls_of_domains: BTreeMap<String, TlsPolicy>,
    /// Names that the cache holds.
    pub cache_entries_max: usize,
}

impl Default for RouteConfig {
    fn default() -> Self {
        Self {
            static_routes: BTreeMap::new(),
            port: 25,
            own_names: Vec::new(),
            own_addresses: Vec::new(),
            interfaces: || Ok(Vec::new()),
            tls: TlsPolicy::default(),
            tls_of_domains: BTreeMap::new(),
            cache_entries_max: 65_536,
        }
    }
}

/// Finds routes for one shard. Cheap to clone: the clones are the same router.
#[derive(Clone)]
pub struct Router(Rc<Inner>);

struct Inner {
    static_routes: BTreeMap<String, Vec<NextHop>>,
    has_default_route: bool,
    port: u16,
    ourselves: Ourselves,
    tls: TlsPolicy,
    tls_of_domains: BTreeMap<String, TlsPolicy>,
    resolver: Resolver,
    cache: RefCell<Cache>,
    stats: Cell<RouteStats>,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Router {
    /// A router with an empty cache.
    pub fn new(config: RouteConfig, resolver: Resolver) -> Router {
        Router(Rc::new(Inner {
            has_default_route: config.static_routes.contains_key("*"),
            static_routes: config.static_routes,
            port: config.port,
            ourselves: Ourselves::new(config.own_names, &config.own_addresses, config.interfaces),
            tls: config.tls,
            tls_of_domains: config.tls_of_domains,
            resolver,
            cache: RefCell::new(Cache::new(config.cache_entries_max)),
            stats: Cell::default(),
        }))
    }

    /// The answer, if the cache has a fresh one; allocates nothing. `None`: ask [`Router::route`].
    pub fn route_cached(&self, domain_lower: &str) -> Option<Answer> {
        match self.0.cache.borrow_mut().get(self.0.key(domain_lower), turn_time()) {
            Cached::Fresh(answer) => {
                self.0.count(|stats| match &answer {
                    Ok(_) => stats.hits += 1,
                    Err(_) => stats.negative_hits += 1,
                });
                Some(answer)
            }
            Cached::Flying(_) | Cached::Stale | Cached::Missing => None,
        }
    }

    /// The route of a domain (lower case, or an address literal), from the cache or the DNS. Whoever stops
    /// waiting does not stop the lookup.
    pub async fn route(&self, domain_lower: &str) -> Answer {
        if let Some(answer) = self.route_cached(domain_lower) {
            return answer;
        }
        let key = self.0.key(domain_lower);
        let cached = self.0.cache.borrow_mut().get(key, now());
        let flight = match cached {
            Cached::Fresh(answer) => return answer,
            Cached::Flying(flight) => {
                self.0.count(|stats| stats.misses += 1);
                flight
            }
            Cached::Stale => {
                self.0.count(|stats| stats.stale += 1);
                self.take_off(key)
            }
            Cached::Missing => {
                self.0.count(|stats| stats.misses += 1);
                self.take_off(key)
            }
        };
        flight.answer().await
    }

    /// What could not be looked up is looked up again when it is wanted next.
    pub(crate) fn forget_failures(&self) {
        self.0.cache.borrow_mut().forget_failures();
    }

    /// The next hops of static routes that are ourselves: domain and address. They are used as they stand, because what
    /// is between us and an address (a port that is redirected, say) the operator alone knows.
    pub fn static_loops(&self) -> Vec<(&str, SocketAddr)> {
        let routes = self.0.static_routes.iter();
        let hops = routes.flat_map(|(domain, hops)| hops.iter().map(move |hop| (domain.as_str(), hop)));
        let addressed = hops.filter_map(|(domain, hop)| {
            Some((domain, SocketAddr::new(hop.host.parse().ok()?, hop.port.unwrap_or(self.0.port))))
        });
        addressed.filter(|(_, address)| self.0.ourselves.is_own(*address, now())).collect()
    }

    /// What the cache did so far.
    pub fn stats(&self) -> RouteStats {
        let cache = self.0.cache.borrow();
        RouteStats { evictions: cache.evictions(), entries: cache.len() as u64, ..self.0.stats.get() }
    }

    /// Begins a lookup, or ends it at once when there is nothing to ask.
    fn take_off(&self, key: &str) -> Rc<Flight> {
        let (flight, has_failed) = self.0.cache.borrow_mut().take_off(key);
        let question = match self.0.question(key) {
            Ok(question) => question,
            Err(outcome) => {
                self.0.land(key, &flight, outcome);
                return flight;
            }
        };
        self.0.count(|stats| {
            stats.lookups += 1;
            stats.lookups_in_flight += 1;
        });
        let (router, key, landing) = (self.0.clone(), Rc::<str>::from(key), flight.clone());
        spawn(async move {
            let outcome = match router.resolver.ask(question, has_failed) {
                Some(answered) => answered.await.unwrap_or_else(|| temporary("the resolver ended")),
                None => temporary("too many lookups wait for the resolver"),
            };
            router.count(|stats| stats.lookups_in_flight -= 1);
            router.land(&key, &landing, outcome);
        });
        flight
    }
}

fn temporary(reason: &str) -> Outcome {
    Err(Failure::Temporary { reason: reason.to_owned() })
}

impl Inner {
    /// The name under which a domain is cached: domains of the default route share one entry, but for those with a TLS policy of
    /// their own.
    fn key<'a>(&self, domain: &'a str) -> &'a str {
        let default_route = self.has_default_route
            && !domain.starts_with('[')
            && !self.static_routes.contains_key(domain)
            && !self.tls_of_domains.contains_key(domain);
        if default_route { "*" } else { domain }
    }

    /// The next hops that are configured for what is cached under `key`.
    fn static_route(&self, key: &str) -> Option<&Vec<NextHop>> {
        let default_route = || if key.starts_with('[') { None } else { self.static_routes.get("*") };
        self.static_routes.get(key).or_else(default_route)
    }

    /// What to ask the DNS for `key`, or the outcome when there is nothing to ask.
    fn question(&self, key: &str) -> Result<Question, Outcome> {
        if let Some(hops) = self.static_route(key) {
            let addresses: Option<Vec<IpAddr>> = hops.iter().map(|hop| hop.host.parse().ok()).collect();
            let Some(addresses) = addresses else {
                return Ok(Question::Hosts(hops.iter().map(|hop| hop.host.clone()).collect()));
            };
            let hosts = addresses.into_iter().zip(0..).map(|(address, preference)| FoundHost {
                name: address.to_string(),
                preference,
                addresses: vec![address],
            });
            return Err(Ok(Found { hosts: hosts.collect(), ttl: STATIC_TTL }));
        }
        match build::parse_literal(key) {
            Some(address) => {
                let host = FoundHost { name: address.to_string(), preference: 0, addresses: vec![address] };
                Err(Ok(Found { hosts: vec![host], ttl: STATIC_TTL }))
            }
            None if key.starts_with('[') => Err(Err(Failure::NoSuchDomain {
                reason: format!("{key} is not an address literal that mail can be sent to"),
                ttl: Duration::ZERO,
            })),
            None => Ok(Question::Domain(key.to_owned())),
        }
    }

    /// Turns the outcome into an answer, keeps it, and gives it to everyone who waits.
    fn land(&self, key: &str, flight: &Flight, outcome: Outcome) {
        let now = now();
        let answer = match outcome {
            Ok(found) => self.build(key, found),
            Err(Failure::NullMx { ttl }) => Err((RouteError::NullMx, ttl)),
            Err(Failure::NoSuchDomain { reason, ttl }) => Err((RouteError::NoSuchDomain(reason.into()), ttl)),
            Err(Failure::Temporary { reason }) => Err((RouteError::Temporary(reason.into()), Duration::ZERO)),
            Err(Failure::Lacking { reason }) => Err((RouteError::Lacking(reason.into()), Duration::ZERO)),
        };
        let mut cache = self.cache.borrow_mut();
        let answer = match answer {
            Ok(route) => {
                cache.keep_route(key, route.clone());
                Ok(route)
            }
            Err((error, ttl)) => {
                if !error.is_permanent() {
                    self.count(|stats| stats.failures += 1);
                }
                cache.keep_error(key, error.clone(), build::clamp(ttl), now);
                Err(error)
            }
        };
        drop(cache);
        flight.land(answer);
    }

    fn build(&self, key: &str, found: Found) -> Result<Rc<super::Route>, (RouteError, Duration)> {
        let ttl = found.ttl;
        let static_route = self.static_route(key);
        let ports: Vec<_> = static_route.into_iter().flatten().map(|hop| hop.port).collect();
        let rules = Rules {
            port: self.port,
            ports: &ports,
            ourselves: static_route.is_none().then_some(&self.ourselves),
            tls: self.tls_of_domains.get(key).copied().unwrap_or(self.tls),
            usual_tls: self.tls,
        };
        let rng = rng();
        match build::route(found, rules, now(), |bound| rng.below(bound)) {
            Ok(route) => Ok(Rc::new(route)),
            Err(error) => Err((error, ttl)),
        }
    }

    fn count(&self, change: impl FnOnce(&mut RouteStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }
}
