"""Floods of TLS and AUTH: handshakes that are begun and left, and tries to be somebody."""

import asyncio
import base64
import collections
import contextlib
import socket
import ssl
import time

from . import clients

# Of a flood of handshakes: each has a tenth of it, fewer than one peer may have.
HANDSHAKE_ADDRESSES = 10
NAMES = ("ann", "bob", "nobody", "root", "postmaster", "info")


def context():
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


class Counts:
    """Figures that another process reads: numbers by name."""

    def __init__(self, shared, names):
        self.shared, self.places = shared, {name: place for place, name in enumerate(names)}

    def add(self, name, more=1):
        self.shared[self.places[name]] += more

    def raise_to(self, name, value):
        self.shared[self.places[name]] = max(self.shared[self.places[name]], value)

    def __getitem__(self, name):
        return self.shared[self.places[name]]

    def all(self):
        return {name: self[name] for name in self.places}


# held: now; held_ms_most: until the relay ended one. early: refused before a handshake could begin, other than by 4xx.
HANDSHAKES = ("held", "held_at_most", "begun", "refused", "early", "ended_by_relay", "held_ms_most")


def hello():
    """A ClientHello's record."""
    outgoing = ssl.MemoryBIO()
    tls = context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="relay.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


async def half_handshake(relay, number, said, counts):
    """STARTTLS, this much of a handshake, and nothing more until the relay ends it."""
    source = f"127.0.11.{1 + number % HANDSHAKE_ADDRESSES}"
    reader, writer = await asyncio.open_connection(*relay, local_addr=(source, 0))
    try:
        for command in (b"", b"EHLO x\r\n", b"STARTTLS\r\n"):
            writer.write(command)
            while (line := await asyncio.wait_for(reader.readline(), 60))[3:4] == b"-":
                pass
            if not line.startswith(b"2"):
                counts.add("refused" if line.startswith(b"4") else "early")
                return
        writer.write(said)
        began = time.monotonic()
        for name in ("begun", "held"):
            counts.add(name)
        counts.raise_to("held_at_most", counts["held"])
        try:
            while await reader.read(65536):
                pass
        finally:
            counts.add("held", -1)
        counts.add("ended_by_relay")
        counts.raise_to("held_ms_most", round(1000 * (time.monotonic() - began)))
    finally:
        writer.close()


async def half_handshakes(relay, connections, counts, stopped):
    """As many as these at a time; whoever is thrown out comes back, until `stopped`."""
    whole = hello()
    kinds = (b"", whole[:len(whole) // 2], whole)

    async def one(number):
        await asyncio.sleep(number / 2000)
        while not stopped.is_set():
            with contextlib.suppress(OSError, asyncio.TimeoutError, ValueError):
                await half_handshake(relay, number, kinds[number % len(kinds)], counts)
            await asyncio.sleep(0.5)

    await asyncio.gather(*(one(number) for number in range(connections)))


# offered: tries sent; unoffered: those due while no connection was free. Then the replies, by code; those of a PLAIN come after an
# argon2id hash or the like (535), or at once (454); 334: a SCRAM began. opened: handshakes; closed: by the relay.
TRIES = ("offered", "unoffered", "opened", "closed", "235", "334", "421", "454", "501", "504", "535", "other", "waited_ms_most")


def plain(number):
    user = NAMES[number % len(NAMES)]
    user = user if user in NAMES[:2] else f"{user}{number}"
    return b"AUTH PLAIN " + base64.b64encode(f"\0{user}\0wrong{number}".encode()) + b"\r\n"


def scram(number):
    user = NAMES[number % len(NAMES)]
    return b"AUTH SCRAM-SHA-256 " + base64.b64encode(f"n,,n={user},r=nonce{number}".encode()) + b"\r\n"


class Guesser:
    """A connection in TLS on which one try follows the other; a new one when the relay has closed it."""

    def __init__(self, flood, number):
        self.flood, self.source = flood, f"127.0.{12 + number // 250}.{1 + number % 250}"
        self.tls, self.take = None, None

    def open(self):
        connection = socket.socket()
        connection.setblocking(False)
        try:
            connection.bind((self.source, 0))
            with contextlib.suppress(BlockingIOError):
                connection.connect(self.flood.relay)
            self.tls = self.flood.context.wrap_socket(connection, do_handshake_on_connect=False, suppress_ragged_eofs=True)
        except OSError:
            connection.close()
            self.flood.loop.call_later(0.5, self.open)
            return
        self.take, self.text = self.handshake, b""
        self.flood.loop.add_writer(self.tls, self.connected)

    def connected(self):
        self.flood.loop.remove_writer(self.tls)
        self.flood.loop.add_reader(self.tls, self.readable)
        self.readable()

    def readable(self):
        try:
            if self.take == self.handshake:
                self.handshake()
            while piece := self.tls.recv(8192):
                self.text += piece
                while b"\n" in self.text:
                    line, self.text = self.text.split(b"\n", 1)
                    if line[3:4] != b"-":
                        self.take(line[:3])
            self.flood.counts.add("closed")
        except ssl.SSLWantReadError:
            return
        except OSError:
            self.flood.counts.add("closed")
        self.flood.loop.remove_reader(self.tls)
        self.tls.close()
        self.take = None
        self.flood.loop.call_later(0.05, self.open)

    def handshake(self):
        self.tls.do_handshake()
        self.flood.counts.add("opened")
        self.take = self.greeted

    def greeted(self, code):
        if code == b"220":
            self.tls.send(b"EHLO guesser.test\r\n")
            self.take = self.ready

    def ready(self, _code):
        self.take = self.nothing
        self.flood.free.append(self)

    def nothing(self, _code):
        """A farewell."""

    def attempt(self, command):
        """Whether it could be sent."""
        if self.take != self.nothing:
            return False
        try:
            self.tls.send(command)
        except OSError:
            return False
        self.began, self.take = time.monotonic(), self.answered
        return True

    def answered(self, code):
        name = code.decode("ascii", "replace")
        counts = self.flood.counts
        counts.add(name if name in TRIES else "other")
        counts.raise_to("waited_ms_most", round(1000 * (time.monotonic() - self.began)))
        if code == b"334":
            self.tls.send(b"*\r\n")
            self.take = self.ready
        elif code == b"421":
            self.take = self.nothing
        else:
            self.ready(code)


class Guesses:
    """Tries at a rate, whether answers come or not: on many connections, each from an address of its own, so that none is closed to
    AUTH for the failures of others."""

    def __init__(self, relay, rate, connections, kinds, counts):
        self.relay, self.rate, self.connections, self.kinds, self.counts = relay, rate, connections, kinds, counts
        self.context, self.free = context(), collections.deque()

    async def open(self):
        for number in range(self.connections):
            Guesser(self, number).open()
            await asyncio.sleep(0.002)

    async def run(self):
        self.loop = asyncio.get_running_loop()
        opening = self.loop.create_task(self.open())
        number, due, last = 0, 0.0, time.monotonic()
        while not opening.cancelled():
            await asyncio.sleep(0.005)
            now = time.monotonic()
            due, last = due + self.rate * (now - last), now
            while due >= 1 and self.free:
                # So that each kind comes with each name.
                kind = self.kinds[number // len(NAMES) % len(self.kinds)]
                if self.free.popleft().attempt(kind(number)):
                    self.counts.add("offered")
                    number, due = number + 1, due - 1
            # What could not be sent within a second is not made up for.
            if due > self.rate:
                self.counts.add("unoffered", round(due - self.rate))
                due = self.rate
