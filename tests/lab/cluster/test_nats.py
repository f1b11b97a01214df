"""The NATS server of a local cluster: its program, its configuration and its share of the disk."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from cairnkv.errors import OptionError
from cairnkv.lab.cluster import nats
from cairnkv.lab.cluster.nats import NatsConfig, NatsServer, file_share, find_program, free_ports
from cairnkv.limits import MIB
from tests.support.nats import wait_listening


def program(directory: Path) -> Path:
    """Create an executable file."""
    directory.mkdir(exist_ok=True)
    path = directory / nats.PROGRAM
    path.write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    path.chmod(0o755)
    return path


class TestTheProgram:
    def test_on_the_path_comes_before_the_one_beside_python(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours, wheels = program(tmp_path / "ours"), program(tmp_path / "wheel")
        monkeypatch.setattr(sys, "executable", str(tmp_path / "wheel" / "python"))
        monkeypatch.setenv("PATH", str(tmp_path / "ours"))
        assert find_program() == ours
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_program() == wheels

    def test_that_is_missing_gives_an_error_that_names_its_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(OptionError, match=r"pip install 'cairnkv\[cluster\]'"):
            find_program()

    def test_that_ends_gives_an_error_with_its_last_output(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program(tmp_path / "ours")
        monkeypatch.setenv("PATH", str(tmp_path / "ours"), prepend=os.pathsep)
        server = NatsServer(config(tmp_path / "here"))
        server.start()
        with pytest.raises(OSError, match="no such thing"):
            wait_listening(server)


def config(directory: Path, **more: object) -> NatsConfig:
    routes = (("127.0.0.1", 2), ("::1", 3))
    return NatsConfig("n1", directory, free_ports(1)[0], 2, routes, "p", "s", file_max=123, **more)  # type: ignore[arg-type]


class TestTheConfiguration:
    def test_syncs_every_write_by_default(self, tmp_path: Path) -> None:
        assert "sync_interval: always" in config(tmp_path).text()
        assert "sync_interval" not in config(tmp_path, sync=None).text()
        assert "sync_interval: 10s" in config(tmp_path, sync="10s").text()

    def test_names_the_limits_and_the_routes(self, tmp_path: Path) -> None:
        text = config(tmp_path, payload_max=456).text()
        assert "max_file_store: 123" in text
        assert "max_payload: 456" in text
        assert '"nats://routes:s@127.0.0.1:2", "nats://routes:s@[::1]:3"' in text

    def test_hides_its_passwords_from_other_users(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program(tmp_path / "ours")
        monkeypatch.setenv("PATH", str(tmp_path / "ours"), prepend=os.pathsep)
        server = NatsServer(config(tmp_path / "here"))
        server.start()
        server.kill()
        assert (tmp_path / "here" / "nats.conf").stat().st_mode & 0o077 == 0

    def test_lists_its_users(self, tmp_path: Path) -> None:
        one = config(tmp_path)
        assert one.url == f"nats://cairn:p@127.0.0.1:{one.port}"
        assert one.system == "system:s"


class TestTheShareOfTheDisk:
    def usage(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(4 * free, 3 * free, free))

    def test_is_below_the_free_space(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.usage(monkeypatch, 4_000 * MIB)
        assert file_share(tmp_path, 3) == 1_000 * MIB

    def test_includes_existing_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.usage(monkeypatch, 4_000 * MIB)
        (tmp_path / "kept").write_bytes(bytes(4 * MIB))
        assert file_share(tmp_path, 3) == pytest.approx(1_001 * MIB, abs=MIB / 4)

    def test_that_is_too_small_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.usage(monkeypatch, 3 * 64 * MIB)
        with pytest.raises(OptionError, match="has 48 MiB for each NATS server, which needs 64"):
            file_share(tmp_path, 3)


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20
