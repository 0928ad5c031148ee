"""The messages: how they are made from their numbers, and how they are found again in the mailboxes."""

import base64
import collections
import random
import socket

ZONE = "chasqui.test"
DOMAINS = 8
MAILBOXES = 5
PASSWORD = "chasqui"
TRACE_FIELDS = (b"received:", b"return-path:")


class LabError(Exception):
    """The lab cannot do its work; nothing is said about the relay's promise."""


def recipient(number):
    return f"u{number // DOMAINS % MAILBOXES}@d{number % DOMAINS}.{ZONE}"


def message(seed, number):
    """The message with this number, as it must stand in the mailbox: mostly small, some large, some chunked."""
    randomly = random.Random(f"{seed}/{number}")
    (least, most), = randomly.choices([(200, 6000), (6000, 60_000), (260_000, 600_000)], [900, 93, 7])
    octets = randomly.randint(least, most)
    text = base64.b64encode(randomly.randbytes(octets * 3 // 4))
    # Every line of some messages begins with a dot: those are stuffed on the way.
    line_end = b"\r\n." if randomly.random() < 0.3 else b"\r\n"
    body = line_end.join(text[at : at + 76] for at in range(0, len(text), 76))
    head = f"From: <sender@client.test>\r\nTo: <{recipient(number)}>\r\nSubject: crash\r\nX-Number: {number}\r\n"
    return head.encode() + b"\r\n" + body + b"\r\n"


def without_trace(received):
    """What stands after the trace fields that were prepended."""
    at = 0
    while True:
        end = received.find(b"\r\n", at)
        line = received[at : end + 2]
        folded = at > 0 and line[:1] in (b" ", b"\t")
        if end < 0 or (not folded and not line.lower().startswith(TRACE_FIELDS)):
            return received[at:]
        at = end + 2


def host_port(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


def read_mailboxes(pop3, seed):
    """How many whole copies there are of each number, and a line for each copy that differs from what was sent."""
    found, spoilt = collections.Counter(), []
    for domain in range(DOMAINS):
        for mailbox in range(MAILBOXES):
            user = f"u{mailbox}@d{domain}.{ZONE}"
            for received in read_mailbox(pop3, user):
                content = without_trace(received)
                head = content[: content.find(b"\r\n\r\n")]
                number = head.rpartition(b"X-Number: ")[2]
                if not number.isdigit() or recipient(int(number)) != user or content != message(seed, int(number)):
                    spoilt.append(f"{user} has {content[:80]!r}… ({len(content)} octets)")
                if number.isdigit():
                    found[int(number)] += 1
    return found, spoilt


def read_mailbox(pop3, user, window=32):
    """Every message of a mailbox, through POP3 with pipelined RETR."""
    with socket.create_connection(host_port(pop3), timeout=30) as connection:
        stream = connection.makefile("rb")

        def line():
            answer = stream.readline()
            if not answer.startswith(b"+OK"):
                raise LabError(f"POP3 of {user}: {answer!r}")
            return answer

        line()
        connection.sendall(f"USER {user}\r\nPASS {PASSWORD}\r\nSTAT\r\n".encode())
        line(), line()
        count = int(line().split()[1])
        for first in range(1, count + 1, window):
            numbers = range(first, min(first + window, count + 1))
            connection.sendall(b"".join(b"RETR %d\r\n" % number for number in numbers))
            for _ in numbers:
                line()
                lines = []
                while (piece := stream.readline()) != b".\r\n":
                    if not piece:
                        raise LabError(f"POP3 of {user}: the connection ended")
                    lines.append(piece[1:] if piece.startswith(b".") else piece)
                yield b"".join(lines)
        connection.sendall(b"QUIT\r\n")
        line()
