//! The records of the test zone, made up as they are asked for: nothing is stored per domain.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::zone::{MANY_MX, Zone, ZoneName};

/// What the authority says to one question.
pub(super) enum Answer {
    /// Authoritative records (and the address of the CNAME's target is left to the resolver).
    Records(Vec<Record>),
    /// The name exists without such a record: NOERROR with the SOA.
    NoData(Record),
    /// The name does not exist: NXDOMAIN with the SOA.
    NoSuchName(Record),
    /// An error code without records.
    Error(ResponseCode),
    /// No answer at all: the resolver has to time out.
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

impl Records {
    /// `receivers` are the addresses that take mail (not empty), `own_address` is the authority's.
    pub(super) fn new(
        zone: Zone,
        receivers: Vec<IpAddr>,
        own_address: IpAddr,
        ttl_s: u32,
    ) -> Result<Records, String> {
        let origin =
            absolute(zone.name()).ok_or_else(|| format!("{:?} is not a domain name", zone.name()))?;
        let child = |label: &str| {
            origin.prepend_label(label).map_err(|error| format!("zone {:?}: {error}", zone.name()))
        };
        let soa = SOA::new(child("ns")?, child("hostmaster")?, 1, 3600, 600, 86_400, ttl_s);
        let soa = Record::from_rdata(origin.clone(), ttl_s, RData::SOA(soa));
        Ok(Records { zone, receivers, own_address, ttl_s, soa, origin })
    }

    /// Answers a question for `owner` (lower case).
    pub(super) fn answer(&self, owner: &Name, record_type: RecordType) -> Answer {
        let name = owner.to_ascii();
        let data = match self.zone.classify(name.strip_suffix('.').unwrap_or(&name)) {
            ZoneName::Foreign | ZoneName::Refused => return Answer::Error(ResponseCode::Refused),
            ZoneName::ServFail => return Answer::Error(ResponseCode::ServFail),
            ZoneName::Silent => return Answer::Silence,
            ZoneName::Unknown => return Answer::NoSuchName(self.soa.clone()),
            ZoneName::Apex => self.apex(record_type),
            ZoneName::NameServer => address(self.own_address, record_type),
            ZoneName::Domain(_) | ZoneName::Bounce => self.single_mx(owner, record_type),
            ZoneName::DomainMx(k) => address(self.receiver(k), record_type),
            ZoneName::BounceMx | ZoneName::Implicit => address(self.receiver(0), record_type),
            ZoneName::NullMx if record_type == RecordType::MX => vec![RData::MX(MX::new(0, Name::root()))],
            ZoneName::NullMx => Vec::new(),
            ZoneName::ManyMx => many_mx(owner, record_type),
            ZoneName::ManyMxHost(i) => address(self.receiver(u32::from(i)), record_type),
            // A CNAME is the answer to every type (RFC 1034, section 3.6.2).
            ZoneName::Alias => {
                self.origin.prepend_label("d0").map(|name| RData::CNAME(CNAME(name))).into_iter().collect()
            }
        };
        if data.is_empty() {
            return Answer::NoData(self.soa.clone());
        }
        let record = |data| Record::from_rdata(owner.clone(), self.ttl_s, data);
        Answer::Records(data.into_iter().map(record).collect())
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
