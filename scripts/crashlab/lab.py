"""The lab: starts sink, gate, relay and load, makes the relay die, and keeps the ledger."""

import asyncio
import contextlib
import ctypes
import json
import pathlib
import random
import signal
import socket
import sys
import tempfile
import time

from .mail import DOMAINS, ZONE, LabError, host_port, read_mailboxes, recipient
from .traffic import Arrivals, Gate, Load

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CONNECTIONS = 24
# A process says that it is ready within this; a relay recovers its spool before.
READY_WITHIN_S = 30
# A relay that has started takes mail within this.
MAIL_WITHIN_S = 15
# A queue is awaited this long: the gate may be open.
QUEUE_WITHIN_S = 2
# Without a new arrival for this long, what is missing is not awaited any more.
PROGRESS_WITHIN_S = 30
# A state is in the spool at most this long after its delivery: a crash explains duplicates of no older arrival.
DUPLICATE_WITHIN_S = 0.25
# Exit codes: the promise was broken; the lab itself failed.
BROKEN, FAILED = 1, 2


def say(*words):
    print(f"{pathlib.Path(sys.argv[0]).name}:", *words, file=sys.stderr, flush=True)


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
        self.load = Load(address, self.rate, self.seed, self.arrivals)
        self.tasks += [asyncio.create_task(self.load.client(name)) for name in range(CONNECTIONS)]

    async def start_relay(self):
        await self.relay.spawn()
        await self.relay.wait_ready()
        await self.until_mail()

    async def until_mail(self):
        """Waits until the relay takes mail again."""
        before = len(self.load.acknowledged)
        await self.until(lambda: len(self.load.acknowledged) > before, MAIL_WITHIN_S,
                         f"the relay runs, but takes no mail within {MAIL_WITHIN_S} s")

    async def until_queue(self, messages):
        """Waits until so many acknowledged messages have not arrived; not for long."""
        deadline = time.monotonic() + QUEUE_WITHIN_S
        while len(self.arrivals.awaited) < messages and time.monotonic() < deadline:
            await asyncio.sleep(0.002)

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
            missing = len(self.arrivals.awaited)
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
        while True:
            reader, writer = await asyncio.open_unix_connection(str(self.folder / "control"), limit=1 << 20)
            writer.write(b'{"command":"queue"}\n')
            numbers = set()
            while "end" not in (line := json.loads(await reader.readline())):
                numbers.add(int(line["reverse_path"].partition("@")[0].partition(".")[2] or -1))
            writer.close()
            # What the disk does not give is tried again by the relay; a run that waits too long is ended from outside.
            if not line["unread"]:
                return numbers
            await asyncio.sleep(1)

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
            "lost": len({*lost, *pending, *bounced}),
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
        # What else its client was answered before the crash tells whether the spool of that shard stood still.
        client = self.load.clients.get(number, -1)
        following = [moment for other, moment in self.load.acknowledged.items()
                     if self.load.clients[other] == client and number in self.load.acknowledged
                     and 0 < moment - self.load.acknowledged[number] < 1]
        events += [(moment, "same client") for moment in following]
        told = ", ".join(f"{what} {moment - start:.3f}" for moment, what in sorted(events))
        return f"to {recipient(number)}: {told}"

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
space = "1GiB"
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
