"""What kill-loop and power-cut share: a relay that is made to die under load, and a ledger of its own.

Nothing of Chasqui's own load generator is used. Load speaks SMTP to the relay, every message is made from its number
alone, and at the end every mailbox of the sink is read through POP3 and compared with that, byte for byte. The arrival
records of the sink tell when each copy came, which decides whether a crash explains a duplicate.

    client (Load) -> relay -> sink                 half of the domains, by the DNS of the sink
    client (Load) -> relay -> Gate -> sink         the others: the gate closes now and then, so that a queue builds up
"""

from .lab import BROKEN, CONNECTIONS, FAILED, ROOT, Lab, Server, add_options, main, say
from .mail import LabError

__all__ = ["BROKEN", "CONNECTIONS", "FAILED", "ROOT", "Lab", "LabError", "Server", "add_options", "main", "say"]
