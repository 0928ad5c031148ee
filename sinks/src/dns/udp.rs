//! The authority over UDP. On a socket for every address hickory's own loop would answer from whichever the route has.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use chasqui_runtime::Seldom;
use chasqui_runtime::net::datagram::{self, Datagram};
use futures_lite::StreamExt;
use hickory_proto::op::MessageType;
use hickory_server::net::BufDnsStreamHandle;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, ResponseHandle};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::Handler;

/// Longest question that is read. Those that come have a name, perhaps a cookie.
const QUESTION_BYTES_MAX: usize = 4096;
/// Octets of a header (RFC 1035 section 4.1.1).
const HEADER_BYTES: usize = 12;

/// Answers one question after the other: none of them waits for anything.
pub(super) async fn serve(socket: &UdpSocket, handler: &Handler) -> Infallible {
    let faults = Seldom::default();
    let mut buffer = vec![0; QUESTION_BYTES_MAX];
    loop {
        let receive = || datagram::receive(socket.as_fd(), &mut buffer);
        let Datagram { length, source, destination } =
            match socket.async_io(Interest::READABLE, receive).await {
                Ok(datagram) => datagram,
                // Such as that an answer found nobody.
                Err(error) => {
                    if let Some(times) = faults.happened() {
                        log::debug!("DNS over UDP: cannot receive ({times} times): {error}");
                    }
                    tokio::task::yield_now().await;
                    continue;
                }
            };
        if source.port() == 0 {
            continue;
        }
        let Some(answer) = answer(&buffer[..length], source, handler).await else { continue };
        let send = || datagram::send(socket.as_fd(), &answer, source, destination);
        if let Err(error) = socket.async_io(Interest::WRITABLE, send).await {
            log::debug!("a DNS answer to {source} could not be sent: {error}");
        }
    }
}

async fn answer(question: &[u8], source: SocketAddr, handler: &Handler) -> Option<Vec<u8>> {
    let Ok(request) = Request::from_bytes(question.to_vec(), source, Protocol::Udp) else {
        return format_error(question);
    };
    if request.metadata.message_type == MessageType::Response {
        return None;
    }
    let (handle, mut answers) = BufDnsStreamHandle::new(source);
    let responder = ResponseHandle::new(source, handle, Protocol::Udp);
    handler.handle(&request, responder).await;
    let (answer, _) = answers.next().await?.into_parts();
    Some(answer)
}

/// FORMERR with nothing but a header, to what has one and is no answer itself.
fn format_error(question: &[u8]) -> Option<Vec<u8>> {
    let mut answer = question.get(..HEADER_BYTES)?.to_vec();
    if answer[2] & 0x80 != 0 {
        return None;
    }
    // Identifier, operation code and RD are those of the question.
    answer[2] = 0x80 | answer[2] & 0x79;
    answer[3] = 1;
    answer[4..].fill(0);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cannot be read has a header in return, unless it is an answer or has none itself.
    #[test]
    fn rubbish_is_answered() {
        let answer = format_error(b"\x12\x34\x01\x7f\xff\xff\xff\xff\xff\xff\xff\xffrest").unwrap();
        assert_eq!(answer, b"\x12\x34\x81\x01\0\0\0\0\0\0\0\0");
        assert_eq!(format_error(b"\x12\x34\x81\0\0\0\0\0\0\0\0\0"), None);
        assert_eq!(format_error(b"\x12\x34\x01"), None);
    }
}
