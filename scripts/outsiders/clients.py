"""Clients that want the relay's memory, connections, space and patience, and have no right to them."""

import asyncio
import contextlib
import socket

# The customer who has a right to relay, and sends to hosts that are no good.
CUSTOMER = "127.0.0.3"
BODY = b"Subject: x\r\n\r\n" + (b"z" * 70 + b"\r\n") * 8
# More than the buffers between relay and host take.
LARGE_BODY = b"Subject: x\r\n\r\n" + (b"z" * 70 + b"\r\n") * 6000
SIZE_MAX = 64 << 20


def stranger(number):
    """An address from which nobody may relay."""
    return f"127.0.9.{1 + number % 200}"


class Session:
    """A client's connection."""

    def __init__(self, relay, source):
        self.relay, self.source = relay, source

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(*self.relay, local_addr=(self.source, 0))
        await self.reply()
        return self

    async def __aexit__(self, *_failure):
        self.writer.close()

    async def reply(self):
        while line := await asyncio.wait_for(self.reader.readline(), 60):
            if line[3:4] != b"-":
                return line
        raise ConnectionAbortedError

    async def say(self, command):
        self.writer.write(command + b"\r\n")
        await self.writer.drain()
        return await self.reply()

    async def begin_to_postmaster(self):
        """Begins a message that is taken from everybody, up to its body."""
        for command in [b"EHLO x", b"MAIL FROM:<x@evil.test>", b"RCPT TO:<postmaster>", b"DATA"]:
            await self.say(command)

    async def mail(self, recipient, body, sender=b"c@customer.test"):
        """Sends a message in one flight but for its body; gives the last reply."""
        self.writer.write(b"MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\nDATA\r\n" % (sender, recipient.encode()))
        replies = [await self.reply() for _ in range(3)]
        if replies[2].startswith(b"354"):
            self.writer.write(body + b".\r\n")
            return await self.reply()
        return replies[2]


async def again(attack, *arguments, pause_s=0.2):
    """Attacks until the end: whoever is thrown out comes back."""
    while True:
        with contextlib.suppress(OSError, asyncio.TimeoutError, ValueError):
            await attack(*arguments)
        await asyncio.sleep(pause_s)


async def reserve(relay, number):
    """Announces a large message, and keeps the session alive."""
    async with Session(relay, stranger(number)) as session:
        await session.say(b"EHLO x")
        await session.say(b"MAIL FROM:<x@evil.test> SIZE=%d" % SIZE_MAX)
        while True:
            await asyncio.sleep(10)
            await session.say(b"NOOP")


async def creep(relay, number):
    """Sends a command octet by octet."""
    async with Session(relay, stranger(number)) as session:
        for octet in b"EHLO " + b"x" * 600:
            session.writer.write(bytes([octet]))
            await session.writer.drain()
            await asyncio.sleep(2)


async def creep_in_body(relay, number):
    """Sends a message to the postmaster octet by octet."""
    async with Session(relay, stranger(number)) as session:
        await session.begin_to_postmaster()
        while True:
            session.writer.write(b"x")
            await session.writer.drain()
            await asyncio.sleep(2)


async def idle(relay, number):
    """Says nothing."""
    async with Session(relay, stranger(number)) as session:
        await session.reader.read(1)


async def chatter(relay, number):
    """Says much that leads to nothing."""
    async with Session(relay, stranger(number)) as session:
        await session.say(b"EHLO x")
        for command in [b"NOOP", b"RSET", b"VRFY a", b"HELP", b"XYZ", b"MAIL FROM:<a@b.test>", b"RCPT TO:<a@c.test>"] * 1000:
            await session.say(command)
            await asyncio.sleep(0.05)


async def talk_early(relay, number):
    """Sends everything at once, and waits for nothing."""
    async with Session(relay, stranger(number)) as session:
        session.writer.write(b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<a@c.test>\r\nDATA\r\n" + BODY + b".\r\nQUIT\r\n")
        await session.reader.read(65536)


async def endless_line(relay, number):
    """A command that does not end."""
    async with Session(relay, stranger(number)) as session:
        for _ in range(1000):
            session.writer.write(b"x" * 4096)
            await session.writer.drain()
            await asyncio.sleep(0.02)


async def endless_message(relay, number):
    """A message to the postmaster that does not end."""
    async with Session(relay, stranger(number)) as session:
        await session.begin_to_postmaster()
        while True:
            session.writer.write((b"z" * 70 + b"\r\n") * 400)
            await session.writer.drain()
            await asyncio.sleep(0.01)


async def recipients(relay, number):
    """A thousand long recipients that are all refused."""
    async with Session(relay, stranger(number)) as session:
        await session.say(b"EHLO x")
        await session.say(b"MAIL FROM:<x@evil.test>")
        for count in range(1000):
            await session.say(b"RCPT TO:<%04d%s@c.test>" % (count, b"y" * 230))


async def never_read(relay, count, sources):
    """Clients that pipeline commands, and read no reply."""
    loop, clients = asyncio.get_running_loop(), []
    for number in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.setblocking(False)
        try:
            client.bind((stranger(100 + number % sources), 0))
            await loop.sock_connect(client, relay)
        except OSError:
            client.close()
            continue
        clients.append(client)
    while True:
        for place, client in enumerate(clients):
            with contextlib.suppress(OSError):
                client.send(b"EHLO x\r\n" * 20_000)
            if place % 50 == 0:
                await asyncio.sleep(0.02)
        await asyncio.sleep(1)


async def send_all(relay, recipients, body=BODY, pause_s=0.004):
    """The customer's mail to these, on one connection after the other."""
    waiting = list(recipients)
    while waiting:
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            async with Session(relay, CUSTOMER) as session:
                await session.say(b"EHLO customer.test")
                while waiting:
                    reply = await session.mail(waiting[-1], body)
                    if reply.startswith((b"2", b"5")):
                        waiting.pop()
                    await asyncio.sleep(pause_s)
        await asyncio.sleep(0.5)


async def reset_after_dot(relay, number):
    """Sends a message and is gone before the reply."""
    async with Session(relay, CUSTOMER) as session:
        await session.say(b"EHLO customer.test")
        await session.say(b"MAIL FROM:<c@customer.test>")
        await session.say(b"RCPT TO:<u%d@nonsense.odd.test>" % number)
        await session.say(b"DATA")
        session.writer.write(BODY + b".\r\n")
        session.writer.transport.abort()
