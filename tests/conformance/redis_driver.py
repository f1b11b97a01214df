"""The driver over the Redis protocol: each command of the contract as commands of Redis, through redis-py.

A command without an equal in Redis (delete by prefix, several values with a TTL) is a sequence of commands as a user
would write it, in a transaction if it must be atomic.
"""

import asyncio
import contextlib
import re
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from typing import Any

import redis.asyncio

import redis
from cairnkv.client.calls import Call
from cairnkv.client.codec import Bytes
from cairnkv.client.keyvalue import KeyValue
from cairnkv.client.pipeline import Pipeline
from cairnkv.commands import (
    MISSING,
    OK,
    Clear,
    ClearAll,
    ClearIfEquals,
    ClearMany,
    ClearPrefix,
    Code,
    Count,
    Exists,
    Expire,
    Failure,
    Get,
    GetMany,
    GetWith,
    Incr,
    Info,
    Items,
    Persist,
    Ping,
    Reply,
    Scan,
    Set,
    SetMany,
    SetWith,
    Swap,
    Ttl,
    failures,
)
from cairnkv.testing import ManualClock, RunningServer, running_server
from tests.support import secured

PATIENCE = 30.0

Say = Callable[..., Any]
"""Says the words of a command, and gives the reply as redis-py decodes it: strings as bytes."""

_CODES: dict[str, Code] = {
    "value is not an integer or out of range": failures.NOTINT,
    "increment or decrement would overflow": failures.OVERFLOW,
    "decrement would overflow": failures.OVERFLOW,
}


_KEYS: Any = re.compile(r"keys=(\d+)")


class OverRedis(KeyValue[bytes, bytes]):
    """The methods, by commands of Redis."""

    def __init__(self, say: Say, say_together: Say, close: Callable[[], None]) -> None:
        """say_together: says several commands in a transaction."""
        super().__init__(Bytes(), Bytes())
        self._say = say
        self._say_together = say_together
        self._close = close

    def close(self) -> None:
        self._close()

    def pipeline(self) -> Pipeline[bytes, bytes]:
        raise NotImplementedError  # other drivers have them

    def _do(self, call: Call[Any]) -> Any:
        try:
            reply = self._reply(call.command)
        except redis.ResponseError as error:
            text = str(error)
            assert text in _CODES, text
            reply = Failure(_CODES[text], text)
        return call.result(reply)

    def _reply(self, command: Any) -> Reply:
        say = self._say
        match command:
            case Get(key):
                return _or_missing(say("GET", key))
            case Set(key, value):
                return _ok(say("SET", key, value))
            case Clear(key):
                assert say("DEL", key) in (0, 1)
                return OK
            case Ping(text):
                answer = say("PING", *([text] if text else []))
                return answer.encode() if isinstance(answer, str) else bytes(answer)
            case Swap():
                return _or_missing(say("SET", command.key, command.value, *_options(command), "GET"))
            case SetWith():
                return int(say("SET", command.key, command.value, *_options(command)) is not None)
            case GetWith(key, clear, ttl, persist):
                if clear:
                    return _or_missing(say("GETDEL", key))
                return _or_missing(say("GETEX", key, *(["PX", ttl] if ttl else []), *(["PERSIST"] if persist else [])))
            case ClearIfEquals(key, value):
                return int(say("DELIFEQ", key, value))
            case Exists(names):
                return int(say("EXISTS", *names))
            case GetMany(names):
                return Items(tuple(say("MGET", *names)))
            case SetMany(ttl, pairs):
                if not ttl:
                    return _ok(say("MSET", *(part for pair in pairs for part in pair)))
                self._say_together([("SET", key, value, "PX", ttl) for key, value in pairs])
                return OK
            case ClearMany(names):
                return int(say("DEL", *names))
            case Incr(key, n):
                return int(say("INCRBY", key, n))
            case Ttl(key):
                milliseconds = int(say("PTTL", key))
                return MISSING if milliseconds == -2 else milliseconds
            case Expire(key, ttl):
                return int(say("PEXPIRE", key, ttl))
            case Persist(key):
                return int(say("PERSIST", key))
            case Scan(cursor, count, prefix):
                following, keys = say("SCAN", cursor, "MATCH", _literal(prefix) + b"*", "COUNT", count)
                return Items((b"%d" % int(following), *keys))
            case Count():
                return int(say("DBSIZE"))
            case ClearAll():
                return _ok(say("FLUSHDB"))
            case ClearPrefix(prefix, cursor):
                following, keys = say("SCAN", cursor, "MATCH", _literal(prefix) + b"*", "COUNT", 1_000)
                cleared = say("DEL", *keys) if keys else 0
                return Items((b"%d" % int(following), b"%d" % cleared))
            case Info():
                lines = [line for line in _text(say("INFO")).splitlines() if line and not line.startswith("#")]
                fields = dict(line.split(":", 1) for line in lines)
                found = _KEYS.search(fields.get("db0", "keys=0"))
                assert found is not None
                fields["keys"] = found[1]
                return Items(tuple(part.encode() for field in fields.items() for part in field))
        raise NotImplementedError(command)


def _options(command: SetWith | Swap) -> Iterator[Any]:
    if command.ttl is not None:
        yield from ("PX", command.ttl)
    if command.keep_ttl:
        yield "KEEPTTL"
    if command.if_absent:
        yield "NX"
    if command.if_present:
        yield "XX"
    if command.if_equals is not None:
        yield from ("IFEQ", command.if_equals)


def _literal(prefix: bytes) -> bytes:
    """A pattern that matches this and nothing else."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^-" else bytes([byte]) for byte in prefix)


def _or_missing(answer: bytes | None) -> Reply:
    return MISSING if answer is None else bytes(answer)


def _ok(answer: Any) -> Reply:
    assert answer in (b"OK", True, "OK"), answer
    return OK


def _text(answer: Any) -> str:
    return answer if isinstance(answer, str) else bytes(answer).decode()


def _in_memory(clock: ManualClock) -> AbstractContextManager[RunningServer]:
    return running_server(clock=clock)


def sync(
    protocol: int, served: Callable[[ManualClock], AbstractContextManager[RunningServer]] = _in_memory
) -> Callable[[ManualClock], AbstractContextManager[Any]]:
    @contextlib.contextmanager
    def driver(clock: ManualClock) -> Iterator[Any]:
        with served(clock) as server, _store(server, protocol=protocol) as store:
            yield store

    return driver


def _store(server: RunningServer, **options: Any) -> OverRedis:
    """Return the methods over a new client of redis-py."""
    assert server.address is not None
    host, port = server.address
    client: Any = redis.Redis(host, port, socket_timeout=PATIENCE, **options)
    client.response_callbacks.clear()  # replies are wanted as they come

    def say_together(commands: list[tuple[Any, ...]]) -> Any:
        pipeline = client.pipeline(transaction=True)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute()

    return OverRedis(client.execute_command, say_together, client.close)


@contextlib.contextmanager
def limited_through_tls(clock: ManualClock) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        users = str(secured.users_file(stack.enter_context(tempfile.TemporaryDirectory())))
        server = stack.enter_context(running_server(clock=clock, users=users, **secured.tls_options()))
        options = {"protocol": 3, "ssl": True, "ssl_ca_certs": str(secured.authority())}
        store, administrator = (
            stack.enter_context(_store(server, **options, username=user, password=secured.SECRETS[user]))
            for user in (secured.USER, secured.ADMINISTRATOR)
        )
        yield secured.Limited(store, administrator)


def asynchronous(protocol: int) -> Callable[[ManualClock], AbstractContextManager[Any]]:
    @contextlib.contextmanager
    def driver(clock: ManualClock) -> Iterator[Any]:
        with running_server(clock=clock) as server, asyncio.Runner() as runner:
            assert server.address is not None
            host, port = server.address
            client: Any = redis.asyncio.Redis(host=host, port=port, protocol=protocol, socket_timeout=PATIENCE)
            client.response_callbacks.clear()  # replies are wanted as they come

            def run(work: Coroutine[Any, Any, Any]) -> Any:
                return runner.run(asyncio.wait_for(work, PATIENCE))

            async def together(commands: list[tuple[Any, ...]]) -> Any:
                async with client.pipeline(transaction=True) as pipeline:
                    for command in commands:
                        pipeline.execute_command(*command)
                    return await pipeline.execute()

            with OverRedis(
                lambda *words: run(client.execute_command(*words)),
                lambda commands: run(together(commands)),
                lambda: run(client.aclose()),
            ) as store:
                yield store

    return driver


DRIVERS: dict[str, Callable[[ManualClock], AbstractContextManager[Any]]] = {
    "redis-py, RESP2": sync(2),
    "redis-py, RESP3": sync(3),
    "redis-py, user with prefixes, TLS": limited_through_tls,
    "redis-py asyncio, RESP2": asynchronous(2),
    "redis-py asyncio, RESP3": asynchronous(3),
}
