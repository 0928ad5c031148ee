//! FETCH: the data items of messages, bodies straight from their segments.

use std::io::{self, Write as _};

use chasqui_protocol::imap::flags::Flags;
use chasqui_protocol::imap::types::core::AString;
use chasqui_protocol::imap::types::fetch::{MacroOrMessageDataItemNames, MessageDataItemName, Section};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::mailbox::{Message, Outgoing};

/// Most of a header section that is searched for fields; what lies behind is not found.
const MAX_HEADER_BYTES: u32 = 1024 * 1024;
/// Octets of header fields that are added at a time to what is sent.
const FIELD_PIECE_BYTES: usize = 8 * 1024;

/// A data item that can be answered.
#[derive(Debug)]
pub(super) enum Item {
    Flags,
    InternalDate,
    Size,
    Uid,
    Text(Text),
}

/// A data item that is text of the message.
#[derive(Debug)]
pub(super) struct Text {
    /// How the response names it, the origin octet apart.
    name: Vec<u8>,
    which: Which,
    /// First octet and most octets of the part that is wanted.
    partial: Option<(u32, u32)>,
    /// Asking for it sets `\Seen`.
    marks_seen: bool,
}

#[derive(Debug)]
enum Which {
    Message,
    Header,
    Body,
    /// Header fields by name: those named, or all others.
    Fields {
        names: Vec<Vec<u8>>,
        named: bool,
    },
}

/// A data item that cannot be answered; the text says which.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsupported(pub(super) &'static str);

/// What a FETCH command asks of each message.
#[derive(Debug)]
pub(super) struct Items(Vec<Item>);

impl Items {
    pub(super) fn compile(asked: &MacroOrMessageDataItemNames<'_>, uid: bool) -> Result<Items, Unsupported> {
        let names = match asked {
            MacroOrMessageDataItemNames::Macro(shorthand) => &shorthand.expand(),
            MacroOrMessageDataItemNames::MessageDataItemNames(names) => names,
        };
        let mut items = Vec::with_capacity(names.len() + 1);
        if uid && !names.contains(&MessageDataItemName::Uid) {
            items.push(Item::Uid);
        }
        for name in names {
            items.push(Item::compile(name)?);
        }
        Ok(Items(items))
    }

    /// Answering gives the text of messages, or of parts of them.
    pub(super) fn read_text(&self) -> bool {
        self.0.iter().any(|item| matches!(item, Item::Text(Text { which: Which::Message | Which::Body, .. })))
    }

    /// Answering sets `\Seen`.
    pub(super) fn mark_seen(&self) -> bool {
        self.0.iter().any(|item| matches!(item, Item::Text(Text { marks_seen: true, .. })))
    }

    /// The FETCH response for one message. `flags_changed`: say the flags even if they were not asked for.
    pub(super) async fn write(
        &self,
        sequence: u32,
        message: &Message,
        flags: Flags,
        flags_changed: bool,
        out: &mut Outgoing,
    ) -> io::Result<()> {
        let _ = write!(out.text(), "* {sequence} FETCH (");
        for (index, item) in self.0.iter().enumerate() {
            if index > 0 {
                out.text().push(b' ');
            }
            match item {
                Item::Flags => write_flags(flags, out.text()),
                Item::InternalDate => write_date(message.internal_date(), out.text()),
                Item::Size => {
                    let _ = write!(out.text(), "RFC822.SIZE {}", message.size());
                }
                Item::Uid => {
                    let _ = write!(out.text(), "UID {}", message.uid());
                }
                Item::Text(text) => text.write(message, out).await?,
            }
            out.relieve().await?;
        }
        if flags_changed && !self.0.iter().any(|item| matches!(item, Item::Flags)) {
            out.text().push(b' ');
            write_flags(flags, out.text());
        }
        out.text().extend_from_slice(b")\r\n");
        out.relieve().await
    }
}

impl Item {
    fn compile(name: &MessageDataItemName<'_>) -> Result<Item, Unsupported> {
        let plain = |name: &str, which, marks_seen| {
            Item::Text(Text { name: name.as_bytes().to_vec(), which, partial: None, marks_seen })
        };
        Ok(match name {
            MessageDataItemName::Flags => Item::Flags,
            MessageDataItemName::InternalDate => Item::InternalDate,
            MessageDataItemName::Rfc822Size => Item::Size,
            MessageDataItemName::Uid => Item::Uid,
            MessageDataItemName::Rfc822 => plain("RFC822", Which::Message, true),
            MessageDataItemName::Rfc822Header => plain("RFC822.HEADER", Which::Header, false),
            MessageDataItemName::Rfc822Text => plain("RFC822.TEXT", Which::Body, true),
            MessageDataItemName::BodyExt { section, partial, peek } => {
                let mut name = b"BODY[".to_vec();
                let which = Which::compile(section.as_ref(), &mut name)?;
                name.push(b']');
                let partial = partial.map(|(first, most)| (first, most.get()));
                Item::Text(Text { name, which, partial, marks_seen: !peek })
            }
            MessageDataItemName::Envelope => return Err(Unsupported("ENVELOPE is not available")),
            MessageDataItemName::Body | MessageDataItemName::BodyStructure => {
                return Err(Unsupported("BODYSTRUCTURE is not available"));
            }
            _ => return Err(Unsupported("a data item is not available")),
        })
    }
}

impl Which {
    fn compile(section: Option<&Section<'_>>, name: &mut Vec<u8>) -> Result<Which, Unsupported> {
        let (named, names) = match section {
            None => return Ok(Which::Message),
            Some(Section::Header(None)) => {
                name.extend_from_slice(b"HEADER");
                return Ok(Which::Header);
            }
            Some(Section::Text(None)) => {
                name.extend_from_slice(b"TEXT");
                return Ok(Which::Body);
            }
            Some(Section::HeaderFields(None, names)) => (true, names.as_ref()),
            Some(Section::HeaderFieldsNot(None, names)) => (false, names.as_ref()),
            Some(_) => return Err(Unsupported("MIME parts are not available")),
        };
        name.extend_from_slice(if named { b"HEADER.FIELDS (" } else { b"HEADER.FIELDS.NOT (" });
        for (index, field) in names.iter().enumerate() {
            if index > 0 {
                name.push(b' ');
            }
            write_astring(field, name)?;
        }
        name.push(b')');
        Ok(Which::Fields { names: names.iter().map(|field| field.as_ref().to_vec()).collect(), named })
    }
}

impl Text {
    async fn write(&self, message: &Message, out: &mut Outgoing) -> io::Result<()> {
        out.text().extend_from_slice(&self.name);
        let (from, to) = match &self.which {
            Which::Message => (0, message.size()),
            Which::Header => (0, message.header_size()),
            Which::Body => (message.header_size(), message.size()),
            Which::Fields { names, named } => {
                let header = message.read(0, message.header_size().min(MAX_HEADER_BYTES))?;
                let mut fields = filter_fields(&header, names, *named);
                drop(header);
                without_nuls(&mut fields);
                let (first, last) = self.cut(fields.len() as u32, out.text());
                let _ = write!(out.text(), " {{{}}}\r\n", last - first);
                for piece in fields[first as usize..last as usize].chunks(FIELD_PIECE_BYTES) {
                    out.text().extend_from_slice(piece);
                    out.relieve().await?;
                }
                return Ok(());
            }
        };
        let (first, last) = self.cut(to - from, out.text());
        let _ = write!(out.text(), " {{{}}}\r\n", last - first);
        if message.has_nuls() {
            return write_without_nuls(message, from + first, last - first, out).await;
        }
        out.body(message, from + first, last - first).await
    }

    /// The part of `length` octets that is wanted; a partial one says its origin.
    fn cut(&self, length: u32, output: &mut Vec<u8>) -> (u32, u32) {
        let Some((first, most)) = self.partial else { return (0, length) };
        let _ = write!(output, "<{first}>");
        let first_there = first.min(length);
        (first_there, first_there.saturating_add(most).min(length))
    }
}

/// As [`Outgoing::body`]. A literal has no NUL (RFC 3501 section 9, `CHAR8`): each becomes the octet 128, as Dovecot sends them,
/// so that sizes stay as they are.
async fn write_without_nuls(
    message: &Message,
    start: u32,
    length: u32,
    out: &mut Outgoing,
) -> io::Result<()> {
    for position in (0..length).step_by(FIELD_PIECE_BYTES) {
        let mut piece = message.read(start + position, (length - position).min(FIELD_PIECE_BYTES as u32))?;
        without_nuls(&mut piece);
        out.text().extend_from_slice(&piece);
        out.relieve().await?;
    }
    Ok(())
}

fn without_nuls(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = 128);
}

/// The header fields with one of the names, or all others, and the empty line that ends the section if it has one.
fn filter_fields(header: &[u8], names: &[Vec<u8>], named: bool) -> Vec<u8> {
    let mut found = Vec::new();
    let mut wanted = false;
    for line in header.split_inclusive(|&byte| byte == b'\n') {
        if line == b"\r\n" || line == b"\n" {
            found.extend_from_slice(line);
            break;
        }
        // A folded line goes with the field it continues.
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            let field = line.split(|&byte| byte == b':').next().unwrap_or_default().trim_ascii_end();
            wanted = names.iter().any(|name| name.eq_ignore_ascii_case(field)) == named;
        }
        if wanted {
            found.extend_from_slice(line);
        }
    }
    found
}

fn write_flags(flags: Flags, output: &mut Vec<u8>) {
    output.extend_from_slice(b"FLAGS (");
    flags.write(output);
    output.push(b')');
}

/// INTERNALDATE in UTC (`date-time` of RFC 3501 section 9).
fn write_date(seconds: u64, output: &mut Vec<u8>) {
    let format = format_description!(
        "\"[day padding:space]-[month repr:short]-[year] [hour]:[minute]:[second] +0000\""
    );
    let date = OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    output.extend_from_slice(b"INTERNALDATE ");
    // Every component of the format is there in a date with a time.
    let _ = date.format_into(output, format);
}

/// A field name as the client sent it; a literal would need a line of its own and names no field.
fn write_astring(text: &AString<'_>, output: &mut Vec<u8>) -> Result<(), Unsupported> {
    let bytes = text.as_ref();
    if bytes.is_empty()
        || !bytes.iter().all(|byte| byte.is_ascii_graphic() && !b"\"\\(){}[]%*".contains(byte))
    {
        return Err(Unsupported("that is no name of a header field"));
    }
    output.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields are found whatever their case, with their folded lines, and the empty line ends them.
    #[test]
    fn filters_fields() {
        let header = b"A: 1\r\nSubject: x\r\n\tmore\r\nB: 2\r\n\r\n";
        let names = [b"subject".to_vec(), b"none".to_vec()];
        assert_eq!(filter_fields(header, &names, true), b"Subject: x\r\n\tmore\r\n\r\n");
        assert_eq!(filter_fields(header, &names, false), b"A: 1\r\nB: 2\r\n\r\n");
        assert_eq!(filter_fields(b"A: 1\r\n", &names, true), b"");
    }

    /// Dates have the fixed form of the RFC, with the day padded by a space.
    #[test]
    fn dates_have_fixed_form() {
        let mut output = Vec::new();
        write_date(1_700_000_000 - 12 * 86_400, &mut output);
        assert_eq!(output, b"INTERNALDATE \" 2-Nov-2023 22:13:20 +0000\"");
    }
}
