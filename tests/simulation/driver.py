"""Carries out the steps of a plan on real sockets, and compares what comes back with the models.

A step is a list: its name, mostly a client's number, and more. The driver skips a step that makes no sense because a
shrunk script lacks the steps before it.

Invariants: one thread; every wait is bounded by `WAIT_SECONDS` without progress; a reply is compared byte by byte.
"""

import contextlib
import re
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from tests.simulation.model import (
    OPERATIONS,
    SEVERAL,
    Anything,
    Command,
    Conversation,
    Expected,
    Parts,
    Resp,
    Shared,
    Wrong,
    protocol_named,
    resp_end,
    resp_request,
)
from tests.simulation.server import Server

Step = list[Any]

WAIT_SECONDS: Final = 30.0
"""Seconds that the simulation waits for a server without progress."""

RECEIVE_BYTES: Final = 256 * 1024
OUT_MAX: Final = 4 * 1024 * 1024
"""Bytes that wait to be sent for one client; beyond it the driver serves sockets before it makes more commands."""

KEYS_TOGETHER: Final = 20
"""Keys whose values the driver reads with one command."""

CAS_KEY: Final = b"shared:cas"
"""The counter that compare-and-set commands increment. It exists from the beginning."""

BARRIER_KEY: Final = b"shared:barrier"
"""The key that the driver writes before it kills a server."""


class Listening:
    """The messages that one client has received from its channels."""

    def __init__(self, client: int, shared: Shared) -> None:
        self._client = client
        self._shared = shared
        self.channels: set[bytes] = set()
        self._first: dict[tuple[bytes, int], int] = {}  # the first message that has to come
        self._next: dict[tuple[bytes, int], int] = {}  # likewise the next one, by index

    def take(self, raw: bytes) -> None:
        """Check one message or confirmation."""
        words = re.findall(rb"\$\d+\r\n(.*?)\r\n", raw, re.DOTALL)
        if words[0] == b"subscribe":
            self._shared.sure_listeners.setdefault(words[1], set()).add(self._client)
            for place, numbers in self._shared.published.items():
                if place[0] == words[1]:
                    self._first.setdefault(place, len(numbers))
            return
        channel, text = words[1], words[2]
        match = re.fullmatch(rb"c(\d+)\.(\d+)\.", text)
        if words[0] != b"message" or channel not in self.channels or match is None:
            raise Wrong(f"client {self._client} received {raw[:200]!r}")
        place = channel, int(match[1])
        numbers = self._shared.published.get(place, [])
        number = int(match[2])
        index = numbers.index(number) if number in numbers else -1
        least, most = 0, self._first.get(place, 0)
        if place in self._next:
            least = most = self._next[place]
        if place[1] in self._shared.unsure_publishers:
            most = len(numbers)
        if not least <= index <= most:
            raise Wrong(
                f"client {self._client} received message {number} of client {place[1]} on {channel!r} where "
                f"{numbers[least : least + 1]} is the next one"
            )
        self._next[place] = index + 1

    def lacks(self) -> str | None:
        """The first message that this client has yet to receive."""
        for place, numbers in self._shared.published.items():
            if place[0] in self.channels and place[1] not in self._shared.unsure_publishers:
                index = self._next.get(place, self._first.get(place, 0))
                if index < len(numbers):
                    return f"message {numbers[index]} of client {place[1]} on {place[0]!r}"
        return None


class Client:
    """One client: its connection, what it has yet to send, and what it expects."""

    def __init__(self, number: int, shared: Shared) -> None:
        self.number = number
        self.shared = shared
        self.conversation: Conversation | None = None
        self.socket: socket.socket | None = None
        self.uncertain = False  # whether a reset left commands whose outcome is unknown
        self.database = 0
        self._begin()

    def _begin(self) -> None:
        self.out = bytearray()
        self.commands: deque[Command] = deque()  # not yet written, because one of them awaits a reply
        self.rest: Any = None  # of a command that consists of several requests
        self.wants: deque[bytes | Expected] = deque()
        self.at = 0  # bytes of the first one that came
        self.partial = bytearray()
        self.filtered = bytearray()
        self.listening: Listening | None = None
        self.pieces: deque[int] = deque()
        self.receive_max = RECEIVE_BYTES
        self.reads = True
        self.half_closed = False
        self.ended = False
        self.mask = 0
        self.before: Conversation | None = None  # the model when all replies had come last
        self.since: list[Command] = []
        self.exact_since = 0  # bytes of exact replies that came since

    def idle(self) -> bool:
        """Whether the client awaits nothing."""
        return not (self.wants or self.out or self.commands or self.rest)

    # -- sending ------------------------------------------------------------------------------------------------

    def say(self, commands: Iterable[Command]) -> int:
        """Write commands, and note which replies they must get. Returns how many there are."""
        conversation = self.conversation
        assert conversation is not None
        commands = list(commands)
        if self.idle():
            self.before, self.since, self.exact_since = conversation.copy(), [], 0
        self.since += commands
        if self.commands or self.rest:
            self.commands += commands
        else:
            self._write(commands)
        return len(commands)

    def _write(self, commands: list[Command]) -> None:
        conversation = self.conversation
        assert conversation is not None
        write = conversation.protocol.requests
        requests: list[bytes] = []
        exact: list[bytes] = []
        for at, command in enumerate(commands):
            name = command[0]
            if name in SEVERAL:
                self.out += b"".join(requests)
                self._want(b"".join(exact))
                requests, exact = [], []
                if not self._write_several(conversation.several(command)):
                    self.commands.extend(commands[at + 1 :])
                    return
                continue
            requests.append(write[name](command))
            if conversation.queue is None:
                reply = OPERATIONS[name](conversation, command)
            else:
                reply = conversation.expect(command)
            if type(reply) is bytes:
                exact.append(reply)
            else:
                self._want(b"".join(exact))
                exact = []
                self._want_parts(reply)
        self.out += b"".join(requests)
        self._want(b"".join(exact))

    def _write_several(self, several: Any) -> bool:
        for request, reply in several:
            if not request:
                self.rest = several
                return False
            self.out += request
            self._want_parts(reply)
        return True

    def _want(self, exact: bytes) -> None:
        if exact:
            self.wants.append(exact)

    def _want_parts(self, parts: Parts) -> None:
        if isinstance(parts, bytes):
            self._want(parts)
        else:
            self.wants.extend(parts)

    def go_on(self) -> None:
        """Write what waited for a reply, if the reply is there."""
        while self.rest is not None and not self.wants:
            rest, self.rest = self.rest, None
            if self._write_several(rest):
                waiting, self.commands = list(self.commands), deque()
                self._write(waiting)

    # -- receiving ----------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> None:
        """Compare bytes of the server with the expected replies."""
        if self.listening is not None:
            data = self._without_messages(data)
        wants = self.wants
        while data:
            if not wants:
                raise Wrong(f"client {self.number} expects nothing and received {data[:200]!r}")
            want = wants[0]
            if type(want) is bytes:
                at = self.at
                length = min(len(data), len(want) - at)
                if data[:length] != want[at : at + length]:
                    self._differs(want, at, data)
                self.at = at + length
                if self.at == len(want):
                    wants.popleft()
                    self.exact_since += self.at
                    self.at = 0
                data = data[length:]
                continue
            assert isinstance(want, Expected)
            assert self.conversation is not None
            self.partial += data
            end = self.conversation.protocol.end(self.partial, 0)
            if end < 0:
                return
            raw, data = bytes(self.partial[:end]), bytes(self.partial[end:])
            self.partial.clear()
            wants.popleft()
            try:
                want.check(raw)
            except (ValueError, IndexError):
                raise Wrong(f"client {self.number} received {raw[:200]!r}") from None
        if self.rest is not None:
            self.go_on()

    def _differs(self, want: bytes, at: int, data: bytes) -> None:
        length = min(len(data), len(want) - at)
        first = next(i for i in range(length) if data[i] != want[at + i])
        begin = max(0, first - 60)
        raise Wrong(
            f"client {self.number} received {data[begin : first + 60]!r} "
            f"where the model has {want[max(0, at + begin) : at + first + 60]!r}"
        )

    def _without_messages(self, data: bytes) -> bytes:
        """Check the messages of channels; return the other replies."""
        assert self.listening is not None
        self.filtered += data
        others = []
        at = 0
        while at < len(self.filtered) and (end := resp_end(self.filtered, at)) >= 0:
            raw = bytes(self.filtered[at:end])
            if raw.startswith((b">", b"*3\r\n$7\r\nmessage\r\n", b"*3\r\n$9\r\nsubscribe\r\n")):
                self.listening.take(raw)
            else:
                others.append(raw)
            at = end
        del self.filtered[:at]
        return b"".join(others)

    # -- the end of a connection ----------------------------------------------------------------------------------

    def forget_connection(self) -> None:
        """The connection has ended, and with it all that it had begun."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        for want in self.wants:
            if isinstance(want, Expected):
                want.unread()
        if self.wants:
            self.shared.unsure_publishers.add(self.number)
        if self.listening is not None:
            self.shared.listener_left = True
            for channel in self.listening.channels:
                self.shared.sure_listeners.get(channel, set()).discard(self.number)
        before, since, exact = self.before, self.since, self.exact_since
        self._begin()
        self.before, self.since, self.exact_since = before, since, exact

    def possible_data(self) -> Iterable[dict[bytes, bytes]]:
        """Return the possible states of the client's keys after a reset: the server executed the first n commands."""
        assert self.before is not None
        model = self.before.copy()
        replied = 0
        if self.exact_since <= 0:
            yield model.data
        for command in self.since:
            replies = (
                [reply for _, reply in model.several(command)] if command[0] in SEVERAL else [model.expect(command)]
            )
            replied += sum(_exact_bytes(reply) for reply in replies)
            if replied >= self.exact_since:
                yield model.data


def _exact_bytes(parts: Parts) -> int:
    if isinstance(parts, bytes):
        return len(parts)
    return sum(len(part) for part in parts if isinstance(part, bytes))


class Driver:
    """Carries out the steps of one episode after the other on one server.

    commands: how many were answered rightly or sent so far. step: the number of the step at hand.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.commands = 0
        self.step = 0
        self._clients: dict[int, Client] = {}
        self._shared = Shared()
        self._poll = select.epoll()
        self._by_descriptor: dict[int, Client] = {}
        self._buffer = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._control: socket.socket | None = None
        self._starts = 0

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            self._drop(client)
        self._clients = {}
        if self._control is not None:
            self._control.close()
            self._control = None
        self._poll.close()

    # -- an episode -----------------------------------------------------------------------------------------------

    def run(self, steps: Iterable[Step]) -> None:
        """Carry out steps, then compare the whole table with the models. Raises `Wrong`."""
        self._shared = Shared()
        self._clients = {}
        self.step = 0
        try:
            if self._control is None:  # the server may have been another driver's, whose run failed
                self._await_ended_connections()
                self._ask(b"FLUSHALL")
            self._ask(b"SET", CAS_KEY, b"0")
            for self.step, step in enumerate(steps, 1):
                self._STEPS[step[0]](self, *step[1:])
            self.server.resume()
            self._check()
        except OSError as error:
            self._check_runs()
            raise Wrong(f"{type(error).__name__}: {error}") from error
        finally:
            self.server.resume()
            for client in self._clients.values():
                self._drop(client)
        self._ask(b"FLUSHALL")

    def _client(self, number: int) -> Client:
        if number not in self._clients:
            self._clients[number] = Client(number, self._shared)
        return self._clients[number]

    def _connected(self, number: int) -> Client | None:
        client = self._clients.get(number)
        if client is None or client.socket is None or client.half_closed:
            return None
        return client

    # -- steps ----------------------------------------------------------------------------------------------------

    def _step_open(self, number: int, what: dict[str, Any]) -> None:
        """Connect a client: {"protocol", "database", "how", buffers}."""
        client = self._client(number)
        if client.socket is not None:
            return
        if client.uncertain:
            self._recover(client)
        protocol = protocol_named(what["protocol"])
        client._begin()
        client.database = what["database"] if isinstance(protocol, Resp) else 0
        if client.conversation is None:
            client.conversation = Conversation(number, protocol, self._shared)
        else:
            client.conversation.connect(protocol)
        connected = self.server.connect(what["how"], what)
        connected.setblocking(False)
        client.socket = connected
        self._by_descriptor[connected.fileno()] = client
        client.mask = select.EPOLLIN
        self._poll.register(connected.fileno(), client.mask)
        if isinstance(protocol, Resp):
            if protocol.name == "resp3":
                client.out += resp_request(b"HELLO", b"3")
                client.wants.append(Anything())
            client.out += resp_request(b"SELECT", b"%d" % client.database)
            client.wants.append(protocol.ok)
        else:
            client.out += protocol.requests["ping"](("ping", b"first"))
            client.wants.append(protocol.string(b"first"))
        client.before, client.since, client.exact_since = client.conversation.copy(), [], 0
        client.exact_since = -len(b"".join(want for want in client.wants if isinstance(want, bytes)))
        self._send(client)

    def _step_send(self, number: int, commands: list[Command], pieces: list[int] | None = None) -> None:
        """Send commands; the first bytes in pieces of these sizes."""
        client = self._connected(number)
        if client is None:
            return
        assert client.conversation is not None
        if client.listening is not None and client.conversation.protocol.name == "resp2":
            return  # such a client may do nothing else
        self.commands += client.say(commands)
        if pieces:
            client.pieces.extend(pieces)
        self._send(client)
        if client.reads and not self.server.stopped:
            self._wait(lambda: len(client.out) <= OUT_MAX, lambda: self._lacks(client))

    def _step_listen(self, number: int, channels: list[bytes]) -> None:
        """Subscribe to channels."""
        client = self._connected(number)
        if client is None or not isinstance(client.conversation and client.conversation.protocol, Resp):
            return
        if client.rest is not None:
            return
        if client.listening is None:
            if client.wants or client.partial:
                return  # replies that are on their way were not looked at for messages
            client.listening = Listening(number, self._shared)
        for channel in channels:
            client.listening.channels.add(channel)
            self._shared.listeners.setdefault(channel, set()).add(number)
        client.out += resp_request(b"SUBSCRIBE", *channels)
        self._send(client)

    def _step_read(self, number: int, size: int) -> None:
        """From now on read so many bytes at once at most; 0: nothing."""
        client = self._connected(number)
        if client is not None:
            client.reads = size > 0
            client.receive_max = min(size, RECEIVE_BYTES) or RECEIVE_BYTES
            self._watch(client)

    def _step_stop(self) -> None:
        """Pause the server."""
        self.server.stop()

    def _step_resume(self) -> None:
        """Let the server go on."""
        self.server.resume()

    def _step_turns(self, count: int) -> None:
        """Serve the sockets so many times."""
        for _ in range(count):
            self._turn(0.0 if self.server.stopped else 0.0005)

    def _step_settle(self, *numbers: int) -> None:
        """Have these clients, or all, receive everything that they expect."""
        self.server.resume()
        clients = [self._clients[number] for number in numbers if number in self._clients]
        self._settle(clients if numbers else list(self._clients.values()))

    def _step_half_close(self, number: int) -> None:
        """Close the sending side; the replies still come, and then the end."""
        client = self._connected(number)
        if client is None or client.rest is not None:
            return
        self._flush(client)
        assert client.socket is not None
        client.socket.shutdown(socket.SHUT_WR)
        self._step_read(number, RECEIVE_BYTES)
        client.half_closed = True

    def _step_reset(self, number: int) -> None:
        """Vanish, whatever is on its way."""
        client = self._clients.get(number)
        if client is None or client.socket is None:
            return
        if client.socket.family != socket.AF_UNIX:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The server does not report which bytes arrived, so the outcome of all these commands is unknown.
        client.uncertain = not client.idle()
        self._drop(client)

    def _step_restart(self) -> None:
        """Kill the server and start it again. Nothing is on its way."""
        if self.server.mode == "in-memory":
            return
        self._step_settle()
        self._ask(b"SET", BARRIER_KEY, b"")  # commits are in order: writes for which memory was enough are safe now
        for client in self._clients.values():
            self._drop(client)
        self.server.restart()

    _STEPS: Final[dict[str, Callable[..., None]]] = {
        "open": _step_open,
        "send": _step_send,
        "listen": _step_listen,
        "read": _step_read,
        "stop": _step_stop,
        "resume": _step_resume,
        "turns": _step_turns,
        "settle": _step_settle,
        "half-close": _step_half_close,
        "reset": _step_reset,
        "restart": _step_restart,
    }

    # -- sockets --------------------------------------------------------------------------------------------------

    def _drop(self, client: Client) -> None:
        if client.socket is not None:
            descriptor = client.socket.fileno()
            if client.mask >= 0:
                with contextlib.suppress(OSError):
                    self._poll.unregister(descriptor)
            self._by_descriptor.pop(descriptor, None)
            client.forget_connection()

    def _watch(self, client: Client) -> None:
        mask = (select.EPOLLIN if client.reads and not client.ended else 0) | (select.EPOLLOUT if client.out else 0)
        if client.socket is not None and mask != client.mask:
            client.mask = mask
            self._poll.modify(client.socket.fileno(), mask)

    def _send(self, client: Client) -> None:
        """Send what the system takes; only a piece where pieces are asked for."""
        assert client.socket is not None
        try:
            while client.out:
                if client.pieces:
                    size = client.pieces.popleft()
                    sent = client.socket.send(client.out[:size])
                    del client.out[:sent]
                    break
                size = len(client.out)
                sent = client.socket.send(client.out)
                del client.out[:sent]
                if sent < size:
                    break
        except BlockingIOError:
            pass
        self._watch(client)

    def _turn(self, seconds: float) -> bool:
        """Serve all sockets that are ready, after so many seconds at most. Returns whether there was one."""
        events = self._poll.poll(seconds)
        for descriptor, event in events:
            client = self._by_descriptor.get(descriptor)
            if client is None or client.socket is None:
                continue
            if event & select.EPOLLOUT and client.out:
                self._send(client)
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and not client.ended:
                if client.reads:
                    self._receive(client)
                elif not event & select.EPOLLIN:
                    raise Wrong(f"the server has closed the connection of client {client.number}")
        return bool(events)

    def _wait(self, condition: Callable[[], bool], what: Callable[[], str]) -> None:
        """Serve the sockets until a condition holds. `Wrong`, with what is missing, when there is no progress."""
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            if self._turn(0.05):
                end = time.monotonic() + WAIT_SECONDS
            elif self.server.ended() is not None or time.monotonic() > end:
                self._check_runs()
                raise Wrong(f"no progress in {WAIT_SECONDS:g} s: {what()}")

    def _receive(self, client: Client) -> None:
        assert client.socket is not None
        try:
            received = client.socket.recv_into(self._view[: client.receive_max])
        except BlockingIOError:
            return
        if received:
            client.take(self._view[:received].tobytes())
            if client.out:
                self._send(client)
            return
        if not client.half_closed or not client.idle():
            self._check_runs()
            raise Wrong(f"the server has closed the connection of client {client.number}")
        client.ended = True
        self._poll.unregister(client.socket.fileno())
        client.mask = -1

    def _flush(self, client: Client) -> None:
        self.server.resume()
        self._step_read(client.number, RECEIVE_BYTES)
        self._wait(lambda: not client.out, lambda: self._lacks(client))

    def _settle(self, clients: list[Client]) -> None:
        for client in clients:
            if client.socket is not None and not client.ended:
                client.pieces.clear()
                client.reads = True
                client.receive_max = RECEIVE_BYTES
                self._watch(client)
        waiting = [client for client in clients if client.socket is not None]

        def is_settled() -> bool:
            waiting[:] = [client for client in waiting if not self._is_settled(client)]
            return not waiting

        self._wait(is_settled, lambda: "; ".join(map(self._lacks, waiting)))
        for client in clients:
            if client.ended:
                self._drop(client)

    def _is_settled(self, client: Client) -> bool:
        if not client.idle():
            return False
        if client.half_closed:
            return client.ended
        listening = client.listening
        if listening is None:
            return True
        if any(client.number not in self._shared.sure_listeners.get(name, ()) for name in listening.channels):
            return False
        return self.server.mode == "replicated" or listening.lacks() is None

    def _lacks(self, client: Client) -> str:
        if client.wants:
            want = client.wants[0]
            what = repr(want[client.at : client.at + 100]) if isinstance(want, bytes) else type(want).__name__
            return f"client {client.number} lacks {len(client.wants)} replies; the first is {what}"
        if client.listening is not None and (message := client.listening.lacks()):
            return f"client {client.number} lacks {message}"
        return f"client {client.number} does not come to its end, with {len(client.out)} bytes to send"

    def _check_runs(self) -> None:
        code = self.server.ended()
        if code is not None:
            raise Wrong(f"the server has ended with {code}: {self.server.stderr[-3000:]}")

    # -- the control connection -----------------------------------------------------------------------------------

    def _ask(self, *words: bytes) -> bytes:
        """A reply on a connection of the driver's own, RESP2."""
        if self._control is None or self._starts != self.server.starts:
            if self._control is not None:
                self._control.close()
            self._control = self.server.connect("unix", {})
            self._control.settimeout(WAIT_SECONDS)
            self._starts = self.server.starts
        self._control.sendall(resp_request(*words))
        came = bytearray()
        while (end := resp_end(came)) < 0:
            data = self._control.recv(RECEIVE_BYTES)
            if not data:
                self._check_runs()
                raise Wrong("the server has closed the control connection")
            came += data
        if end != len(came):
            raise Wrong(f"the control connection received {bytes(came[end:])[:200]!r} besides")
        return bytes(came)

    def _strings(self, *words: bytes) -> list[bytes | None]:
        """The strings of an array."""
        raw = self._ask(*words)
        if not raw.startswith(b"*"):
            raise Wrong(f"{words[0]!r} was answered {raw[:200]!r}")
        found: list[bytes | None] = []
        at = raw.index(b"\r\n") + 2
        while at < len(raw):
            line_end = raw.index(b"\r\n", at)
            length = int(raw[at + 1 : line_end])
            if length < 0:
                found.append(None)
                at = line_end + 2
            else:
                found.append(raw[line_end + 2 : line_end + 2 + length])
                at = line_end + 4 + length
        return found

    def _values(self, keys: list[bytes]) -> dict[bytes, bytes]:
        """The values of these keys, as far as they are there."""
        found: dict[bytes, bytes] = {}
        for begin in range(0, len(keys), KEYS_TOGETHER):
            some = keys[begin : begin + KEYS_TOGETHER]
            values = self._strings(b"MGET", *some)
            found |= {key: value for key, value in zip(some, values, strict=True) if value is not None}
        return found

    def _await_ended_connections(self) -> None:
        """Wait until the server has noticed the end of each connection that has ended."""
        self.server.resume()
        wanted = 1 + sum(client.socket is not None for client in self._clients.values())
        end = time.monotonic() + WAIT_SECONDS
        while True:
            raw = self._ask(b"INFO", b"clients")
            match = re.search(rb"connected_clients:(\d+)", raw)
            if match is not None and int(match[1]) <= wanted:
                return
            if time.monotonic() > end:
                raise Wrong(f"the server has {match and match[1]!r} connections; the simulation has {wanted}")
            self._turn(0.01)

    def _recover(self, client: Client) -> None:
        """Find out what the last connection of a client came to. It must be one of the states that are possible."""
        self._await_ended_connections()
        client.uncertain = False
        conversation = client.conversation
        assert conversation is not None
        keys = sorted({*conversation.data, *(client.before.data if client.before else ()), *_keys_of(client.since)})
        self._ask(b"SELECT", b"%d" % client.database)
        if conversation.leases:
            self._ask(b"DEL", *conversation.leases)
            conversation.leases.clear()
        if not keys:
            self._ask(b"SELECT", b"0")
            return
        data = self._values(keys)
        if all(data != possible for possible in client.possible_data()):
            raise Wrong(
                f"after a reset client {client.number} has {_difference(data, conversation.data)}; "
                "no number of its commands, from the first one on, makes this state"
            )
        conversation.data = data
        conversation.expires = {}
        for key in data:
            raw = self._ask(b"PEXPIRETIME", key)
            if raw != b":-1\r\n":
                conversation.expires[key] = int(raw[1:-2])
        self._ask(b"SELECT", b"0")

    def _check(self) -> None:
        """Compare the whole table with the models."""
        self._settle(list(self._clients.values()))
        for client in self._clients.values():
            if client.uncertain:
                self._recover(client)
        expected: dict[int, dict[bytes, bytes]] = {}
        leases: dict[int, list[bytes]] = {}
        for client in self._clients.values():
            if client.conversation is not None:
                expected.setdefault(client.database, {}).update(client.conversation.data)
                leases.setdefault(client.database, []).extend(client.conversation.leases)
        totals: dict[bytes, bytes] = {}
        for database in sorted({0, *expected, *leases}):
            self._ask(b"SELECT", b"%d" % database)
            if leases.get(database):
                self._ask(b"DEL", *leases[database])
            keys = sorted(key for key in self._strings(b"KEYS", b"*") if key is not None)
            table = self._values(keys)
            count = self._ask(b"DBSIZE")
            if count != b":%d\r\n" % len(keys):
                raise Wrong(f"DBSIZE is {count!r} where KEYS returns {len(keys)} keys")
            totals |= {key: table.pop(key) for key in keys if key.startswith(b"shared:") and key in table}
            if table != expected.get(database, {}):
                raise Wrong(f"at the end database {database} has {_difference(table, expected.get(database, {}))}")
        self._ask(b"SELECT", b"0")
        for counter in self._shared.counters.values():
            counter.check_total(totals.get(counter.key))


def _keys_of(commands: list[Command]) -> set[bytes]:
    """All arguments that look like a key of a client."""
    return {
        word
        for command in commands
        for word in command[1:]
        if isinstance(word, bytes) and len(word) < 2_000 and re.match(rb"c\d+:[knx]", word)
    }


def _difference(table: dict[bytes, bytes], model: dict[bytes, bytes]) -> str:
    """The first keys in which a table differs from the model."""
    keys = sorted(key for key in table.keys() | model.keys() if table.get(key) != model.get(key))
    shown = []
    for key in keys[:3]:
        there, wanted = table.get(key), model.get(key)
        shown.append(f"{key[:60]!r} = {there and there[:60]!r} where the model has {wanted and wanted[:60]!r}")
    return f"{len(keys)} keys that differ: " + "; ".join(shown)
