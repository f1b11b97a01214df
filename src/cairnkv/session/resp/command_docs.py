"""The replies of COMMAND, from the declarations.

Clients read there which strings of a request are keys, and whether a command writes. redis-cli reads the arguments for
its hints.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Final

from cairnkv.commands import Access
from cairnkv.protocol.resp import SetOf, Simple
from cairnkv.session.access.categories import categories
from cairnkv.session.resp.command_spec import FLAGS, KEY_NAMES, RespCommandSpec, Value


def described(spec: RespCommandSpec) -> list[Value]:
    """Return a command as COMMAND INFO shows it."""
    first, last, step = spec.keys
    return [
        spec.name.encode(),
        spec.arity,
        _set(flag.replace("-", "_") for flag in FLAGS if flag in spec.flags),
        first,
        last,
        step,
        _set(f"@{category}" for category in categories(spec)),
        [],  # tips for clients of clusters
        SetOf((_keys(spec),)) if first or spec.numkeys else SetOf(()),
        [described(subcommand) for subcommand in spec.subcommands.values()],
    ]


def _set(texts: Iterator[str]) -> SetOf:
    return SetOf(tuple(map(Simple, texts)))


def _keys(spec: RespCommandSpec) -> Mapping[bytes, Value]:
    first, last, step = spec.keys
    access = ("RW", "update") if "write" in spec.flags else ("RO", "access")
    if spec.numkeys:
        return {
            b"flags": _set(iter(("RW", "access", "update") if Access.WRITE in spec.access else access)),
            b"begin_search": {b"type": b"index", b"spec": {b"index": spec.numkeys}},
            b"find_keys": {b"type": b"keynum", b"spec": {b"keynumidx": 0, b"firstkey": 1, b"keystep": 1}},
        }
    last_from_first = last - first if last >= 0 else last
    return {
        b"flags": _set(iter(access)),
        b"begin_search": {b"type": b"index", b"spec": {b"index": first}},
        b"find_keys": {b"type": b"range", b"spec": {b"lastkey": last_from_first, b"keystep": step, b"limit": 0}},
    }


def documented(spec: RespCommandSpec) -> Mapping[bytes, Value]:
    """Return a command as COMMAND DOCS shows it."""
    shown: dict[bytes, Value] = {
        b"summary": spec.summary.encode(),
        b"since": spec.since.encode(),
        b"group": spec.group.encode(),
    }
    if spec.syntax:
        shown[b"arguments"] = [argument.shown() for argument in arguments_of(spec.syntax)]
    if spec.subcommands:
        shown[b"subcommands"] = {
            subcommand.name.encode(): documented(subcommand) for subcommand in spec.subcommands.values()
        }
    return shown


# -- arguments ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class Argument:
    """One argument of a syntax, or a group of arguments.

    kind: `string`, `key`, `pure-token`; of a group: `oneof` or `block`. token: the keyword before it.
    """

    name: str
    kind: str
    token: str = ""
    optional: bool = False
    multiple: bool = False
    parts: "list[Argument]" = dataclasses.field(default_factory=list)

    def shown(self) -> Mapping[bytes, Value]:
        """Return the argument as COMMAND DOCS shows it."""
        shown: dict[bytes, Value] = {b"name": self.name.encode(), b"type": self.kind.encode()}
        if not self.parts:
            shown[b"display_text"] = self.name.encode()
        if self.kind == "key":
            shown[b"key_spec_index"] = 0
        if self.token:
            shown[b"token"] = self.token.encode()
        flags = [Simple(flag) for flag in ("optional", "multiple") if getattr(self, flag)]
        if flags:
            shown[b"flags"] = flags
        if self.parts:
            shown[b"arguments"] = [part.shown() for part in self.parts]
        return shown


_TOKEN: Final = re.compile(r"\.\.\.|[\[\]<>|]|[^\s\[\]<>|]+")
_LITERAL: Final = re.compile(r"[A-Z][A-Z0-9-]*")
_CLOSING: Final = {"[": "]", "<": ">"}


def arguments_of(syntax: str) -> list[Argument]:
    """Return the arguments of a syntax, which is written as in the Redis manual.

    >>> [(one.name, one.kind, one.optional, one.multiple) for one in arguments_of("key [key ...] [EX seconds]")]
    [('key', 'key', False, True), ('seconds', 'integer', True, False)]
    """
    tokens = _TOKEN.findall(syntax)
    found = _alternatives(tokens)
    assert not tokens, f"{syntax}: {tokens[0]} closes nothing"
    return found[0] if len(found) == 1 else [_one_of(found)]


_INTEGERS: Final = frozenset(
    [
        "seconds",
        "milliseconds",
        "index",
        "count",
        "offset",
        "increment",
        "decrement",
        "start",
        "end",
        "timeout",
        "numkeys",
    ]
)
_KINDS: Final = {**dict.fromkeys(KEY_NAMES, "key"), **dict.fromkeys(_INTEGERS, "integer"), "pattern": "pattern"}
"""The kinds of named arguments that are not strings."""


def _alternatives(tokens: list[str]) -> list[list[Argument]]:
    """Parse the alternatives up to the end or a closing bracket, which stays among the tokens."""
    found: list[list[Argument]] = [[]]
    while tokens and tokens[0] not in "]>":
        token = tokens.pop(0)
        if token == "|":
            found.append([])
        elif token == "...":
            found[-1][-1].multiple = True
        elif token in _CLOSING:
            inner = _alternatives(tokens)
            assert tokens[:1] == [_CLOSING[token]], f"{token} is not closed"
            tokens.pop(0)
            _add(found[-1], _together(inner), optional=token == "[")
        elif _LITERAL.fullmatch(token):
            found[-1].append(Argument(token.lower(), "pure-token", token))
        else:
            kind = "unix-time" if token.startswith("unix-time") else _KINDS.get(token, "string")
            found[-1].append(Argument(token, kind))
            _join_token(found[-1])
    return found


def _join_token(arguments: list[Argument]) -> None:
    """Join a token and the argument behind it."""
    if len(arguments) >= 2 and arguments[-2].kind == "pure-token" and not arguments[-2].optional:
        arguments[-1].token = arguments.pop(-2).token


def _together(alternatives: list[list[Argument]]) -> Argument:
    if len(alternatives) > 1:
        return _one_of(alternatives)
    (arguments,) = alternatives
    return arguments[0] if len(arguments) == 1 else Argument("block", "block", parts=arguments)


def _one_of(alternatives: list[list[Argument]]) -> Argument:
    return Argument("choice", "oneof", parts=[_together([one]) for one in alternatives])


def _add(arguments: list[Argument], argument: Argument, *, optional: bool) -> None:
    """Append an argument. `key [key ...]` becomes one argument that may be repeated."""
    names = [part.name for part in argument.parts] or [argument.name]
    repeated = [one.name for one in arguments[-len(names) :]]
    if optional and (argument.multiple or any(part.multiple for part in argument.parts)) and repeated == names:
        again = arguments[-len(names) :]
        del arguments[-len(names) :]
        for part in again:
            part.multiple = False
        argument = _together([again])
        argument.multiple = True
        optional = False
    argument.optional = argument.optional or optional
    arguments.append(argument)
    if not optional:
        _join_token(arguments)
