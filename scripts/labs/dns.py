"""One question to a name server, by UDP (RFC 1035)."""

import random
import socket
import struct

A, SOA, MX = 1, 6, 15
WITHIN_S = 2
HEADER = struct.Struct("!6H")
AUTHORITATIVE = 0x0400


def ask(address, name, kind):
    """The records of the answer section, `[(type, data)]`: addresses as text, MX as (preference, name), others as bytes. Raises
    OSError without an answer, and ValueError for one that is not authoritative or an error."""
    host, port = address.rsplit(":", 1)
    number = random.randrange(1 << 16)
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0" + struct.pack("!2H", kind, 1)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(WITHIN_S)
        client.connect((host, int(port)))
        client.send(HEADER.pack(number, 0, 1, 0, 0, 0) + question)
        answer = client.recv(4096)
    got, flags, _, count, _, _ = HEADER.unpack_from(answer)
    if got != number or flags & 0xF or not flags & AUTHORITATIVE:
        raise ValueError(f"flags {flags:#06x} for {name}")
    at, records = HEADER.size + len(question), []
    for _ in range(count):
        _, at = name_at(answer, at)
        found, _, _, length = struct.unpack_from("!2HIH", answer, at)
        at += 10
        records.append((found, data_of(answer, found, at, length)))
        at += length
    return records


def data_of(message, kind, at, length):
    if kind == A:
        return socket.inet_ntoa(message[at : at + length])
    if kind == MX:
        return struct.unpack_from("!H", message, at)[0], name_at(message, at + 2)[0]
    return message[at : at + length]


def name_at(message, at):
    """The name that begins there, and where it ends."""
    labels, end = [], None
    for _ in range(128):
        length = message[at]
        if length & 0xC0 == 0xC0:
            end = end or at + 2
            at = struct.unpack_from("!H", message, at)[0] & 0x3FFF
        elif length == 0:
            return ".".join(labels), end or at + 1
        else:
            labels.append(message[at + 1 : at + 1 + length].decode())
            at += 1 + length
    raise ValueError("a name without an end")
