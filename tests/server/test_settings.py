"""Proves where options come from and who wins: a flag, the environment, the file, the default; and that an
option which does not exist, or a value it cannot have, is an error that helps.
"""

import dataclasses
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cairnkv.errors import OptionError
from cairnkv.installation import python_command, python_environment
from cairnkv.protocol.native import StatusByte
from cairnkv.server.settings import (
    CONFIG_VARIABLE,
    NOT_OPTIONS,
    OPTIONS,
    LogLevel,
    PlainText,
    Settings,
    UserFrom,
    ignored_variables,
    is_loopback,
    load,
)
from cairnkv.storage.writer import Sync
from cairnkv.store import WhenFull
from tests.support.raw import ServerProcess, serve


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: these tests do not depend on the path."""


VALUES: dict[str, tuple[list[str], list[Any]]] = {
    "host": (["127.0.0.2", "127.0.0.3", "::1"], ["127.0.0.2", "127.0.0.3", "::1"]),
    "port": (["1", "2", "0"], [1, 2, 0]),
    "unix": (["/a", "/b", "c"], ["/a", "/b", "c"]),
    "no_tcp": (["no", "false", "0"], [False] * 3),
    "insecure": (["yes", "off", "TRUE"], [True, False, True]),
    "password": (["a", "b", " c "], ["a", "b", " c "]),
    "users": (["a", "b", "c"], ["a", "b", "c"]),
    "audit_log": (["a", "-", "c"], ["a", "-", "c"]),
    "status_byte": (["binary", "ascii", "binary"], [StatusByte.BINARY, StatusByte.ASCII, StatusByte.BINARY]),
    "command_width": (["2", "4", "auto"], [2, 4, None]),
    "max_connections": (["1", "2", "1000000"], [1, 2, 1_000_000]),
    "max_value": (["1k", "2KiB", "3000"], [1_024, 2_048, 3_000]),
    "max_frame": (["66MiB", "67m", "68MB"], [66 * 2**20, 67 * 2**20, 68 * 2**20]),
    "max_unfinished": (["1g", "2GiB", "65MiB"], [2**30, 2**31, 65 * 2**20]),
    "max_unsent": (["1t", "0", "5 k"], [2**40, 0, 5_120]),
    "memory_limit": (["1g", "7", "8"], [2**30, 7, 8]),
    "when_full": (["evict", "refuse", "evict"], [WhenFull.EVICT, WhenFull.REFUSE, WhenFull.EVICT]),
    "data": (["a", "b", "c"], ["a", "b", "c"]),
    "backup_dir": (["d", "e", "f"], ["d", "e", "f"]),
    "sync": (["none", "1s", "always"], [Sync(None), Sync(1.0), Sync()]),
    "disk_limit": (["1g", "16MiB", "9000000"], [2**30, 2**24, 9_000_000]),
    "name": (["a", "b-1", "c_2"], ["a", "b-1", "c_2"]),
    "log_limit": (["1g", "64MiB", "2GiB"], [2**30, 2**26, 2**31]),
    "nats_creds": (["a", "b", "c"], ["a", "b", "c"]),
    "nats_ca": (["a", "b", "c"], ["a", "b", "c"]),
    "nats_system": (["a:b", "c", "d"], ["a:b", "c", "d"]),
    "trust_nats_sync": (["yes", "off", "TRUE"], [True, False, True]),
    "allow_broken": (["yes", "off", "TRUE"], [True, False, True]),
    "script_slice": (["5ms", "1", "50ms"], [0.005, 1, 0.05]),
    "script_time": (["0", "1s", "500ms"], [0, 1, 0.5]),
    "script_steps": (["1000000", "2000000", "3000000"], [1_000_000, 2_000_000, 3_000_000]),
    "script_memory": (["4MiB", "5MiB", "1g"], [2**22, 5 * 2**20, 2**30]),
    "idle_timeout": (["0", "1h", "2.5s"], [0, 3_600, 2.5]),
    "frame_timeout": (["1", "500ms", "2m"], [1, 0.5, 120]),
    "stall_timeout": (["1d", "3s", "4"], [86_400, 3, 4]),
    "drain_timeout": (["0", "6s", "7"], [0, 6, 7]),
    "log_level": (["debug", "error", "warning"], [LogLevel.DEBUG, LogLevel.ERROR, LogLevel.WARNING]),
}
"""Of each option, three texts and what they mean."""

TLS = {"tls_cert", "tls_key", "tls_client_ca", "tls_user_from", "plain_text"}
TOGETHER = {"cluster", "nats_cert", "nats_key", "password_file", *TLS}
"""Those that cannot stand alone. `test_secrets` tests `password_file`, which names a file that must exist."""


def test_every_option_is_in_this_test() -> None:
    assert VALUES.keys() | TOGETHER == OPTIONS.keys() == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize("option", VALUES)
def test_flag_then_environment_then_file_then_default(option: str, tmp_path: Path) -> None:
    (in_file, in_environment, as_flag), (from_file, from_environment, from_flag) = VALUES[option]
    file = tmp_path / "cairn.toml"
    file.write_text(f'{option.replace("_", "-")} = "{in_file}"\n')
    environment = {f"CAIRNKV__{option.upper()}": in_environment, "HOME": "/", "CAIRNKV_URL": "cairn://elsewhere"}
    default = getattr(Settings(), option)

    assert getattr(load({}, environment={}), option) == default
    assert getattr(load({}, environment={}, file=file), option) == from_file
    assert getattr(load({}, environment={"CAIRNKV__CONFIG": str(file)}), option) == from_file
    assert getattr(load({}, environment=environment), option) == from_environment
    assert getattr(load({}, environment=environment, file=file), option) == from_environment
    assert getattr(load({option: as_flag}, environment=environment, file=file), option) == from_flag
    assert getattr(load({option: as_flag}, environment={}), option) == from_flag


@pytest.mark.parametrize(("option", "shown"), [(name, option.shown) for name, option in OPTIONS.items()])
def test_documented_default_is_the_default(option: str, shown: str) -> None:
    default = getattr(Settings(), option)
    assert default is None if shown == "none" else OPTIONS[option].parse(shown) == default


def test_options_of_a_node() -> None:
    flags = {"cluster": "nats://a:4222,nats://b:4222", "data": "node", "nats_cert": "c.pem", "nats_key": "k.pem"}
    settings = load(flags, environment={})
    assert settings.cluster == ("nats://a:4222", "nats://b:4222")
    assert (settings.nats_cert, settings.nats_key) == ("c.pem", "k.pem")
    for wrong in (
        {"data": None},
        {"nats_key": None},
        {"backup_dir": "b"},
        {"when_full": "evict"},
        {"cluster": "http://a"},
    ):
        changed = {name: text for name, text in (flags | wrong).items() if text is not None}
        with pytest.raises(OptionError):
            load(changed, environment={})


def test_options_of_tls() -> None:
    flags = {"tls_cert": "c", "tls_key": "k", "tls_client_ca": "ca", "tls_user_from": "uri", "plain_text": "never"}
    settings = load(flags, environment={})
    assert (settings.tls_cert, settings.tls_key, settings.tls_client_ca) == ("c", "k", "ca")
    assert (settings.tls_user_from, settings.plain_text) == (UserFrom.URI, PlainText.NEVER)
    for alone in ("tls_cert", "tls_key", "tls_client_ca", "tls_user_from", "plain_text"):
        with pytest.raises(OptionError):
            load({alone: flags[alone]}, environment={})


def test_certificates_of_clients_are_an_authentication() -> None:
    flags = {"host": "0.0.0.0", "tls_cert": "c", "tls_key": "k"}
    with pytest.raises(OptionError, match="no login"):
        load(flags, environment={})
    load(flags | {"tls_client_ca": "ca"}, environment={})
    with pytest.raises(OptionError, match="no login"):
        load(flags | {"tls_client_ca": "ca", "plain_text": "always"}, environment={})


def test_option_file_may_have_numbers_and_booleans(tmp_path: Path) -> None:
    file = tmp_path / "cairn.toml"
    file.write_text("port = 7000\ninsecure = true\nidle-timeout = 2.5\nmax-value = 1048576\n")
    settings = load({}, environment={}, file=file)
    assert (settings.port, settings.insecure, settings.idle_timeout, settings.max_value) == (7000, True, 2.5, 2**20)


@pytest.mark.parametrize(
    ("option", "bad", "right"),
    [
        ("port", "http", "a number from 0 to 65,535, not 'http'"),
        ("port", "65536", "a number from 0 to 65,535, not '65536'"),
        ("port", "-1", "a number from 0 to 65,535, not '-1'"),
        ("max_connections", "0", "a number from 1 to 1,000,000"),
        ("port", "٥", "a number from 0 to 65,535, not '٥'"),
        ("port", "６５５５", "a number from 0 to 65,535"),
        ("max_value", "٦٤MiB", "a size such as 64MiB"),
        ("idle_timeout", "٥s", "a time such as 30s"),
        ("idle_timeout", "5ſ", "a time such as 30s"),
        ("max_value", "64\u212a", "a size such as 64MiB"),
        ("sync", "٥s", "always, none, or a time"),
        ("host", "", "an address or a name of this computer, not ''; for all addresses: 0.0.0.0 or ::"),
        ("host", " ", "an address or a name of this computer, not ' '"),
        ("host", "127.0.0.1:7000", "not '127.0.0.1:7000'; the port is the option port"),
        ("host", "[::1]:7000", "not '[::1]:7000'; the port is the option port"),
        ("host", "[localhost]", "an IPv6 address if it is in brackets"),
        ("host", "[::1", "an address or a name, not '[::1'"),
        ("max_value", "64 MBits", "a size such as 64MiB, 512k or 1048576"),
        ("max_value", "-1", "a size such as 64MiB"),
        ("memory_limit", "none", "a size such as 64MiB"),
        ("idle_timeout", "5 minutes", "a time such as 30s, 500ms, 5m or 1h"),
        ("idle_timeout", "-5s", "a time such as 30s"),
        ("password", "", "a password of at least one character"),
        ("insecure", "perhaps", "yes or no, not 'perhaps'"),
        ("status_byte", "klingon", "ascii or binary, not 'klingon'"),
        ("command_width", "3", "auto, 2 or 4, not '3'"),
        ("when_full", "panic", "refuse or evict, not 'panic'"),
        ("log_level", "trace", "debug or info or warning or error, not 'trace'"),
        ("max_frame", "1k", "it must be at least"),
        ("max_frame", "4g", "below 4 GiB"),
        ("max_unfinished", "1m", "a single frame may have"),
        ("no_tcp", "yes", "needs a Unix socket"),
        ("frame_timeout", "0", "more than 0"),
        ("stall_timeout", "0ms", "more than 0"),
        ("script_slice", "0", "more than 0"),
        ("script_steps", "999999", "a number from 1,000,000"),
        ("script_memory", "3MiB", "it must be at least 4,194,304"),
    ],
)
def test_error_of_a_bad_value_names_accepted_values(option: str, bad: str, right: str, tmp_path: Path) -> None:
    file = tmp_path / "cairn.toml"
    file.write_text(f'{option} = "{bad}"')
    for arguments in (
        {"flags": {option: bad}, "environment": {}},
        {"flags": {}, "environment": {f"CAIRNKV__{option.upper()}": bad}},
        {"flags": {}, "environment": {}, "file": file},
    ):
        with pytest.raises(OptionError, match=re.escape(right)):
            load(**arguments)


def test_unknown_option_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "cairn.toml"
    file.write_text("max-vlaue = 3")
    with pytest.raises(OptionError, match=r"cairn\.toml: max-vlaue: unknown option; did you mean max-value\?"):
        load({}, environment={}, file=file)
    with pytest.raises(OptionError, match=r"CAIRNKV__MAX_VLAUE: unknown option; did you mean max-value\?"):
        load({}, environment={"CAIRNKV__MAX_VLAUE": "3"})
    with pytest.raises(OptionError, match="CAIRNKV__URL: unknown option; the variable of clients is CAIRNKV_URL"):
        load({}, environment={"CAIRNKV__URL": "cairn://a"})
    with pytest.raises(OptionError, match=r"--max-vlaue: unknown option; did you mean max-value\?"):
        load({"max_vlaue": "3"}, environment={})


@pytest.mark.parametrize(
    "text", ["port = ", "port = [1]", "[server]\nport = 1", "port = 1979-05-27", b"port = \xff", None]
)
def test_malformed_option_file_is_an_error(text: str | bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "cairn.toml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(OptionError, match=r"cairn\.toml"):
        load({}, environment={}, file=file)


def test_variables_that_are_no_options_are_ignored() -> None:
    others = dict.fromkeys(NOT_OPTIONS - {CONFIG_VARIABLE}, "")
    assert load({}, environment=others | {"PATH": "/bin", "CAIRNKV_URL": "cairn://a"}) == Settings()
    assert ignored_variables(others | {"PATH": "/bin", "CAIRNKV_URL": "cairn://a", "CAIRNKVX": "1"}) is None


KUBERNETES = {
    "CAIRNKV_SERVICE_HOST": "10.0.0.11",
    "CAIRNKV_SERVICE_PORT": "6555",
    "CAIRNKV_SERVICE_PORT_REDIS": "6555",
    "CAIRNKV_PORT": "tcp://10.0.0.11:6555",
    "CAIRNKV_PORT_6555_TCP": "tcp://10.0.0.11:6555",
    "CAIRNKV_PORT_6555_TCP_ADDR": "10.0.0.11",
}
DOCKER_LINK = {
    "CAIRNKV_NAME": "/web/cairnkv",
    "CAIRNKV_ENV_PYTHON_VERSION": "3.13",
    "CAIRNKV_PORT": "tcp://172.17.0.2:1",
}
IMAGE = {"CAIRNKV_VERSION": "0.1.0", "CAIRNKV_HOME": "/opt/cairnkv", "CAIRNKV_DATA": "/data", "CAIRNKV_CONFIG": "/none"}


@pytest.mark.parametrize("foreign", [KUBERNETES, DOCKER_LINK, IMAGE, {"CAIRNKV_": ""}, {"CAIRNKV_PURE": "1"}])
def test_variables_with_one_underscore_set_no_option(foreign: dict[str, str]) -> None:
    assert load({}, environment=foreign) == Settings()
    assert load({}, environment=foreign | {"CAIRNKV__PORT": "7000"}) == Settings(port=7000)
    warning = ignored_variables(foreign)
    assert warning is not None
    assert min(foreign) in warning
    assert "CAIRNKV__PORT" in warning


def test_server_warns_once_of_foreign_variables(tmp_path: Path) -> None:
    foreign = KUBERNETES | IMAGE | {"CAIRNKV_URL": "cairn://nowhere"}
    with ServerProcess("--port", "0", log=tmp_path / "log", environment=foreign) as server:
        host, port = server.address
        assert host == "127.0.0.1"
        assert port not in (0, 6555)
        warnings = [line for line in server.log().splitlines() if "CAIRNKV_" in line]
    assert len(warnings) == 1
    assert "WARNING" in warnings[0]
    assert "CAIRNKV_CONFIG, CAIRNKV_DATA" in warnings[0]
    assert "and 5 more variables" in warnings[0]
    assert "CAIRNKV_URL" not in warnings[0]


def test_error_names_variables_of_options_that_exclude_each_other() -> None:
    with pytest.raises(OptionError, match=r"max-frame is 1,024.*the environment sets CAIRNKV__MAX_FRAME$"):
        load({"port": "1"}, environment={"CAIRNKV__MAX_FRAME": "1k", "CAIRNKV__PORT": "2"})
    with pytest.raises(OptionError, match=r"--insecure.*the environment sets CAIRNKV__HOST$"):
        load({}, environment={"CAIRNKV__HOST": "0.0.0.0"})
    with pytest.raises(OptionError, match="Unix socket") as error:
        load({"no_tcp": "yes"}, environment={})
    assert "environment" not in str(error.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", "127.0.0.1.example.org"])
def test_non_loopback_address_needs_insecure(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(OptionError, match="--insecure"):
        load({"host": host}, environment={})
    assert load({"host": host, "insecure": "yes"}, environment={}).host == host


@pytest.mark.parametrize(("given", "host"), [("[::1]", "::1"), ("::1", "::1"), (" localhost ", "localhost")])
def test_loopback_host_is_accepted_as_in_a_url(given: str, host: str) -> None:
    assert load({"host": given}, environment={}).host == host
    assert load({}, environment={"CAIRNKV__HOST": given}).host == host
    with pytest.raises(OptionError, match=r"^:: is not a loopback address"):
        load({"host": "[::]"}, environment={})


def test_non_loopback_address_with_a_password() -> None:
    assert load({"host": "0.0.0.0", "password": "x"}, environment={}).host == "0.0.0.0"


def test_password_is_not_shown_by_accident() -> None:
    assert "dark" not in repr(Settings(password="dark"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_address_needs_no_password(host: str) -> None:
    assert load({"host": host}, environment={}).host == host


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--max-vlaue", "3"], {}, "max-vlaue"),
        (["--port"], {}, "--port"),
        (["--port", "x"], {}, "a number from 0 to 65,535"),
        (["surplus"], {}, "surplus"),
        ([], {"CAIRNKV__PROT": "1"}, "CAIRNKV__PROT: unknown option; did you mean port?"),
        ([], {"CAIRNKV__PORT": "tcp://10.0.0.1:1"}, "the variable CAIRNKV__PORT has to be a number from 0 to 65,535"),
        ([], {"CAIRNKV__MAX_VALUE": ""}, "the variable CAIRNKV__MAX_VALUE has to be a size"),
        ([], {"CAIRNKV__CONFIG": "/no/such/file"}, "the variable CAIRNKV__CONFIG: cannot read"),
        ([], {"CAIRNKV__CONFIG": "/no/such/file"}, "/no/such/file"),
        (["--config", "/no/such/file"], {}, "/no/such/file"),
        (["--host", "0.0.0.0"], {}, "--insecure"),
    ],
)
def test_command_line_exits_with_2_and_the_reason(arguments: list[str], environment: dict[str, str], says: str) -> None:
    result = serve(*arguments, environment=environment)
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_option_file_is_utf8_in_any_locale(tmp_path: Path) -> None:
    file = tmp_path / "cairn.toml"
    code = "import os, sys; from cairnkv.server.settings import load; "
    code += f"print(ascii(load({{}}, environment=os.environ, file={str(file)!r}).password))"
    for begin in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(begin + 'password = "pässword"\n'.encode())
        for locale in ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C.UTF-8"}):
            ended = subprocess.run(
                python_command("-c", code),
                env={**python_environment(), **locale},
                capture_output=True,
                text=True,
                check=True,
            )
            assert ended.stdout == "'p\\xe4ssword'\n"


def test_password_has_the_given_bytes() -> None:
    for settings in (
        load({"password": os.fsdecode(b"p\xc3\xa4\xff")}, environment={}),
        load({}, environment={"CAIRNKV__PASSWORD": os.fsdecode(b"p\xc3\xa4\xff")}),
    ):
        assert settings.password == "pä\udcff"
