"""Addresses: their parts, and the errors for malformed ones."""

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cairnkv
import cairnkv.aio
from cairnkv.client.address import TlsFiles, parse, without_secrets
from cairnkv.client.credentials import Credentials
from cairnkv.commands import Auth
from cairnkv.errors import AddressError, OptionError
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
        ("cairn://user:s3cret@a/path", "has no path"),
        ("cairn://a,user:s3cret@b", "one @"),
        ("cairn://user:s3cret@a,user:s3cret@b", "one @"),
        ("cairn://user:s3cret/@a", "one @"),
        ("cairn://user:se?s3cret@a", "one @"),
        ("cairn://user:1?s3cret@a", "one @"),
        ("cairn://user:1#s3cret@a", "one @"),
        ("cairn://user:s3cret%@a", "% as %25"),
        ("cairn://user:s3cret%4x@a", "% as %25"),
        ("cairn://user@a", "a user has a secret"),
        ("cairn://user:@a", "one of them is empty"),
        ("cairn://:@a", "one of them is empty"),
        ("cairn://user:" + "s3cret" * 200 + "@a", "at most 1,000 bytes"),
        ("cairn://user:s3cret", "'user:***' is no HOST"),
        ("cairn://a:1,,user:s3cret", "no HOST"),
        ("cairn://a:1,user:s3cret", "'user:***' is no HOST"),
        ("user:s3cret@a:1", "not '***@a:1'; try cairn://***@a:1"),
        ("user:s3cret", "try cairn://user:***"),
        ("http://user:s3cret@a", "begins with cairn://, cairns:// or cairn+unix://, not http://"),
        ("user:s3cret@a://b", "begins with cairn://"),
        ("cairn://user:s3cret@a://b", "several hosts are one address"),
        ("cairn://user:s3cret@a?timeout=soon", "timeout is a time such as 30s"),
        ("cairn+unix://user:s3cret/run/s", "three slashes"),
        ("cairn+unix://user:s3cret@run/s", "three slashes"),
        ("cairn+unix://user:s3cret/@run/s", "one @"),
        ("cairn://a?ca=/ca.pem", "the option ca is for TLS"),
        ("cairns://a?ca=", "the option ca has to be a path"),
        ("cairns://a?key=/key.pem", "the option key needs the option cert"),
        ("cairns://a?ca=/a@b", "one @"),
        ("cairns://a?cipher=none", "has the options timeout, connect_timeout, attempts, order, ca, cert, key"),
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
    assert "s3cret" not in str(caught.value)


def test_bytes_are_refused_without_their_text() -> None:
    url: Any = b"cairn://user:s3cret@a"
    with pytest.raises(AddressError, match="an address is text") as caught:
        cairnkv.connect(url)
    assert "s3cret" not in str(caught.value)


def test_path_of_open_that_is_an_address_is_refused_without_its_secret() -> None:
    for open_store in (cairnkv.open, cairnkv.aio.open):
        with pytest.raises(OptionError, match="is an address") as caught:
            open_store("cairn://user:s3cret@a")
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("login", "user", "secret"),
    [
        ("app:s3cret", b"app", b"s3cret"),
        (":s3cret", b"default", b"s3cret"),
        ("a:b:c", b"a", b"b:c"),
        ("caf%C3%A9:%40%2F%3f%23%2C%25%20", "café".encode(), b"@/?#,% "),
        ("app:\u00e9!$&'()*+;=", b"app", "é!$&'()*+;=".encode()),
        (f"app:{os.fsdecode(bytes((255,)))}", b"app", b"\xff"),
        ("app:" + "x" * 997, b"app", b"x" * 997),
    ],
)
def test_user_and_secret_are_decoded(login: str, user: bytes, secret: bytes) -> None:
    for url in (f"cairn://{login}@a,b:7000/?timeout=2", f"cairns://{login}@a", f"cairn+unix://{login}@/run/a@b"):
        assert parse(url).credentials == Credentials(user, secret)
    assert parse(f"cairn://{login}@a,b:7000").endpoints == (("a", 6555), ("b", 7000))
    assert parse(f"cairn+unix://{login}@/run/a@b").endpoints == ("/run/a@b",)


@given(user=st.text(min_size=1, max_size=20), secret=st.text(min_size=1, max_size=20))
def test_encoded_user_and_secret_survive_a_round_trip(user: str, secret: str) -> None:
    found = parse(f"cairn://{quote(user, safe='')}:{quote(secret, safe='')}@a").credentials
    assert found == Credentials(user.encode(), secret.encode())


SECRET = "xyzzy"


@given(template=st.lists(st.sampled_from([SECRET, "@", ":", "/", "?", ",", "#", "%", "a", "1", "://", "cairn", "="])))
def test_no_error_and_no_repr_shows_what_stands_before_the_last_at(template: list[str]) -> None:
    """Wherever a secret is, behind a colon and before an @."""
    url = f"cairn://user:{SECRET}{''.join(template)}@host"
    try:
        address = parse(url)
    except AddressError as error:
        shown = str(error)
    else:
        shown = f"{address} {address!r}"
    assert SECRET not in shown


def test_reprs_of_clients_and_addresses_hide_secrets() -> None:
    url = "cairn://app:s3cret@a,b"
    address = parse(url)
    assert "s3cret" not in f"{address} {address!r} {address.credentials} {Auth(b'app', b's3cret')!r}"
    assert "s3cret" not in repr(cairnkv.connect(url))
    assert "s3cret" not in repr(cairnkv.aio.connect(url))
    assert pickle.loads(pickle.dumps(address)) == address
    assert without_secrets(f"({url}) and cairn://token@b") == "(cairn://app:***@a,b) and cairn://***@b"
    assert without_secrets("use cairn://USER:SECRET@HOST") == "use cairn://USER:SECRET@HOST"


def test_files_of_tls_are_decoded() -> None:
    assert parse("cairns://a").tls == TlsFiles()
    address = parse("cairns://a,b/?ca=/etc/ca%40home.pem&cert=client.pem&key=key.pem&timeout=2")
    assert address.tls == TlsFiles("/etc/ca@home.pem", "client.pem", "key.pem")
    assert parse("cairns://a?ca=~/ca.pem").tls == TlsFiles(str(Path.home() / "ca.pem"))
    assert parse("cairn://a").tls is None


# -- the file with credentials -----------------------------------------------------------------------------------------


@pytest.fixture
def credentials_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the variable names."""
    path = tmp_path / "credentials"
    monkeypatch.setenv("CAIRNKV__CREDENTIALS", str(path))
    return path


def write_private(path: Path, data: bytes, mode: int = 0o600) -> None:
    path.write_bytes(data)
    path.chmod(mode)


@pytest.mark.parametrize(
    ("data", "credentials"),
    [
        (b"app:s3cret\n", Credentials(b"app", b"s3cret")),
        (b"app:s3cret", Credentials(b"app", b"s3cret")),
        (b"app:s3cret\r\nmore", Credentials(b"app", b"s3cret")),
        (b":s3cret\n", Credentials(b"default", b"s3cret")),
        (b"app:%40:/ x\xff\n", Credentials(b"app", b"%40:/ x\xff")),
        (b"app:" + b"x" * 997 + b"\r\n", Credentials(b"app", b"x" * 997)),
    ],
)
def test_file_has_user_and_secret_in_its_first_line(
    credentials_file: Path, data: bytes, credentials: Credentials
) -> None:
    for mode in (0o600, 0o400):
        write_private(credentials_file, data, mode)
        assert parse("cairn://a").credentials == parse("cairn+unix:///run/s").credentials == credentials
        credentials_file.chmod(0o600)
    assert parse("cairn://other:one@a").credentials == Credentials(b"other", b"one"), "the address counts first"


@pytest.mark.parametrize(
    ("data", "mode", "says"),
    [
        (b"app:s3cret\n", 0o644, r"other users of the computer may use .*mode 0644.*chmod 600"),
        (b"app:s3cret\n", 0o620, "other users of the computer may use"),
        (b"s3cret\n", 0o600, "the first line of .* is not user:secret"),
        (b"", 0o600, "the first line of .* is not user:secret"),
        (b"\napp:s3cret\n", 0o600, "the first line of .* is not user:secret"),
        (b"app:\n", 0o600, "one of them is empty"),
        (b"app:" + b"s3cret" * 200, 0o600, "at most 1,000 bytes"),
    ],
)
def test_unfit_file_is_refused_without_its_content(credentials_file: Path, data: bytes, mode: int, says: str) -> None:
    write_private(credentials_file, data, mode)
    with pytest.raises(AddressError, match=f"^the variable CAIRNKV__CREDENTIALS: .*{says}") as caught:
        cairnkv.connect("cairn://a")
    assert "s3cret" not in str(caught.value)


def test_missing_file_is_refused(credentials_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AddressError, match=r"CAIRNKV__CREDENTIALS: cannot read .*No such file"):
        cairnkv.connect("cairn://a")
    credentials_file.mkdir()
    with pytest.raises(AddressError, match=r"CAIRNKV__CREDENTIALS: cannot read .*directory"):
        cairnkv.connect("cairn://a")
    monkeypatch.setenv("CAIRNKV__CREDENTIALS", "")
    assert parse("cairn://a").credentials is None


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
