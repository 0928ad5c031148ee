//! Reply lines from a peer that is not trusted, to replies.

use std::borrow::Cow;

use memchr::memchr;

use super::reply::{Enhanced, Reply};

/// Octets of a reply line that are looked at; RFC 5321 allows 512 with the line end. The rest of a longer line is text that
/// nobody reads.
const LINE_MAX: usize = 2048;
/// Octets of text kept of a reply, all lines together.
const TEXT_MAX: usize = 32 * 1024;
/// Octets of a reply, all lines together.
const REPLY_MAX: usize = 256 * 1024;

/// What a peer sent instead of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyError {
    /// No code from 200 to 599 at the start.
    Malformed,
    /// A limit is exceeded.
    TooLong,
}

/// Gathers reply lines until a reply is whole. Lenient where the code is clear: a separator other than SP and HYPHEN ends the
/// reply, empty lines are passed over, of several codes the last line's counts, and lines that have none are text.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    /// The start of a line that a piece of input ended in.
    line: Vec<u8>,
    /// The reply of which lines have come.
    reply: Option<Reply>,
    /// Octets read of the reply.
    octets: usize,
}

impl ReplyReader {
    /// The first whole reply in the input, if there is one, and how much of the input was used.
    pub(super) fn read(&mut self, input: &[u8]) -> Result<(usize, Option<Reply>), ReplyError> {
        let mut used = 0;
        while used < input.len() {
            let rest = &input[used..];
            let end = memchr(b'\n', rest);
            let part = &rest[..end.unwrap_or(rest.len())];
            self.octets += part.len() + 1;
            if self.octets > REPLY_MAX {
                return Err(ReplyError::TooLong);
            }
            let part = &part[..part.len().min(LINE_MAX - self.line.len())];
            let Some(end) = end else {
                self.line.extend_from_slice(part);
                return Ok((input.len(), None));
            };
            used += end + 1;
            let last = if self.line.is_empty() {
                self.read_line(part)?
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(part);
                let last = self.read_line(&line);
                line.clear();
                self.line = line;
                last?
            };
            if last {
                self.octets = 0;
                return Ok((used, self.reply.take()));
            }
        }
        Ok((used, None))
    }

    /// What a reply comes to of which no more will come: one whose last line has begun, or a refusal.
    pub(super) fn cut_short(&mut self) -> Option<Reply> {
        let line = std::mem::take(&mut self.line);
        // Three digits may be the start of a line that is not the last.
        let ended = line.len() > 3 && self.read_line(&line) == Ok(true);
        if line.len() == 3 {
            let _no_code = self.read_line(&line);
        }
        self.reply.take().filter(|reply| ended || reply.is_transient() || reply.is_permanent())
    }

    /// Adds a line, given without its LF, to the reply; whether it was the last.
    fn read_line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Ok(false);
        }
        let Some((code, last, text)) = split_code(line) else {
            let reply = self.reply.as_mut().ok_or(ReplyError::Malformed)?;
            add_text(reply, printable(line));
            return Ok(false);
        };
        let (enhanced, text) = split_enhanced(code, text);
        let text = printable(text);
        match &mut self.reply {
            None => self.reply = Some(Reply { code, enhanced, text }),
            Some(reply) => {
                if reply.code != code {
                    let kept = reply.enhanced.filter(|enhanced| u16::from(enhanced.class) == code / 100);
                    (reply.code, reply.enhanced) = (code, enhanced.or(kept));
                }
                add_text(reply, text);
            }
        }
        Ok(last)
    }
}

/// The code of a line, whether the reply ends with it, and the text.
fn split_code(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (code, rest) = line.split_first_chunk::<3>()?;
    if !matches!(code[0], b'2'..=b'5') || !code.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (last, text) = match rest {
        [b'-', text @ ..] => (false, text),
        [b' ' | b'\t', text @ ..] => (true, text),
        [digit, ..] if digit.is_ascii_digit() => return None,
        text => (true, text),
    };
    let code = code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    Some((code, last, text))
}

/// Adds a line of text, as long as there is room.
fn add_text(reply: &mut Reply, text: Cow<'static, str>) {
    if reply.text.len() + text.len() < TEXT_MAX {
        let whole = reply.text.to_mut();
        whole.push('\n');
        whole.push_str(&text);
    }
}

/// Splits an enhanced code off the text, if it begins with one that agrees with the reply's code.
fn split_enhanced(code: u16, text: &[u8]) -> (Option<Enhanced>, &[u8]) {
    let end = memchr(b' ', text).unwrap_or(text.len());
    let enhanced = str::from_utf8(&text[..end]).ok().and_then(Enhanced::parse);
    match enhanced {
        Some(enhanced) if u16::from(enhanced.class) == code / 100 => {
            (Some(enhanced), text[end..].strip_prefix(b" ").unwrap_or_default())
        }
        _ => (None, text),
    }
}

/// What many servers say to what they accept: it takes no memory.
const USUAL: [&str; 3] = ["Ok", "End data with <CR><LF>.<CR><LF>", ""];

/// Text for logs and bounces: whatever is not printable ASCII becomes `?`.
fn printable(text: &[u8]) -> Cow<'static, str> {
    if let Some(usual) = USUAL.iter().find(|usual| usual.as_bytes() == text) {
        return Cow::Borrowed(usual);
    }
    let mut printable = String::with_capacity(text.len());
    printable
        .extend(text.iter().map(|&byte| if matches!(byte, 0x20..=0x7e) { char::from(byte) } else { '?' }));
    Cow::Owned(printable)
}

#[cfg(test)]
mod tests {
    //! Replies are read at every split, and a peer cannot make a reply without bounds.
    use super::*;

    #[test]
    fn replies_at_every_split() {
        let input = b"250-2.1.0 one\r\n250 2.1.0 two\r\n550 5.7.1\r\n354\r\n451 5.7.1 odd \xff\n";
        for split in 0..=input.len() {
            let mut reader = ReplyReader::default();
            let mut replies = Vec::new();
            for mut part in [&input[..split], &input[split..]] {
                while let (used, Some(reply)) = reader.read(part).unwrap() {
                    replies.push(reply);
                    part = &part[used..];
                }
            }
            let expected = [
                Reply::new(250, "2.1.0", "one\ntwo"),
                Reply::new(550, "5.7.1", ""),
                Reply::plain(354, ""),
                Reply::plain(451, "5.7.1 odd ?"),
            ];
            assert_eq!(replies, expected, "{split}");
        }
    }

    fn read(input: &str) -> Result<Option<Reply>, ReplyError> {
        ReplyReader::default().read(input.as_bytes()).map(|(_, reply)| reply)
    }

    /// Proves that nothing without a code is taken for a reply.
    #[test]
    fn what_is_no_reply_is_an_error() {
        for input in
            ["hello\r\n", "25\r\n", "199 x\r\n", "600 x\r\n", "2x0 x\r\n", "2500 x\r\n", " 250 x\r\n"]
        {
            assert_eq!(read(input), Err(ReplyError::Malformed), "{input}");
        }
    }

    /// Proves that a code is taken where it is clear, however odd the form of the reply.
    #[test]
    fn odd_replies_have_a_code() {
        for (input, code, text) in [
            ("250OK\r\n", 250, "OK"),
            ("250\tok\r\n", 250, "ok"),
            ("550_no\r\n", 550, "_no"),
            ("\r\n\r\n250 ok\r\n", 250, "ok"),
            ("250-a\r\n251 b\r\n", 251, "a\nb"),
            ("220-a\r\n521 b\r\n", 521, "a\nb"),
            ("550-a\r\nplain text\r\n\r\n550 b\r\n", 550, "a\nplain text\nb"),
        ] {
            assert_eq!(read(input), Ok(Some(Reply::plain(code, text))), "{input}");
        }
        let mixed = Reply::new(550, "5.7.1", "a\nb");
        assert_eq!(read("250-2.0.0 a\r\n550 5.7.1 b\r\n"), Ok(Some(mixed)));
        assert_eq!(read("550-5.7.1 a\r\n250 b\r\n").unwrap().unwrap().enhanced, None);
    }

    /// Proves that text beyond the limits is cut and the code stays, and that a reply without end is an error.
    #[test]
    fn long_replies_are_cut() {
        let long = format!("550 5.7.1 {}\r\n", "x".repeat(100_000));
        for split in [0, 1, 2047, 2048, 2049, 90_000] {
            let mut reader = ReplyReader::default();
            let (first, second) = long.as_bytes().split_at(split);
            assert_eq!(reader.read(first), Ok((split, None)));
            let reply = reader.read(second).unwrap().1.unwrap();
            assert_eq!((reply.code, reply.text.len()), (550, LINE_MAX - "550 5.7.1 ".len()), "{split}");
        }
        let many = format!("{}550 last\r\n", "550-5.7.1 twelve octets\r\n".repeat(3_000));
        let reply = read(&many).unwrap().unwrap();
        assert!(reply.code == 550 && reply.text.len() < TEXT_MAX);
        for piece in ["250-x\r\n", "x", "\r\n"] {
            let mut reader = ReplyReader::default();
            let outcome = (0..REPLY_MAX).find_map(|_| reader.read(piece.as_bytes()).err());
            assert_eq!(outcome, Some(ReplyError::TooLong));
        }
    }

    /// Proves what counts of a reply that was cut off: a refusal in any case, an acceptance when its last line has begun.
    #[test]
    fn cut_off_replies() {
        for (input, code) in [
            ("550 5.7.1 blo", Some(550)),
            ("550-5.7.1 blocked\r\n550-5.7.1 see", Some(550)),
            ("550-a\r\n", Some(550)),
            ("550", Some(550)),
            ("451-a", Some(451)),
            ("250 o", Some(250)),
            ("250-a\r\n250 b", Some(250)),
            ("250-a\r\n550 b", Some(550)),
            ("250", None),
            ("250-a\r\n", None),
            ("354-a\r\n", None),
            ("55", None),
            ("", None),
        ] {
            let mut reader = ReplyReader::default();
            assert_eq!(reader.read(input.as_bytes()).unwrap().1, None);
            assert_eq!(reader.cut_short().map(|reply| reply.code), code, "{input}");
        }
    }
}
