"""Users for programs that insist on theirs, by libnss_wrapper and libuid_wrapper, which are preloaded; no system file is written."""

PACKAGES = ["libnss-wrapper", "libuid-wrapper"]


def names(place, users, groups):
    """The environment in which the names of `users` and `groups` (name to number) are known, and nobody else's."""
    passwd = "".join(f"{name}:x:{uid}:{gid}::{place.home}:/bin/false\n" for name, (uid, gid) in users.items())
    group = "".join(f"{name}:x:{gid}:\n" for name, gid in groups.items())
    return {"NSS_WRAPPER_PASSWD": str(place.write("users/passwd", passwd)),
            "NSS_WRAPPER_GROUP": str(place.write("users/group", group)),
            "LD_PRELOAD": library(place, "libnss_wrapper.so")}


def root(place, environment):
    """The environment, with the process believing that it is root: what it does as another user the same user does."""
    preload = ":".join([library(place, "libuid_wrapper.so"), environment["LD_PRELOAD"]])
    return environment | {"UID_WRAPPER": "1", "UID_WRAPPER_ROOT": "1", "LD_PRELOAD": preload}


def library(place, name):
    return str(next(place.wrappers.glob(f"usr/lib/*/{name}")))
