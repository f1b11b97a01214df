"""Certificates for tests, made by openssl."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

PATIENCE = 30.0


def certificates(directory: Path, addresses: Sequence[str]) -> Path:
    """A CA (ca.pem), and a certificate (node.pem, node.key) for these addresses, which also speaks for a client."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    (directory / "names").write_text("subjectAltName=" + ",".join(f"IP:{address}" for address in addresses))
    for command in (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=node -keyout node.key -out node.csr",
        "x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out node.pem",
    ):
        subprocess.run([openssl, *command.split()], cwd=directory, check=True, capture_output=True, timeout=PATIENCE)
    return directory
