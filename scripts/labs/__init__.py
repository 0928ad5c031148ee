"""Mail servers and a name server of others in an ordinary folder; for scripts/lab, and for scripts that measure or test against them.

lab.py           starts, stops and looks: `Lab`, and what it prints
packages.py      Debian's packages, fetched by apt and unpacked where nothing of the system is
certificates.py  a certificate authority of the folder's own
processes.py     processes that outlive the script that started them, and are known again
place.py         where a service stands: folder, ports, user, the relay host behind it
dovecot.py  postfix.py  exim.py  nsd.py   a service each: configuration, command, environment
dns.py           one question to a name server
check.py         mail through all of them, read back
"""

from .lab import Lab
from .place import LabError, Relay, say

__all__ = ["Lab", "LabError", "Relay", "say"]
