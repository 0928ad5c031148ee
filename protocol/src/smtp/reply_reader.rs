//! Reply lines from a peer that is not trusted, to replies.

use std::borrow::Cow;

use memchr::memchr;

use super::reply::{Enhanced, Reply};

/// Octets of a reply line with its line end; RFC 5321 allows 512.
const LINE_MAX: usize = 2048;
/// Lines of a reply.
const LINES_MAX: usize = 128;
/// Octets of text of a reply, all lines together.
const TEXT_MAX: usize = 32 * 1024;

/// What a peer sent instead of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyError {
    /// Not `ddd text` or `ddd-text`, or a line with another code than those before it.
    Malformed,
    /// A limit is exceeded.
    TooLong,
}

/// Gathers reply lines until a reply is whole.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    /// The start of a line that a piece of input ended in.
    line: Vec<u8>,
    /// The reply of which lines have come.
    reply: Option<Reply>,
    lines: usize,
}

impl ReplyReader {
    /// The first whole reply in the input, if there is one, and how much of the input was used.
    pub(super) fn read(&mut self, input: &[u8]) -> Result<(usize, Option<Reply>), ReplyError> {
        let mut used = 0;
        while used < input.len() {
            let rest = &input[used..];
            let end = memchr(b'\n', rest);
            let part = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + part.len() >= LINE_MAX {
                return Err(ReplyError::TooLong);
            }
            if end.is_none() {
                self.line.extend_from_slice(part);
                return Ok((input.len(), None));
            }
            used += part.len() + 1;
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
                self.lines = 0;
                return Ok((used, self.reply.take()));
            }
        }
        Ok((used, None))
    }

    /// Adds a line, given without its LF, to the reply; whether it was the last.
    fn read_line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, rest) = line.split_first_chunk::<3>().ok_or(ReplyError::Malformed)?;
        let valid = matches!(code[0], b'2'..=b'5') && code.iter().all(u8::is_ascii_digit);
        let (last, text) = match rest {
            _ if !valid => return Err(ReplyError::Malformed),
            [] => (true, rest),
            [b' ', text @ ..] => (true, text),
            [b'-', text @ ..] => (false, text),
            _ => return Err(ReplyError::Malformed),
        };
        let code = code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        let (enhanced, text) = split_enhanced(code, text);
        let text = printable(text);
        match &mut self.reply {
            None => self.reply = Some(Reply { code, enhanced, text }),
            Some(reply) if reply.code != code => return Err(ReplyError::Malformed),
            Some(reply) => {
                if reply.text.len() + text.len() >= TEXT_MAX {
                    return Err(ReplyError::TooLong);
                }
                let whole = reply.text.to_mut();
                whole.push('\n');
                whole.push_str(&text);
            }
        }
        self.lines += 1;
        if self.lines > LINES_MAX { Err(ReplyError::TooLong) } else { Ok(last) }
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

    #[test]
    fn what_is_no_reply_is_an_error() {
        for input in ["hello\r\n", "\r\n", "25\r\n", "250_x\r\n", "199 x\r\n", "600 x\r\n", "2x0 x\r\n"] {
            assert_eq!(ReplyReader::default().read(input.as_bytes()), Err(ReplyError::Malformed), "{input}");
        }
        assert_eq!(ReplyReader::default().read(b"250-a\r\n251 b\r\n"), Err(ReplyError::Malformed));
    }

    #[test]
    fn endless_replies_are_cut_off() {
        let pieces: [&[u8]; 3] = [b"250-x\r\n", b"x", &[b"250-".as_slice(), &[b'x'; 1000], b"\r\n"].concat()];
        for piece in pieces {
            let mut reader = ReplyReader::default();
            let outcome = (0..3000).find_map(|_| reader.read(piece).err());
            assert_eq!(outcome, Some(ReplyError::TooLong));
        }
    }
}
