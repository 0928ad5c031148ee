"""The lab tried by Python's clients: mail through each way in, read through each way out, and one server behind the other."""

import base64
import contextlib
import hashlib
import hmac
import imaplib
import pathlib
import poplib
import secrets
import smtplib
import ssl
import tempfile
import time

from . import dns
from .lab import Lab
from .place import ACCOUNTS, LabError, Relay, say

ARRIVES_WITHIN_S = 20
CLIENT_WITHIN_S = 20
POLL_S = 0.05
# A failure is told in a line of this length at most.
LINE_CHARACTERS = 400
SENDER = "sender@client.test"
NEAR = "near.test"
MTAS = ("postfix", "exim")


class Checks:
    """What was tried, and what of it failed."""

    def __init__(self):
        self.passed, self.failed = 0, []

    @contextlib.contextmanager
    def case(self, what):
        try:
            yield
            self.passed += 1
        except (OSError, ValueError, AssertionError, smtplib.SMTPException, imaplib.IMAP4.error, poplib.error_proto) as error:
            say("FAILED", what, repr(error)[:LINE_CHARACTERS])
            self.failed.append(f"{what}: {error}"[:LINE_CHARACTERS])


def check(packages):
    """Runs two labs in a scratch folder; `packages` stay."""
    checks, begun = Checks(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lab-") as scratch:
        folder = pathlib.Path(scratch)
        folder.chmod(0o755)
        far, near = Lab(folder / "far", packages), Lab(folder / "near", packages, NEAR)
        with far.running() as status, contextlib.ExitStack() as stack:
            trust = ssl.create_default_context(cafile=status["ca"])
            for mta in MTAS:
                through_every_port(checks, status, mta, trust)
            stack.callback(near.stop)
            for mta, relay in zip(MTAS, reversed(MTAS)):
                through_a_relay_host(checks, near, mta, status, relay)
            refusals(checks, status, trust)
            readers(checks, status, trust)
            questions(checks, status)
        for lab in (far, near):
            with checks.case("nothing runs after the stop"):
                assert not set(lab.status()) & {"postfix", "exim", "dovecot", "nsd"}
    return {"passed": not checks.failed, "checks": checks.passed, "failed": checks.failed,
            "seconds": round(time.monotonic() - begun, 1)}


def host_port(address):
    host, port = address.rsplit(":", 1)
    return ("localhost" if host == "127.0.0.1" else host), int(port)


def client_of(address, trust, implicit=False):
    """An SMTP client on a connection with TLS whose certificate was verified."""
    if implicit:
        client = smtplib.SMTP_SSL(*host_port(address), local_hostname="client.test", timeout=CLIENT_WITHIN_S, context=trust)
        client.ehlo()
        return client
    client = smtplib.SMTP(*host_port(address), local_hostname="client.test", timeout=CLIENT_WITHIN_S)
    code, reply = client.starttls(context=trust)
    assert code == 220, f"STARTTLS: {code} {reply}"
    client.ehlo()
    return client


def login(client, mechanism, user):
    """AUTH by one mechanism, whatever the client would choose."""
    client.user, client.password = user, ACCOUNTS[user.partition("@")[0]]
    code, reply = client.auth(mechanism, {"PLAIN": client.auth_plain, "LOGIN": client.auth_login}[mechanism])
    assert code == 235, f"AUTH {mechanism}: {code} {reply}"


def message(subject, recipient):
    return f"From: <{SENDER}>\r\nTo: <{recipient}>\r\nSubject: {subject}\r\n\r\n..dots\r\n.\r\n{subject}\r\n".encode()


def through_every_port(checks, status, mta, trust):
    """Mail for each reader's mailbox by each way in; the subject names the way."""
    domain, ports = status["domain"], status[mta]
    for port, mechanisms in {"submission": ("PLAIN", "LOGIN"), "submissions": ("PLAIN", "LOGIN"), "smtp": (None,)}.items():
        for mechanism in mechanisms:
            subject = f"{mta} {port} {mechanism}"
            with checks.case(subject), client_of(ports[port], trust, port == "submissions") as client:
                if mechanism:
                    login(client, mechanism, f"alice@{domain}")
                for name in ("alice", "bob", "anybody"):
                    client.sendmail(SENDER, [f"{name}@{domain}"], message(subject, f"{name}@{domain}"))


def subjects():
    """Of the messages in each mailbox."""
    ways = [("submission", "PLAIN"), ("submission", "LOGIN"), ("submissions", "PLAIN"), ("submissions", "LOGIN"), ("smtp", None)]
    return {f"{mta} {port} {mechanism}" for mta in MTAS for port, mechanism in ways} | {f"{mta} to a relay host" for mta in MTAS}


def through_a_relay_host(checks, near, mta, far, relay):
    """Mail by a client that gives everything to `mta`, which has to log in to the other lab's `relay` with TLS."""
    subject = f"{mta} to a relay host"
    with checks.case(subject):
        port = host_port(far[relay]["submission"])[1]
        user = f"carol@{far['domain']}"
        status = near.start([mta], Relay("localhost", port, "verify", user, ACCOUNTS["carol"], pathlib.Path(far["ca"])))
        with smtplib.SMTP(*host_port(status[mta]["smtp"]), local_hostname="client.test", timeout=CLIENT_WITHIN_S) as client:
            for name in ("alice", "bob", "anybody"):
                client.sendmail(SENDER, [f"{name}@{far['domain']}"], message(subject, f"{name}@{far['domain']}"))


def refusals(checks, status, trust):
    domain = status["domain"]
    for mta in MTAS:
        with checks.case(f"{mta} refuses a wrong password"), client_of(status[mta]["submission"], trust) as client:
            with expect(smtplib.SMTPAuthenticationError):
                client.login(f"alice@{domain}", "bob-password")
        with checks.case(f"{mta} refuses submission without AUTH"), client_of(status[mta]["submission"], trust) as client:
            with expect(smtplib.SMTPRecipientsRefused):
                client.sendmail(SENDER, [f"alice@{domain}"], message("refused", domain))
        with checks.case(f"{mta} relays for nobody"), client_of(status[mta]["smtp"], trust) as client:
            with expect(smtplib.SMTPRecipientsRefused):
                client.sendmail(SENDER, ["somebody@elsewhere.test"], message("refused", domain))
        with checks.case(f"{mta} has a certificate of the lab's authority alone"), expect(ssl.SSLCertVerificationError):
            client_of(status[mta]["smtp"], ssl.create_default_context()).close()


@contextlib.contextmanager
def expect(error):
    try:
        yield
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def readers(checks, status, trust):
    """Each mailbox by each way out: what arrived is what was sent."""
    dovecot, domain = status["dovecot"], status["domain"]
    master, password = dovecot["master"].split(":")
    accounts = dict(line.rsplit(":", 1) for line in pathlib.Path(status["accounts"]).read_text().splitlines())
    everybody = {f"alice@{domain}": accounts[f"alice@{domain}"], f"bob@{domain}": accounts[f"bob@{domain}"],
                 f"anybody@{domain}*{master}": password}
    deadline = time.monotonic() + ARRIVES_WITHIN_S
    for user, secret in everybody.items():
        expected = {message(subject, user.partition("*")[0]) for subject in subjects()}
        for name, read in READERS.items():
            with checks.case(f"{name} of {user}"):
                same(lambda: read(dovecot, trust, user, secret), expected, deadline)


def same(read, expected, deadline):
    """Waits until a mailbox holds what is expected, trace fields aside."""
    while len(found := read()) < len(expected) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    bare = [text[text.index(b"From: <") :] for text in found]
    assert len(bare) == len(expected), f"{len(bare)} messages, not {len(expected)}"
    assert set(bare) == expected, f"what was not sent: {min(set(bare) - expected, default=None)}"


def read_imap(dovecot, trust, user, password, implicit, mechanism=None):
    if implicit:
        client = imaplib.IMAP4_SSL(*host_port(dovecot["imaps"]), ssl_context=trust, timeout=CLIENT_WITHIN_S)
    else:
        client = imaplib.IMAP4(*host_port(dovecot["imap"]), timeout=CLIENT_WITHIN_S)
        client.starttls(trust)
    with client:
        if mechanism:
            client.authenticate(mechanism.name, mechanism(user, password))
        else:
            client.login(user, password)
        client.select("INBOX", readonly=True)
        _, (numbers,) = client.search(None, "ALL")
        return [client.fetch(number, "(BODY.PEEK[])")[1][0][1] for number in numbers.decode().split()]


def read_pop3(dovecot, trust, user, password, implicit):
    if implicit:
        client = poplib.POP3_SSL(*host_port(dovecot["pop3s"]), context=trust, timeout=CLIENT_WITHIN_S)
    else:
        client = poplib.POP3(*host_port(dovecot["pop3"]), timeout=CLIENT_WITHIN_S)
        client.stls(trust)
    client.user(user)
    client.pass_(password)
    found = [b"".join(line + b"\r\n" for line in client.retr(number + 1)[1]) for number in range(client.stat()[0])]
    client.quit()
    return found


class Scram:
    """A client of SCRAM-SHA-256 (RFC 5802, RFC 7677), as imaplib asks it: what the server said in, what to say out."""

    name = "SCRAM-SHA-256"

    def __init__(self, user, password):
        self.password = password.encode()
        self.bare = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={secrets.token_hex(12)}"
        self.verifier = None

    def __call__(self, said):
        if not said:
            return b"n,," + self.bare.encode()
        fields = dict(field.split("=", 1) for field in said.decode().split(","))
        if "v" in fields:
            assert base64.b64decode(fields["v"]) == self.verifier, "the server does not know the password"
            return b""
        salted = hashlib.pbkdf2_hmac("sha256", self.password, base64.b64decode(fields["s"]), int(fields["i"]))
        final = f"c=biws,r={fields['r']}"
        signed = f"{self.bare},{said.decode()},{final}".encode()
        key = digest(salted, b"Client Key")
        proof = bytes(left ^ right for left, right in zip(key, digest(hashlib.sha256(key).digest(), signed)))
        self.verifier = digest(digest(salted, b"Server Key"), signed)
        return f"{final},p={base64.b64encode(proof).decode()}".encode()


def digest(key, text):
    return hmac.digest(key, text, "sha256")


READERS = {
    "imaps": lambda *options: read_imap(*options, implicit=True),
    "imap with STARTTLS": lambda *options: read_imap(*options, implicit=False),
    "imap with SCRAM-SHA-256": lambda *options: read_imap(*options, implicit=True, mechanism=Scram),
    "pop3s": lambda *options: read_pop3(*options, implicit=True),
    "pop3 with STLS": lambda *options: read_pop3(*options, implicit=False),
}


def questions(checks, status):
    server, domain = status["nsd"]["dns"], status["domain"]
    with checks.case("the name server's MX"):
        records = dns.ask(server, domain, dns.MX)
        assert records == [(dns.MX, (10, f"mail.{domain}"))], records
    with checks.case("the name server's A"):
        records = dns.ask(server, f"mail.{domain}", dns.A)
        assert records == [(dns.A, "127.0.0.1")], records
    with checks.case("the name server says that a name does not exist"), expect(ValueError):
        dns.ask(server, f"nowhere.{domain}", dns.A)
