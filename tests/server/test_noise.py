"""Hostile input affects only its sender: random, truncated and bit-flipped frames from several clients."""

import contextlib
import os
import random
import threading
import time

from cairnkv.commands import (
    Clear,
    ClearIfEquals,
    ClearMany,
    Command,
    Count,
    Exists,
    Expire,
    Get,
    GetMany,
    GetWith,
    Incr,
    Info,
    Persist,
    Ping,
    Scan,
    Set,
    SetMany,
    SetWith,
    Swap,
    Ttl,
)
from cairnkv.protocol.native import Response, Width, write_command
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.support.raw import OK, RawClient, all_of, eventually

SECRET = b"for one client only"
NOISY = 6
DECENT = 3
SECONDS = 2.0


def some_command(rng: random.Random) -> Command:
    """A command that does no harm to others: it touches the keys of the noisy ones at most."""
    key = b"noise-%d" % rng.randrange(20)
    value = rng.randbytes(rng.choice((0, 1, 30, 300, 70_000)))
    return rng.choice(
        (
            Get(key),
            Set(key, value),
            Clear(key),
            Ping(value),
            SetWith(key, value, ttl=rng.randrange(1, 10**6)),
            Swap(key, value, if_absent=True),
            GetWith(key, persist=True),
            ClearIfEquals(key, value),
            Exists((key, b"x")),
            GetMany((key, key, b"y")),
            SetMany(0, ((key, value), (b"noise", b""))),
            ClearMany((key,)),
            Incr(key, rng.randrange(-9, 9)),
            Ttl(key),
            Expire(key, 5),
            Persist(key),
            Scan(rng.randrange(2**32), 10, b"noise"),
            Count(),
            Info(),
        )
    )


def nonsense(rng: random.Random) -> bytes:
    """Bytes that may begin well."""
    width: Width = rng.choice((2, 4))
    frames = [write_command(some_command(rng), width=width) for _ in range(rng.randrange(1, 6))]
    data = bytearray(b"".join(frames))
    match rng.randrange(6):
        case 0:
            data = bytearray(rng.randbytes(rng.randrange(1, 400)))
        case 1:
            del data[rng.randrange(len(data)) :]
        case 2:
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 3:
            at = rng.randrange(len(data))
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        case 4:
            del data[rng.randrange(len(data))]
        case _:
            data += rng.randbytes(rng.randrange(0, 9))
    return bytes(data)


def make_noise(server: RunningServer, rng: random.Random, until: float) -> int:
    """Send nonsense over new connections, in pieces, and leave them in every way; how many there were."""
    conversations = 0
    while time.monotonic() < until:
        conversations += 1
        with RawClient(server.address) as client, contextlib.suppress(ConnectionError):
            for _ in range(rng.randrange(1, 5)):
                data = nonsense(rng)
                client.send_in_pieces(data, rng.choice((1, 3, 50, 10**6)) if len(data) < 500 else 10**6)
            match rng.randrange(4):
                case 0:
                    client.reset()
                    continue
                case 1:
                    client.half_close()
                    heard = b""  # of whichever wire the first byte was taken for
                    while data := client.socket.recv(256 * 1024):
                        heard += data
                    assert SECRET not in heard
                case 2:
                    client.socket.settimeout(0.01)
                    with contextlib.suppress(TimeoutError):
                        assert SECRET not in client.socket.recv(256 * 1024)
                case _:
                    pass
    return conversations


def be_decent(server: RunningServer, rng: random.Random, until: float) -> int:
    """Pipeline commands with unpredictable replies, check these, and return their number."""
    me = rng.randbytes(16).hex().encode()
    answered = 0
    with RawClient(server.address) as client:
        while time.monotonic() < until:
            batch: list[Command] = []
            wanted: list[Response] = []
            for _ in range(rng.randrange(1, 50)):
                text = me + SECRET + b"%d" % rng.randrange(10**9)
                batch += (Ping(text), Set(me, text), Get(me))
                wanted += (Response(True, text), OK, Response(True, text))
            client.send_commands(batch)
            assert client.replies(len(batch)) == wanted
            answered += len(batch)
    return answered


def test_hostile_bytes_affect_only_their_sender(start_on_both: Start) -> None:
    seed = int(os.environ.get("CAIRN_TEST_SEED") or random.SystemRandom().randrange(10**9))
    print(f"CAIRN_TEST_SEED={seed}")
    server = start_on_both()
    until = time.monotonic() + SECONDS
    done: list[tuple[str, int]] = []
    wrong: list[BaseException] = []

    def run(name: str, number: int) -> None:
        work = make_noise if name == "noisy" else be_decent
        try:
            done.append((name, work(server, random.Random(f"{seed} {name} {number}"), until)))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=("noisy", number)) for number in range(NOISY)]
    threads += [threading.Thread(target=run, args=("decent", number)) for number in range(DECENT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if wrong:
        raise wrong[0]
    assert len(done) == NOISY + DECENT, "somebody is still waiting"
    assert all(count > 10 for _, count in done), done
    eventually(lambda: dict(server.call(server.server.store.info))["connections"] == 0)
    assert dict(server.call(server.server.store.info))["unfinished_bytes"] == 0
    server.call(server.server.store.databases[0].check)


def test_every_single_bit_flip_of_a_frame(start_on_both: Start) -> None:
    """Each flipped frame gets replies and an end, and the server serves the next client."""
    server = start_on_both()
    for width in (2, 4):
        frame = write_command(SetWith(b"key", b"value", ttl=5), width=width)
        flipped = [
            frame[:at] + bytes((frame[at] ^ 1 << bit,)) + frame[at + 1 :]
            for at in range(len(frame))
            for bit in range(8)
        ]
        with all_of(RawClient(server.address) for _ in flipped) as clients:
            for client, data in zip(clients, flipped, strict=True):
                client.send(data)
                client.half_close()
            answers = [client.rest() for client in clients]
        assert all(len(replies) < 10 for replies in answers)  # a frame cut short leaves others behind it
        assert sum(bool(replies) for replies in answers) > len(flipped) // 2
    with RawClient(server.address) as client:
        assert client.ask(Ping(b"still there")) == Response(True, b"still there")
