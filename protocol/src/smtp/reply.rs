//! Replies (RFC 5321 section 4.2) with enhanced status codes (RFC 3463).

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

/// Octets of text put on one reply line; the line with code, enhanced code and CRLF stays under the 512 of
/// RFC 5321 section 4.5.3.1.5. Longer text is cut.
const LINE_TEXT_MAX: usize = 480;

/// `class.subject.detail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Enhanced {
    /// 2 success, 4 transient, 5 permanent.
    pub class: u8,
    /// What part of the mail system it is about.
    pub subject: u16,
    /// What happened.
    pub detail: u16,
}

impl Enhanced {
    /// Parses `5.7.1`.
    pub fn parse(text: &str) -> Option<Enhanced> {
        let mut parts = text.split('.');
        let class = match parts.next()? {
            "2" => 2,
            "4" => 4,
            "5" => 5,
            _ => return None,
        };
        let (subject, detail) = (number(parts.next()?)?, number(parts.next()?)?);
        parts.next().is_none().then_some(Enhanced { class, subject, detail })
    }
}

/// One to three digits.
fn number(text: &str) -> Option<u16> {
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

impl fmt::Display for Enhanced {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// A reply as it is sent or was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// The enhanced status code, where there is one.
    pub enhanced: Option<Enhanced>,
    /// The text without codes; lines are separated by `\n`.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// A reply with an enhanced status code, as in `Reply::new(550, "5.7.1", "Relaying denied")`.
    ///
    /// `enhanced` is left out when it is none (a mistake that debug builds stop at).
    pub fn new(code: u16, enhanced: &str, text: impl Into<Cow<'static, str>>) -> Reply {
        let enhanced = Enhanced::parse(enhanced);
        debug_assert!(enhanced.is_some_and(|it| u16::from(it.class) == code / 100), "{code}");
        Reply { code, enhanced, text: text.into() }
    }

    /// A reply without an enhanced status code, as greetings and answers to EHLO are.
    pub fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { code, enhanced: None, text: text.into() }
    }

    /// 2xx: done.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 4xx: may succeed later.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5xx: will not succeed.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// The lines of the text; at least one.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    /// Appends the reply in wire form. Octets that are not printable ASCII become `?`, so text that came from
    /// elsewhere cannot forge a reply.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut lines = self.lines().peekable();
        while let Some(line) = lines.next() {
            let digits = [self.code / 100 % 10, self.code / 10 % 10, self.code % 10];
            out.extend(digits.map(|digit| b'0' + digit as u8));
            out.push(if lines.peek().is_some() { b'-' } else { b' ' });
            if let Some(enhanced) = self.enhanced {
                // Writing to a Vec cannot fail.
                let _ = write!(out, "{enhanced} ");
            }
            encode_line(line, out);
        }
    }
}

/// Appends what stands behind the codes of a reply's line, and the line's end.
pub(super) fn encode_line(text: &str, out: &mut Vec<u8>) {
    let printable = |byte| if matches!(byte, 0x20..=0x7e | b'\t') { byte } else { b'?' };
    out.extend(text.bytes().take(LINE_TEXT_MAX).map(printable));
    out.extend_from_slice(b"\r\n");
}

impl fmt::Display for Reply {
    /// One line: `550 5.7.1 Relaying denied`, lines of a longer text joined by spaces.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(formatter, " {enhanced}")?;
        }
        self.lines().filter(|line| !line.is_empty()).try_for_each(|line| write!(formatter, " {line}"))
    }
}

#[cfg(test)]
mod tests {
    //! Replies have the wire form of RFC 5321, whatever their text.
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn wire_form() {
        assert_eq!(wire(&Reply::new(550, "5.7.1", "Relaying denied")), "550 5.7.1 Relaying denied\r\n");
        assert_eq!(wire(&Reply::plain(250, "a\nb")), "250-a\r\n250 b\r\n");
        assert_eq!(wire(&Reply::new(450, "4.2.0", "a\nb")), "450-4.2.0 a\r\n450 4.2.0 b\r\n");
        assert_eq!(wire(&Reply::plain(250, "a\r250 b\u{e9}")), "250 a?250 b??\r\n");
        assert!(wire(&Reply::new(550, "5.7.1", "x".repeat(10_000))).len() <= 512);
        assert_eq!(Reply::new(450, "4.2.0", "a\nb").to_string(), "450 4.2.0 a b");
    }

    #[test]
    fn enhanced_codes() {
        assert_eq!(Enhanced::parse("5.7.1"), Some(Enhanced { class: 5, subject: 7, detail: 1 }));
        for text in ["", "5", "5.7", "3.7.1", "5.7.1.1", "5.7.1000", "5.+7.1", "5..1"] {
            assert_eq!(Enhanced::parse(text), None, "{text}");
        }
    }
}
