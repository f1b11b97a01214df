"""A TAKE whose reply has no room in a frame leases no message, on both protocols and in every mode."""

from types import SimpleNamespace
from typing import Any

import pytest

from cairnkv.commands import (
    Command,
    Failure,
    Get,
    Items,
    Look,
    Put,
    PutMany,
    Queues,
    Reply,
    Set,
    Take,
    TakeAny,
    Together,
)
from cairnkv.limits import MESSAGE_HEAD_MAX, QUEUE_NAME_MAX, TAKE_BYTES, TAKE_MAX
from cairnkv.protocol import write_command
from cairnkv.protocol.native import CommandFlag, DecoderLimits, reply_in
from cairnkv.session.context import ServerContext
from cairnkv.session.conversation import fitting
from cairnkv.store import Store, returns_of
from tests.session.native_client import NativeClient
from tests.session.resp.chat import Chat
from tests.support.clock import HandClock
from tests.support.store_modes import MODES, StoreInMode

FRAME = 100_000


class Stores(StoreInMode):
    """A store in one of the modes, and clients of its nodes, with small frames."""

    def __init__(self, mode: str) -> None:
        self.clock = HandClock()
        super().__init__(mode, self.clock)

    @property
    def store(self) -> Any:
        """One of the nodes."""
        return self.nodes[0]

    def native(self, command: Command, **options: Any) -> Reply:
        """Execute a command by the native protocol."""
        store: Store = self.store
        client = NativeClient(store=store, limits=DecoderLimits(value=10_000, frame=FRAME))
        client.send(write_command(command, **options))
        (response,) = self.heard(client)
        return reply_in(response, command.spec)

    def redis(self, *texts: str) -> list[Any]:
        """Execute commands by the Redis protocol."""
        beside: Any = SimpleNamespace(
            clock=self.clock, storage=None, store=self.store, context=ServerContext[Any](self.store)
        )
        chat = Chat(beside, limits=DecoderLimits(value=10_000, frame=FRAME))
        for text in texts:
            chat.send(*text.encode().split())
        return self.heard(chat)

    def heard(self, client: Any) -> list[Any]:
        heard: list[Any] = client.hear()
        for _ in range(5):
            self.progress()
            heard += client.hear()
        return heard

    def attempts(self, message: int) -> tuple[bytes, bytes]:
        """Return the state of a message, and the number of its attempts."""
        strings = self.strings(Look(message))
        return strings[2], strings[6]


@pytest.fixture(params=MODES)
def stores(request: pytest.FixtureRequest) -> Stores:
    return Stores(request.param)


def test_take_returns_the_messages_for_which_a_frame_has_room(stores: Stores) -> None:
    stores.say(PutMany(b"q", 0, 9, (b"x" * 5_000,) * 50))
    reply = stores.native(Take(b"q", 50))
    assert isinstance(reply, Items)
    assert (reply.values[0], len(reply.values)) == (b"2", 7)
    ((taken,),) = stores.redis("QUEUE.TAKE q 50")
    assert taken[0] == 3
    ((taken,),) = stores.redis("QUEUE.TAKEANY 50 0 0 none q")
    assert taken[:2] == [b"q", 4]
    assert stores.attempts(5) == (b"ready", b"0")


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "WAIT"])
def test_too_long_a_body_is_refused_and_not_leased(stores: Stores, waits: bool) -> None:
    stores.say(Put(b"q", b"x" * FRAME))
    stores.say(Put(b"r", b"x" * FRAME))
    text = f"message 2 exceeds the frame limit of {FRAME:,} bytes, and was given back"
    reply = stores.native(Take(b"q", 5, wait=1_000 if waits else None))
    assert isinstance(reply, Failure)
    assert (reply.code.name, reply.text) == ("BIGREPLY", text)
    assert stores.attempts(2) == (b"ready", b"0")
    (error,) = stores.redis("QUEUE.TAKE q 1 WAIT 1000" if waits else "QUEUE.TAKE q 1")
    assert error.text == f"ERR BIGREPLY {text}"
    assert stores.attempts(2) == (b"ready", b"0")
    (error,) = stores.redis(f"QUEUE.TAKEANY 9 0 {1_000 if waits else 0} none r")
    assert error.text.startswith("ERR BIGREPLY message 4 ")
    assert stores.attempts(4) == (b"ready", b"0")


def test_too_long_a_body_does_not_block_its_queue(stores: Stores) -> None:
    stores.say(Put(b"q", b"x" * FRAME))
    stores.clock.advance(1)
    stores.say(Put(b"q", b"short"))
    stores.clock.advance(1)
    assert isinstance(stores.native(Take(b"q", 1)), Failure)
    reply = stores.native(Take(b"q", 1))
    assert isinstance(reply, Items)
    assert reply.values[6] == b"short"


def test_flag_for_memory_changes_nothing(stores: Stores) -> None:
    stores.say(Put(b"q", b"x" * FRAME))
    assert isinstance(stores.native(Take(b"q", 1), flags=CommandFlag.MEMORY_IS_ENOUGH), Failure)
    assert stores.attempts(2) == (b"ready", b"0")


def test_take_together_with_others_is_refused_before_it_leases(stores: Stores) -> None:
    stores.say(PutMany(b"q", 0, 9, (b"x" * 50_000,) * 3))
    stores.say(Set(b"k", b"before"))
    reply = stores.native(Together((Set(b"k", b"v"), Take(b"q", 3))))
    assert isinstance(reply, Failure)
    assert reply.code.name == "UNDONE"
    assert "works on more than" in reply.text
    *_, error = stores.redis("MULTI", "SET k v", "QUEUE.TAKE q 3", "EXEC")
    assert "works on more than" in error.text
    assert stores.say(Get(b"k")) == b"before"
    assert stores.attempts(2) == (b"ready", b"0")
    assert not isinstance(stores.native(Together((Set(b"k", b"v"), Take(b"q", 1)))), Failure)
    *_, values = stores.redis("MULTI", "SET k v", "QUEUE.TAKE q 1", "EXEC")
    assert values[1][0][0] == 3


def test_too_long_a_body_of_a_put_is_refused(stores: Stores) -> None:
    reply = stores.native(Put(b"q", b"x" * 10_001))
    assert isinstance(reply, Failure)
    assert reply.code.name == "TOOBIG"
    (error,) = stores.redis(f"QUEUE.PUT q {'x' * 10_001}")
    assert error.text == "ERR Protocol error: invalid bulk length"
    assert stores.strings(Queues(0, 9)) == (b"0",)
    assert not isinstance(stores.native(Put(b"q", b"x" * 10_000)), Failure)


def test_count_is_kept_if_every_reply_fits() -> None:
    enough = TAKE_BYTES + TAKE_MAX * MESSAGE_HEAD_MAX
    for command in (Take(b"q", TAKE_MAX, wait=5), TakeAny(TAKE_MAX, 0, 5, (b"q",))):
        assert fitting(command, enough) is command
        assert fitting(command, enough - 1) == type(command).from_arguments(
            [b"999" if text == b"1000" else text for text in command.arguments()]
        )
    assert fitting(Take(b"q", 9), 1) == Take(b"q", 1)
    assert fitting(Get(b"k"), 1) == Get(b"k")


def test_head_of_a_message_has_a_maximum() -> None:
    long = b"q" * QUEUE_NAME_MAX
    stores = Stores("in memory")
    stores.say(Put(long, b"", group=long))
    (reply,) = stores.redis(f"QUEUE.TAKEANY 1 0 0 {long.decode()}")
    assert reply[0][-2] == long
    numbers = 5 * 20
    assert 2 * QUEUE_NAME_MAX + numbers + 9 * len("$255\r\n\r\n") <= MESSAGE_HEAD_MAX


def test_leases_of_no_messages_are_none() -> None:
    assert returns_of(Take(b"q", 1), Items(())) == []
