"""What kill-loop and power-cut share: a relay that is made to die under load, and a ledger of its own.

Nothing of Chasqui's own load generator is used. Load speaks SMTP to the relay, every message is made from its number
alone, and at the end every mailbox of the sink is read through POP3 and compared with that, byte for byte. The arrival
records of the sink tell when each copy came, which decides whether a crash explains a duplicate.

    client (Load) -> relay -> sink                 half of the domains, by the DNS of the sink
    client (Load) -> relay -> Gate -> sink         the others: the gate closes now and then, so that a queue builds up
"""

import asyncio
import base64
import collections
import contextlib
import ctypes
import json
import os
import pathlib
import random
import signal
import socket
import struct
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ZONE = "chasqui.test"
DOMAINS = 8
MAILBOXES = 5
PASSWORD = "chasqui"
CONNECTIONS = 24
# A process says that it is ready within this; a relay recovers its spool before.
READY_WITHIN_S = 30
# A relay that has started takes mail within this.
MAIL_WITHIN_S = 15
# One transaction.
TRANSACTION_WITHIN_S = 30
# Without a new arrival for this long, what is missing is not awaited any more.
PROGRESS_WITHIN_S = 30
# A state is in the spool at most this long after its delivery: a crash explains duplicates of no older arrival.
DUPLICATE_WITHIN_S = 0.25
TRACE_FIELDS = (b"received:", b"return-path:")
ARRIVAL = struct.Struct("<QQQQIBBH")
DELIVERY, BOUNCE, BARRIER = 0, 1, 2
# Exit codes: the promise was broken; the lab itself failed.
BROKEN, FAILED = 1, 2


class LabError(Exception):
    """The lab cannot do its work; nothing is said about the relay's promise."""


def say(*words):
    print(f"{pathlib.Path(sys.argv[0]).name}:", *words, file=sys.stderr, flush=True)


def recipient(number):
    return f"u{number // DOMAINS % MAILBOXES}@d{number % DOMAINS}.{ZONE}"


def message(seed, number):
    """The message with this number, as it must stand in the mailbox: mostly small, some large, some chunked."""
    randomly = random.Random(f"{seed}/{number}")
    kind = randomly.random()
    octets = int(randomly.uniform(*((200, 6000) if kind < 0.9 else (6000, 60_000) if kind < 0.993 else (260_000, 600_000))))
    text = base64.b64encode(randomly.randbytes(octets * 3 // 4))
    # Every line of some messages begins with a dot: those are stuffed on the way.
    line_end = b"\r\n." if randomly.random() < 0.3 else b"\r\n"
    body = line_end.join(text[at : at + 76] for at in range(0, len(text), 76))
    head = f"From: <sender@client.test>\r\nTo: <{recipient(number)}>\r\nSubject: crash {number}\r\nX-Number: {number}\r\n\r\n"
    return head.encode() + body + b"\r\n"


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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def die_with_parent():
    """Runs in the child: whatever becomes of this script, its processes end."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Server:
    """A chasqui process; its log goes to a file."""

    def __init__(self, log, *command):
        self.command, self.log = [str(word) for word in command], log
        self.process, self.ready = None, None

    async def spawn(self):
        with open(self.log, "ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
                preexec_fn=die_with_parent)

    async def wait_ready(self):
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), READY_WITHIN_S)
        except asyncio.TimeoutError:
            raise LabError(f"{self.command[1]} is not ready within {READY_WITHIN_S} s") from None
        if not line:
            raise LabError(f"{self.command[1]} ended with status {await self.process.wait()}:\n{self.tail()}")
        self.ready = json.loads(line)
        return self.ready

    async def kill(self):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()

    def tail(self):
        return pathlib.Path(self.log).read_text(errors="replace")[-3000:]


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

    def __init__(self, address, rate, seed, run):
        self.address, self.rate, self.seed, self.run = host_port(address), rate, seed, run
        self.numbers, self.due, self.stopping = 0, 0.0, False
        self.acknowledged = {}
        self.refused = {}
        self.replies = collections.Counter()
        self.timeouts = 0

    async def client(self):
        while not self.stopping:
            writer = None
            try:
                reader, writer = await asyncio.open_connection(*self.address)
                await self.converse(reader, writer)
            except asyncio.TimeoutError:
                self.timeouts += 1
            except (OSError, EOFError):
                await asyncio.sleep(0.03)
            finally:
                if writer is not None:
                    writer.close()

    async def converse(self, reader, writer):
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
            f"MAIL FROM:<{self.run:016x}.{number}@bounce.{ZONE}> SIZE={len(content)}\r\n"
            f"RCPT TO:<{recipient(number)}>\r\nDATA\r\n".encode())
        replies = [await reply(reader) for _ in range(3)]
        if replies[2][0] != 354:
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
            elif run == self.run and kind == BOUNCE:
                self.bounced.add(number)

    async def settle(self, token):
        """After this, all that has arrived before is known."""
        for _, writer in self.streams:
            writer.write(struct.pack("<Q", token))
        async with asyncio.timeout(10):
            while self.barriers.count(token) < len(self.streams):
                await asyncio.sleep(0.01)


class Lab:
    """Sink, gate, relay and load of one run."""

    def __init__(self, options, stack, spool, seed, **relay):
        self.binary, self.seed, self.relay_options = str(options.binary), seed, relay
        self.rate, self.spoil = options.rate, getattr(options, "spoil", 0.0)
        self.run = random.Random(f"run/{seed}").getrandbits(64)
        self.spool = spool
        self.folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chasqui-")))
        self.crashes = []
        self.tasks = []
        self.load, self.relay, self.sink = None, None, None

    async def start(self):
        self.sink = Server(self.folder / "sink.log", self.binary, "sink", "--domains", DOMAINS, "--cores", "0",
                           "--arrivals", self.folder / "arrivals")
        await self.sink.spawn()
        ready = await self.sink.wait_ready()
        self.arrivals = Arrivals(self.run)
        await self.arrivals.subscribe(ready["arrivals"])
        self.gate = Gate(ready["smtp"][0], self.spoil, self.seed)
        address = f"127.0.0.1:{free_port()}"
        config = self.folder / "relay.toml"
        config.write_text(relay_config(address, self.spool, self.folder / "control", ready, await self.gate.start(),
                                       **self.relay_options))
        self.relay = Server(self.folder / "relay.log", self.binary, "relay", "--config", config)
        self.load = Load(address, self.rate, self.seed, self.run)
        self.tasks += [asyncio.create_task(self.load.client()) for _ in range(CONNECTIONS)]

    async def start_relay(self):
        await self.relay.spawn()
        await self.relay.wait_ready()
        await self.until_mail()

    async def until_mail(self):
        """Waits until the relay takes mail again."""
        before = len(self.load.acknowledged)
        await self.until(lambda: len(self.load.acknowledged) > before, MAIL_WITHIN_S,
                         f"the relay runs, but takes no mail within {MAIL_WITHIN_S} s; it answered {dict(self.load.replies)}")

    async def until(self, done, within_s, otherwise):
        deadline = time.monotonic() + within_s
        while not done():
            if time.monotonic() > deadline:
                raise LabError(f"{otherwise}\n{self.relay.tail()}")
            if self.relay.process.returncode is not None:
                raise LabError(f"the relay ended by itself:\n{self.relay.tail()}")
            await asyncio.sleep(0.005)

    async def crash(self, before_kill=None):
        """Kills the relay, after `before_kill`."""
        began = time.monotonic()
        if before_kill is not None:
            await before_kill()
        await self.relay.kill()
        self.crashes.append((began, time.monotonic()))
        self.gate.drop()

    async def drain(self):
        """Stops the load, and waits until everything acknowledged has arrived and the queue is empty."""
        self.load.stopping = True
        await asyncio.gather(*self.tasks[:CONNECTIONS])
        seen, progress = -1, time.monotonic()
        while time.monotonic() - progress < PROGRESS_WITHIN_S:
            missing = sum(number not in self.arrivals.times for number in self.load.acknowledged)
            queued = len(await self.queued())
            if missing == 0 and queued == 0:
                break
            # What is neither queued nor arrives by now never will.
            if queued == 0 and time.monotonic() - progress > 3:
                break
            if (missing, queued) != seen:
                seen, progress = (missing, queued), time.monotonic()
            await asyncio.sleep(0.05)
        await self.arrivals.settle(1)

    async def queued(self):
        """Numbers that the relay says it still has."""
        reader, writer = await asyncio.open_unix_connection(str(self.folder / "control"), limit=1 << 20)
        writer.write(b'{"command":"queue"}\n')
        numbers = set()
        while "end" not in (line := json.loads(await reader.readline())):
            numbers.add(int(line["reverse_path"].partition("@")[0].partition(".")[2] or -1))
        writer.close()
        return numbers

    async def judge(self):
        """The ledger: a dictionary of counts, and the lines that say what is wrong."""
        if self.arrivals.broken:
            raise LabError(f"an arrival stream of the sink broke:\n{self.sink.tail()}")
        found, spoilt = await asyncio.to_thread(read_mailboxes, self.sink.ready["pop3"], self.seed)
        queued = await self.queued()
        load, times = self.load, self.arrivals.times
        wrong = []
        lost = [number for number in load.acknowledged if number not in found and number not in queued]
        pending = [number for number in load.acknowledged if number not in found and number in queued]
        phantom = [number for number in found if number >= load.numbers]
        bounced = [number for number in load.acknowledged if number in self.arrivals.bounced]
        uncaused = [number for number, copies in times.items() if not self.has_causes(sorted(copies))]
        untold = [number for number in found | times.keys() if found[number] != len(times.get(number, ()))]
        duplicated = sum(len(copies) - 1 for copies in times.values())
        for what, numbers in (("lost", lost), ("still queued", pending), ("bounced", bounced), ("phantom", phantom),
                              ("duplicated without a crash to explain it", uncaused)):
            if numbers:
                wrong.append(f"{len(numbers)} {what}: {sorted(numbers)[:10]}")
        for number in sorted(uncaused)[:5]:
            wrong.append(f"message {number} {self.story(number)}")
        for number in sorted(lost)[:5]:
            wrong.append(f"message {number} {self.story(number)}")
        if spoilt:
            wrong.append(f"{len(spoilt)} corrupted: " + "; ".join(spoilt[:5]))
        elif untold and not lost:
            wrong.append(f"arrival records and mailboxes differ for {sorted(untold)[:10]}")
        if "panicked" in (log := pathlib.Path(self.relay.log).read_text(errors="replace")):
            wrong.append("the relay panicked: " + next(line for line in log.splitlines() if "panicked" in line))
        unknown = load.numbers - len(load.acknowledged) - len(load.refused)
        return {
            "acknowledged": len(load.acknowledged),
            "arrived": sum(number in found for number in load.acknowledged),
            "lost": len(lost) + len(pending) + len(bounced),
            "corrupted": len(spoilt),
            "duplicated": duplicated,
            "duplicated_without_cause": len(uncaused),
            "sent": load.numbers,
            "refused": dict(load.replies),
            "refused_arrived": sum(number in found for number in load.refused),
            "unanswered": unknown,
            "unanswered_arrived": sum(n not in load.acknowledged and n not in load.refused for n in found),
            "timeouts": load.timeouts,
        }, wrong

    def has_causes(self, times):
        """Between a copy and the next a crash came, at most 250 ms after the first of both."""
        def explains(crash, first, second):
            return crash[0] - DUPLICATE_WITHIN_S <= first <= crash[1] + DUPLICATE_WITHIN_S and second > crash[0]
        return all(any(explains(crash, first, second) for crash in self.crashes)
                   for first, second in zip(times, times[1:]))

    def story(self, number):
        """What happened to a message, in seconds from the first crash."""
        start = self.crashes[0][0] if self.crashes else 0
        events = [(moment, "arrived") for moment in self.arrivals.times.get(number, ())]
        if number in self.load.acknowledged:
            events.append((self.load.acknowledged[number], "acknowledged"))
        near = [crash for crash in self.crashes if any(abs(crash[0] - moment) < 2 for moment, _ in events)]
        events += [(began, "crash") for began, _ in near]
        return f"to {recipient(number)}: " + ", ".join(f"{what} {moment - start:.3f}" for moment, what in sorted(events))

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        for server in (self.relay, self.sink):
            if server is not None:
                await server.kill()


def relay_config(address, spool, control, sink, gate, class_="synced", segment="4MiB", all_gated=False):
    gated = range(DOMAINS if all_gated else DOMAINS // 2)
    routes = "\n".join(f'"d{domain}.{ZONE}" = ["{gate}"]' for domain in gated)
    return f"""hostname = "relay.chasqui.test"
listen = ["{address}"]
[spool]
directory = "{spool}"
class = "{class_}"
segment_size = "{segment}"
[delivery]
port = {host_port(sink["smtp"][0])[1]}
connect_timeout = "5s"
[dns]
servers = ["{sink["dns"]}"]
[retry]
first = "500ms"
[control]
socket = "{control}"
[routes]
{routes}
"""


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


def add_options(parser):
    parser.add_argument("--rate", type=float, default=300, help="messages a second offered (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of everything that is random (default: drawn, and told)")
    parser.add_argument("--binary", default=ROOT / "target/release/chasqui", help="default: %(default)s")


def main(run, options, limit_s):
    """Runs the coroutine `run(options)` within a time limit; prints what it returns and exits."""
    if options.seed is None:
        options.seed = random.SystemRandom().getrandbits(32)
    say(f"seed {options.seed}")

    async def bounded():
        task = asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        async with asyncio.timeout(limit_s):
            return await run(options)

    try:
        result, wrong = asyncio.run(bounded())
    except TimeoutError:
        say(f"FAILED: not done within {limit_s:.0f} s")
        sys.exit(FAILED)
    except (LabError, OSError) as error:
        say(f"FAILED: {error}")
        sys.exit(FAILED)
    except (asyncio.CancelledError, KeyboardInterrupt):
        say("interrupted")
        sys.exit(FAILED)
    for line in wrong:
        say("BROKEN:", line)
    print(json.dumps(result))
    sys.exit(BROKEN if wrong else 0)
