//! SEARCH with deep nesting: imap-codec reads 8 levels of keys within keys, clients write more.

use imap_codec::CommandCodec;
use imap_codec::decode::Decoder;
use imap_codec::imap_types::IntoStatic;
use imap_codec::imap_types::command::{Command, CommandBody};
use imap_codec::imap_types::core::Vec1;
use imap_codec::imap_types::search::SearchKey;

/// Levels of search keys within others (lists, NOT, OR) that are read.
const NESTING_MAX: usize = 100;
/// Keys of one such command.
const KEYS_MAX: usize = 1000;

/// Why a command is not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is no SEARCH, or a wrong one.
    Syntax,
    TooDeep,
    TooMany,
}

/// Reads a SEARCH or UID SEARCH with its line end.
pub(super) fn decode(message: &[u8]) -> Result<Command<'static>, Refused> {
    let (head, keys) = split_head(message).ok_or(Refused::Syntax)?;
    let mut command = decode_flat(head, b"ALL").ok_or(Refused::Syntax)?;
    let CommandBody::Search { criteria, .. } = &mut command.body else { return Err(Refused::Syntax) };
    let mut keys = Keys { rest: keys.trim_ascii_end(), count: 0 };
    let found = keys.list(0)?;
    if !keys.rest.is_empty() {
        return Err(Refused::Syntax);
    }
    *criteria = Vec1::try_from(found).map_err(|_| Refused::Syntax)?;
    Ok(command)
}

/// What stands before the keys, and the keys.
fn split_head(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = message.iter().position(|&octet| octet == b' ')? + 1;
    if begins(&message[at..], b"UID ") {
        at += 4;
    }
    at += if begins(&message[at..], b"SEARCH ") { 7 } else { return None };
    if begins(&message[at..], b"CHARSET ") {
        at += 8;
        at += argument(&message[at..])?;
        at += usize::from(*message.get(at)? == b' ');
    }
    Some(message.split_at(at))
}

fn decode_flat(head: &[u8], key: &[u8]) -> Option<Command<'static>> {
    let text = [head, key, b"\r\n"].concat();
    let (rest, command) = CommandCodec::default().decode(&text).ok()?;
    rest.is_empty().then(|| command.into_static())
}

fn begins(text: &[u8], start: &[u8]) -> bool {
    text.get(..start.len()).is_some_and(|text| text.eq_ignore_ascii_case(start))
}

/// Length of the atom, quoted string or literal at the start.
fn argument(text: &[u8]) -> Option<usize> {
    match text.first()? {
        b'"' => {
            let mut at = 1;
            while *text.get(at)? != b'"' {
                at += if text[at] == b'\\' { 2 } else { 1 };
            }
            Some(at + 1)
        }
        b'{' => {
            let end = text.iter().position(|&octet| octet == b'}')?;
            let length = std::str::from_utf8(&text[1..end]).ok()?.parse::<usize>().ok()?;
            let whole = (end + 3).checked_add(length)?;
            (text.get(end + 1..end + 3)? == b"\r\n" && whole <= text.len()).then_some(whole)
        }
        _ => {
            let end = text.iter().position(|octet| matches!(octet, b' ' | b'(' | b')' | b'\r' | b'\n'));
            Some(end.unwrap_or(text.len())).filter(|&length| length > 0)
        }
    }
}

struct Keys<'a> {
    rest: &'a [u8],
    count: usize,
}

impl Keys<'_> {
    /// Keys with a space between them.
    fn list(&mut self, depth: usize) -> Result<Vec<SearchKey<'static>>, Refused> {
        let mut keys = vec![self.key(depth)?];
        while self.take(b" ") {
            keys.push(self.key(depth)?);
        }
        Ok(keys)
    }

    /// One key, inside so many others.
    fn key(&mut self, depth: usize) -> Result<SearchKey<'static>, Refused> {
        self.count += 1;
        if depth > NESTING_MAX {
            return Err(Refused::TooDeep);
        }
        if self.count > KEYS_MAX {
            return Err(Refused::TooMany);
        }
        if self.take(b"(") {
            let keys = Vec1::try_from(self.list(depth + 1)?).map_err(|_| Refused::Syntax)?;
            return self.take(b")").then_some(SearchKey::And(keys)).ok_or(Refused::Syntax);
        }
        if self.take(b"NOT ") {
            return Ok(SearchKey::Not(Box::new(self.key(depth + 1)?)));
        }
        if self.take(b"OR ") {
            let one = self.key(depth + 1)?;
            let both = self.take(b" ").then(|| self.key(depth + 1)).ok_or(Refused::Syntax)?;
            return Ok(SearchKey::Or(Box::new(one), Box::new(both?)));
        }
        self.simple()
    }

    /// A key without keys in it, as imap-codec reads it.
    fn simple(&mut self) -> Result<SearchKey<'static>, Refused> {
        const WITH_ONE: [&[u8]; 16] = [
            b"BCC",
            b"BEFORE",
            b"BODY",
            b"CC",
            b"FROM",
            b"KEYWORD",
            b"LARGER",
            b"ON",
            b"SENTBEFORE",
            b"SENTON",
            b"SENTSINCE",
            b"SINCE",
            b"SMALLER",
            b"SUBJECT",
            b"TEXT",
            b"TO",
        ];
        let mut length = argument(self.rest).ok_or(Refused::Syntax)?;
        let word = &self.rest[..length];
        let named = |names: &[&[u8]]| names.iter().any(|name| word.eq_ignore_ascii_case(name));
        let arguments = match () {
            () if named(&[b"HEADER"]) => 2,
            () if named(&WITH_ONE) || named(&[b"UID", b"UNKEYWORD"]) => 1,
            () => 0,
        };
        for _ in 0..arguments {
            let rest = self.rest.get(length + 1..).ok_or(Refused::Syntax)?;
            length += 1 + argument(rest).ok_or(Refused::Syntax)?;
        }
        let (key, rest) = self.rest.split_at(length);
        self.rest = rest;
        let command = decode_flat(b"a SEARCH ", key).ok_or(Refused::Syntax)?;
        let CommandBody::Search { criteria, .. } = command.body else { return Err(Refused::Syntax) };
        let mut keys = criteria.into_inner().into_iter();
        keys.next().filter(|_| keys.next().is_none()).ok_or(Refused::Syntax)
    }

    /// Takes this text from the start, if it is there.
    fn take(&mut self, text: &[u8]) -> bool {
        let there = begins(self.rest, text);
        if there {
            self.rest = &self.rest[text.len()..];
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> Vec<u8> {
        let (open, close) = ("NOT (".repeat(depth / 2), ")".repeat(depth / 2));
        format!("a UID SEARCH CHARSET utf-8 {open}OR SEEN SUBJECT \"a) b\"{close} 1:3\r\n").into_bytes()
    }

    /// What imap-codec reads is read the same, 100 levels are read, one more is refused, and so are many keys and rubbish.
    #[test]
    fn nesting_is_limited() {
        let flat = b"a UID SEARCH CHARSET utf-8 (OR SEEN (NOT HEADER a {2}\r\n)( ON 1-Jan-2020)) UID 1:3,9 UNKEYWORD b\r\n";
        let (_, command) = CommandCodec::default().decode(flat).unwrap();
        assert_eq!(decode(flat).unwrap(), command.into_static());
        assert!(CommandCodec::default().decode(&nested(20)).is_err());
        for depth in [20, 98] {
            assert!(decode(&nested(depth)).is_ok(), "{depth}");
        }
        assert_eq!(decode(&nested(102)), Err(Refused::TooDeep));
        let deepest = |depth| format!("a SEARCH {}ALL\r\n", "NOT ".repeat(depth)).into_bytes();
        assert!(decode(&deepest(100)).is_ok());
        assert_eq!(decode(&deepest(101)), Err(Refused::TooDeep));
        let many = format!("a SEARCH {}ALL\r\n", "ALL ".repeat(KEYS_MAX));
        assert_eq!(decode(many.as_bytes()), Err(Refused::TooMany));
        for wrong in
            ["a NOOP\r\n", "a SEARCH \r\n", "a SEARCH (ALL\r\n", "a SEARCH ALL)\r\n", "a SEARCH OR ALL\r\n"]
        {
            assert_eq!(decode(wrong.as_bytes()), Err(Refused::Syntax), "{wrong}");
        }
        for wrong in [
            "a SEARCH TEXT {9}\r\na\r\n",
            "a SEARCH TEXT \"a\r\n",
            "a SEARCH TEXT {99999999999999999999}\r\n",
            "a SEARCH ()\r\n",
        ] {
            assert_eq!(decode(wrong.as_bytes()), Err(Refused::Syntax), "{wrong}");
        }
    }
}
