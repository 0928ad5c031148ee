//! The service extensions of SMTP (RFC 5321 section 2.2): the one list of them.
//!
//! From it follow the server's answer to EHLO and to HELP, the parameters of MAIL and RCPT and the verbs that its parser
//! knows, what the client takes from an answer to EHLO, and the table in docs/design/protocol.md. A new extension is a line
//! of `LIST`; what a parameter or a verb of it means stands in [`super::command`], what the client makes of it in
//! [`super::client`].

use super::reply::Reply;
use super::xclient;
use crate::sasl::mechanism::{Mechanism, Mechanisms};

/// An extension, by its keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Extension {
    /// PIPELINING
    Pipelining,
    /// SIZE
    Size,
    /// 8BITMIME
    EightBitMime,
    /// ENHANCEDSTATUSCODES
    EnhancedStatusCodes,
    /// DSN
    Dsn,
    /// STARTTLS
    StartTls,
    /// AUTH
    Auth,
    /// XCLIENT, of Postfix
    Xclient,
    /// CHUNKING
    Chunking,
    /// BURL
    Burl,
    /// ETRN
    Etrn,
    /// ATRN
    Atrn,
}

impl Extension {
    /// The keyword of EHLO, in upper case.
    pub fn keyword(self) -> &'static str {
        LIST[self as usize].keyword
    }

    /// The RFC that says what it is, if one does.
    pub fn rfc(self) -> Option<u16> {
        Some(LIST[self as usize].rfc).filter(|&rfc| rfc != NO_RFC)
    }
}

/// A parameter of MAIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MailParameter {
    Size,
    Body,
    Ret,
    EnvelopeId,
    Auth,
}

/// A parameter of RCPT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RcptParameter {
    Notify,
    OriginalRecipient,
}

/// Of what no RFC describes.
const NO_RFC: u16 = 0;

/// When the server advertises an extension, and what behind its keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    Always,
    /// Always, with [`Offering::size`].
    WithSize,
    /// Where [`Offering::dsn`] says so.
    WithDsn,
    /// Where [`Offering::starttls`] says so.
    WithStartTls,
    /// With [`Offering::mechanisms`], where there are any.
    WithMechanisms,
    /// Where [`Offering::xclient`] says so, with [`xclient::ATTRIBUTES`].
    WithXclient,
    /// It is not implemented: its verbs are answered with 502, its parameters with 555.
    Never,
}

/// What decides over the answer to EHLO: the options of a session, and later its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offering {
    /// The largest message, in octets.
    pub size: u64,
    /// Whether the caller does as RFC 3461 says.
    pub dsn: bool,
    /// Whether the connection is plain and the caller can make the handshake.
    pub starttls: bool,
    /// Mechanisms of AUTH that the client may use now.
    pub mechanisms: Mechanisms,
    /// Whether the client may say whose client it is.
    pub xclient: bool,
}

/// A line of the list.
#[derive(Debug)]
struct Definition {
    extension: Extension,
    keyword: &'static str,
    rfc: u16,
    offer: Offer,
    mail: &'static [(&'static str, MailParameter)],
    rcpt: &'static [(&'static str, RcptParameter)],
    /// In upper case, 8 octets at most.
    verbs: &'static [&'static str],
}

impl Definition {
    const fn new(extension: Extension, keyword: &'static str, rfc: u16, offer: Offer) -> Definition {
        Definition { extension, keyword, rfc, offer, mail: &[], rcpt: &[], verbs: &[] }
    }
}

/// In the order of the answer to EHLO, and of [`Extension`].
static LIST: [Definition; 12] = [
    Definition::new(Extension::Pipelining, "PIPELINING", 2920, Offer::Always),
    Definition {
        mail: &[("SIZE", MailParameter::Size)],
        ..Definition::new(Extension::Size, "SIZE", 1870, Offer::WithSize)
    },
    Definition {
        mail: &[("BODY", MailParameter::Body)],
        ..Definition::new(Extension::EightBitMime, "8BITMIME", 6152, Offer::Always)
    },
    Definition::new(Extension::EnhancedStatusCodes, "ENHANCEDSTATUSCODES", 2034, Offer::Always),
    Definition {
        mail: &[("RET", MailParameter::Ret), ("ENVID", MailParameter::EnvelopeId)],
        rcpt: &[("NOTIFY", RcptParameter::Notify), ("ORCPT", RcptParameter::OriginalRecipient)],
        ..Definition::new(Extension::Dsn, "DSN", 3461, Offer::WithDsn)
    },
    Definition {
        verbs: &["STARTTLS"],
        ..Definition::new(Extension::StartTls, "STARTTLS", 3207, Offer::WithStartTls)
    },
    Definition {
        verbs: &["AUTH"],
        mail: &[("AUTH", MailParameter::Auth)],
        ..Definition::new(Extension::Auth, "AUTH", 4954, Offer::WithMechanisms)
    },
    Definition {
        verbs: &["XCLIENT"],
        ..Definition::new(Extension::Xclient, "XCLIENT", NO_RFC, Offer::WithXclient)
    },
    Definition { verbs: &["BDAT"], ..Definition::new(Extension::Chunking, "CHUNKING", 3030, Offer::Never) },
    Definition { verbs: &["BURL"], ..Definition::new(Extension::Burl, "BURL", 4468, Offer::Never) },
    Definition { verbs: &["ETRN"], ..Definition::new(Extension::Etrn, "ETRN", 1985, Offer::Never) },
    Definition { verbs: &["ATRN"], ..Definition::new(Extension::Atrn, "ATRN", 2645, Offer::Never) },
];

/// A set of extensions: those that a session has advertised, or that a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extensions(u16);

impl Extensions {
    /// Those that a server advertises.
    pub fn offered(offering: Offering) -> Extensions {
        let is_offered = |definition: &&Definition| match definition.offer {
            Offer::Always | Offer::WithSize => true,
            Offer::WithDsn => offering.dsn,
            Offer::WithStartTls => offering.starttls,
            Offer::WithMechanisms => offering.mechanisms != Mechanisms::NONE,
            Offer::WithXclient => offering.xclient,
            Offer::Never => false,
        };
        LIST.iter().filter(is_offered).fold(Extensions::default(), |set, it| set.with(it.extension))
    }

    /// With one more.
    pub const fn with(self, extension: Extension) -> Extensions {
        Extensions(self.0 | 1 << extension as u16)
    }

    /// Whether it is one of them.
    pub const fn has(self, extension: Extension) -> bool {
        self.0 & 1 << extension as u16 != 0
    }

    fn definitions(self) -> impl Iterator<Item = &'static Definition> {
        LIST.iter().filter(move |definition| self.has(definition.extension))
    }

    /// Appends a line for each, as the answer to EHLO has them behind the host's name.
    pub(super) fn advertise(self, offering: Offering, text: &mut String) {
        for definition in self.definitions() {
            text.extend(["\n", definition.keyword]);
            if definition.offer == Offer::WithSize {
                text.extend([" ", &offering.size.to_string()]);
            }
            if definition.offer == Offer::WithMechanisms {
                text.extend([" ", &offering.mechanisms.to_string()]);
            }
            if definition.offer == Offer::WithXclient {
                text.extend([" ", xclient::ATTRIBUTES]);
            }
        }
    }

    /// The parameter of MAIL with this keyword, in any case, if one of the extensions brings it.
    pub(super) fn mail_parameter(self, keyword: &[u8]) -> Option<MailParameter> {
        self.definitions().flat_map(|it| it.mail).find_map(|parameter| named(*parameter, keyword))
    }

    /// The parameter of RCPT with this keyword, in any case, if one of the extensions brings it.
    pub(super) fn rcpt_parameter(self, keyword: &[u8]) -> Option<RcptParameter> {
        self.definitions().flat_map(|it| it.rcpt).find_map(|parameter| named(*parameter, keyword))
    }

    /// The verbs that they bring.
    pub(super) fn verbs(self) -> impl Iterator<Item = &'static str> {
        self.definitions().flat_map(|definition| definition.verbs).copied()
    }
}

fn named<T>((name, parameter): (&str, T), keyword: &[u8]) -> Option<T> {
    keyword.eq_ignore_ascii_case(name.as_bytes()).then_some(parameter)
}

/// Whether a verb, in upper case, belongs to an extension, advertised or not.
pub(super) fn is_verb(verb: &[u8]) -> bool {
    LIST.iter().flat_map(|definition| definition.verbs).any(|its| its.as_bytes() == verb)
}

/// What a server can do, from its answer to EHLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    extensions: Extensions,
    size: u64,
    mechanisms: Mechanisms,
}

impl Capabilities {
    /// Reads an answer to EHLO; keywords that are not in the list are passed over.
    pub(super) fn read(reply: &Reply) -> Capabilities {
        let mut capabilities = Capabilities::default();
        for line in reply.lines().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default();
            let Some(known) = LIST.iter().find(|it| keyword.eq_ignore_ascii_case(it.keyword)) else {
                continue;
            };
            capabilities.extensions = capabilities.extensions.with(known.extension);
            if known.extension == Extension::Auth {
                capabilities.mechanisms =
                    words.clone().filter_map(|it| Mechanism::from_name(it.as_bytes())).collect();
            }
            if known.extension == Extension::Size {
                // RFC 1870 section 3: without a number, or with 0, no limit is told.
                capabilities.size = words.next().and_then(|size| size.parse().ok()).unwrap_or(0);
            }
        }
        capabilities
    }

    /// Whether the server has an extension.
    pub fn has(self, extension: Extension) -> bool {
        self.extensions.has(extension)
    }

    /// With AUTH: the mechanisms that are known here.
    pub fn mechanisms(self) -> Mechanisms {
        self.mechanisms
    }

    /// With SIZE: the largest message, in octets; 0 when no limit is told.
    pub fn size_limit(self) -> Option<u64> {
        self.has(Extension::Size).then_some(self.size)
    }
}

#[cfg(test)]
mod tests {
    //! The list is in order, and the same as the documented one.

    use super::*;

    /// Sets, parameters and verbs go by the place in the list.
    #[test]
    fn the_list_is_in_the_order_of_the_enum() {
        for (place, definition) in LIST.iter().enumerate() {
            assert_eq!(definition.extension as usize, place, "{definition:?}");
            assert!(definition.verbs.iter().all(|verb| verb.len() <= 8), "{definition:?}");
        }
        assert!(LIST.len() <= u16::BITS as usize);
    }

    /// A parameter is known where its extension is advertised.
    #[test]
    fn parameters_belong_to_advertised_extensions() {
        let set = |dsn| {
            Extensions::offered(Offering {
                size: 1,
                dsn,
                starttls: false,
                mechanisms: Mechanisms::NONE,
                xclient: false,
            })
        };
        assert_eq!(set(false).mail_parameter(b"size"), Some(MailParameter::Size));
        assert_eq!(set(false).mail_parameter(b"EnvId"), None);
        assert_eq!(set(true).mail_parameter(b"EnvId"), Some(MailParameter::EnvelopeId));
        assert_eq!(set(true).rcpt_parameter(b"RET"), None);
        assert_eq!(Extensions::default().mail_parameter(b"SIZE"), None);
    }

    fn row(definition: &Definition) -> String {
        let keyword = definition.extension.keyword();
        let rfc = definition.extension.rfc().map_or("none: Postfix".to_owned(), |rfc| rfc.to_string());
        let names =
            |names: Vec<&str>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let Definition { mail, rcpt, verbs, .. } = definition;
        let offer = match definition.offer {
            Offer::Always => "always",
            Offer::WithSize => "always, with the largest message in octets",
            Offer::WithDsn => "where the server's option `dsn` says so",
            Offer::WithStartTls => "where the server has certificates, while the connection is plain",
            Offer::WithMechanisms => "where there are users, with the mechanisms that the connection allows",
            Offer::WithXclient => "to peers that may say whose client they are, with what they may say",
            Offer::Never => "never: not implemented",
        };
        let (mail, rcpt) = (mail.iter().map(|it| it.0).collect(), rcpt.iter().map(|it| it.0).collect());
        let (mail, rcpt, verbs) = (names(mail), names(rcpt), names(verbs.to_vec()));
        format!("| {keyword} | {rfc} | {offer} | {mail} | {rcpt} | {verbs} |\n")
    }

    /// docs/design/protocol.md has the list as it is.
    #[test]
    fn the_documented_list_is_this_one() {
        let table = LIST.iter().map(row).collect::<String>();
        let page = include_str!("../../../docs/design/protocol.md");
        let head = "| keyword | RFC | advertised | of MAIL | of RCPT | verbs |\n|---|---|---|---|---|---|\n";
        assert!(page.contains(&format!("{head}{table}")), "it has to say:\n{head}{table}");
    }
}
