//! The records of the test zone, made up as they are asked for: nothing is stored per domain.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HINFO, MX, NS, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::DnsError;
use crate::zone::{MANY_MX, Zone, ZoneName};

/// What the authority says to one question.
pub(super) struct Said {
    pub(super) code: ResponseCode,
    pub(super) records: Vec<Record>,
    /// What is asked is not there, or not behind the alias: as long as this says (RFC 2308 section 2).
    pub(super) soa: Option<Record>,
}

/// What there is of one type at one name.
enum Found {
    /// Empty: the name exists without such a record.
    Data(Vec<RData>),
    /// The name stands for another one.
    Alias(Name),
    NoSuchName,
    Error(ResponseCode),
    Silence,
}

/// Makes up the records of one zone.
pub(super) struct Records {
    zone: Zone,
    receivers: Vec<IpAddr>,
    own_address: IpAddr,
    ttl_s: u32,
    soa: Record,
    origin: Name,
}

/// The addresses that a zone names: those of the receivers and of the authority. One that stands for all of the machine's is
/// replaced by `publish`, or by another one of them, because they are on the same machine; none: there is none to name.
pub(super) fn published(
    receivers: &[IpAddr],
    authority: IpAddr,
    publish: Option<IpAddr>,
) -> Option<(Vec<IpAddr>, IpAddr)> {
    let is_one = |address: &&IpAddr| !address.is_unspecified();
    let own = Some(&authority).filter(is_one);
    let for_own = publish.or(own.copied()).or(receivers.iter().find(is_one).copied());
    let for_receivers = publish.or(receivers.iter().find(is_one).copied()).or(own.copied());
    let named = receivers.iter().map(|address| Some(*address).filter(|a| is_one(&a)).or(for_receivers));
    Some((named.collect::<Option<_>>()?, own.copied().or(for_own)?))
}

impl Records {
    /// `receivers` are the addresses that take mail (not empty), `own_address` is the authority's.
    pub(super) fn new(
        zone: Zone,
        receivers: Vec<IpAddr>,
        own_address: IpAddr,
        ttl_s: u32,
    ) -> Result<Records, DnsError> {
        let unfit = || DnsError::Zone(zone.name().to_owned());
        let origin = absolute(zone.name()).ok_or_else(unfit)?;
        let child = |label: &str| origin.prepend_label(label).map_err(|_| unfit());
        let soa = SOA::new(child("ns")?, child("hostmaster")?, 1, 3600, 600, 86_400, ttl_s);
        let soa = Record::from_rdata(origin.clone(), ttl_s, RData::SOA(soa));
        Ok(Records { zone, receivers, own_address, ttl_s, soa, origin })
    }

    /// Answers a question for `owner` (lower case); none: not at all, the resolver has to time out. An alias is followed: what it stands for is in the same zone (RFC 1034 section
    /// 4.3.2), and the code is that of its end (RFC 6604).
    pub(super) fn answer(&self, owner: &Name, record_type: RecordType) -> Option<Said> {
        let (mut owner, mut records) = (owner.clone(), Vec::new());
        loop {
            let (code, data) = match self.find(&owner, record_type) {
                Found::Silence => return None,
                Found::Error(code) => return Some(Said { code, records: Vec::new(), soa: None }),
                Found::NoSuchName => (ResponseCode::NXDomain, Vec::new()),
                Found::Data(data) => (ResponseCode::NoError, data),
                Found::Alias(target) => {
                    let alias = RData::CNAME(CNAME(target.clone()));
                    records.push(Record::from_rdata(owner, self.ttl_s, alias));
                    if matches!(record_type, RecordType::CNAME | RecordType::ANY) {
                        return Some(Said { code: ResponseCode::NoError, records, soa: None });
                    }
                    owner = target;
                    continue;
                }
            };
            let soa = data.is_empty().then(|| self.soa.clone());
            records.extend(data.into_iter().map(|data| Record::from_rdata(owner.clone(), self.ttl_s, data)));
            return Some(Said { code, records, soa });
        }
    }

    /// Answers a zone transfer, which is never made: REFUSED for the zone, NOTAUTH for what is none of ours (RFC 5936 section 2.2.1).
    pub(super) fn refuse_transfer(&self, owner: &Name) -> ResponseCode {
        match self.classify(owner) {
            ZoneName::Apex => ResponseCode::Refused,
            _ => ResponseCode::NotAuth,
        }
    }

    fn classify(&self, owner: &Name) -> ZoneName {
        let name = owner.to_ascii();
        self.zone.classify(name.strip_suffix('.').unwrap_or(&name))
    }

    fn find(&self, owner: &Name, record_type: RecordType) -> Found {
        Found::Data(match self.classify(owner) {
            ZoneName::Foreign | ZoneName::Refused => return Found::Error(ResponseCode::Refused),
            ZoneName::ServFail => return Found::Error(ResponseCode::ServFail),
            ZoneName::Silent => return Found::Silence,
            ZoneName::Unknown => return Found::NoSuchName,
            ZoneName::Alias => match self.origin.prepend_label("d0") {
                Ok(target) => return Found::Alias(target),
                Err(_) => return Found::NoSuchName,
            },
            name if record_type == RecordType::ANY => self.any(name, owner),
            name => self.data(name, owner, record_type),
        })
    }

    /// One RRset, whichever there is, or if that is large what says that there are some (RFC 8482 sections 4.1 and 4.2).
    fn any(&self, name: ZoneName, owner: &Name) -> Vec<RData> {
        let some = match name {
            ZoneName::ManyMx => vec![RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()))],
            _ => Vec::new(),
        };
        let types = [RecordType::SOA, RecordType::MX, RecordType::A, RecordType::AAAA];
        types
            .iter()
            .fold(some, |found, &kind| if found.is_empty() { self.data(name, owner, kind) } else { found })
    }

    fn data(&self, name: ZoneName, owner: &Name, record_type: RecordType) -> Vec<RData> {
        match name {
            ZoneName::Apex => self.apex(record_type),
            ZoneName::NameServer => address(self.own_address, record_type),
            ZoneName::Domain(_) | ZoneName::Bounce => self.single_mx(owner, record_type),
            ZoneName::DomainMx(k) => address(self.receiver(k), record_type),
            ZoneName::BounceMx | ZoneName::Implicit => address(self.receiver(0), record_type),
            ZoneName::NullMx if record_type == RecordType::MX => vec![RData::MX(MX::new(0, Name::root()))],
            ZoneName::ManyMx => many_mx(owner, record_type),
            ZoneName::ManyMxHost(i) => address(self.receiver(u32::from(i)), record_type),
            _ => Vec::new(),
        }
    }

    fn receiver(&self, k: u32) -> IpAddr {
        self.receivers[k as usize % self.receivers.len()]
    }

    fn apex(&self, record_type: RecordType) -> Vec<RData> {
        match record_type {
            RecordType::SOA => vec![self.soa.data.clone()],
            RecordType::NS => {
                self.origin.prepend_label("ns").map(|name| RData::NS(NS(name))).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn single_mx(&self, owner: &Name, record_type: RecordType) -> Vec<RData> {
        if record_type != RecordType::MX {
            return Vec::new();
        }
        owner.prepend_label("mx").map(|host| RData::MX(MX::new(10, host))).into_iter().collect()
    }
}

fn many_mx(owner: &Name, record_type: RecordType) -> Vec<RData> {
    if record_type != RecordType::MX {
        return Vec::new();
    }
    let hosts = (0..MANY_MX).filter_map(|i| Some((i, owner.prepend_label(format!("mx{i}")).ok()?)));
    hosts.map(|(i, host)| RData::MX(MX::new(10 + i, host))).collect()
}

fn address(address: IpAddr, record_type: RecordType) -> Vec<RData> {
    match (address, record_type) {
        (IpAddr::V4(v4), RecordType::A) => vec![RData::A(A(v4))],
        (IpAddr::V6(v6), RecordType::AAAA) => vec![RData::AAAA(AAAA(v6))],
        _ => Vec::new(),
    }
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No address that stands for all is named, as long as there is another one.
    #[test]
    fn addresses_to_publish() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (any, one, other) = (address("0.0.0.0"), address("192.0.2.1"), address("192.0.2.2"));
        for (receivers, authority, publish, expected) in [
            (vec![one], other, None, Some((vec![one], other))),
            (vec![one, any], any, None, Some((vec![one, one], one))),
            (vec![any], other, None, Some((vec![other], other))),
            (vec![any, one], any, Some(other), Some((vec![other, one], other))),
            (vec![one], address("::"), Some(other), Some((vec![one], other))),
            (vec![any], address("::"), None, None),
        ] {
            assert_eq!(published(&receivers, authority, publish), expected);
        }
    }
}
