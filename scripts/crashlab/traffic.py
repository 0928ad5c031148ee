"""What flows through the relay: the clients, the gate before the sink, and the arrivals that the sink tells."""

import asyncio
import collections
import random
import struct
import time

from .mail import ZONE, host_port, message, recipient

# One transaction.
TRANSACTION_WITHIN_S = 30
# run, sequence, recipient, time, size, kind, verdict, flags
ARRIVAL = struct.Struct("<QQQQIBBH")
DELIVERY, BOUNCE, BARRIER = 0, 1, 2


class Gate:
    """Stands before the sink and lets nothing through towards it while closed. Replies always pass at once."""

    def __init__(self, sink, spoil=0.0, seed=0):
        self.sink, self.spoil, self.random = host_port(sink), spoil, random.Random(f"gate/{seed}")
        self.open, self.pairs, self.spoiled = asyncio.Event(), set(), 0
        self.open.set()

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return "127.0.0.1:%d" % self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.sink)
        except OSError:
            writer.close()
            return
        pair = (writer, far_writer)
        self.pairs.add(pair)
        try:
            await asyncio.gather(self.pump(reader, far_writer, True), self.pump(far_reader, writer, False))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self.pairs.discard(pair)
            for side in pair:
                side.close()

    async def pump(self, reader, writer, towards_sink):
        while data := await reader.read(65536):
            if towards_sink:
                await self.open.wait()
                data = self.spoilt(data)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    def spoilt(self, data):
        """The planted fault: one letter of a body becomes another."""
        at = len(data) * 3 // 4
        if len(data) < 2000 or self.random.random() >= self.spoil or not data[at : at + 1].isalnum():
            return data
        self.spoiled += 1
        return data[:at] + (b"a" if data[at : at + 1] != b"a" else b"b") + data[at + 1 :]

    def drop(self):
        """The relay is dead: what it has sent and the gate still holds is gone with it."""
        for pair in list(self.pairs):
            for side in pair:
                side.transport.abort()

    async def swing(self, seed):
        """Closes and opens at random until cancelled."""
        randomly = random.Random(f"swing/{seed}")
        try:
            while True:
                await asyncio.sleep(randomly.uniform(0.1, 1.0))
                self.open.clear()
                await asyncio.sleep(randomly.uniform(0.1, 1.2))
                self.open.set()
        finally:
            self.open.set()


class Load:
    """Clients that send numbered messages at a rate, and what they were answered."""

    def __init__(self, address, rate, seed, arrivals):
        self.address, self.rate, self.seed, self.arrivals = host_port(address), rate, seed, arrivals
        self.numbers, self.due, self.stopping = 0, 0.0, False
        self.acknowledged = {}
        # Which client had the answer: a connection belongs to one shard.
        self.clients = {}
        self.refused = {}
        self.replies = collections.Counter()
        self.timeouts = 0

    async def client(self, name):
        while not self.stopping:
            writer = None
            try:
                reader, writer = await asyncio.open_connection(*self.address)
                await self.converse(name, reader, writer)
            except asyncio.TimeoutError:
                self.timeouts += 1
            except (OSError, EOFError):
                await asyncio.sleep(0.03)
            finally:
                if writer is not None:
                    writer.close()

    async def converse(self, name, reader, writer):
        async with asyncio.timeout(TRANSACTION_WITHIN_S):
            if (await reply(reader))[0] != 220:
                return
            writer.write(b"EHLO client.test\r\n")
            await reply(reader)
        while True:
            number = await self.turn()
            if number is None:
                return
            async with asyncio.timeout(TRANSACTION_WITHIN_S):
                code, text = await self.transact(number, reader, writer)
            if code == 250:
                self.acknowledged[number] = time.monotonic()
                self.clients[number] = name
                if number not in self.arrivals.times:
                    self.arrivals.awaited.add(number)
                continue
            self.refused[number] = time.monotonic()
            self.replies[code] += 1
            if code == 421:
                return

    async def turn(self):
        """The next number when its time has come; what was not sent in time is not caught up with."""
        now = time.monotonic()
        due = max(self.due, now)
        self.due = due + 1 / self.rate
        await asyncio.sleep(due - now)
        if self.stopping:
            return None
        self.numbers += 1
        return self.numbers - 1

    async def transact(self, number, reader, writer):
        content = message(self.seed, number)
        writer.write(
            f"MAIL FROM:<{self.arrivals.run:016x}.{number}@bounce.{ZONE}> SIZE={len(content)}\r\n"
            f"RCPT TO:<{recipient(number)}>\r\nDATA\r\n".encode())
        replies = [await reply(reader) for _ in range(3)]
        if replies[2][0] != 354:
            if replies[0][0] == 250:
                # The refused recipient's transaction would take the next message for its own.
                writer.write(b"RSET\r\n")
                await reply(reader)
            return next(answer for answer in replies if answer[0] != 250)
        stuffed = content.replace(b"\r\n.", b"\r\n..")
        writer.write(stuffed + b".\r\n")
        await writer.drain()
        return await reply(reader)


async def reply(reader):
    """Code and last line of a reply."""
    while True:
        line = await reader.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError
        if line[3:4] != b"-":
            return int(line[:3]), line[4:].decode(errors="replace").strip()


class Arrivals:
    """When copies of each number came, and which numbers bounced, as the sink tells."""

    def __init__(self, run):
        self.run, self.times, self.bounced = run, collections.defaultdict(list), set()
        # Acknowledged, and not here yet.
        self.awaited = set()
        self.streams, self.barriers, self.broken = [], [], False

    async def subscribe(self, paths):
        for path in paths:
            reader, writer = await asyncio.open_unix_connection(path)
            self.streams.append((asyncio.create_task(self.follow(reader)), writer))

    async def follow(self, reader):
        while True:
            try:
                record = await reader.readexactly(ARRIVAL.size)
            except (EOFError, OSError):
                self.broken = True
                return
            run, number, _, time_ns, _, kind, _, _ = ARRIVAL.unpack(record)
            if kind == BARRIER:
                self.barriers.append(number)
            elif run == self.run and kind == DELIVERY:
                self.times[number].append(time_ns / 1e9)
                self.awaited.discard(number)
            elif run == self.run and kind == BOUNCE:
                self.bounced.add(number)

    async def settle(self, token):
        """After this, all that has arrived before is known."""
        for _, writer in self.streams:
            writer.write(struct.pack("<Q", token))
        async with asyncio.timeout(10):
            while self.barriers.count(token) < len(self.streams):
                await asyncio.sleep(0.01)
