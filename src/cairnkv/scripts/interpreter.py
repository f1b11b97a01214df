"""The interpreter of scripts: one Lua 5.1 state, in which scripts run one after another.

Invariants: no object of Python reaches a script; a script that has to end ends, whatever it catches; a script changes
nothing that the next one sees; between two scripts the state has room for the arguments of the next one, because lupa
puts them where Lua cannot report an error.

Out of scope: the commands that scripts call (`Host`).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from cairnkv.errors import OptionError, missing_package
from cairnkv.limits import (
    INTEGER_MAX,
    INTEGER_MIN,
    MIB,
    SCRIPT_BRANCHES_MAX,
    SCRIPT_COMPILED_MAX,
    SCRIPT_ERROR_MAX,
    SCRIPT_MEMORY_LEAST,
    SCRIPT_MEMORY_MAX,
    SCRIPT_NESTING_MAX,
    SCRIPT_PATTERN_MAX,
    SCRIPT_REPLY_BYTES_MAX,
    SCRIPT_SOURCE_MAX,
    SCRIPT_STEPS_MAX,
    SCRIPT_STEPS_PER_SECOND,
)
from cairnkv.protocol.resp.replies import OK, Error, Resp, Simple, Value
from cairnkv.scripts.conversion import Parts, flat, parts_of, value_of
from cairnkv.scripts.source import ScriptRefused, body_of
from cairnkv.scripts.tail_calls import untailed

INTERVAL: Final = 1_000
"""Instructions of Lua between two calls of `Host.tick`; fewer if a script uses much memory, because one instruction can
copy all of it."""

RESERVE: Final = 4 * MIB
"""Bytes above the memory limit of scripts that Lua can still allocate: for what Python puts into the state while a
script runs, where Lua cannot report an error."""

PARTS_MAX: Final = 200
"""Maximum values that Python puts on the stack of Lua at once."""

REST_MAX: Final = 16 * MIB
"""Bytes of memory above which the interpreter frees memory after a script."""


COMPILED_FACTOR: Final = 8
"""Bytes of memory of a compiled script for each byte of its source, at most about."""

SANDBOX: Final = Path(__file__).with_name("sandbox.lua")
PATTERNS: Final = Path(__file__).with_name("patterns.lua")


class Host(Protocol):
    """Executes the commands of a script. Any exception of a method ends the script.

    protocol: the version of the Redis protocol in which the script sees replies; the script may set it.
    """

    protocol: Resp

    def call(self, arguments: list[bytes], /) -> Value:
        """Execute a command. An `Error` is an error of the command."""

    def log(self, level: int, text: bytes, /) -> None:
        """Write a line to the server's logger. level: 0 (debug) to 3 (warning)."""

    def permits(self, arguments: list[bytes], /) -> bool | None:
        """Return whether the user may execute a command; None: there is no such command."""

    def tick(self, steps: int, /) -> None:
        """Called after some thousand instructions. steps: the cost of the script until now, in instructions."""


class Interpreter:
    """A sandbox for scripts.

    memory_max: bytes of memory of a script. steps_max: its instructions. version: the version of Redis that scripts
    see. seed: determines the numbers of math.random. clock: returns seconds of processor time; a second of a script
    costs at least `SCRIPT_STEPS_PER_SECOND`, because an instruction of Lua can copy a long string.
    """

    def __init__(
        self,
        *,
        memory_max: int = SCRIPT_MEMORY_MAX,
        steps_max: int = SCRIPT_STEPS_MAX,
        version: str = "7.2.0",
        seed: int = 0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        try:
            from lupa import lua51
        except ImportError as error:
            raise missing_package(error, "a script") from None
        if memory_max < SCRIPT_MEMORY_LEAST:
            raise OptionError(f"memory_max of scripts is {memory_max} bytes; the minimum is {SCRIPT_MEMORY_LEAST}")
        self._lua51: Final = lua51
        self._memory_max: Final = memory_max
        self._steps_max: Final = steps_max
        self._rest_max: Final = min(REST_MAX, memory_max // 4)
        self._version: Final = version
        self._seed = seed
        self._clock: Final = clock
        self._seconds = 0.0
        """Seconds of the running script since its first tick, without those of the host's ticks."""
        self._resumed: float | None = None
        self._host: Host | None = None
        self._protocol: Resp = 2
        self._reason: BaseException | Error | None = None
        """Why the running script must end."""
        self._rest: Iterator[tuple[Any, ...]] = iter(())
        """The rest of a long reply of a command."""
        self._functions: dict[bytes, tuple[Any, str]] = {}
        """The functions of scripts by their source, and their SHA-1, in order of compilation."""
        self._open()

    def compile(self, source: bytes) -> None:
        """Check a script. Raises `ScriptRefused`."""
        if source not in self._functions:
            self._compile(source)

    def run(self, source: bytes, keys: Sequence[bytes], arguments: Sequence[bytes], host: Host) -> Value:
        """Run a script: the reply for the client, which may be an `Error`.

        Raises `ScriptRefused`, and the exceptions of the host's methods.
        """
        if self._host is not None:
            raise RuntimeError("a script is running")
        function, _ = self._functions.get(source) or self._compile(source)
        self._host = host
        self._protocol = host.protocol = 2
        self._resumed = None
        everything = (*keys, *arguments)
        try:
            size = sum(map(len, everything))
            if size < MIB and len(everything) <= PARTS_MAX:
                result = self._invoke(function, len(keys), *everything)
            else:
                if self._runtime.get_memory_used() + size + 64 * len(everything) > self._memory_max:
                    return self._memory_error()
                table_from = self._runtime.table_from
                result = self._invoke_tables(function, table_from(keys), table_from(arguments))
            if type(result) is bytes or result is None:
                return result
            if type(result) is int and INTEGER_MIN <= result <= INTEGER_MAX:
                return result
            return self._value(result, source)
        except self._lua51.LuaError as error:
            reason: BaseException | Error | None = self._reason
            self._runtime.gccollect()  # Python frees the state later
            self._open()  # the state may be in disorder
            if isinstance(reason, BaseException):
                raise reason from None
            if reason is None and not isinstance(error, MemoryError):
                return Error(f"ERR {error}")
            return reason or self._memory_error()
        finally:
            self._host = self._reason = None
            if self._runtime.get_memory_used() > self._rest_max:
                self._tidy()

    def _value(self, result: Any, source: bytes) -> Value:
        """Return the value for the results of `answer` of the sandbox."""
        if not isinstance(result, tuple):
            return flat(result)
        value, kind, *rest = result
        if kind == 1:
            return OK if value == b"OK" else Simple(value.decode("utf-8", "surrogateescape"))
        if kind == 2:
            return self._error(value, rest[0], source)
        if kind == 4:
            parts: list[Any] = []
            while len(parts) < value:
                taken = self._take()
                parts += taken
            return value_of(parts)
        if kind == 13:
            raise value
        assert self._reason is not None
        if isinstance(self._reason, BaseException):
            raise self._reason
        return self._reason

    def _error(self, text: bytes, where: bytes, source: bytes) -> Error:
        if b"not enough memory" in text and not where:
            return self._memory_error()
        if where:
            text += b" script: %b%b" % (self._functions[source][1].encode(), where)
        return Error(text.decode("utf-8", "surrogateescape"))

    def _memory_error(self) -> Error:
        return Error(f"ERR the script needs more memory than the limit, {self._memory_max} bytes")

    def _compile(self, source: bytes) -> tuple[Any, str]:
        if len(source) > SCRIPT_SOURCE_MAX:
            raise ScriptRefused(f"ERR a script has at most {SCRIPT_SOURCE_MAX} bytes here")
        if self._runtime.get_memory_used() > self._rest_max:  # because of the functions of other scripts
            self._tidy()
        body = body_of(source)
        if self._runtime.get_memory_used() + 2 * len(body) > self._memory_max:
            raise ScriptRefused("ERR the script is too long")
        try:
            code = self._load(body, False)
            if isinstance(code, tuple):
                text = code[1].decode("utf-8", "replace")
                raise ScriptRefused(f"ERR Error compiling script (new function): {text}")
            code = untailed(code)
            if self._runtime.get_memory_used() + len(code) > self._memory_max:
                raise ScriptRefused("ERR the script is too long")
            function = self._load(code, True)
        except self._lua51.LuaError as error:
            self._runtime.gccollect()
            self._open()
            raise ScriptRefused(f"ERR Error compiling script (new function): {error}") from None
        self._compiled_bytes += len(source)
        while self._functions and (
            len(self._functions) >= SCRIPT_COMPILED_MAX or self._compiled_bytes > self._rest_max / COMPILED_FACTOR
        ):
            oldest = next(iter(self._functions))
            del self._functions[oldest]
            self._compiled_bytes -= len(oldest)
        compiled = (function, hashlib.sha1(source, usedforsecurity=False).hexdigest())
        self._functions[source] = compiled
        return compiled

    def _tidy(self) -> None:
        """Free memory; without success, begin with a new state."""
        self._runtime.gccollect()
        if self._runtime.get_memory_used() > self._rest_max:
            self._open()

    def _open(self) -> None:
        """Make the Lua state."""
        from cairnkv.scripts import libraries  # only servers with scripts need it

        self._host = self._reason = None
        self._functions.clear()
        self._compiled_bytes = 0
        runtime = self._lua51.LuaRuntime(
            encoding=None,
            source_encoding="latin-1",
            unpack_returned_tuples=True,
            register_eval=False,
            register_builtins=False,
            attribute_filter=_refuse_attribute,
            max_memory=0,
        )
        self._runtime = runtime
        call, call_long, next_part, log, set_protocol, sha1, permits, tick, find = self._callbacks(runtime)
        settings = {
            b"memory_max": self._memory_max,
            b"nesting_max": SCRIPT_NESTING_MAX,
            b"reply_bytes_max": SCRIPT_REPLY_BYTES_MAX,
            b"source_max": SCRIPT_SOURCE_MAX,
            b"branches_max": SCRIPT_BRANCHES_MAX,
            b"pattern_max": SCRIPT_PATTERN_MAX,
            b"error_max": SCRIPT_ERROR_MAX,
            b"interval": INTERVAL,
            b"seed": self._seed,
            b"version": self._version.encode(),
            b"version_number": _version_number(self._version),
        }
        self._seed = (self._seed + 0x5BD1E995) % 2**32
        load = runtime.eval("loadstring")
        sandbox = load(SANDBOX.read_bytes(), b"=[C] sandbox")
        patterns = load(PATTERNS.read_bytes(), b"=[C] patterns")
        table = runtime.table_from(settings)
        self._invoke, self._invoke_tables, self._load, self._take, add_library, close = sandbox(
            call, call_long, next_part, log, set_protocol, sha1, permits, tick, find, patterns, table
        )
        for name in (libraries.SHARED, *libraries.NAMES):
            add_library(name.encode(), libraries.source(name))
        close()
        runtime.set_max_memory(self._memory_max + RESERVE)

    def _callbacks(self, runtime: Any) -> tuple[Callable[..., Any], ...]:
        """Return the functions that the sandbox calls. None of them raises an exception."""
        clock = self._clock
        memory_used = runtime.get_memory_used
        memory_max, room = self._memory_max, self._memory_max + RESERVE - MIB

        def call(*arguments: bytes) -> Any:
            try:
                if memory_used() > memory_max:
                    return None, 6
                value = self._host.call(list(arguments))  # type: ignore[union-attr]
                kind = type(value)
                if kind is bytes:
                    if len(value) > 4096 and memory_used() + len(value) > room:  # type: ignore[arg-type]
                        self._reason = self._memory_error()
                        return None, 5
                    return value
                if kind is int:
                    return value
                if value is None:
                    return False if self._protocol == 2 else None
                if value is OK:
                    return b"OK", 1
                return convert(value)
            except BaseException as error:
                self._reason = error
                return None, 5

        def convert(value: Value) -> Any:
            parts: Parts = []
            size = parts_of(value, self._protocol, parts)
            if memory_used() + size > room:
                self._reason = self._memory_error()
                return None, 5
            if len(parts) == 2 and parts[0] in (1, 2):
                return parts[1], parts[0]
            if len(parts) == 2 and parts[0] == 0:
                return parts[1]
            if parts[0] == 3 and len(parts) <= PARTS_MAX and not any(parts[2::2]):
                return None, 3, *parts[3::2]
            self._rest = (tuple(parts[at : at + PARTS_MAX]) for at in range(PARTS_MAX, len(parts), PARTS_MAX))
            return None, 4, *parts[:PARTS_MAX]

        def call_long(joined: bytes, lengths: bytes) -> Any:
            try:
                arguments = _split(joined, lengths)
            except BaseException as error:
                self._reason = error
                return None, 5
            return call(*arguments)

        def next_part() -> tuple[Any, ...]:
            return next(self._rest, ())

        def log(level: int, text: bytes) -> Any:
            try:
                self._host.log(level, text)  # type: ignore[union-attr]
            except BaseException as error:
                self._reason = error
                return True
            return False

        def set_protocol(version: int) -> None:
            self._protocol = self._host.protocol = 3 if version == 3 else 2  # type: ignore[union-attr]

        def sha1(text: bytes) -> bytes | None:
            if memory_used() > memory_max:
                return None
            return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()

        def permits(joined: bytes, lengths: bytes) -> bool | None:
            try:
                return self._host.permits(_split(joined, lengths))  # type: ignore[union-attr]
            except BaseException as error:
                self._reason = error
                return None

        def find(text: bytes, part: bytes, start: int) -> int | None:
            return text.find(part, start - 1) + 1 or None

        def tick(steps: int) -> bool:
            if self._host is None or self._reason is not None:
                return self._reason is not None
            try:
                if steps < 0:
                    self._reason = self._memory_error()
                    return True
                if clock is not None:
                    if self._resumed is None:
                        self._seconds = 0.0
                    else:
                        self._seconds += clock() - self._resumed
                    steps = max(steps, int(self._seconds * SCRIPT_STEPS_PER_SECOND))
                if steps > self._steps_max:
                    self._reason = Error(f"ERR the script needs more steps than the limit, {self._steps_max}")
                    return True
                self._host.tick(steps)
                if clock is not None:
                    self._resumed = clock()
            except BaseException as error:
                self._reason = error
                return True
            return False

        return call, call_long, next_part, log, set_protocol, sha1, permits, tick, find


def _split(joined: bytes, lengths: bytes) -> list[bytes]:
    arguments, at = [], 0
    for length in map(int, lengths.split()):
        arguments.append(joined[at : at + length])
        at += length
    return arguments


def _version_number(version: str) -> int:
    major, minor, patch = (int(part) for part in version.split("."))
    return major << 16 | minor << 8 | patch


def _refuse_attribute(_object: object, name: object, _is_set: bool) -> str:
    raise AttributeError(f"no attribute {name!r}")
