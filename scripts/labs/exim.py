"""Exim: takes mail, delivers that of the lab's domain to Dovecot, and the rest to the relay host.

It runs wholly as an ordinary user. Debian's build looks for its user Debian-exim before it reads a configuration: libnss_wrapper
tells it that this is the user who runs it.
"""

from . import wrappers

PACKAGES = ["exim4-base", "exim4-daemon-light"]
PORTS = ("smtp", "submission", "submissions")
GREETINGS = {"smtp": b"220", "submission": b"220"}
NEEDS = ("dovecot",)
OWN_USER = "Debian-exim"

MAIN = """exim_path = {program}
primary_hostname = exim.{domain}
spool_directory = {home}/spool
log_file_path = {home}/%slog
pid_file_path = {home}/pid
keep_environment = {kept}
deliver_drop_privilege = true
local_interfaces = 127.0.0.1
daemon_smtp_ports = {smtp} : {submission} : {submissions}
tls_on_connect_ports = {submissions}
tls_advertise_hosts = *
tls_certificate = {certificates}/exim.pem
tls_privatekey = {certificates}/exim.key
auth_advertise_hosts = ${{if def:tls_in_cipher {{*}}{{}}}}
acl_smtp_rcpt = recipient
acl_smtp_data = accept
host_lookup =
rfc1413_hosts =
message_size_limit = 50M
smtp_accept_max = 0
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
timeout_frozen_after = 1h

begin acl

recipient:
  accept authenticated = *
  deny message = 5.7.0 authentication required
    condition = ${{if inlist{{$received_port}}{{{submission} : {submissions}}}}}
  accept domains = {domain}
{may_relay}  deny message = 5.7.1 relay not permitted

begin authenticators

plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{!eq{{$auth3}}{{}}}} {{eq{{$auth3}}{{{password2}}}}}}}}}
  server_set_id = $auth2
{client_plain}
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and{{{{!eq{{$auth2}}{{}}}} {{eq{{$auth2}}{{{password1}}}}}}}}}
  server_set_id = $auth1
{client_login}
cram_md5:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = {password1or_fail}
  server_set_id = $auth1

begin routers

local:
  driver = accept
  domains = {domain}
  caseful_local_part = true
  transport = mailboxes

{router}
begin transports

mailboxes:
  driver = smtp
  protocol = lmtp
  hosts = 127.0.0.1
  port = {lmtp}
  allow_localhost = true
  hosts_try_fastopen =
  tls_try_verify_hosts =

{transport}
begin retry

* * F,4d,5s
"""
ROUTER = """relay:
  driver = manualroute
  route_list = * {host}::{port} byname
  self = send
  transport = relay
"""
NO_ROUTER = """nowhere:
  driver = redirect
  data = :fail: 5.4.4 the lab has no relay host
  allow_fail = true
"""
TRANSPORT = """relay:
  driver = smtp
  allow_localhost = true
{tls}{login}"""
TLS = {
    "none": "  hosts_avoid_tls = *\n",
    "encrypt": "  hosts_require_tls = *\n  tls_verify_hosts =\n  tls_try_verify_hosts =\n",
    "verify": "  hosts_require_tls = *\n  tls_verify_hosts = *\n  tls_verify_certificates = {ca}\n  tls_sni = {certified}\n",
}


def configure(place):
    owner = (place.user.uid, place.user.gid)
    for name in (".", "spool"):
        place.folder(name, owner)
    relay = place.relay
    client = {"client_plain": "", "client_login": ""}
    if relay and relay.user:
        # Colons separate the strings of a list, and a caret stands for a zero octet.
        user, password = (word.replace("^", "^^").replace(":", "::") for word in (relay.user, relay.password))
        client = {"client_plain": f"  client_send = ^{user}^{password}\n", "client_login": f"  client_send = : {user} : {password}\n"}
    kept = environment(place)
    place.write("exim.conf", MAIN.format(
        program=program(place), home=place.home, domain=place.domain, kept=" : ".join(sorted(kept)), certificates=place.certificates,
        lmtp=place.port("lmtp", "dovecot"), password1=password_of(place, "$auth1"), password2=password_of(place, "$auth2"),
        password1or_fail=password_of(place, "$auth1", "fail"), router=router(place), transport=transport(place),
        may_relay="  accept hosts = 127.0.0.0/8\n" if relay else "", **client, **place.ports["exim"]), secret=True)


def password_of(place, user, otherwise="{}"):
    """An expansion that gives the password of `user`."""
    return f"${{lookup{{{user}}}lsearch{{{place.accounts}}}{{$value}}{otherwise}}}"


def router(place):
    return ROUTER.format(host=place.relay.host, port=place.relay.port) if place.relay else NO_ROUTER


def transport(place):
    relay = place.relay
    if not relay:
        return ""
    tls = TLS[relay.tls].format(ca=relay.ca or place.certificates / "ca.pem", certified=relay.certified)
    return TRANSPORT.format(tls=tls, login="  hosts_require_auth = *\n" if relay.user else "")


def program(place):
    return place.root / "usr/sbin/exim4"


def environment(place):
    users = {"root": (0, 0), OWN_USER: (place.user.uid, place.user.gid)}
    groups = {"root": 0, OWN_USER: place.user.gid}
    found = wrappers.names(place, users, groups)
    return found | ({"LD_LIBRARY_PATH": place.libraries} if place.libraries else {})


def command(place):
    return [program(place), "-C", place.home / "exim.conf", "-bdf", "-q5s"]


def details(place):
    return {"configuration": str(place.home / "exim.conf"), "spool": str(place.home / "spool")}
