"""Postfix: takes mail, delivers that of the lab's domain to Dovecot, and the rest to the relay host.

Its master insists on being root, and on a user and a group that are nobody else's. Below root these are two of the base system's;
for an ordinary user libuid_wrapper and libnss_wrapper make it believe so. No command of its own (postfix, newaliases, postalias)
runs: the queue's folders are made here, and the master is started directly.
"""

import os
import pwd
import time

from . import wrappers

PACKAGES = ["postfix", "libsasl2-modules"]
PORTS = ("smtp", "submission", "submissions")
GREETINGS = {"smtp": b"220", "submission": b"220"}
NEEDS = ("dovecot",)
# The owner of the queue, the group of those who may drop mail into it, and whom foreign programs run as.
BELOW_ROOT = ("mail", "news", "nobody")
AS_USER = ("postfix", "postdrop", "nobody")
SETTLED_S = 60
NOBODY, DROP = 65534, 65533
QUEUE = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace")

MAIN = """compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
daemon_directory = {root}/usr/lib/postfix/sbin
command_directory = {root}/usr/sbin
shlib_directory = {root}/usr/lib/postfix
meta_directory = {home}/etc
mail_owner = {owner}
setgid_group = {group}
default_privs = {nobody}
import_environment = MAIL_CONFIG TZ {environment}
maillog_file = {log}
maillog_file_prefixes = {home}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = postfix.{domain}
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtp_host_lookup = native
# Header fields stay as they came, and none is added but trace fields.
local_header_rewrite_clients =
message_size_limit = 52428800
smtpd_client_connection_count_limit = 0
# What is deferred is tried again while a test still waits.
queue_run_delay = 5s
minimal_backoff_time = 5s
maximal_backoff_time = 60s

# No table of mailboxes: every recipient of the domain has one.
virtual_mailbox_domains = {domain}
virtual_mailbox_maps =
virtual_transport = lmtp:inet:127.0.0.1:{lmtp}

smtpd_tls_security_level = may
smtpd_tls_cert_file = {certificates}/postfix.pem
smtpd_tls_key_file = {certificates}/postfix.key
smtpd_tls_loglevel = 1
smtpd_tls_auth_only = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {auth}
"""
WITHOUT_RELAY = """mynetworks =
smtpd_relay_restrictions = reject_unauth_destination
default_transport = error:5.4.4 the lab has no relay host
"""
WITH_RELAY = """mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
relayhost = [{host}]:{port}
smtp_tls_security_level = {level}
smtp_tls_CAfile = {ca}
smtp_tls_loglevel = 1
smtp_tls_secure_cert_match = {certified}
smtp_sasl_auth_enable = {login}
smtp_sasl_password_maps = texthash:{passwords}
smtp_sasl_security_options = noanonymous
"""
LEVELS = {"none": "none", "encrypt": "encrypt", "verify": "secure"}

# Name, kind, wake-up, most processes, program; Postfix runs none of them in a chroot here.
SERVICES = """cleanup unix - 0 cleanup
qmgr unix 300 1 qmgr
tlsmgr unix 1000? 1 tlsmgr
rewrite unix - - trivial-rewrite
bounce unix - 0 bounce
defer unix - 0 bounce
trace unix - 0 bounce
verify unix - 1 verify
flush unix 1000? 0 flush
proxymap unix - - proxymap
smtp unix - - smtp
relay unix - - smtp
showq unix - - showq
error unix - - error
retry unix - - error
discard unix - - discard
lmtp unix - - lmtp
anvil unix - 1 anvil
scache unix - 1 scache
postlog unix-dgram - 1 postlogd
"""
PUBLIC = ("cleanup", "qmgr", "flush", "showq", "postlog")
SUBMISSION = """ -o smtpd_sasl_auth_enable=yes -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
 -o smtpd_client_restrictions=permit_sasl_authenticated,reject"""


def configure(place):
    owner, group, nobody = BELOW_ROOT if is_root() else AS_USER
    environment_ = environment(place)
    main = MAIN.format(
        home=place.home, root=place.root, owner=owner, group=group, nobody=nobody, log=place.log, domain=place.domain,
        environment=" ".join(f"{name}={value}" for name, value in environment_.items()), certificates=place.certificates,
        lmtp=place.port("lmtp", "dovecot"), auth=place.home.parent / "dovecot/run/auth-client")
    files = [place.write("etc/main.cf", main + (relaying(place) if place.relay else WITHOUT_RELAY)),
             place.write("etc/master.cf", master(place)), *(place.home / "etc").glob("relay-password")]
    for file in files:
        # A file that was written a moment ago is read again and again for two seconds: somebody might still be writing it.
        os.utime(file, (time.time() - SETTLED_S,) * 2)
    folders(place)


def relaying(place):
    relay = place.relay
    login = f"[{relay.host}]:{relay.port} {relay.user}:{relay.password}\n" if relay.user else ""
    passwords = place.write("etc/relay-password", login, secret=True)
    return WITH_RELAY.format(host=relay.host, port=relay.port, level=LEVELS[relay.tls], certified=relay.certified,
                             ca=relay.ca or place.certificates / "ca.pem",
                             login="yes" if relay.user else "no", passwords=passwords)


def master(place):
    def listener(name, options):
        return f"127.0.0.1:{place.port(name)} inet n - n - - smtpd -o syslog_name=postfix/{name}{options}\n"

    lines = [listener("smtp", ""), listener("submission", " -o smtpd_tls_security_level=encrypt" + SUBMISSION),
             listener("submissions", " -o smtpd_tls_wrappermode=yes" + SUBMISSION)]
    for line in SERVICES.splitlines():
        name, kind, wake, most, program = line.split()
        lines.append(f"{name} {kind} {'n' if name in PUBLIC else '-'} - n {wake} {most} {program}\n")
    return "".join(lines)


def folders(place):
    if is_root():
        user = pwd.getpwnam(BELOW_ROOT[0])
        owner, drop = (user.pw_uid, user.pw_gid), (user.pw_uid, pwd.getpwnam(BELOW_ROOT[1]).pw_gid)
        place.folder(".", (0, 0))
    else:
        owner = drop = None
    place.folder("queue")
    place.folder("queue/pid")
    for name in QUEUE:
        place.folder(f"queue/{name}", owner, 0o700)
    place.folder("queue/maildrop", drop, 0o1730)
    place.folder("queue/public", drop, 0o2710)
    place.folder("data", owner, 0o700)


def is_root():
    return os.geteuid() == 0


def environment(place):
    libraries = [str(place.root / "usr/lib/postfix"), place.libraries]
    # The plug-ins of libsasl2, by which Postfix is a client with a password.
    plug_ins = next(place.root.glob("usr/lib/*/sasl2"))
    found = {"LD_LIBRARY_PATH": ":".join(filter(None, libraries)), "SASL_PATH": str(plug_ins)}
    if is_root():
        return found
    owner, group, nobody = AS_USER
    users = {"root": (0, 0), owner: (place.user.uid, place.user.gid), nobody: (NOBODY, NOBODY)}
    groups = {"root": 0, owner: place.user.gid, group: DROP, nobody: NOBODY}
    return found | wrappers.root(place, wrappers.names(place, users, groups))


def command(place):
    return [place.root / "usr/lib/postfix/sbin/master", "-c", place.home / "etc"]


def details(place):
    return {"configuration": str(place.home / "etc"), "queue": str(place.home / "queue")}
