//! Headers as senders write them, in whatever pieces, and what is none.

use super::*;

/// A header of version 2: version and command, family, addresses and fields.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("it fits").to_be_bytes();
    [V2_BEGIN, &[command, family], &length, rest].concat()
}

fn of_ipv4() -> Vec<u8> {
    v2(V2_PROXY, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0, 25])
}

fn of_ipv6(fields: &[u8]) -> Vec<u8> {
    let mut addresses = [0; 36];
    addresses[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    addresses[15] = 7;
    v2(V2_PROXY, 0x21, &[&addresses, fields].concat())
}

fn says(client: Option<&str>) -> Header {
    Header { client: client.map(|address| address.parse().expect("an address")) }
}

/// What it says in one piece, with what follows.
fn read(header: &[u8], behind: &[u8]) -> Result<(usize, Option<Header>), HeaderError> {
    HeaderReader::default().handle_input(&[header, behind].concat())
}

/// Every header that is one.
fn headers() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let unix = v2(V2_PROXY, 0x31, &[b'/'; 216]);
    let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535";
    vec![
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\n".to_vec(), Some("192.0.2.7")),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 25\r\n".to_vec(), Some("2001:db8::7")),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 25\r\n".to_vec(), Some("192.0.2.7")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (format!("{longest:105}\r\n").into_bytes(), None),
        (of_ipv4(), Some("192.0.2.7")),
        (of_ipv6(&[]), Some("2001:db8::7")),
        (of_ipv6(&[4, 0, 3, 0, 0, 0]), Some("2001:db8::7")),
        (of_ipv6(&[0xff; V2_MAX - V2_FIXED - 36]), Some("2001:db8::7")),
        (v2(V2_PROXY, 0, &[]), None),
        (unix, None),
        (v2(V2_LOCAL, 0, &[]), None),
        // What it says of addresses is passed over, be it whatever.
        (v2(V2_LOCAL, 0x11, &[192, 0, 2, 7]), None),
        (v2(V2_LOCAL, 0x77, b"whatever"), None),
    ]
}

/// The client's address is told, and what follows a header is left to the client.
#[test]
fn headers_say_whose_connection_it_is() {
    for (header, client) in headers() {
        for behind in [b"".as_slice(), b"\r\n", b"EHLO a\r\n", b"\x16\x03\x01\x02\x00", &[b'x'; 4000]] {
            assert_eq!(read(&header, behind), Ok((header.len(), Some(says(client)))), "{header:?}");
        }
    }
}

/// A header says the same wherever it is split, and octet by octet.
#[test]
fn pieces_say_the_same() {
    for (header, client) in headers() {
        let whole = [&header, b"EHLO a\r\n".as_slice()].concat();
        for split in 0..header.len() {
            let mut reader = HeaderReader::default();
            assert_eq!(reader.handle_input(&whole[..split]), Ok((split, None)));
            let rest = reader.handle_input(&whole[split..]);
            assert_eq!(rest, Ok((header.len() - split, Some(says(client)))), "{split} of {header:?}");
        }
        let mut reader = HeaderReader::default();
        for octet in &header[..header.len() - 1] {
            assert_eq!(reader.handle_input(&[*octet]), Ok((1, None)));
        }
        assert_eq!(reader.handle_input(&whole[header.len() - 1..]), Ok((1, Some(says(client)))));
    }
}

/// What is no header is known as such at once, in whatever pieces it comes.
#[test]
fn what_is_no_header() {
    use HeaderError::*;
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; V1_MAX]].concat();
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX - 15));
    let datagram = v2(V2_PROXY, 0x12, &of_ipv4()[V2_FIXED..]);
    let without_addresses = [v2(V2_PROXY, 0x11, &[]), b"and what the client says".to_vec()].concat();
    for (octets, error) in [
        (b"EHLO a\r\n".as_slice(), NoHeader),
        (b"\x16\x03\x01", NoHeader),
        (b"proxy TCP4 ", NoHeader),
        (b"PROXYTCP4 ", NoHeader),
        (b"PROXY\r\n", NoHeader),
        (b"\r\n\r\nQUIT\r\n", NoHeader),
        (b"PROXY \r\n", Malformed),
        (b"PROXY TCP4\r\n", Malformed),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\n", Malformed),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 12345\r\n", Malformed),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 65536\r\n", Malformed),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25 \r\n", Malformed),
        (b"PROXY TCP4 2001:db8::7 2001:db8::1 12345 25\r\n", Malformed),
        (b"PROXY TCP6 192.0.2.7 198.51.100.1 12345 25\r\n", Malformed),
        (b"PROXY TCP4 192.0.2.256 198.51.100.1 12345 25\r\n", Malformed),
        (b"PROXY UDP4 192.0.2.7 198.51.100.1 12345 25\r\n", Malformed),
        (&endless, TooLong),
        (long.as_bytes(), TooLong),
        (&v2(0x11, 0x11, &[]), Malformed),
        (&v2(0x22, 0x11, &[]), Malformed),
        (&without_addresses, Malformed),
        (&v2(V2_PROXY, 0x11, &[192, 0, 2, 7]), Malformed),
        (&v2(V2_PROXY, 0x31, b"/socket"), Malformed),
        (&v2(V2_PROXY, 0x77, &[0; 40]), Malformed),
        (&datagram, Malformed),
        (&v2(V2_LOCAL, 0, &[0; V2_MAX - V2_FIXED + 1]), TooLong),
    ] {
        assert_eq!(read(octets, b""), Err(error), "{:?}", octets.escape_ascii().to_string());
        let mut reader = HeaderReader::default();
        let one_by_one = octets.iter().find_map(|octet| reader.handle_input(&[*octet]).err());
        assert_eq!(one_by_one, Some(error), "{:?}", octets.escape_ascii().to_string());
    }
}
