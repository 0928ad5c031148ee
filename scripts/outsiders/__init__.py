"""What strangers, their hosts and their name servers do to a relay; for scripts/hostile.

names.py      an authority that answers for the healthy and the slow, and for the silent not at all
receivers.py  hosts that drip, are silent, do not read, or answer nonsense
clients.py    clients without a right: floods, drips, junk, lies about sizes; and mail to those hosts
floods.py     handshakes that are begun and left, and tries to be somebody
"""
