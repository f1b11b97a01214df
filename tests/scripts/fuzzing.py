"""Runs random scripts: each ends, raises only what its host has raised, and leaves the sandbox unchanged."""

import random
import time

from cairnkv.protocol.resp.replies import Error, Value, encode_parts
from cairnkv.scripts import Interpreter, ScriptAbort, ScriptRefused
from tests.scripts.host import DictHost
from tests.scripts.programs import program

FINGERPRINT = b"""
local seen, lines = {}, {}
local function walk(value, path)
    if type(value) ~= 'table' then
        lines[#lines + 1] = path .. '=' .. tostring(value)
        return
    end
    if seen[value] then return end
    seen[value] = true
    if path ~= '_G.KEYS' and path ~= '_G.ARGV' then lines[#lines + 1] = path .. '=' .. tostring(value) end
    for key, item in pairs(value) do walk(item, path .. '.' .. tostring(key)) end
    for key, item in next, value do walk(item, path .. '!' .. tostring(key)) end
    walk(getmetatable(value), path .. '<meta>')
end
walk(_G, '_G')
walk(getmetatable(''), 'string')
lines[#lines + 1] = tostring(redis.call('GET', 'a'))
lines[#lines + 1] = cjson.encode({1.23456789, {}})
lines[#lines + 1] = tostring(pcall(cjson.encode, {[1000] = 1}))
lines[#lines + 1] = #KEYS .. #ARGV .. KEYS[1] .. ARGV[1]
table.sort(lines)
return table.concat(lines, '\\n')
"""
"""A script that describes all that a script can see."""


class Stop(ScriptAbort):
    """The host ends a script."""


class StoppingHost(DictHost):
    """A host that ends the script at some call or tick, and then accepts no call."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._left = chance.choice((1, 2, 5, 30)) if chance.random() < 0.3 else -1
        self.stop: Stop | None = None
        self.values = {b"a": b"1"}

    def call(self, arguments: list[bytes], /) -> Value:
        self._may_stop()
        return super().call(arguments)

    def tick(self, steps: int, /) -> None:
        self._may_stop()

    def _may_stop(self) -> None:
        assert self.stop is None, "the script has not ended"
        self._left -= 1
        if self._left == 0:
            self.stop = Stop()
            raise self.stop


def new_interpreter() -> Interpreter:
    return Interpreter(memory_max=8 << 20, steps_max=10_000_000, clock=time.thread_time)


def fingerprint(interpreter: Interpreter) -> list[bytes]:
    """Return the globals of a script as text, without addresses, which are others in a new state of the interpreter."""
    described = interpreter.run(FINGERPRINT, [b"key"], [b"argument"], DictHost())
    assert isinstance(described, bytes), described
    return [line.partition(b": 0x")[0] for line in described.splitlines()]


def run_random_script(interpreter: Interpreter, seed: int) -> None:
    """Run the script of a seed. Raises `AssertionError` for a wrong end."""
    chance = random.Random(seed)
    source = program(chance).encode("latin-1")
    host = StoppingHost(chance)
    try:
        reply = interpreter.run(source, [b"key"], [b"1"] * chance.choice((0, 1, 3, 1_000)), host)
    except (ScriptRefused, Stop) as error:
        ended = error is host.stop or str(error).startswith("ERR Error compiling script")
        if not ended:
            raise
        return
    assert host.stop is None or isinstance(reply, Error), "the script has not ended by the host's exception"
    for protocol in (2, 3):
        encode_parts(reply, protocol)


def fuzz_scripts(seconds: float, first: int) -> int:
    """Run random scripts until the time is up."""
    print(f"fuzz: scripts, from seed {first}", flush=True)
    end, said_until = time.monotonic() + seconds, time.monotonic() + 10
    interpreter = new_interpreter()
    before = fingerprint(interpreter)
    seed = first
    while time.monotonic() < end:
        try:
            run_random_script(interpreter, seed)
            assert fingerprint(interpreter) == before, "the script has changed the sandbox"
        except BaseException:
            print(f"fuzz: seed {seed} fails; repeat it with --seed {seed} --protocol scripts", flush=True)
            raise
        seed += 1
        if time.monotonic() > said_until:
            said_until = time.monotonic() + 10
            print(f"fuzz: {seed - first:,} scripts", flush=True)
    print(f"fuzz: no fault in {seed - first:,} scripts")
    return 0
