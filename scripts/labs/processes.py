"""Processes that outlive the script that started them. A number names another process one day: each is kept with its start."""

import os
import pathlib
import signal
import subprocess
import time

# After SIGTERM a service has this long, and then SIGKILL.
END_WITHIN_S = 10
POLL_S = 0.02


def spawn(command, environment, log, user, folder):
    """Starts a session of its own; returns the child."""
    drop = dict(user=user.uid, group=user.gid, extra_groups=[]) if user and os.geteuid() == 0 else {}
    with open(log, "ab") as out:
        return subprocess.Popen([str(word) for word in command], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                stderr=out, start_new_session=True, **drop)


def stat(pid):
    """State, parent, session and start (in ticks since boot) of a process; None when it has ended."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, session, start = fields[0], int(fields[1]), int(fields[3]), int(fields[19])
    return None if state in "ZX" else (state, parent, session, start)


def start_of(pid):
    found = stat(pid)
    return found and found[3]


def is_alive(pid, start):
    return start is not None and start_of(pid) == start


def family(pid, start):
    """What runs of a service, `{pid: start}`: its first process, the session that this began, and all children of these."""
    table = {int(entry): found for entry in os.listdir("/proc") if entry.isdigit() and (found := stat(entry))}
    members = {pid} if is_alive(pid, start) else set()
    members |= {other for other, (_, _, session, begun) in table.items() if session == pid and begun >= start}
    grown = True
    while grown:
        children = {other for other, (_, parent, _, _) in table.items() if parent in members} - members
        members |= children
        grown = bool(children)
    return {member: table[member][3] for member in members if member in table}


def end(pid, start):
    """Ends a service with all its processes; returns whether SIGTERM did it."""
    members = family(pid, start)
    deadline = time.monotonic() + END_WITHIN_S
    if pid in members:
        send(pid, signal.SIGTERM)
    while any(is_alive(*member) for member in members.items()):
        if not is_alive(pid, start):
            # The first process is gone: whoever is left finishes what it does for a while, or has nobody to tell it.
            for member, begun in members.items():
                send_if(member, begun, signal.SIGTERM)
        if time.monotonic() > deadline:
            break
        reap(pid)
        time.sleep(POLL_S)
        members |= family(pid, start)
    left = {member: begun for member, begun in members.items() if is_alive(member, begun)}
    for member, begun in left.items():
        send_if(member, begun, signal.SIGKILL)
    reap(pid)
    return not left


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def send_if(pid, start, number):
    if is_alive(pid, start):
        send(pid, number)


def reap(pid):
    """Takes the status of a process that ended, if it is a child of this one."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
