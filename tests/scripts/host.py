"""A host of scripts for tests: some commands on a dict."""

from collections.abc import Callable

from cairnkv.protocol.resp.replies import OK, Error, Resp, SetOf, Value, Verbatim

VALUES: list[Value] = [
    1,
    b"text",
    None,
    [OK, Error("E x"), []],
    1.5,
    {b"a": 1},
    SetOf((b"x",)),
    Verbatim(b"hi"),
    2**70,
    True,
]


class DictHost:
    """Executes GET, SET and others, and counts the calls of `tick`."""

    protocol: Resp = 2

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.ticks = 0
        self.lines: list[tuple[int, bytes]] = []
        self.on_tick: Callable[[int], None] = lambda _: None

    def call(self, arguments: list[bytes], /) -> Value:
        match arguments:
            case [b"GET", key]:
                return self.values.get(key)
            case [b"SET", key, value]:
                self.values[key] = value
                return OK
            case [b"DEL", key]:
                return int(self.values.pop(key, None) is not None)
            case [b"ECHO", *rest]:
                return list(rest)
            case [b"COUNT", *rest]:
                return len(rest)
            case [b"VALUES"]:
                return VALUES
            case [b"LONG", length]:
                return b"x" * int(length)
            case [b"MANY", count]:
                return [b"%d" % number for number in range(int(count))]
            case [b"BUG"]:
                raise ZeroDivisionError("a bug")
        return Error("ERR Unknown Redis command called from script")

    def log(self, level: int, text: bytes, /) -> None:
        self.lines.append((level, text))

    def permits(self, arguments: list[bytes], /) -> bool | None:
        return {b"GET": True, b"SET": False}.get(arguments[0])

    def tick(self, steps: int, /) -> None:
        self.ticks += 1
        self.on_tick(steps)
