"""An authority over UDP. Names under `silent` get no answer, others an address by their first label."""

import socket
import struct

A, SOA, MX = 1, 6, 15
TTL_S = 300


def labels(packet):
    """The name of the first question, and where it ends."""
    names, at = [], 12
    while packet[at]:
        names.append(packet[at + 1:at + 1 + packet[at]].decode("ascii", "replace").lower())
        at += 1 + packet[at]
    return names, at + 1


def encoded(names):
    return b"".join(bytes([len(name)]) + name.encode() for name in names) + b"\0"


def answer(packet, address_of):
    """The answer to a question, or None: silence. `address_of` gives the IPv4 address of a name's mail host."""
    names, end = labels(packet)
    if any(name.startswith("silent") for name in names):
        return None
    kind = struct.unpack("!H", packet[end:end + 2])[0]
    question = packet[12:end + 4]
    if kind == MX and names[0] != "mx":
        value = struct.pack("!H", 10) + encoded(["mx", *names])
    elif kind == A:
        value = socket.inet_aton(address_of(names[1:] if names[0] == "mx" else names))
    else:
        value = None
    head = packet[:2] + struct.pack("!HHHHH", 0x8580, 1, int(value is not None), int(value is None), 0)
    if value is not None:
        return head + question + b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, TTL_S, len(value)) + value
    start = encoded(["ns"]) + encoded(["hostmaster"]) + struct.pack("!IIIII", 1, 60, 60, 60, TTL_S)
    return head + question + encoded(names[-1:]) + struct.pack("!HHIH", SOA, 1, TTL_S, len(start)) + start


def serve(server, address_of):
    """Answers on a bound UDP socket until the process ends."""
    while True:
        packet, peer = server.recvfrom(4096)
        try:
            reply = answer(packet, address_of)
        except (IndexError, struct.error):
            continue
        if reply is not None:
            server.sendto(reply, peer)
