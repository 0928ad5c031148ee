//! A message is intact exactly when nothing after its stamp changed, at every split and with any trace fields.

use super::*;

const HEADER: &[u8] = b"From: a@b\r\nSubject: x\r\n\r\n";
const BODY: &[u8] = b"Hello\r\n.\r\nX-Chasqui-Stamp: v=1; run=0; in the body\r\n";
const TRACE: &[u8] =
    b"Return-Path: <a@b>\r\nDelivered-To: c@d\r\nReceived: from x\r\n\tby y; now\r\nX-Other: z\r\n";

fn message(before: &[u8]) -> Vec<u8> {
    [before, &write(7, 42, HEADER, BODY), HEADER, BODY].concat()
}

fn verdict(message: &[u8]) -> Verdict {
    verify(message).verdict
}

#[test]
fn the_field_has_its_documented_form() {
    let field = String::from_utf8(write(0xabc, 42, HEADER, BODY)).unwrap();
    let start = "X-Chasqui-Stamp: v=1; run=0000000000000abc; seq=42; hdr=";
    assert!(field.starts_with(start), "{field}");
    assert!(field.ends_with("; blen=52\r\n"), "{field}");
    let largest = Digest { crc: u32::MAX, length: u64::MAX };
    let stamp = Stamp { run: u64::MAX, sequence: u64::MAX, header: largest, body: largest };
    let mut longest = Vec::new();
    stamp.write(&mut longest);
    assert!(longest.len() <= LINE_MAX);
    assert_eq!(Stamp::parse(&longest), Some(stamp));
}

#[test]
fn the_checksum_is_crc32c() {
    assert_eq!(Digest::of(b"123456789"), Digest { crc: 0xe306_9283, length: 9 });
}

#[test]
fn intact_at_every_split_with_and_without_trace_fields() {
    for message in [message(b""), message(TRACE)] {
        let expected = Verification { run: 7, sequence: 42, verdict: Verdict::Intact };
        let mut verifier = Verifier::new();
        for split in 0..=message.len() {
            verifier.push(&message[..split]);
            verifier.push(&message[split..]);
            assert_eq!(verifier.finish(), expected, "{split}");
        }
        message.iter().for_each(|byte| verifier.push(&[*byte]));
        assert_eq!(verifier.finish(), expected);
    }
}

#[test]
fn every_changed_byte_after_the_stamp_is_found() {
    let whole = message(TRACE);
    let header_at = whole.len() - HEADER.len() - BODY.len();
    let body_at = whole.len() - BODY.len();
    for at in header_at..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        let expected = if at < body_at { Verdict::HeaderChanged } else { Verdict::BodyChanged };
        assert_eq!(verdict(&changed), expected, "{at}");
        assert_ne!(verdict(&whole[..at]), Verdict::Intact);
    }
    assert_eq!(verdict(&[&whole[..], b"\r\n"].concat()), Verdict::BodyChanged);
    assert_eq!(verdict(&whole[..whole.len() - 1]), Verdict::BodyChanged);
}

#[test]
fn only_the_first_stamp_of_the_header_section_counts() {
    let stamp = write(7, 42, HEADER, BODY);
    // In a body.
    assert_eq!(verdict(&[b"From: a\r\n\r\n", &stamp[..], HEADER, BODY].concat()), Verdict::NoStamp);
    assert_eq!(verdict(&[b"\r\n", &stamp[..], HEADER, BODY].concat()), Verdict::NoStamp);
    // A second one, and one within a folded field.
    let header = [&write(9, 9, b"\r\n", b""), HEADER].concat();
    let two = [&write(7, 42, &header, BODY), &header[..], BODY].concat();
    assert_eq!(verify(&two), Verification { run: 7, sequence: 42, verdict: Verdict::Intact });
    assert_eq!(verdict(&message(b"X-Folded: a\r\n X-Chasqui-Stamp: v=1; run=1\r\n")), Verdict::Intact);
    // An unreadable one.
    assert_eq!(verdict(&message(b"X-Chasqui-Stamp: v=2\r\n")), Verdict::NoStamp);
}

#[test]
fn the_stamp_is_looked_for_in_bounded_memory() {
    let field = [b"X: ", &[b'x'; 997][..]].concat();
    let fields = |count| [&field[..], b"\r\n"].concat().repeat(count);
    assert_eq!(verdict(&message(&fields(65))), Verdict::Intact);
    assert_eq!(verdict(&message(&fields(66))), Verdict::NoStamp);
    let mut verifier = Verifier::new();
    for _ in 0..1000 {
        verifier.push(&[b'x'; 100]);
        assert!(verifier.line.capacity() <= 2 * LINE_MAX);
    }
    assert_eq!(verifier.finish().verdict, Verdict::NoStamp);
    assert_eq!(verdict(b""), Verdict::NoStamp);
}

#[test]
fn a_message_of_nothing_but_its_stamp_is_intact() {
    assert_eq!(verdict(&write(1, 2, b"", b"")), Verdict::Intact);
    let unended = write(1, 2, b"", b"");
    assert_eq!(verdict(&unended[..unended.len() - 2]), Verdict::Intact);
}

#[test]
fn malformed_stamps_are_none() {
    let field = String::from_utf8(write(7, 42, HEADER, BODY)).unwrap();
    for (from, to) in [
        ("v=1", "v=2"),
        ("run=", "run=+"),
        ("seq=42", "seq="),
        ("seq=42", "seq=99999999999999999999999"),
        ("seq=42; ", ""),
        ("blen=52", "blen=52; more=1"),
        ("X-", "Y-"),
    ] {
        assert_eq!(Stamp::parse(field.replacen(from, to, 1).as_bytes()), None, "{from} {to}");
    }
}

#[test]
fn reverse_paths_round_trip() {
    let address = reverse_path(0xfeed, 42, "bounce.chasqui.test");
    assert_eq!(address, "000000000000feed.42@bounce.chasqui.test");
    assert_eq!(parse_reverse_path(&address), Some((0xfeed, 42)));
    for address in
        ["", "a@b", "000000000000feed@b", "000000000000feed.@b", "000000000000feed.4x@b", "feed.1@b"]
    {
        assert_eq!(parse_reverse_path(address), None, "{address}");
    }
}

#[test]
fn recipient_hashes_ignore_case_and_are_fnv_1a() {
    assert_eq!(recipient_hash(""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(recipient_hash("a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(recipient_hash("U1@D2.Example"), recipient_hash("u1@d2.example"));
}
