"""Addresses: their parts, and the errors for malformed ones."""

import os
import tempfile
from pathlib import Path

import pytest

import cairnkv
import cairnkv.aio
from cairnkv.client.address import parse
from cairnkv.errors import AddressError
from cairnkv.testing import running_server


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: these tests do not depend on the path."""


@pytest.mark.parametrize(
    ("url", "endpoints"),
    [
        ("cairn://example.org", [("example.org", 6555)]),
        ("cairn://example.org:7000/", [("example.org", 7000)]),
        ("cairn://a,b:7000,c", [("a", 6555), ("b", 7000), ("c", 6555)]),
        ("cairn://[::1]", [("::1", 6555)]),
        ("cairn://[::1]:7000,[fe80::1%eth0],127.0.0.1:1", [("::1", 7000), ("fe80::1%eth0", 6555), ("127.0.0.1", 1)]),
        ("cairn://a:1,a:2,[::1]:1", [("a", 1), ("a", 2), ("::1", 1)]),
        ("cairn://" + ",".join(f"h{n}" for n in range(64)), [(f"h{n}", 6555) for n in range(64)]),
        ("cairn+unix:///run/cairn.sock", ["/run/cairn.sock"]),
        ("cairn+unix:///tmp/with%20space", ["/tmp/with space"]),
    ],
)
def test_host_port_and_socket(url: str, endpoints: list[object]) -> None:
    assert list(parse(url).endpoints) == endpoints


def test_options_and_keywords() -> None:
    address = parse("cairn://a/?timeout=1.5&connect_timeout=2&attempts=7")
    assert (address.timeout, address.connect_timeout, address.attempts) == (1.5, 2.0, 7)
    assert parse("cairn://a?timeout=1.5").timeout == 1.5
    assert parse("cairn+unix:///run/s?timeout=1.5").timeout == 1.5
    assert parse("cairn://a/?timeout=1.5", timeout=9).timeout == 9
    assert parse("cairn://a,b").order == parse("cairn://a,b?order=random").order == "random"
    assert parse("cairn://a,b/?order=given&attempts=2").order == "given"


def test_default_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAIRNKV_URL", raising=False)
    assert parse().endpoints == (("127.0.0.1", 6555),)
    monkeypatch.setenv("CAIRNKV_URL", "cairn://elsewhere:7000")
    assert parse().endpoints == (("elsewhere", 7000),)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("example.org:6555", "try cairn://example.org:6555"),
        ("redis://a", "begins with cairn://"),
        ("cairn://", "no HOST"),
        ("cairn://a,", "no HOST"),
        ("cairn://a:0", "no HOST"),
        ("cairn://a:70000", "no HOST"),
        ("cairn://a:b", "no HOST"),
        ("cairn://::1", "no HOST"),
        ("cairn://a b", "no HOST"),
        ("cairn://a, b", "a comma without blanks"),
        ("cairn://a,,b", "one comma between"),
        ("cairn://a,::1,b", "in brackets, [::1]"),
        ("cairn://a,[::1", "no HOST"),
        ("cairn://a;b", "no HOST"),
        ("cairn://a,cairn://b", "several hosts are one address, cairn://HOST,HOST"),
        ("cairn://a,b:7000,A:6555", "names each host once; it has a:6555 several times"),
        ("cairn://" + ",".join(f"h{n}" for n in range(65)), "up to 64 hosts, not 65"),
        ("cairn://a,b/path", "has no path"),
        ("cairn://a/path", "has no path"),
        ("cairn://user:secret@a/path", "authentication"),
        ("cairn://a,user:secret@b", "authentication"),
        ("cairn://user:secret@a", "authentication"),
        ("cairns://a", "TLS"),
        ("cairn://a/?colour=red", "there is no 'colour'"),
        ("cairn://a,b?order=sorted", "order is random or given, not 'sorted'"),
        ("cairn://a,b?order=", "order is random or given"),
        ("cairn://a?timeout=1&timeout=2", "has timeout several times"),
        ("cairn://a/?timeout=soon", "timeout is a time such as 30s"),
        ("cairn://a/?timeout=0", "above 0"),
        ("cairn://a/?timeout=nan", "timeout is a time such as 30s"),
        ("cairn://a/?attempts=0", "from 1 to 100"),
        ("cairn://a/?attempts=1.5", "attempts is a whole number"),
        ("cairn+unix://run/cairn.sock", "three slashes"),
        ("cairn+unix:///", "three slashes"),
        ("cairn+unix:///run/x.sock%00zzz", "a path without null characters, not '/run/x.sock\\x00zzz'"),
        ("cairn+unix:///run/x.sock\0", "a path without null characters"),
        ("cairn+unix:///%00run/x.sock", "a path without null characters"),
        ("cairn://127.0.0.1\0.example.org", "no HOST"),
        ("cairn://a,b\0:7000", "no HOST"),
        ("cairn://a:٥", "no HOST"),
        ("cairn://[::1]:６５５５", "no HOST"),
        ("cairn://a?timeout=٥s", "timeout is a time such as 30s"),
        ("cairn://a?attempts=٥", "attempts is a whole number"),
        ("cairn://a?attempts=1_0", "attempts is a whole number"),
        ("cairn://a?attempts=", "attempts is a whole number"),
    ],
)
def test_malformed_addresses_are_refused(url: str, says: str) -> None:
    with pytest.raises(AddressError) as caught:
        cairnkv.connect(url)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["tcp://10.0.0.11:6555", "localhost:6555", "cairn://a/?timeout=soon"])
def test_error_of_a_bad_variable_names_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAIRNKV_URL", url)
    with pytest.raises(AddressError, match=r"^the variable CAIRNKV_URL: "):
        cairnkv.connect()
    with pytest.raises(AddressError) as caught:
        cairnkv.connect(url)
    assert "CAIRNKV_URL" not in str(caught.value)


def test_variable_with_two_underscores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAIRNKV_URL", raising=False)
    monkeypatch.setenv("CAIRNKV__URL", "cairn://elsewhere:7000")
    says = "the variable of clients is CAIRNKV_URL, with one underscore"
    for connect in (cairnkv.connect, cairnkv.aio.connect):
        with pytest.raises(AddressError, match=says):
            connect()
    assert parse("cairn://a").endpoints == (("a", 6555),)
    monkeypatch.setenv("CAIRNKV_URL", "cairn://b")
    assert parse().endpoints == (("b", 6555),)
    monkeypatch.delenv("CAIRNKV_URL")
    monkeypatch.setenv("CAIRNKV__URL", "")
    assert parse().endpoints == (("127.0.0.1", 6555),)


def test_unix_address_with_a_null_character_reaches_no_server() -> None:
    with tempfile.TemporaryDirectory() as short, running_server(no_tcp=True, unix=Path(short) / "s") as server:
        address = f"{server.url}%00more"
        with pytest.raises(AddressError, match="null characters"):
            cairnkv.connect(address)


@pytest.mark.parametrize(
    "name", ["a%41b", "what?", "a#b", "a b", "é", "a,b", "a@b", "x?timeout=1", os.fsdecode(b"\xff")], ids=ascii
)
def test_printed_address_reaches_the_unix_socket(name: str) -> None:
    with tempfile.TemporaryDirectory() as short, running_server(no_tcp=True, unix=Path(short) / name) as server:
        address = server.call(lambda: server.server.addresses)[0]
        assert address.isascii()
        with cairnkv.connect(address) as kv:
            assert kv.ping() == "PONG"
