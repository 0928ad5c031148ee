//! The DATA scanner finds what a byte-at-a-time oracle finds, however the stream is cut.

use chasqui_protocol::smtp::data::{
    BareNewline, BodyForm, BodyInfo, LINE_MAX, Limits, LongLines, NulOctets, Scan, Scanner, Unstuff,
    Violation, stuff, unstuff,
};
use proptest::prelude::*;

/// What a stream holds, as far as its first message goes.
#[derive(Debug, PartialEq)]
enum Found {
    Whole { used: usize, info: BodyInfo, body: Vec<u8> },
    Refused { used: usize, violation: Violation },
    Unfinished,
}

/// Reads RFC 5321 literally, one byte at a time, from the whole stream.
fn oracle(stream: &[u8], limits: Limits) -> Found {
    let mut seen = b"\r\n".to_vec();
    for &byte in stream {
        seen.push(byte);
        if seen.ends_with(b"\r\n.\r\n") {
            let used = seen.len() - 2;
            return judge(&seen[2..(seen.len() - 3).max(2)], used, limits);
        }
    }
    Found::Unfinished
}

fn judge(wire: &[u8], used: usize, limits: Limits) -> Found {
    let nul = wire.contains(&0);
    let blank = |octet: u8| if octet == 0 && limits.nul_octets == NulOctets::Repair { b' ' } else { octet };
    let wire: Vec<u8> = wire.iter().copied().map(blank).collect();
    let mut stuffed = false;
    let mut body = Vec::new();
    for line in lines(&wire) {
        // Repair drops the dot of a line that is empty up to a bare CR or LF: it must not end the message.
        stuffed |= line[0] == b'.' && !matches!(line[1], b'\r' | b'\n');
        body.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    let mut repaired = Vec::new();
    let mut bare = false;
    let mut index = 0;
    while index < body.len() {
        let pair = body[index..].starts_with(b"\r\n");
        let single = !pair && matches!(body[index], b'\r' | b'\n');
        bare |= single;
        if pair || single {
            repaired.extend_from_slice(b"\r\n");
        } else {
            repaired.push(body[index]);
        }
        index += if pair { 2 } else { 1 };
    }
    // A dot after a repaired line end is stuffed in wire form although it was not in the stream.
    stuffed |= bare && lines(&repaired).any(|line| line[0] == b'.') && dot_after_repair(&body);
    let long = lines(&repaired).any(|line| line.len() as u64 - 2 > LINE_MAX);
    let violation = if bare && limits.bare_newline == BareNewline::Refuse {
        Violation::BareNewline
    } else if nul && limits.nul_octets == NulOctets::Refuse {
        Violation::Nul
    } else if repaired.len() as u64 > limits.max_size {
        Violation::TooLarge
    } else if long && limits.long_lines == LongLines::Refuse {
        Violation::LongLine
    } else {
        let eight_bit = repaired.iter().any(|byte| *byte >= 0x80);
        let info = BodyInfo { size: repaired.len() as u64, eight_bit, form: BodyForm::Lines { stuffed } };
        return Found::Whole { used, info, body: repaired };
    };
    Found::Refused { used, violation }
}

/// Lines with their CRLF.
fn lines(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
        let (line, rest) = bytes.split_at(end);
        bytes = rest;
        Some(line)
    })
}

fn dot_after_repair(body: &[u8]) -> bool {
    (1..body.len()).any(|index| {
        let after_bare_lf = body[index - 1] == b'\n' && (index < 2 || body[index - 2] != b'\r');
        body[index] == b'.' && (body[index - 1] == b'\r' || after_bare_lf)
    })
}

/// Scans the stream in pieces that end at the cuts.
fn scan(stream: &[u8], cuts: impl IntoIterator<Item = usize>, limits: Limits) -> Found {
    let mut scanner = Scanner::new(limits);
    let mut wire = Vec::new();
    let mut position = 0;
    for cut in cuts.into_iter().chain([stream.len()]) {
        while position <= cut {
            let (used, scan) = scanner.scan(&stream[position..cut]);
            position += used;
            match scan {
                Scan::Piece(piece) => wire.extend_from_slice(piece),
                Scan::NeedInput => break,
                Scan::CutOff(violation) => panic!("{violation:?} of a short stream"),
                Scan::Refused(violation) => return Found::Refused { used: position, violation },
                Scan::End(info) => {
                    let body = check_wire_form(&wire, info);
                    return Found::Whole { used: position, info, body };
                }
            }
        }
        assert!(position >= cut, "input left unused");
    }
    Found::Unfinished
}

/// Pieces must make a body that the next hop ends where we do and nowhere else; returns it unstuffed.
fn check_wire_form(wire: &[u8], info: BodyInfo) -> Vec<u8> {
    let mut stream = wire.to_vec();
    stream.extend_from_slice(b".\r\n");
    let mut ends =
        (0..=stream.len()).filter(|&end| [b"\r\n", &stream[..end]].concat().ends_with(b"\r\n.\r\n"));
    assert_eq!((ends.next(), ends.next()), (Some(stream.len()), None));
    let mut body = Vec::new();
    unstuff(&mut Unstuff::default(), wire, &mut body);
    assert_eq!(info.size, body.len() as u64);
    assert_eq!(info.form.is_stuffed(), wire != body);
    // Senders may stuff more than they must (".a" for "a"), so only the bodies are the same.
    let mut again = Vec::new();
    stuff(&body, &mut again);
    let mut unstuffed_again = Vec::new();
    unstuff(&mut Unstuff::default(), &again, &mut unstuffed_again);
    assert_eq!(unstuffed_again, body);
    body
}

const ALPHABET: [u8; 5] = [b'\r', b'\n', b'.', b'a', 0x80];
/// Of random streams, which have NUL, too.
const WIDE_ALPHABET: [u8; 6] = [b'\r', b'\n', b'.', b'a', 0x80, 0];
const END: &[u8] = b"\r\n.\r\nQUIT\r\n";

fn limits(bare_newline: BareNewline) -> Limits {
    Limits { max_size: 1 << 20, bare_newline, long_lines: LongLines::Refuse, nul_octets: NulOctets::Refuse }
}

/// Short streams with NUL, with every option, at every split: in place of a letter, too, as a dot's neighbour or a CR's.
#[test]
fn every_short_stream_with_nul_at_every_split() {
    let alphabet = [b'\r', b'\n', b'.', 0];
    for (bare_newline, nul_octets) in [
        (BareNewline::Refuse, NulOctets::Refuse),
        (BareNewline::Repair, NulOctets::Refuse),
        (BareNewline::Refuse, NulOctets::Repair),
        (BareNewline::Repair, NulOctets::Repair),
        (BareNewline::Repair, NulOctets::Allow),
    ] {
        let limits = Limits { nul_octets, ..limits(bare_newline) };
        for number in 0..alphabet.len().pow(4) {
            let digit = |place| alphabet[number / alphabet.len().pow(place) % alphabet.len()];
            let stream: Vec<u8> = (0..4).map(digit).chain(END.iter().copied()).collect();
            let expected = oracle(&stream, limits);
            for mask in 0_usize..1 << 8 {
                let cuts = (0..8).filter(|bit| mask >> bit & 1 == 1).map(|bit| bit + 1);
                let found = scan(&stream, cuts, limits);
                assert_eq!(found, expected, "{:?} {mask:b}", stream.escape_ascii().to_string());
            }
        }
    }
}

#[test]
fn every_short_stream_at_every_split() {
    for bare_newline in [BareNewline::Refuse, BareNewline::Repair] {
        for length in 0..=5 {
            for number in 0..ALPHABET.len().pow(length) {
                let digit = |place| ALPHABET[number / ALPHABET.len().pow(place) % ALPHABET.len()];
                let stream: Vec<u8> = (0..length).map(digit).chain(END.iter().copied()).collect();
                let expected = oracle(&stream, limits(bare_newline));
                let cuttable = length as usize + 4;
                for mask in 0_usize..1 << cuttable {
                    let cuts = (0..cuttable).filter(|bit| mask >> bit & 1 == 1).map(|bit| bit + 1);
                    let found = scan(&stream, cuts, limits(bare_newline));
                    assert_eq!(found, expected, "{:?} {mask:b}", stream.escape_ascii().to_string());
                }
            }
        }
    }
}

/// Streams of the adversarial alphabet, of tokens that belong together, and of lines about the length limit.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        8 => prop::sample::select(WIDE_ALPHABET.map(|byte| vec![byte]).to_vec()),
        4 => Just(b"\r\n".to_vec()),
        2 => Just(b"\r\n.".to_vec()),
        1 => Just(b"\r\n.\r\n".to_vec()),
        1 => (990_usize..1003).prop_map(|length| vec![b'a'; length]),
    ];
    prop::collection::vec(token, 0..60).prop_map(|tokens| tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Long streams, random cuts, all limits.
    #[test]
    fn long_streams_at_random_splits(
        stream in streams(),
        ended in any::<bool>(),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        max_size in prop_oneof![0_u64..64, Just(1 << 20)],
        repair in any::<bool>(),
        allow in any::<bool>(),
        nul_octets in prop::sample::select(vec![NulOctets::Refuse, NulOctets::Repair, NulOctets::Allow]),
    ) {
        let mut stream = stream;
        if ended {
            stream.extend_from_slice(END);
        }
        let limits = Limits {
            max_size,
            bare_newline: if repair { BareNewline::Repair } else { BareNewline::Refuse },
            long_lines: if allow { LongLines::Allow } else { LongLines::Refuse },
            nul_octets,
        };
        let expected = oracle(&stream, limits);
        prop_assert_eq!(&scan(&stream, [], limits), &expected);
        prop_assert_eq!(&scan(&stream, 1..stream.len(), limits), &expected);
        let mut cuts: Vec<usize> = cuts.drain(..).map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(&scan(&stream, cuts, limits), &expected);
    }

    /// What is stuffed is unstuffed again, at every split, and has one end.
    #[test]
    fn stuffing_round_trip(lines in prop::collection::vec("[.a]{0,4}", 0..8), cut in any::<prop::sample::Index>()) {
        let body: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
        let mut wire = Vec::new();
        stuff(&body, &mut wire);
        let stream = [&wire, &b".\r\n"[..]].concat();
        let info = BodyInfo { size: body.len() as u64, eight_bit: false, form: BodyForm::Lines { stuffed: wire != body } };
        let whole = Found::Whole { used: stream.len(), info, body: body.clone() };
        prop_assert_eq!(scan(&stream, [cut.index(stream.len())], limits(BareNewline::Refuse)), whole);
        let (mut state, mut back) = (Unstuff::default(), Vec::new());
        let (left, right) = wire.split_at(cut.index(wire.len() + 1));
        unstuff(&mut state, left, &mut back);
        unstuff(&mut state, right, &mut back);
        prop_assert_eq!(back, body);
    }

    /// Unstuffing gives the same at every split of wire forms with anything in them.
    #[test]
    fn unstuffing_does_not_depend_on_splits(wire in streams(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let mut whole = Vec::new();
        unstuff(&mut Unstuff::default(), &wire, &mut whole);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut state, mut pieces, mut position) = (Unstuff::default(), Vec::new(), 0);
        for cut in cuts.into_iter().chain([wire.len()]) {
            unstuff(&mut state, &wire[position..cut], &mut pieces);
            position = cut;
        }
        prop_assert_eq!(pieces, whole);
    }
}
