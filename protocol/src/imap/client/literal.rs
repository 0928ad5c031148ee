//! What a response says of the literal that it announces.

use imap_codec::ResponseCodec;
use imap_codec::decode::Decoder;
use imap_codec::imap_types::fetch::MessageDataItem;
use imap_codec::imap_types::response::{Data, Response};

/// The literal that the last line of a response announces: where its `{` stands, and its octets. Status responses
/// and continuation requests end in free text, which announces nothing.
pub(super) fn announced_literal(response: &[u8], line_start: usize) -> Option<(usize, u32)> {
    let data = response.strip_prefix(b"* ")?;
    let first_word = data.split(|byte| matches!(byte, b' ' | b'\r')).next()?;
    if [b"OK".as_slice(), b"NO", b"BAD", b"BYE", b"PREAUTH"]
        .iter()
        .any(|word| first_word.eq_ignore_ascii_case(word))
    {
        return None;
    }
    let line = response[line_start..].strip_suffix(b"}\r\n")?;
    let open = line.iter().rposition(|&byte| byte == b'{')?;
    let digits = std::str::from_utf8(&line[open + 1..]).ok()?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((line_start + open, digits.parse().ok()?))
}

/// Message and unique identifier of a FETCH response whose last item is a body.
pub(super) fn body_of(response: &[u8]) -> Option<(u32, Option<u32>)> {
    let Ok((_, Response::Data(Data::Fetch { seq, items }))) = ResponseCodec::default().decode(response)
    else {
        return None;
    };
    let items = items.as_ref();
    match items.last() {
        Some(
            MessageDataItem::BodyExt { .. } | MessageDataItem::Rfc822(_) | MessageDataItem::Rfc822Text(_),
        ) => Some((seq.get(), uid_of(items))),
        _ => None,
    }
}

pub(super) fn uid_of(items: &[MessageDataItem<'_>]) -> Option<u32> {
    items.iter().find_map(|item| match item {
        MessageDataItem::Uid(uid) => Some(uid.get()),
        _ => None,
    })
}
