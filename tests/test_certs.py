"""`make certs`: openssl accepts the certificates, and another run renews them."""

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECONDS = 120.0

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def make_certs(directory: Path, *variables: str) -> list[str]:
    """Run the target. Returns the lines that it prints."""
    ran = subprocess.run(
        ["make", "--no-print-directory", "certs", f"PYTHON={sys.executable}", f"CERTS={directory}", *variables],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return ran.stdout.splitlines()


def verified(directory: Path, name: str, *options: str) -> bool:
    """Return whether openssl accepts a certificate of the authority."""
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(directory / "ca.pem"), *options]
    command.append(str(directory / name))
    return subprocess.run(command, capture_output=True, timeout=SECONDS, check=False).returncode == 0


def test_certificates_are_valid_for_their_names_and_purposes(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    printed = make_certs(directory, "NAMES=kv.example.com,10.0.0.1", "CLIENTS=app,ops")
    assert printed == [str(directory / f"{name}.pem") for name in ("ca", "server", "app", "ops")]
    assert verified(directory, "server.pem", "-purpose", "sslserver", "-verify_hostname", "kv.example.com")
    assert verified(directory, "server.pem", "-purpose", "sslserver", "-verify_ip", "10.0.0.1")
    assert not verified(directory, "server.pem", "-verify_hostname", "localhost")
    for client in ("app.pem", "ops.pem"):
        assert verified(directory, client, "-purpose", "sslclient")
        assert not verified(directory, client, "-purpose", "sslserver")
    for key in directory.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_another_run_renews_certificates_of_the_same_authority(tmp_path: Path) -> None:
    make_certs(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    printed = make_certs(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert printed == [str(tmp_path / "server.pem"), str(tmp_path / "app.pem")]
    assert before.keys() == after.keys()
    same = {name for name in before if before[name] == after[name]}
    assert same == {"ca.pem", "ca.key"}
    assert verified(tmp_path, "server.pem")


def test_name_that_would_replace_other_files_is_refused(tmp_path: Path) -> None:
    for name in ("ca", "server", "../app"):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            make_certs(tmp_path, f"CLIENTS={name}")
        assert f"'{name}' cannot be the name" in refused.value.stderr
    assert not list(tmp_path.iterdir())
