"""Debian's packages, unpacked in a folder.

Packages come from the mirrors that apt is configured for. They are unpacked by dpkg-deb, each service below a root of its own, since
some of them exclude each other; their maintainers' scripts do not run. Of the libraries that they depend on those are fetched
too that this system does not have. Neither apt's lists nor its cache in /var are written: what is missing there is kept here.
"""

import fcntl
import os
import pathlib
import stat
import subprocess

from .place import LabError, say

# A package is fetched, or the lists are, within this.
FETCH_WITHIN_S = 300
UNPACK_WITHIN_S = 60
LIBRARIES = "libraries"
SET_ID = stat.S_ISUID | stat.S_ISGID


class Packages:
    """A folder of fetched and unpacked packages."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.own_lists = self.folder / "apt/state/lists"

    def root(self, name):
        return self.folder / name

    def provide(self, wanted):
        """Unpacks packages, `{root: [package, …]}`, that are not there yet, and the libraries that these miss."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            missing = {name: packages for name, packages in wanted.items() if not self._is_unpacked(name, packages)}
            if missing:
                self._provide(missing)

    def _provide(self, missing):
        for name in ("debs", "apt/cache", "apt/state/lists/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        wanted_names = sorted({package for packages in missing.values() for package in packages})
        libraries = self._missing_libraries(wanted_names)
        say("fetching", *wanted_names, *libraries)
        debs = self._fetch(wanted_names + libraries)
        self._unpack(LIBRARIES, [debs[name] for name in libraries])
        for name, packages in missing.items():
            self._unpack(name, [debs[package] for package in packages])
            self._mark(name).write_text(" ".join(packages))

    def library_path(self):
        """The folders of libraries that the system does not have."""
        root = self.root(LIBRARIES)
        return ":".join(str(path) for base in ("usr/lib", "lib") for path in sorted(root.glob(f"{base}/*-linux-gnu*")))

    def _mark(self, name):
        return self.root(name).with_suffix(".unpacked")

    def _is_unpacked(self, name, packages):
        mark = self._mark(name)
        return mark.is_file() and mark.read_text() == " ".join(packages)

    def _apt(self, *command):
        """An apt command that keeps what it writes in the folder, and what it said."""
        options = ["-o", f"Dir::Cache={self.folder / 'apt/cache'}", "-o", "APT::Sandbox::User=root"]
        if any(self.own_lists.glob("*_InRelease")):
            options += ["-o", f"Dir::State={self.folder / 'apt/state'}", "-o", "Dir::State::status=/var/lib/dpkg/status"]
        program, *arguments = command
        try:
            return subprocess.run([program, *options, *arguments], cwd=self.folder / "debs", text=True, capture_output=True,
                                  timeout=FETCH_WITHIN_S, env=dict(os.environ, LC_ALL="C"))
        except FileNotFoundError:
            raise LabError(f"{program} is not there: the lab takes its servers from Debian's packages") from None

    def _update(self):
        """Lists of the mirrors, in the folder."""
        say("fetching lists of packages")
        state = ["-o", f"Dir::State={self.folder / 'apt/state'}", "-o", "Dir::State::status=/var/lib/dpkg/status"]
        done = self._apt("apt-get", *state, "update", "-qq")
        if not any(self.own_lists.glob("*_InRelease")):
            raise LabError(f"apt-get update: {last_line(done.stderr)}")

    def _missing_libraries(self, packages):
        """Names of the libraries that these packages need, others too by way of them, and that the system does not have."""
        offered = {line.split("|")[0].strip() for line in self._apt("apt-cache", "madison", *packages).stdout.splitlines()}
        if set(packages) - offered:
            self._update()
        open_, seen, missing = list(packages), set(packages), []
        while open_:
            listed = self._apt("apt-cache", "depends", "--important", *open_).stdout
            words = [line.split() for line in listed.splitlines()]
            names = {words[-1] for words in words if len(words) == 2 and words[0].lstrip("|") in ("Depends:", "PreDepends:")}
            open_ = [name for name in sorted(names - seen) if name.startswith("lib") and not is_installed(name)]
            seen |= names
            missing += open_
        return missing

    def _fetch(self, packages):
        """Their files, by package."""
        def absent():
            return [package for package in packages if not any((self.folder / "debs").glob(f"{package}_*.deb"))]

        if absent() and self._apt("apt-get", "download", "-qq", *absent()).returncode and absent():
            # The lists may be older than what the mirror has.
            self._update()
            done = self._apt("apt-get", "download", "-qq", *absent())
            if absent():
                raise LabError(f"apt-get download {' '.join(absent())}: {last_line(done.stderr)}")
        return {package: max((self.folder / "debs").glob(f"{package}_*.deb"), key=lambda deb: deb.stat().st_mtime)
                for package in packages}

    def _unpack(self, name, debs):
        root = self.root(name)
        root.mkdir(exist_ok=True)
        # Closed until no program below it can make root of whoever starts it.
        root.chmod(0o700)
        for deb in debs:
            done = subprocess.run(["dpkg-deb", "-x", deb, root], text=True, capture_output=True, timeout=UNPACK_WITHIN_S)
            if done.returncode:
                deb.unlink()
                raise LabError(f"dpkg-deb -x {deb.name}: {last_line(done.stderr)}")
        for path in root.rglob("*"):
            if not path.is_symlink() and path.stat().st_mode & SET_ID:
                path.chmod(stat.S_IMODE(path.stat().st_mode) & ~SET_ID)
        root.chmod(0o755)


def is_installed(package):
    done = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status} ", package], text=True, capture_output=True)
    return "installed" in done.stdout.split()


def last_line(text):
    return (text.strip().splitlines() or ["nothing was said"])[-1]
