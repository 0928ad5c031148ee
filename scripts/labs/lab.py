"""The lab: a folder with packages, certificates, accounts and the services that run from it."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import stat
import time

from . import certificates, dns, dovecot, exim, nsd, packages, postfix, processes, wrappers
from .place import ACCOUNTS, DOMAIN, LabError, Place, User, free_ports, say

SERVICES = {"dovecot": dovecot, "postfix": postfix, "exim": exim, "nsd": nsd}
# A service answers within this, or its start has failed.
UP_WITHIN_S = 20
POLL_S = 0.05
# The longest path of a socket below the folder has this many octets, of the 107 that the kernel takes.
FOLDER_OCTETS_MAX = 70
LOG_LINES = 5


class Lab:
    """What starts, stops and tells of the services in one folder. One process at a time does so; a second one waits."""

    def __init__(self, folder, package_folder=None, domain=DOMAIN, accounts=None):
        """`accounts`: passwords by the names of the domain's users who can log in."""
        self.folder = pathlib.Path(folder).absolute()
        self.domain = domain
        self.packages = packages.Packages(pathlib.Path(package_folder).absolute() if package_folder else self.folder / "packages")
        self.user = User.of_services()
        self.state_file = self.folder / "lab.json"
        self.accounts = self.folder / "accounts"
        self.passwords = ACCOUNTS if accounts is None else accounts

    def start(self, names=(), relay=None):
        """Starts services, all by default, with what they need; those that run are left alone. Returns `status()`."""
        wanted = with_needs(names or SERVICES)
        self._prepare()
        with self._locked():
            state = self._running()
            if relay and (late := [name for name in names if name in state]):
                raise LabError(f"{late[0]} runs already, without this relay host: stop it first")
            wanted = [name for name in SERVICES if name in wanted and name not in state]
            self.packages.provide({name: SERVICES[name].PACKAGES for name in wanted} | {"wrappers": wrappers.PACKAGES})
            certificates.provide(self._made("certificates"), self.domain, self.user)
            self.accounts.write_text("".join(f"{user}@{self.domain}:{password}\n" for user, password in self.passwords.items()))
            begun = time.monotonic()
            taken = {port for service in state.values() for port in service["ports"].values()}
            ports = {name: service["ports"] for name, service in state.items()}
            ports |= {name: free_ports(SERVICES[name].PORTS, taken) for name in wanted}
            children = {}
            try:
                for name in wanted:
                    children[name] = self._spawn(name, ports, relay)
                    start = processes.start_of(children[name].pid)
                    state[name] = {"pid": children[name].pid, "start": start, "ports": ports[name]}
                    self._save(state)
                for name, child in children.items():
                    self._await(name, child, ports[name])
            except BaseException:
                self._end({name: state[name] for name in children if name in state})
                self._save({name: service for name, service in state.items() if name not in children})
                raise
            if wanted:
                say(f"{', '.join(wanted)}: up after {time.monotonic() - begun:.1f} s")
            return self._described(state)

    def stop(self):
        """Ends the services that run, and nothing else. Returns the names of those that SIGTERM did not end in time."""
        if not self.state_file.exists():
            return []
        with self._locked():
            killed = self._end(self._load())
            self._save({})
            return killed

    def status(self):
        """Addresses and processes of what runs; JSON's types alone."""
        return self._described(self._running())

    @contextlib.contextmanager
    def running(self, names=(), relay=None):
        """The services for the time of a `with`; its value is `status()`."""
        try:
            yield self.start(names, relay)
        finally:
            self.stop()

    def _prepare(self):
        if len(os.fsencode(self.folder)) > FOLDER_OCTETS_MAX:
            raise LabError(f"{self.folder}: longer than {FOLDER_OCTETS_MAX} octets, too long for sockets below it")
        if any(character in str(self.folder) for character in " \t\"'{}$:#@,;%"):
            raise LabError(f"{self.folder}: a character that means something in the services' configurations")
        closed = [path for path in self.folder.parents if path.exists() and not path.stat().st_mode & stat.S_IXOTH]
        if closed and os.geteuid() == 0:
            raise LabError(f"{closed[0]} is closed to the user {self.user.name}, whom root's services run as: name another --folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.folder.stat().st_uid != os.geteuid():
            raise LabError(f"{self.folder} belongs to somebody else")
        self.folder.chmod(0o755)

    @contextlib.contextmanager
    def _locked(self):
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _made(self, name):
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    def _load(self):
        return json.loads(self.state_file.read_text()) if self.state_file.exists() else {}

    def _save(self, state):
        new = self.state_file.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.rename(self.state_file)

    def _running(self):
        return {name: service for name, service in self._load().items() if processes.is_alive(service["pid"], service["start"])}

    def _place(self, name, ports, relay):
        return Place(name=name, domain=self.domain, home=self.folder / name, root=self.packages.root(name),
                     libraries=self.packages.library_path(), wrappers=self.packages.root("wrappers"), user=self.user, ports=ports,
                     certificates=self.folder / "certificates", accounts=self.accounts, relay=relay)

    def _spawn(self, name, ports, relay):
        service, place = SERVICES[name], self._place(name, ports, relay)
        for old in self._logs(name):
            old.unlink()
        service.configure(place)
        # Postfix's master changes users itself.
        user = None if service is postfix else self.user
        for log in (place.log, self._output(name)):
            log.touch()
            if os.geteuid() == 0:
                os.chown(log, self.user.uid, self.user.gid)
        bare = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        return processes.spawn(service.command(place), bare | service.environment(place), self._output(name), user, place.home)

    def _output(self, name):
        return self.folder / name / "output"

    def _logs(self, name):
        """What a service wrote since its start, the most telling first."""
        home = self.folder / name
        return [log for log in (*sorted(home.glob("*log"), reverse=True), self._output(name)) if log.exists()]

    def _await(self, name, child, ports):
        deadline = time.monotonic() + UP_WITHIN_S
        while (child.poll()) is None and time.monotonic() < deadline:
            if answers(name, ports, self.domain):
                return
            time.sleep(POLL_S)
        log = next((log for log in self._logs(name) if log.stat().st_size), self._output(name))
        what = "ended" if child.returncode is not None else f"is not up after {UP_WITHIN_S} s"
        last = " | ".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        raise LabError(f"{name} {what}; see {log}: {last}")

    def _end(self, state):
        """Ends services, those first that need others; returns the names of those that were killed."""
        killed = []
        for name in reversed([name for name in SERVICES if name in state]):
            if not processes.end(state[name]["pid"], state[name]["start"]):
                say(f"{name} did not end by itself, and was killed")
                killed.append(name)
        return killed

    def _described(self, state):
        described = {"folder": str(self.folder), "domain": self.domain, "ca": str(self.folder / "certificates/ca.pem"),
                     "certificates": str(self.folder / "certificates"), "accounts": str(self.accounts)}
        for name, service in state.items():
            place = self._place(name, {}, None)
            logs = {"log": str(self.folder / name / ("mainlog" if name == "exim" else "log"))}
            addresses = {port: f"127.0.0.1:{number}" for port, number in service["ports"].items()}
            described[name] = addresses | {"pid": service["pid"]} | logs | SERVICES[name].details(place)
        return described


def with_needs(names):
    return set(names) | {need for name in names for need in SERVICES[name].NEEDS}


def answers(name, ports, domain):
    """Whether a service does what it is there for: every port takes connections, and those that greet do."""
    if name == "nsd":
        with contextlib.suppress(OSError, ValueError):
            return bool(dns.ask(f"127.0.0.1:{ports['dns']}", domain, dns.SOA))
        return False
    return all(greets(port, SERVICES[name].GREETINGS.get(kind, b"")) for kind, port in ports.items())


def greets(port, greeting):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.settimeout(5)
        return client.recv(256).startswith(greeting) if greeting else True
    return False
