"""Random commands to redis-server and to cairnkv give equal replies, byte for byte."""

import contextlib
import dataclasses
import os
import ssl
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

import pytest
from docs.redis_differences import KNOWN_DIFFERENCES, Shown
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.redis.altering_proxy import altering_proxy
from tests.redis.differences import equal, equal_values, in_some_order
from tests.redis.programs import CHANNELS, COMMANDS, CONNECTIONS, STEPS, Program, commands, programs
from tests.support import secured, targets
from tests.support.raw_resp import Peer, Words, command, value_of
from tests.support.targets import Target

EXAMPLES = int(os.environ.get("EXAMPLES", "200"))
"""Programs per run of a test. The default keeps the whole module within some twenty seconds."""

SCAN_CALLS = 1_000
"""Calls after which an iteration over the few keys here counts as endless."""

NOTHING = b"+(nothing)\r\n"
"""Stands for a reply that one side did not get."""

REPLIES = 1_000
"""Replies to one step after which they count as endless."""


class Side:
    """One of the two servers, with the connections of a program."""

    def __init__(self, target: Target, protocols: Sequence[int]) -> None:
        self.target = target
        with contextlib.ExitStack() as stack:
            self.peers = [stack.enter_context(Peer(target.address, target.tls)) for _ in protocols]
            assert self.peers[0].ask(b"FLUSHALL") == b"+OK\r\n"
            for peer, protocol in zip(self.peers, protocols, strict=True):
                if target.login:
                    assert peer.ask(b"AUTH", *target.login) == b"+OK\r\n"
                if protocol == 3:
                    peer.ask(b"HELLO", b"3")
            self._closing = stack.pop_all()

    def close(self) -> None:
        self._closing.close()

    def send(self, connection: int, burst: Sequence[Words]) -> None:
        """Send commands in one write."""
        self.peers[connection].send(b"".join(command(*words) for words in burst))

    def replies(self, connection: int, burst: Sequence[Words]) -> list[bytes]:
        """The raw replies to them."""
        return [self.peers[connection].reply() for _ in burst]

    def scanned(self, connection: int, words: Words, first: bytes) -> set[bytes]:
        """All keys of an iteration, from its first reply on."""
        found: set[bytes] = set()
        reply = first
        for _ in range(SCAN_CALLS):
            (_, cursor), (_, keys) = value_of(reply)[1]
            found.update(key for _, key in keys)
            if cursor == b"0":
                return found
            reply = self.peers[connection].ask(words[0], cursor, *words[2:])
        raise AssertionError(f"{self.target.name}: an iteration did not end within {SCAN_CALLS} calls")


NO_LOGIN = b"-ERR Command not allowed inside a transaction"


class OtherProgram(Exception):
    """The rest of a program is another one: a word was a key that the user may not use, or a login in MULTI."""


class Comparison:
    """Runs a program on both sides and compares, with what was queued in mind, so that EXEC is understood."""

    def __init__(self, theirs: Target, ours: Target, program: Program) -> None:
        self.program = program
        self.queued: list[list[Words] | None] = [None] * CONNECTIONS
        self.told: list[str] = [f"protocols {program.protocols}, bursts {program.bursts}"]
        with contextlib.ExitStack() as stack:
            self.theirs = Side(theirs, program.protocols)
            stack.callback(self.theirs.close)
            self.ours = Side(ours, program.protocols)
            stack.callback(self.ours.close)
            self._closing = stack.pop_all()

    def run(self) -> None:
        """Raises AssertionError with the whole conversation when replies differ. Ends at a known difference."""
        with self._closing, contextlib.suppress(OtherProgram):
            for connection, burst in self.program.writes():
                for side in (self.theirs, self.ours):
                    side.send(connection, burst)
                theirs, ours = (side.replies(connection, burst) for side in (self.theirs, self.ours))
                for words, their, our in zip(burst, theirs, ours, strict=True):
                    if our.startswith(b"-NOPERM") and any(word[:1] not in secured.FIRST for word in words[1:]):
                        raise OtherProgram
                    if our.startswith(NO_LOGIN) and words[0].upper() in (b"AUTH", b"HELLO"):
                        raise OtherProgram
                    self._compare(connection, words, their, our)

    def _compare(self, connection: int, words: Words, theirs: bytes, ours: bytes) -> None:
        self.told.append(f"  {connection}> {b' '.join(words)!r}\n     redis: {theirs!r}\n     ours:  {ours!r}")
        word = words[0].upper()
        queued = self.queued[connection]
        if theirs == b"+QUEUED\r\n":
            assert queued is not None
            queued.append(words)
        elif queued is not None and word == b"EXEC" and theirs[:1] == b"*" and ours[:1] == b"*":
            self._demand(self._transactions_equal(queued, theirs, ours))
            self.queued[connection] = None
            return
        elif word == b"MULTI" and theirs == b"+OK\r\n":
            self.queued[connection] = []
        elif word in (b"EXEC", b"DISCARD", b"RESET") and (
            queued is None or theirs[:1] != b"-" or b"EXECABORT" in theirs
        ):
            self.queued[connection] = None
        self._demand(equal(words, theirs, ours))
        if theirs[:1] == b"*" and word == b"SCAN" and words[1] == b"0":
            found = [
                side.scanned(connection, words, reply) for side, reply in ((self.theirs, theirs), (self.ours, ours))
            ]
            self.told.append(f"     whole iterations: {found[0]!r} and {found[1]!r}")
            self._demand(found[0] == found[1])
        elif theirs[:1] == b"$" and word == b"RANDOMKEY" and value_of(ours)[1] is not None:
            self._demand(self.ours.peers[connection].ask(b"EXISTS", value_of(ours)[1]) == b":1\r\n")

    def _transactions_equal(self, queued: list[Words], theirs: bytes, ours: bytes) -> bool:
        left, right = value_of(theirs)[1], value_of(ours)[1]
        if left is None or right is None or not len(left) == len(right) == len(queued):
            return bool(left == right)
        return all(equal_values(words, their, our) for words, their, our in zip(queued, left, right, strict=True))

    def _demand(self, same: bool) -> None:
        assert same, "the replies differ:\n" + "\n".join(self.told)


def compare(theirs: Target, ours: Target, program: Program) -> None:
    Comparison(theirs, ours, program).run()


_TRY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


# -- ours ------------------------------------------------------------------------------------------------------------


@_TRY
@given(program=programs())
def test_random_programs_give_equal_replies(real_redis: Target, redis_target: Target, program: Program) -> None:
    compare(real_redis, redis_target, program)


@pytest.mark.parametrize("word", COMMANDS, ids=lambda word: word.decode().strip())
def test_each_command_gives_equal_replies(real_redis: Target, redis_target: Target, word: bytes) -> None:
    """`test_random_programs_give_equal_replies` with one command in all its forms."""

    @settings(parent=_TRY, max_examples=max(5, EXAMPLES // 15))
    @given(programs(tuple({word, b"SET", b"GET"})))
    def holds(program: Program) -> None:
        compare(real_redis, redis_target, program)

    holds()


@pytest.fixture(scope="module")
def limited_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """cairnkv, with clients that log in as a user with prefixes."""
    all_commands = secured.RIGHTS[secured.USER].removesuffix(" -@admin")
    rights = {"default": "~* &* +@all", secured.USER: all_commands}
    file = secured.users_file(tmp_path_factory.mktemp("users"), **rights)
    with targets.cairn("--users", str(file)) as target:
        login = secured.USER.encode(), secured.SECRETS[secured.USER].encode()
        yield dataclasses.replace(target, login=login)


@pytest.fixture(scope="module")
def tls_target() -> Iterator[Target]:
    """cairnkv, with clients that use TLS."""
    options = secured.tls_options().items()
    with targets.cairn(*(word for name, text in options for word in (f"--{name.replace('_', '-')}", text))) as target:
        yield dataclasses.replace(target, tls=ssl.create_default_context(cafile=str(secured.authority())))


ON_DATABASES = (b"KEYS", b"SCAN", b"RANDOMKEY", b"DBSIZE", b"FLUSHDB", b"FLUSHALL")
"""Commands that need all keys here."""


@_TRY
@given(program=programs(tuple(word for word in COMMANDS if word not in ON_DATABASES)))
def test_user_with_prefixes_gets_equal_replies(real_redis: Target, limited_target: Target, program: Program) -> None:
    compare(real_redis, limited_target, program)


@_TRY
@given(program=programs())
def test_replies_through_tls_are_equal(real_redis: Target, tls_target: Target, program: Program) -> None:
    compare(real_redis, tls_target, program)


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def protocol(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@_TRY
@given(steps=st.lists(st.tuples(st.integers(0, 1), commands(tuple(CHANNELS), CHANNELS)), min_size=1, max_size=STEPS))
def test_channel_programs_give_equal_replies(
    real_redis: Target, redis_target: Target, protocol: int, steps: list[tuple[int, Words]]
) -> None:
    """Programs about channels, where one command may have many replies, and others' connections get some.

    After every step both connections ask something of their own; what came before its reply belongs to the step.
    """
    compare_channels(real_redis, redis_target, protocol, steps)


def compare_channels(theirs: Target, ours: Target, protocol: int, steps: Sequence[tuple[int, Words]]) -> None:
    """As `compare`, for programs about channels. Raises AssertionError with the conversation when replies differ."""
    told = [f"protocol {protocol}"]
    with contextlib.ExitStack() as stack:
        sides = []
        for target in (theirs, ours):
            sides.append(Side(target, (protocol,) * CONNECTIONS))
            stack.callback(sides[-1].close)
        for step, (connection, words) in enumerate(steps):
            heard = []
            for side in sides:
                side.peers[connection].send(command(*words))
                marker = b"step %d" % step
                own = everything(side.peers[connection], marker)  # asked first, so that the step is done
                heard.append(
                    [own if at == connection else everything(side.peers[at], marker) for at in range(CONNECTIONS)]
                )
            told.append(f"  {connection}> {b' '.join(words)!r}\n     redis: {heard[0]!r}\n     ours:  {heard[1]!r}")
            same = all(
                equal(words, their, our)
                for replies in zip(*heard, strict=True)
                for their, our in zip_longest(*(in_some_order(words, each) for each in replies), fillvalue=NOTHING)
            )
            assert same, "the replies differ:\n" + "\n".join(told)


def everything(peer: Peer, marker: bytes) -> list[bytes]:
    """All replies that are there, up to that to a PING with a marker, which every state of a connection allows."""
    peer.send(command(b"PING", marker))
    found: list[bytes] = []
    for _ in range(REPLIES):
        reply = peer.reply()
        if marker in reply:
            return found
        found.append(reply)
    raise AssertionError(f"more than {REPLIES} replies to one step")


@pytest.mark.parametrize(
    "shown", [it.shown for it in KNOWN_DIFFERENCES if it.shown], ids=lambda shown: shown.commands[-1][:20]
)
def test_known_difference_is_as_documented(real_redis: Target, redis_target: Target, shown: Shown) -> None:
    """Both sides give the documented replies."""
    ours = shown.ours if redis_target.name == "cairn" else shown.theirs
    for target, says in ((real_redis, shown.theirs), (redis_target, ours)):
        with Peer(target.address) as peer:
            assert peer.ask(b"FLUSHALL") == b"+OK\r\n"
            replies = [peer.ask(*text.encode().split()) for text in shown.commands]
            assert replies[-1].startswith(says), target.name


# -- the comparison itself ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def another_redis() -> Iterator[Target]:
    """A second redis-server."""
    with targets.redis() as target:
        yield target


@settings(parent=_TRY, max_examples=max(50, EXAMPLES // 10))
@given(program=programs())
def test_redis_equals_itself(real_redis: Target, another_redis: Target, program: Program) -> None:
    compare(real_redis, another_redis, program)


ALTERATIONS = {
    "an error's text": (b"-ERR value is not an integer or out of range", b"-ERR not an integer"),
    "a count": (b":1\r\n", b":2\r\n"),
    "a null": (b"$-1\r\n", b"$0\r\n\r\n"),
    "a null of RESP3": (b"_\r\n", b"$-1\r\n"),
    "a status": (b"+QUEUED\r\n", b"+OK\r\n"),
    "an aborted transaction": (b"-EXECABORT ", b"-ERR "),
    "a key's order of existence": (b":-2\r\n", b":-1\r\n"),
    "a value": (b"$1\r\n1\r\n", b"$1\r\n2\r\n"),
}
"""What a server that lies puts in place of what."""

FOUND_OUT: Final = "the replies differ|an iteration did not end"
"""An alteration about a cursor may keep a SCAN from its end."""


@pytest.mark.parametrize("alteration", ALTERATIONS.values(), ids=ALTERATIONS.keys())
def test_wrong_reply_is_detected(real_redis: Target, another_redis: Target, alteration: tuple[bytes, bytes]) -> None:
    @settings(parent=_TRY, max_examples=2_000, phases=[Phase.generate], database=None)
    @given(programs())
    def agree(program: Program) -> None:
        compare(real_redis, altered, program)

    with altering_proxy(another_redis, *alteration) as altered, pytest.raises(AssertionError, match=FOUND_OUT):
        agree()


def test_wrong_message_to_a_subscriber_is_detected(real_redis: Target, another_redis: Target) -> None:
    steps = [(0, (b"SUBSCRIBE", b"c")), (1, (b"PUBLISH", b"c", b"hello"))]
    compare_channels(real_redis, another_redis, 2, steps)
    with (
        altering_proxy(another_redis, b"hello", b"jello") as altered,
        pytest.raises(AssertionError, match="the replies differ"),
    ):
        compare_channels(real_redis, altered, 2, steps)


def test_wrong_ttl_is_detected() -> None:
    """TTLs may differ a little; -1 and -2 must be equal."""
    assert equal((b"TTL", b"k"), b":100\r\n", b":99\r\n")
    assert not equal((b"TTL", b"k"), b":100\r\n", b":90\r\n")
    assert not equal((b"TTL", b"k"), b":1\r\n", b":-1\r\n")
    assert not equal((b"TTL", b"k"), b":-1\r\n", b":-2\r\n")
    assert not equal((b"KEYS", b"*"), b"*1\r\n$1\r\na\r\n", b"*1\r\n$1\r\nb\r\n")
    assert not equal((b"RANDOMKEY",), b"$1\r\na\r\n", b"$-1\r\n")
