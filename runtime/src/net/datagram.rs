//! Datagrams that are answered from the address they were sent to, on a UDP socket that is bound to every address (`IP_PKTINFO` of
//! ip(7), `IPV6_PKTINFO` of RFC 3542 section 6). Calls that answer at once, for threads without a shard.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::SockAddr;

/// Octets of control messages: room for either kind, with its header.
const CONTROL_BYTES: usize = 64;

/// Memory for control messages, aligned as they want it.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// A datagram that came.
#[derive(Debug)]
pub struct Datagram {
    /// Octets in the buffer.
    pub length: usize,
    /// Who sent it.
    pub source: SocketAddr,
    /// Where it was sent to: what the answer is to be sent from.
    pub destination: Option<Destination>,
}

/// An address of this machine that a datagram was sent to.
#[derive(Clone, Copy)]
pub struct Destination(Kind);

#[derive(Clone, Copy)]
enum Kind {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl std::fmt::Debug for Destination {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Destination")
    }
}

/// Has the kernel tell where each datagram was sent to.
pub fn tell_destinations(socket: &UdpSocket) -> io::Result<()> {
    let (level, option) = match socket.local_addr()? {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    let size = mem::size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option's value is an int, which is read during the call alone.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(&on).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Receives a datagram; what does not fit into the buffer is cut off.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut received = 0;
    let mut destination = None;
    // SAFETY: the kernel writes at most the length that it is given of each part: the address, the buffer, the control messages, all
    // of which live for the call. Control messages are then walked by the macros of cmsg(3), which stay within their length; their
    // payloads are read unaligned, with the size that goes with their type.
    let ((), source) = unsafe {
        SockAddr::try_init(|address, length| {
            let mut header: libc::msghdr = MaybeUninit::zeroed().assume_init();
            header.msg_name = address.cast();
            header.msg_namelen = *length;
            header.msg_iov = &mut vector;
            header.msg_iovlen = 1;
            header.msg_control = ptr::from_mut(&mut control).cast();
            header.msg_controllen = CONTROL_BYTES;
            let octets = libc::recvmsg(socket.as_raw_fd(), &mut header, 0);
            if octets < 0 {
                return Err(io::Error::last_os_error());
            }
            received = octets as usize;
            *length = header.msg_namelen;
            let mut message = libc::CMSG_FIRSTHDR(&header);
            while !message.is_null() {
                let data = libc::CMSG_DATA(message);
                match ((*message).cmsg_level, (*message).cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        destination = Some(Destination(Kind::V4(ptr::read_unaligned(data.cast()))));
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        destination = Some(Destination(Kind::V6(ptr::read_unaligned(data.cast()))));
                    }
                    _ => {}
                }
                message = libc::CMSG_NXTHDR(&header, message);
            }
            Ok(())
        })?
    };
    let source = source.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok(Datagram { length: received, source, destination })
}

/// Sends a datagram from the address that another one was sent to.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    target: SocketAddr,
    from: Option<Destination>,
) -> io::Result<usize> {
    let target = SockAddr::from(target);
    let mut control = Control([0; CONTROL_BYTES]);
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the kernel reads address, bytes and control messages within their lengths, and writes none of them. The control message
    // is written into `control`, which is larger than either kind with its header, and aligned for the header.
    let sent = unsafe {
        let mut header: libc::msghdr = MaybeUninit::zeroed().assume_init();
        header.msg_name = target.as_ptr().cast_mut().cast();
        header.msg_namelen = target.len();
        header.msg_iov = &mut vector;
        header.msg_iovlen = 1;
        header.msg_control = ptr::from_mut(&mut control).cast();
        header.msg_controllen = CONTROL_BYTES;
        let message = libc::CMSG_FIRSTHDR(&header);
        header.msg_controllen = match from {
            None => 0,
            Some(Destination(Kind::V4(told))) => {
                // By any interface: the route to the target decides.
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: told.ipi_addr, ..told };
                write_message(message, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
            }
            Some(Destination(Kind::V6(told))) => {
                let link_local = told.ipi6_addr.s6_addr[..2] == [0xfe, 0x80];
                let ipi6_ifindex = if link_local { told.ipi6_ifindex } else { 0 };
                let info = libc::in6_pktinfo { ipi6_ifindex, ..told };
                write_message(message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
            }
        };
        libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Writes a control message; gives the length of all of it.
///
/// # Safety
///
/// `message` points to memory for a header and `T`, aligned for the header.
unsafe fn write_message<T>(
    message: *mut libc::cmsghdr,
    level: libc::c_int,
    kind: libc::c_int,
    value: T,
) -> usize {
    let size = mem::size_of::<T>() as u32;
    // SAFETY: as the caller promises; the payload is written unaligned.
    unsafe {
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = libc::CMSG_LEN(size) as usize;
        ptr::write_unaligned(libc::CMSG_DATA(message).cast(), value);
        libc::CMSG_SPACE(size) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// On a socket for every address, of either family, the answer comes from the address that was asked.
    #[test]
    fn answers_come_from_where_they_were_asked() {
        // IPv6 is left out only on a machine that has no ::1.
        let has_ipv6 = UdpSocket::bind("[::1]:0").is_ok();
        for (any, asked, client) in [
            ("0.0.0.0:0", "127.0.4.7", "127.0.0.1:0"),
            ("[::]:0", "::ffff:127.0.4.7", "127.0.0.1:0"),
            ("[::]:0", "::1", "[::1]:0"),
        ] {
            if any.starts_with('[') && !has_ipv6 {
                continue;
            }
            let server = UdpSocket::bind(any).unwrap_or_else(|error| panic!("{any}: {error}; ::1 is there"));
            tell_destinations(&server).unwrap();
            let client = UdpSocket::bind(client).unwrap();
            let asked: std::net::IpAddr = asked.parse().unwrap();
            let asked = SocketAddr::new(asked.to_canonical(), server.local_addr().unwrap().port());
            client.send_to(b"question", asked).unwrap();
            let mut buffer = [0; 100];
            let datagram = receive(server.as_fd(), &mut buffer).unwrap();
            assert_eq!(&buffer[..datagram.length], b"question");
            assert_eq!(datagram.source.port(), client.local_addr().unwrap().port());
            send(server.as_fd(), b"answer", datagram.source, datagram.destination).unwrap();
            let (length, source) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], source), (b"answer".as_slice(), asked));
            send(server.as_fd(), b"", datagram.source, None).unwrap();
            assert_eq!(client.recv_from(&mut buffer).unwrap().0, 0);
        }
    }
}
