"""Dovecot: mailboxes behind IMAP and POP3, LMTP for the mail that comes, and passwords for whoever asks (SASL).

It runs wholly as an ordinary user. Its program would look for the parser of its configuration in /usr/bin: the parser is started
instead, and starts the program.
"""

import grp
import shutil

from .place import MASTER

PACKAGES = ["dovecot-core", "dovecot-imapd", "dovecot-pop3d", "dovecot-lmtpd"]
PORTS = ("imap", "imaps", "pop3", "pop3s", "lmtp")
GREETINGS = {"imap": b"* OK", "pop3": b"+OK", "lmtp": b"220"}
NEEDS = ()

CONFIGURATION = """protocols = imap pop3 lmtp
listen = 127.0.0.1
base_dir = {home}/run
state_dir = {home}/state
libexec_dir = {root}/usr/lib/dovecot
mail_plugin_dir = {root}/usr/lib/dovecot/modules
log_path = {log}
import_environment = TZ LD_LIBRARY_PATH={libraries}
default_login_user = {user}
default_internal_user = {user}
default_internal_group = {group}
# Of all processes together: a login's 1,024 descriptors have to do.
default_client_limit = 400
mail_max_userip_connections = 400

ssl = yes
ssl_cert = <{certificates}/dovecot.pem
ssl_key = <{certificates}/dovecot.key
auth_mechanisms = plain login scram-sha-256
auth_master_user_separator = *
# By default a wrong password delays its answer, and by the penalty that anvil keeps all that its address asks afterwards.
auth_failure_delay = 0
passdb {{
  driver = passwd-file
  master = yes
  args = scheme=PLAIN {masters}
}}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {accounts}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={home}/mail/%d/%n allow_all_users=yes
}}
mail_location = maildir:~/Maildir
first_valid_uid = 1
namespace inbox {{
  inbox = yes
}}
postmaster_address = postmaster@{domain}
hostname = dovecot.{domain}

service imap-login {{
  chroot =
  service_count = 0
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
}}
service pop3-login {{
  chroot =
  service_count = 0
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
    ssl = yes
  }}
}}
service submission-login {{
  chroot =
}}
service imap-urlauth-login {{
  chroot =
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
}}
service auth {{
  unix_listener auth-client {{
    mode = 0666
  }}
}}
"""


def configure(place):
    owner = (place.user.uid, place.user.gid)
    # A socket of an earlier start that nobody listens on is awaited for seconds.
    shutil.rmtree(place.home / "run", ignore_errors=True)
    for name in (".", "run", "state", "mail"):
        place.folder(name, owner)
    masters = place.write("masters", ":".join(MASTER) + "\n")
    user = {"user": place.user.name, "group": grp.getgrgid(place.user.gid).gr_name, "uid": place.user.uid, "gid": place.user.gid}
    place.write("dovecot.conf", CONFIGURATION.format(
        home=place.home, root=place.root, log=place.log, libraries=environment(place)["LD_LIBRARY_PATH"], masters=masters,
        certificates=place.certificates, accounts=place.accounts, domain=place.domain, **user, **place.ports["dovecot"]))


def environment(place):
    libraries = [str(place.root / "usr/lib/dovecot"), place.libraries]
    return {"LD_LIBRARY_PATH": ":".join(filter(None, libraries))}


def command(place):
    configuration = place.home / "dovecot.conf"
    return [place.root / "usr/bin/doveconf", "-c", configuration, "-m", "master", "-e", place.root / "usr/sbin/dovecot", "-F",
            "-c", configuration]


def details(place):
    """What whoever uses it needs besides addresses."""
    return {"lmtp_socket": str(place.home / "run/lmtp"), "auth_socket": str(place.home / "run/auth-client"),
            "mail": str(place.home / "mail"), "master": ":".join(MASTER)}
