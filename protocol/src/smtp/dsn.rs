//! The parameters of delivery status notifications (RFC 3461), parsed into types that cannot be wrong.
//!
//! A relay passes them on with the value they came with, so the types keep xtext as it was written; what a
//! notification shows of them is decoded.

use std::fmt;

use super::address::is_atext;

/// Octets of ENVID's value, in xtext (RFC 3461 section 4.4).
pub const ENVELOPE_ID_MAX: usize = 100;
/// Octets of ORCPT's value: address type, semicolon and xtext (RFC 3461 section 4.2).
pub const ORIGINAL_RECIPIENT_MAX: usize = 500;

/// RET: what of the message a notification of failure returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// `FULL`: all of it.
    Full,
    /// `HDRS`: its header section.
    Headers,
}

impl Return {
    /// Parses the value of RET.
    pub fn parse(value: &[u8]) -> Option<Return> {
        match value {
            _ if value.eq_ignore_ascii_case(b"FULL") => Some(Return::Full),
            _ if value.eq_ignore_ascii_case(b"HDRS") => Some(Return::Headers),
            _ => None,
        }
    }
}

impl fmt::Display for Return {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Return::Full => "FULL",
            Return::Headers => "HDRS",
        })
    }
}

/// NOTIFY: of what the sender wants to be told. The empty set is `NEVER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Notify(u8);

const SUCCESS: u8 = 1;
const FAILURE: u8 = 2;
const DELAY: u8 = 4;

impl Notify {
    /// `NEVER`: nothing is to be told.
    pub const NEVER: Notify = Notify(0);

    /// Parses the value of NOTIFY: `NEVER`, or a list of the other keywords.
    pub fn parse(value: &[u8]) -> Option<Notify> {
        if value.eq_ignore_ascii_case(b"NEVER") {
            return Some(Notify::NEVER);
        }
        let mut set = 0;
        for keyword in value.split(|&byte| byte == b',') {
            set |= match keyword {
                _ if keyword.eq_ignore_ascii_case(b"SUCCESS") => SUCCESS,
                _ if keyword.eq_ignore_ascii_case(b"FAILURE") => FAILURE,
                _ if keyword.eq_ignore_ascii_case(b"DELAY") => DELAY,
                _ => return None,
            };
        }
        Some(Notify(set))
    }

    /// Whether a delivery is to be told.
    pub fn success(self) -> bool {
        self.0 & SUCCESS != 0
    }

    /// Whether a failure is to be told.
    pub fn failure(self) -> bool {
        self.0 & FAILURE != 0
    }

    /// Whether a delay may be told.
    pub fn delay(self) -> bool {
        self.0 & DELAY != 0
    }

    /// As an octet, for storage: bit 0 success, bit 1 failure, bit 2 delay.
    pub fn to_bits(self) -> u8 {
        self.0
    }

    /// What [`Notify::to_bits`] gave; `None` for other bits.
    pub fn from_bits(bits: u8) -> Option<Notify> {
        (bits <= SUCCESS | FAILURE | DELAY).then_some(Notify(bits))
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Notify::NEVER {
            return formatter.write_str("NEVER");
        }
        let mut separator = "";
        for (bit, keyword) in [(SUCCESS, "SUCCESS"), (FAILURE, "FAILURE"), (DELAY, "DELAY")] {
            if self.0 & bit != 0 {
                write!(formatter, "{separator}{keyword}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

/// ENVID: the sender's name for this message and transaction. Displays in xtext.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EnvelopeId(Box<str>);

impl EnvelopeId {
    /// Parses the value of ENVID: xtext of printable ASCII and blanks, 1 to [`ENVELOPE_ID_MAX`] octets.
    pub fn parse(value: &[u8]) -> Option<EnvelopeId> {
        let fits = (1..=ENVELOPE_ID_MAX).contains(&value.len()) && is_printable_xtext(value);
        fits.then(|| str::from_utf8(value).ok().map(|value| EnvelopeId(value.into()))).flatten()
    }

    /// In xtext, as it came.
    pub fn as_xtext(&self) -> &str {
        &self.0
    }

    /// What it says: printable ASCII and blanks.
    pub fn decoded(&self) -> String {
        decode(&self.0)
    }
}

impl fmt::Display for EnvelopeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// ORCPT: the recipient as the sender gave it, with the type of address. Displays as type, `;` and xtext.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OriginalRecipient(Box<str>);

impl OriginalRecipient {
    /// Parses the value of ORCPT, 1 to [`ORIGINAL_RECIPIENT_MAX`] octets: an atom, `;`, and xtext of printable ASCII
    /// and blanks that is not empty.
    pub fn parse(value: &[u8]) -> Option<OriginalRecipient> {
        let semicolon = value.iter().position(|&byte| byte == b';')?;
        let (kind, address) = (&value[..semicolon], &value[semicolon + 1..]);
        let is_atom = !kind.is_empty() && kind.iter().all(|&byte| is_atext(byte) && byte != b'=');
        let fits = value.len() <= ORIGINAL_RECIPIENT_MAX && !address.is_empty();
        if !is_atom || !fits || !is_printable_xtext(address) {
            return None;
        }
        str::from_utf8(value).ok().map(|value| OriginalRecipient(value.into()))
    }

    /// Type, semicolon and xtext, as it came.
    pub fn as_xtext(&self) -> &str {
        &self.0
    }

    /// The type of address: `rfc822` for a mailbox.
    pub fn kind(&self) -> &str {
        self.0.split_once(';').map_or("", |(kind, _)| kind)
    }

    /// The address: printable ASCII and blanks.
    pub fn decoded(&self) -> String {
        decode(self.0.split_once(';').map_or("", |(_, address)| address))
    }
}

impl fmt::Display for OriginalRecipient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What MAIL says of notifications.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailParameters {
    /// RET
    pub ret: Option<Return>,
    /// ENVID
    pub envelope_id: Option<EnvelopeId>,
}

impl MailParameters {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == MailParameters::default()
    }
}

/// What RCPT says of notifications.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RcptParameters {
    /// NOTIFY; `None` asks for notifications of failure, and leaves those of delay to the server.
    pub notify: Option<Notify>,
    /// ORCPT
    pub original: Option<OriginalRecipient>,
}

impl RcptParameters {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == RcptParameters::default()
    }

    /// Whether the sender wants to be told that the recipient has the message.
    pub fn wants_success(&self) -> bool {
        self.notify.is_some_and(Notify::success)
    }

    /// Whether the sender wants to be told that the message cannot be delivered.
    pub fn wants_failure(&self) -> bool {
        self.notify.is_none_or(Notify::failure)
    }

    /// Whether the sender may be told that the message is late.
    pub fn wants_delay(&self) -> bool {
        self.notify.is_none_or(Notify::delay)
    }
}

impl RcptParameters {
    /// What it takes of memory, about.
    pub fn octets(&self) -> usize {
        size_of::<Self>() + self.original.as_ref().map_or(0, |original| original.as_xtext().len())
    }
}

/// What a transaction says of notifications.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters {
    /// With MAIL.
    pub mail: MailParameters,
    /// With each RCPT, in order; those beyond the end say nothing.
    pub recipients: Vec<RcptParameters>,
}

impl Parameters {
    /// What is said of a recipient.
    pub fn recipient(&self, index: usize) -> Option<&RcptParameters> {
        self.recipients.get(index)
    }

    /// What it takes of memory, about.
    pub fn octets(&self) -> usize {
        let envelope_id = self.mail.envelope_id.as_ref().map_or(0, |id| id.as_xtext().len());
        size_of::<Self>() + envelope_id + self.recipients.iter().map(RcptParameters::octets).sum::<usize>()
    }
}

/// xtext decoded, if it is that and says something printable.
pub(super) fn decoded_xtext(text: &[u8]) -> Option<String> {
    str::from_utf8(text).ok().filter(|_| is_printable_xtext(text)).map(decode)
}

/// xtext (RFC 3461 section 4) that decodes to printable ASCII, blanks and tabs.
fn is_printable_xtext(mut text: &[u8]) -> bool {
    while let Some((&byte, rest)) = text.split_first() {
        text = match byte {
            b'+' => match rest {
                [high, low, rest @ ..] if hex(*high, *low).is_some_and(is_shown) => rest,
                _ => return false,
            },
            b'=' => return false,
            b'!'..=b'~' => rest,
            _ => return false,
        };
    }
    true
}

fn is_shown(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

/// Two upper-case hexadecimal digits.
fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    Some(digit(high)? << 4 | digit(low)?)
}

/// What [`is_printable_xtext`] has let pass, decoded.
fn decode(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let shown = match byte {
            b'+' => bytes.next().zip(bytes.next()).and_then(|(high, low)| hex(high, low)).unwrap_or(b'?'),
            byte => byte,
        };
        decoded.push(char::from(shown));
    }
    decoded
}

#[cfg(test)]
mod tests {
    //! Which values are valid, and what they say.
    use super::*;

    #[test]
    fn notify_is_never_or_a_set() {
        for (value, shown, wants) in [
            ("NEVER", "NEVER", (false, false, false)),
            ("never", "NEVER", (false, false, false)),
            ("SUCCESS", "SUCCESS", (true, false, false)),
            ("delay,Failure", "FAILURE,DELAY", (false, true, true)),
            ("SUCCESS,FAILURE,DELAY", "SUCCESS,FAILURE,DELAY", (true, true, true)),
        ] {
            let notify = Notify::parse(value.as_bytes()).unwrap();
            let rcpt = RcptParameters { notify: Some(notify), original: None };
            assert_eq!((rcpt.wants_success(), rcpt.wants_failure(), rcpt.wants_delay()), wants);
            assert_eq!(notify.to_string(), shown);
            assert_eq!(Notify::from_bits(notify.to_bits()), Some(notify));
        }
        for value in ["", ",", "SUCCESS,", "NEVER,FAILURE", "FAILURE,NEVER", "FAILURES", "SUCCESS FAILURE"] {
            assert_eq!(Notify::parse(value.as_bytes()), None, "{value}");
        }
        assert_eq!(Notify::from_bits(8), None);
        let unsaid = RcptParameters::default();
        assert_eq!(
            (unsaid.wants_success(), unsaid.wants_failure(), unsaid.wants_delay()),
            (false, true, true)
        );
    }

    #[test]
    fn envelope_ids_are_short_printable_xtext() {
        for (value, decoded) in [("QQ314159", "QQ314159"), ("a+2Bb+3Dc+20d+7E", "a+b=c d~"), ("+09", "\t")] {
            let id = EnvelopeId::parse(value.as_bytes()).unwrap();
            assert_eq!((id.as_xtext(), id.decoded().as_str()), (value, decoded));
        }
        let longest = "x".repeat(100);
        assert!(EnvelopeId::parse(longest.as_bytes()).is_some());
        let long = "x".repeat(101);
        for value in ["", "a=b", "a b", "a\tb", "+", "+4", "+4g", "+2b", "+0A", "+7F", "+80", "\u{e9}", &long]
        {
            assert_eq!(EnvelopeId::parse(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn original_recipients_have_type_and_address() {
        let original = OriginalRecipient::parse(b"rfc822;Bob+2Btag@Example.COM").unwrap();
        assert_eq!((original.kind(), original.decoded().as_str()), ("rfc822", "Bob+tag@Example.COM"));
        assert_eq!(original.to_string(), "rfc822;Bob+2Btag@Example.COM");
        assert_eq!(OriginalRecipient::parse(b"x400;/a;/b").unwrap().decoded(), "/a;/b");
        let longest = format!("rfc822;{}", "x".repeat(493));
        assert!(OriginalRecipient::parse(longest.as_bytes()).is_some());
        let long = format!("{longest}x");
        for value in ["", "rfc822", "rfc822;", ";a@b", "rfc 822;a@b", "a=b;c", "rfc822;a+b", "(x);a@b", &long]
        {
            assert_eq!(OriginalRecipient::parse(value.as_bytes()), None, "{value}");
        }
    }
}
