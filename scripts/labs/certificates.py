"""A certificate authority of the folder's own, by the openssl command."""

import os
import shutil
import subprocess

from .place import LabError

# For the servers of the lab, and for the program that is tested with them.
NAMES = ("postfix", "exim", "dovecot", "chasqui")
VALID_DAYS = 3650
WITHIN_S = 20
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]


def provide(folder, domain, user):
    """The root `ca.pem`, and for each name `NAME.pem` and `NAME.key`, which `user` can read."""
    if not shutil.which("openssl"):
        raise LabError("openssl is not there: install the package openssl")
    root, root_key = folder / "ca.pem", folder / "ca.key"
    if not root.exists():
        openssl("req", "-x509", *KEY, "-keyout", root_key, "-out", root, "-days", VALID_DAYS, "-subj", "/CN=Root of the lab",
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    named_for = folder / "domain"
    renamed = not named_for.exists() or named_for.read_text() != domain
    for name in NAMES:
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        if certificate.exists() and not renamed:
            continue
        request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
        names = ",".join(["DNS:localhost", f"DNS:mail.{domain}", f"DNS:{name}.{domain}", "IP:127.0.0.1"])
        extensions.write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl("req", *KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}.{domain}")
        if os.geteuid() == 0:
            os.chown(key, user.uid, user.gid)
        openssl("x509", "-req", "-in", request, "-CA", root, "-CAkey", root_key, "-CAcreateserial", "-days", VALID_DAYS,
                "-extfile", extensions, "-out", certificate)
        request.unlink()
        extensions.unlink()
    named_for.write_text(domain)


def openssl(*command):
    done = subprocess.run(["openssl", *map(str, command)], text=True, capture_output=True, timeout=WITHIN_S)
    if done.returncode:
        raise LabError(f"openssl {command[0]}: {done.stderr.strip().splitlines()[-1]}")
