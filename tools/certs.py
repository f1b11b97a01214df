"""Make certificates by openssl: `make certs` (CERTS=build/certs NAMES=localhost,127.0.0.1,::1 CLIENTS=app).

    ca.pem, ca.key            an authority
    server.pem, server.key    a certificate of a server with these names and addresses, valid for a year
    NAME.pem, NAME.key        a certificate of each client, with its user's name as common name, valid for a year

Invariants: an existing authority stays, so another run renews the certificates of servers and clients. Only the owner
may read keys. A new file replaces the old one by a rename; the key comes first.

Out of scope: revocation, and authorities whose key other people must not have. Use such an authority's own program.
"""

import argparse
import ipaddress
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SECONDS = 60.0
AUTHORITY_DAYS, DAYS = 3_650, 365
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def main(arguments: Sequence[str]) -> int:
    """Make the certificates, and print the names of their files."""
    parser = argparse.ArgumentParser(prog="certs", description="make certificates by openssl")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--names", default="localhost,127.0.0.1,::1", help="names and addresses of the server")
    parser.add_argument("--clients", default="app", help="names of users")
    given = parser.parse_args(arguments)
    if shutil.which("openssl") is None:
        parser.error("there is no openssl; on Debian: apt-get install openssl")
    clients = given.clients.split(",") if given.clients else []
    for client in clients:
        if not re.fullmatch(r"[\w.@-]+", client) or client in ("ca", "server"):
            parser.error(f"{client!r} cannot be the name of a client's files")
    made = make_certificates(given.directory, given.names.split(","), clients)
    print("\n".join(map(str, made)))
    return 0


def make_certificates(directory: Path, names: Sequence[str], clients: Sequence[str] = ()) -> list[Path]:
    """Make an authority, unless there is one, and the certificates. Returns the files with certificates."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = [directory / "server.pem"]
    if not (directory / "ca.pem").exists():
        authority = ["-days", str(AUTHORITY_DAYS), "-addext", "keyUsage=critical,keyCertSign"]
        made.insert(0, _made(directory, "ca", "cairnkv test authority", authority))
    names_of_server = ",".join(map(_alternative_name, names))
    _made_by_authority(directory, "server", names[0], "serverAuth,clientAuth", [f"subjectAltName={names_of_server}"])
    return [*made, *(_made_by_authority(directory, client, client, "clientAuth") for client in clients)]


def _alternative_name(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def _made_by_authority(
    directory: Path, file: str, common_name: str, purposes: str, extensions: Sequence[str] = ()
) -> Path:
    authority = ["-CA", str(directory / "ca.pem"), "-CAkey", str(directory / "ca.key"), "-days", str(DAYS)]
    for extension in ("basicConstraints=critical,CA:FALSE", f"extendedKeyUsage={purposes}", *extensions):
        authority += ["-addext", extension]
    return _made(directory, file, common_name, authority)


def _made(directory: Path, file: str, common_name: str, options: Sequence[str]) -> Path:
    """Make a key and its certificate. Returns the file with the certificate."""
    with tempfile.TemporaryDirectory(dir=directory) as aside:
        key, certificate = Path(aside) / f"{file}.key", Path(aside) / f"{file}.pem"
        command = ["openssl", "req", "-x509", *NEW_KEY, "-subj", f"/CN={common_name}", *options]
        ran = subprocess.run(
            [*command, "-keyout", str(key), "-out", str(certificate)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if ran.returncode != 0:
            raise SystemExit(f"certs: openssl failed: {ran.stderr.strip()}")
        key.chmod(0o600)
        for made in (key, certificate):
            made.replace(directory / made.name)
    return directory / certificate.name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
