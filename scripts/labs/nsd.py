"""NSD: the authority for the lab's domain."""

PACKAGES = ["nsd"]
PORTS = ("dns",)
GREETINGS = {}
NEEDS = ()

CONFIGURATION = """server:
  ip-address: 127.0.0.1@{dns}
  do-ip6: no
  username: ""
  chroot: ""
  zonesdir: "{home}"
  database: ""
  logfile: "{log}"
  pidfile: "{home}/pid"
  xfrdfile: "{home}/xfrd.state"
  xfrdir: "{home}"
  zonelistfile: "{home}/zone.list"
  cookie-secret-file: "{home}/cookies"
  server-count: 1
remote-control:
  control-enable: no
zone:
  name: {domain}
  zonefile: zone
"""
ZONE = """$ORIGIN {domain}.
$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
@ MX 10 mail
@ A 127.0.0.1
{hosts}"""
HOSTS = ("ns", "mail", "postfix", "exim", "dovecot", "chasqui")


def configure(place):
    place.folder(".", (place.user.uid, place.user.gid))
    place.write("zone", ZONE.format(domain=place.domain, hosts="".join(f"{host} A 127.0.0.1\n" for host in HOSTS)))
    place.write("nsd.conf", CONFIGURATION.format(home=place.home, log=place.log, domain=place.domain, **place.ports["nsd"]))


def environment(place):
    return {"LD_LIBRARY_PATH": place.libraries} if place.libraries else {}


def command(place):
    return [place.root / "usr/sbin/nsd", "-d", "-c", place.home / "nsd.conf"]


def details(place):
    return {"zone": place.domain}
