//! What the parts say: the real chain's words at `chasqui bench --rate max`, letter by letter where they are the same for
//! every message, and as long where they are not.

/// Of the generator, and of the relay to the sink.
pub(crate) const COMMANDS: &[u8] = b"MAIL FROM:<a82e00ca82798c9c.123456@bounce.chasqui.test> SIZE=2048\r\n\
    RCPT TO:<u12@d4.chasqui.test>\r\nDATA\r\n";
/// To them.
pub(crate) const REPLIES: &[u8] = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n";
/// The relay's last word.
pub(crate) const ACCEPTED: &[u8] = b"250 2.0.0 Ok: queued as 0000000010000009\r\n";
/// The sink's.
pub(crate) const DELIVERED: &[u8] = b"250 2.0.0 Ok\r\n";
/// What the relay puts before a message.
pub(crate) const RECEIVED: &[u8] = b"Received: from loadgen.chasqui.test ([127.0.0.1])\r\n\
    \tby relay.chasqui.test with ESMTP id 0000000010000009;\r\n\
    \tWed, 25 Nov 2026 18:58:28 +0000\r\n";
/// The end of a message.
pub(crate) const DOT: &[u8] = b".\r\n";

/// A message with its end, as the generator sends it.
pub(crate) fn message(size: usize) -> Vec<u8> {
    let line = b"The runners passed the message from station to station along the road.\r\n";
    let mut message: Vec<u8> = line.iter().copied().cycle().take(size - 2).collect();
    message.extend_from_slice(b"\r\n");
    message.extend_from_slice(DOT);
    message
}
