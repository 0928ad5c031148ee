"""Where a service of the lab stands."""

import dataclasses
import os
import pathlib
import pwd
import random
import socket
import sys

DOMAIN = "lab.test"
# Who can log in, and with which password; mail for everybody else of the domain is taken too.
ACCOUNTS = {name: f"{name}-password" for name in ("alice", "bob", "carol", "dave", "erin")}
# Logs in to everybody's mailbox, as `somebody@lab.test*reader`.
MASTER = ("reader", "reader-password")
# Whom the services of a lab of root's run as: there is one on every Debian, and it owns no process.
USER_BELOW_ROOT = "mail"
# Ports are taken from below those that the kernel gives to clients (net.ipv4.ip_local_port_range), which else might have one.
PORTS = range(20000, 32000)
ATTEMPTS = 200


class LabError(Exception):
    """What whoever runs the lab can do something about, in one line."""


def say(*words):
    print(f"{pathlib.Path(sys.argv[0]).name}:", *words, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Relay:
    """Where Postfix and Exim send mail for other domains, and how."""

    host: str
    port: int
    tls: str = "none"
    user: str = ""
    password: str = ""
    # The authority that it is verified by; None: the lab's own.
    ca: pathlib.Path | None = None

    TLS = ("none", "encrypt", "verify")

    @classmethod
    def parse(cls, address, tls="none", login=None, ca=None):
        """From `HOST:PORT` and `user:password`."""
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise LabError(f"--relayhost {address}: not HOST:PORT, as in localhost:2525")
        if login is not None and ":" not in login:
            raise LabError("--relay-auth: not USER:PASSWORD")
        user, _, password = (login or "").partition(":")
        return cls(host, int(port), tls, user, password, ca)

    @property
    def certified(self):
        """The name that its certificate has to have: an address is taken for localhost."""
        return "localhost" if self.host.replace(".", "").isdigit() else self.host


@dataclasses.dataclass
class User:
    """Whom the services run as."""

    name: str
    uid: int
    gid: int

    @classmethod
    def of_services(cls):
        entry = pwd.getpwuid(os.geteuid()) if os.geteuid() else pwd.getpwnam(USER_BELOW_ROOT)
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)


@dataclasses.dataclass
class Place:
    """What a service needs to know to be configured."""

    name: str
    # Whose mail is delivered.
    domain: str
    home: pathlib.Path
    # Where its packages are unpacked, and what its environment has to have for them.
    root: pathlib.Path
    libraries: str
    wrappers: pathlib.Path
    user: User
    # By service and name, of all services of the lab.
    ports: dict
    # Of the certificate authority, and of each certificate `NAME.pem` and `NAME.key`.
    certificates: pathlib.Path
    accounts: pathlib.Path
    relay: Relay | None

    @property
    def log(self):
        return self.home / "log"

    def port(self, name, service=None):
        return self.ports[service or self.name][name]

    def write(self, name, text, secret=False):
        """A file of the configuration; returns its path. One with a secret only the services' user can read."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.chmod(0o600 if secret else 0o644)
        path.write_text(text)
        if secret and os.geteuid() == 0:
            os.chown(path, self.user.uid, self.user.gid)
        return path

    def folder(self, name, owner=None, mode=0o755):
        path = self.home / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        if owner and os.geteuid() == 0:
            os.chown(path, *owner)
        return path


def free_ports(names, taken):
    """A free port of the loopback for each name, none of them in `taken`."""
    ports = {}
    for name in names:
        for _ in range(ATTEMPTS):
            port = random.choice(PORTS)
            if port not in taken and is_free(port):
                break
        else:
            raise LabError(f"no free port between {PORTS.start} and {PORTS.stop}")
        taken.add(port)
        ports[name] = port
    return ports


def is_free(port):
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
