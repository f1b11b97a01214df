"""A node's credentials for NATS servers that accept only those, and the errors for other credentials."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import redis
from cairnkv.errors import OptionError, Unavailable
from cairnkv.lab.cluster.nats import NatsConfig, NatsServer, free_ports
from cairnkv.limits import MIB
from cairnkv.replication import node_snapshots
from cairnkv.replication.nats import connection, stream
from cairnkv.replication.nats.credentials import credentials
from cairnkv.replication.nats.options import ClusterOptions
from cairnkv.replication.nats.stream import Stream
from cairnkv.store import wall_clock
from cairnkv.testing import RunningServer, running_server
from tests.replication.nodes import client, until
from tests.replication.nodes import told as info
from tests.replication.reading import opened
from tests.support.certificates import certificates
from tests.support.credentials import USER, Nkey, Operator
from tests.support.nats import wait_listening
from tests.support.patience import AT_ONCE

PATIENCE = 30.0


@contextlib.contextmanager
def servers(directory: Path, accounts: str, count: int = 3) -> Iterator[tuple[str, ...]]:
    """Run NATS servers with these accounts. Yield their addresses, which contain no user."""

    class OfAccounts(NatsConfig):
        def text(self) -> str:
            return f"{super().text().partition('accounts {')[0]}{accounts}\n"

    ports = free_ports(2 * count)
    routes = tuple(("127.0.0.1", port) for port in ports[count:])
    started = []
    try:
        for number, (port, route) in enumerate(zip(ports[:count], ports[count:], strict=True)):
            name = f"nats-{number}"
            config = OfAccounts(name, directory / name, port, route, routes, "", "routes", file_max=512 * MIB)
            started.append(NatsServer(config))
            started[-1].start()
        for one in started:
            wait_listening(one, PATIENCE)
        yield tuple(f"nats://127.0.0.1:{one.config.port}" for one in started)
    finally:
        for one in started:
            one.kill()


class Keys:
    """The credentials of a cluster. store, system: files of users; stranger: the file of an unknown user."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.store, self.system, self.stranger = (directory / name for name in ("store", "system", "stranger"))
        if kind == "nkey":
            users = {file: Nkey(USER) for file in (self.store, self.system, self.stranger)}
            for file, user in users.items():
                file.write_text(f"{user.seed}\n")
            self.accounts = (
                f"accounts {{\n  STORE {{ jetstream: enabled, users: [{{ nkey: {users[self.store].public} }}] }}\n"
                f"  SYSTEM {{ users: [{{ nkey: {users[self.system].public} }}] }}\n}}\nsystem_account: SYSTEM"
            )
            return
        operator = Operator()
        self.accounts = operator.text()
        operator.user(operator.store, self.store)
        operator.user(operator.system, self.system)
        operator.user(Operator().store, self.stranger)
        operator.user(operator.store, directory / "expired", exp=int(time.time()) - 60)


@pytest.fixture(scope="module", params=["nkey", "jwt"])
def keyed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Keys, Any]]:
    """Yield keys, and a function that makes the options of a node whose NATS servers know these keys."""
    directory = tmp_path_factory.mktemp(request.param)
    keys = Keys(directory, request.param)
    with servers(directory, keys.accounts) as urls:

        def options(**more: Any) -> ClusterOptions:
            told: dict[str, Any] = {"creds": str(keys.store), "system": str(keys.system), "limit": 64 * MIB, **more}
            return ClusterOptions(urls=urls, name="keyed", **told)

        yield keys, options


async def refusal(options: ClusterOptions, *, system: bool = False) -> str:
    began = asyncio.get_running_loop().time()
    with pytest.raises(OptionError) as caught:
        await connection.connect(options, "a test", system=system)
    assert asyncio.get_running_loop().time() - began < AT_ONCE
    return str(caught.value)


class TestFiles:
    async def test_let_a_node_connect_and_verify_that_nats_syncs(self, keyed: tuple[Keys, Any]) -> None:
        async with opened(keyed[1]()) as one:
            assert one.sync == "proven"

    async def test_of_an_unknown_user_are_refused(self, keyed: tuple[Keys, Any]) -> None:
        keys, options = keyed
        text = await refusal(options(creds=str(keys.stranger)))
        assert "NATS refuses this node" in text
        assert f"check that the user in --nats-creds {keys.stranger} exists" in text
        text = await refusal(options(system=str(keys.stranger)), system=True)
        assert f"the user in --nats-system {keys.stranger}" in text
        assert "to the system account" in text

    async def test_that_are_missing_are_reported(self, keyed: tuple[Keys, Any]) -> None:
        text = await refusal(keyed[1](creds=None))
        assert "nats://USER:PASSWORD@HOST:4222 in --cluster, or --nats-creds FILE" in text

    @pytest.mark.parametrize("keyed", ["jwt"], indirect=True)  # nkeys do not expire
    async def test_that_have_expired_are_reported(self, keyed: tuple[Keys, Any]) -> None:
        keys, options = keyed
        assert "expired" in await refusal(options(creds=str(keys.store.with_name("expired"))))

    async def test_exclude_a_user_in_addresses(self, keyed: tuple[Keys, Any]) -> None:
        keys, options = keyed
        (first, *_) = options().urls
        mixed = ClusterOptions(urls=(first.replace("nats://", "nats://cairn:s3cret@"),), creds=str(keys.store))
        text = await refusal(mixed)
        assert "use one of them" in text
        assert "s3cret" not in text


def options_of(**more: Any) -> ClusterOptions:
    """Return the options of a node, which are refused before a connection."""
    return ClusterOptions(urls=("nats://127.0.0.1:1",), **more)


class TestInvalidFiles:
    async def test_are_reported_before_connecting(self, tmp_path: Path) -> None:
        keys = Keys(tmp_path, "jwt")
        whole = keys.store.read_text()
        seed = Nkey(USER).seed
        for content in (
            "something",
            whole[: whole.index("****")],
            seed[:-1],
            f"{seed}\n{seed}",
            "S" + seed[1:].lower(),
        ):
            keys.store.write_text(content)
            text = await refusal(options_of(creds=str(keys.store)))
            assert f"{keys.store} is not a file of NATS credentials" in text
            assert "only the seed" in text
            assert seed[2:20] not in text

    async def test_with_windows_line_ends_are_reported(self, tmp_path: Path) -> None:
        keys = Keys(tmp_path, "jwt")
        keys.store.write_bytes(keys.store.read_bytes().replace(b"\n", b"\r\n"))
        assert "Windows line ends" in await refusal(options_of(creds=str(keys.store)))

    async def test_do_not_appear_in_errors(self) -> None:
        """A seed where its file belongs, a password without its user, a name too long for a file."""
        seed = Nkey(USER).seed
        text = await refusal(options_of(creds=seed))
        assert "cannot read the file of NATS credentials in --nats-creds" in text
        assert seed not in text
        for secret in ("s3cret", "s3cret\0", 1_000 * "s3cret"):
            text = await refusal(options_of(system=secret), system=True)
            assert "cannot read the file of NATS credentials in --nats-system" in text
            assert "s3cret" not in text


@pytest.mark.parametrize("password", ["p:w", 1_000 * "p", "\0"])
def test_password_may_be_an_invalid_file_name(password: str) -> None:
    said = credentials(options_of(system=f"sys:{password}"), system=True)
    assert said == {"user": "sys", "password": password}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a server whose passwords have all kinds of characters."""
    accounts = (
        'accounts { STORE { users: [{ user: "a b", password: "p@ss:w/rd" }] }\n'
        'SYSTEM { users: [{ user: "sys", password: "a:b" }] } }\nsystem_account: SYSTEM'
    )
    with servers(tmp_path_factory.mktemp("passwords"), accounts, 1) as (url,):
        yield url


@pytest.fixture(scope="module")
def fenced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """Run servers with users: `node` has a node's permissions, `guest` has fewer, and `deaf` gets no answers."""
    able = f"{{ publish: {json.dumps(connection.PUBLISHES)}, subscribe: {json.dumps(connection.SUBSCRIBES)} }}"
    accounts = (
        f'accounts {{ STORE {{ jetstream: enabled, users: [{{ user: "node", password: "p", permissions: {able} }}\n'
        '{ user: "guest", password: "p", permissions: { publish: ["cairn.>"], subscribe: ["_INBOX.>"] } }\n'
        '{ user: "deaf", password: "p", permissions: { publish: ">", subscribe: ["cairn.>"] } }] }\n'
        'SYSTEM { users: [{ user: "system", password: "p" }] } }\nsystem_account: SYSTEM'
    )
    with servers(tmp_path_factory.mktemp("fenced"), accounts) as urls:
        yield urls


def hears(one: RunningServer, other: RunningServer) -> bool:
    """Return whether a message on a channel of one node reaches the other, perhaps after several attempts."""
    assert one.address is not None
    assert other.address is not None
    with (
        contextlib.closing(redis.Redis(*one.address)) as speaker,
        contextlib.closing(redis.Redis(*other.address)) as to,
        to.pubsub(ignore_subscribe_messages=True) as listener,  # type: ignore[no-untyped-call]
        # ,
    ):
        listener.subscribe("news")
        for _ in range(100):
            speaker.publish("news", "hello")
            if listener.get_message(timeout=0.1) is not None:
                return True
    return False


class TestPermissions:
    def of(self, user: str, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(url.replace("nats://", f"nats://{user}:p@") for url in urls)

    def test_on_the_page_suffice(
        self, fenced: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """For a node that writes, reads, sends messages and makes a snapshot, and one that starts from it."""
        monkeypatch.setattr(node_snapshots, "SNAPSHOT_ENTRIES", 50)
        monkeypatch.setattr(node_snapshots, "SNAPSHOT_LOOK_SECONDS", 0.1)
        caplog.set_level(logging.INFO, "cairnkv.cluster")
        told: dict[str, Any] = {
            "cluster": ",".join(self.of("node", fenced)),
            "nats_system": "system:p",
            "log_limit": 64 * MIB,
            "clock": wall_clock,
        }
        with running_server(data=str(tmp_path / "a"), **told) as first, client(first) as kv:
            for number in range(200):
                kv.set("k", str(number))
            until(lambda: info(first)["snapshot_position"] > 0)
            with running_server(data=str(tmp_path / "b"), **told) as second, client(second) as other:
                assert other.get("k") == "199"
                assert hears(first, second)
        assert not [one for one in caplog.messages if "violation" in one]

    @pytest.mark.parametrize(("user", "lacks"), [("guest", r"publish to \$JS.API"), ("deaf", r"subscribe to _INBOX.>")])
    async def test_that_are_missing_are_reported(
        self, fenced: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, user: str, lacks: str
    ) -> None:
        monkeypatch.setattr(stream, "OPEN_TIMEOUT", 1.5)
        options = ClusterOptions(urls=self.of(user, fenced), limit=64 * MIB, trust_sync=True)
        with pytest.raises(Unavailable, match=rf"the NATS user may not {lacks}.*: a node publishes to \$JS.>"):
            await Stream(options).open()


class TestPasswords:
    def options(self, url: str, user: str, **more: Any) -> ClusterOptions:
        return ClusterOptions(urls=(url.replace("nats://", f"nats://{user}@" if user else "nats://"),), **more)

    async def test_may_have_any_characters(self, url: str) -> None:
        options = self.options(url, "a%20b:p%40ss%3Aw%2Frd", system="sys:a:b")
        for system in (False, True):
            client = await connection.connect(options, "a test", system=system)
            assert client.is_connected
            await connection.close(client)

    async def test_that_are_wrong_do_not_appear_in_the_error(self, url: str) -> None:
        text = await refusal(self.options(url, "a%20b:s3cret"))
        assert "check the user and password, or the token, in --cluster" in text
        assert "s3cret" not in text
        text = await refusal(self.options(url, "", system="sys:s3cret"), system=True)
        assert "check the user and password in --nats-system: user 'sys'" in text
        assert "s3cret" not in text

    async def test_that_are_missing_are_reported(self, url: str) -> None:
        assert "requires credentials" in await refusal(self.options(url, ""))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Keys, str]]:
    """Run a server that requires a certificate and an nkey."""
    directory = tmp_path_factory.mktemp("guarded")
    made = certificates(directory, ("127.0.0.1",))
    keys = Keys(directory, "nkey")
    files = {"cert_file": "node.pem", "key_file": "node.key", "ca_file": "ca.pem"}
    tls = ", ".join(f'{name}: "{made / file}"' for name, file in files.items())
    with servers(directory, f"{keys.accounts}\ntls {{ {tls}, verify: true }}", 1) as (url,):
        yield made, keys, url.replace("nats:", "tls:")


FILES = {"ca": "ca.pem", "cert": "node.pem", "key": "node.key"}


class TestTlsWithKeys:
    """NATS requires a certificate, which identifies the computer, and a key, which identifies the user."""

    async def test_use_both_for_the_connection(self, guarded: tuple[Path, Keys, str]) -> None:
        made, keys, url = guarded
        files: dict[str, Any] = {
            "ca": str(made / "ca.pem"),
            "cert": str(made / "node.pem"),
            "key": str(made / "node.key"),
        }
        for system in (False, True):
            options = ClusterOptions(urls=(url,), creds=str(keys.store), system=str(keys.system), **files)
            client = await connection.connect(options, "a test", system=system)
            assert client.is_connected
            await connection.close(client)
        assert "--nats-creds" in await refusal(ClusterOptions(urls=(url,), creds=str(keys.stranger), **files))

    async def test_without_a_certificate_name_the_files_to_check(self, guarded: tuple[Path, Keys, str]) -> None:
        made, keys, url = guarded
        text = await refusal(ClusterOptions(urls=(url,), creds=str(keys.store), ca=str(made / "ca.pem")))
        assert "--nats-ca, --nats-cert and --nats-key" in text
