"""The rights of a user: the rules of Redis' access control lists, and decisions from them.

    +get  -get  +client|id  +@read  -@all  allcommands  nocommands        commands
    ~app:*  %R~app:*  %W~app:*  ~*  allkeys  resetkeys                    keys, to read, to write, or both
    &news:*  &*  allchannels  resetchannels                               channels of PUBLISH and SUBSCRIBE

A later rule wins over an earlier one. A category stands for its commands in the running version.

Invariants: rights never change. A pattern is a prefix and a final `*`, so a decision compares beginnings only. Commands
for everyone (`categories.names_for_everyone`) need no rule. The words of `rules` make equal rights.

Out of scope: selectors, `+command|argument`, and patterns with `?`, `[` or `\\`; the rules refuse them. Passwords and
`on` (`users`).
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Final

from cairnkv.escapes import escaped
from cairnkv.session.access.categories import CATEGORIES, names, names_below, names_by_category, names_for_everyone
from cairnkv.session.resp.command_spec import REPEATED_MAX

UNKNOWN_NAME: Final = "Unknown command or category name in ACL"
SYNTAX_ERROR: Final = "Syntax error"
AFTER_ALL_KEYS: Final = (
    "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. "
    "Try 'resetkeys' to start with an empty list of patterns"
)
AFTER_ALL_CHANNELS: Final = (
    "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. "
    "Try 'resetchannels' to start with an empty list of channels"
)
ARGUMENT_OF_SUBCOMMAND: Final = "Allowing first-arg of a subcommand is not supported"
NOT_A_PREFIX: Final = "a pattern must be a prefix with a final *, such as app:*"
NO_SELECTORS: Final = "there are no selectors here; add another user"

PATTERNS_MAX: Final = 256
"""Maximum number of patterns of keys, and of channels: each key of a command is compared with all of them."""

TOO_MANY: Final = f"a user has at most {PATTERNS_MAX} patterns of keys, and of channels, here"

_SHOWN: Final = ("+", "-", "~", "%", "&", "(")
"""The beginnings of rules that contain no secret."""

_SPACES: Final = re.compile(r"[\s\0]", re.ASCII)


class RuleError(ValueError):
    """A rule cannot be applied. The text is that of Redis, and never shows a password.

    rule: the rule, or its beginning. reason: the text after the colon.
    """

    def __init__(self, rule: str, reason: str) -> None:
        if not rule.startswith(_SHOWN):
            # The rule may be a password: of `>password`, or without the `>` by mistake.
            rule = f"{rule[:1]}(hidden)" if rule.startswith((">", "<", "#", "!", "$")) else "(hidden)"
        self.rule: Final = escaped(rule.partition("\0")[0][:REPEATED_MAX].encode("utf-8", "surrogateescape"))
        self.reason: Final = reason
        super().__init__(f"Error in ACL SETUSER modifier '{self.rule}': {reason}")


def has_spaces(text: str) -> bool:
    """Return whether a text contains white space or a zero byte, which separate the rules of a line."""
    return _SPACES.search(text) is not None


@dataclasses.dataclass(frozen=True, slots=True)
class KeyPattern:
    """The keys with a prefix, to read, to write, or both. An empty prefix: all keys."""

    prefix: bytes
    read: bool = True
    write: bool = True

    @property
    def is_all(self) -> bool:
        """Whether this allows everything with every key."""
        return self.read and self.write and not self.prefix

    @property
    def rule(self) -> str:
        """The rule that adds this pattern."""
        access = "" if self.read and self.write else "%R" if self.read else "%W"
        return f"{access}~{_text(self.prefix)}*"


@dataclasses.dataclass(frozen=True, slots=True)
class Rights:
    """The rights of a user. Without arguments: none.

    includes_future: whether `+@all` is in force, which includes the commands of later versions.
    command_rules: the rules of commands after that, such as `-@admin` and `+client|kill`.
    key_patterns, channels: see the module; an empty prefix stands for all.

    commands: the names of the commands that the user may execute, those for everyone included.
    read, write: the prefixes of keys, none of which begins with another one.
    unlimited: whether the user may use all commands, keys and channels.
    """

    includes_future: bool = False
    command_rules: tuple[str, ...] = ()
    key_patterns: tuple[KeyPattern, ...] = ()
    channels: tuple[bytes, ...] = ()
    commands: frozenset[str] = dataclasses.field(init=False, repr=False, compare=False)
    read: tuple[bytes, ...] = dataclasses.field(init=False, repr=False, compare=False)
    write: tuple[bytes, ...] = dataclasses.field(init=False, repr=False, compare=False)
    unlimited: bool = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        allowed = set(names()) if self.includes_future else set()
        for rule in self.command_rules:
            if rule[0] == "+":
                allowed |= _named(rule[1:])
            else:
                allowed -= _named(rule[1:])
        commands = names_for_everyone().union(allowed)
        read = _shortest(pattern.prefix for pattern in self.key_patterns if pattern.read)
        write = _shortest(pattern.prefix for pattern in self.key_patterns if pattern.write)
        object.__setattr__(self, "commands", commands)
        object.__setattr__(self, "read", read)
        object.__setattr__(self, "write", write)
        object.__setattr__(self, "unlimited", self.has_all_commands and self.has_all_keys and self.has_all_channels)

    # -- decisions ---------------------------------------------------------------------------------------------

    @property
    def has_all_commands(self) -> bool:
        """Whether the user may execute all commands, those of later versions included."""
        return self.includes_future and self.commands == names()

    @property
    def has_all_keys(self) -> bool:
        """Whether the user may read and write all keys."""
        return b"" in self.read and b"" in self.write

    @property
    def has_all_channels(self) -> bool:
        """Whether the user may use all channels."""
        return b"" in self.channels

    def may_execute(self, name: str) -> bool:
        """Return whether the user may execute the command with a name."""
        return self.unlimited or name in self.commands

    def may_read(self, key: bytes) -> bool:
        """Return whether the user may read a key, or all keys with this prefix."""
        return key.startswith(self.read)

    def may_write(self, key: bytes) -> bool:
        """Return whether the user may write a key, or all keys with this prefix."""
        return key.startswith(self.write)

    def may_use_channel(self, channel: bytes) -> bool:
        """Return whether the user may publish or subscribe to a channel, or to all channels with this prefix."""
        return channel.startswith(self.channels)

    # -- rules -------------------------------------------------------------------------------------------------

    @property
    def rules(self) -> str:
        """The rules that make these rights from none, as in ACL LIST."""
        parts = (self.key_rules, self.channel_rules, self.all_command_rules)
        return " ".join(part for part in parts if part)

    @property
    def key_rules(self) -> str:
        """The rules of keys, as in ACL GETUSER."""
        return " ".join(pattern.rule for pattern in self.key_patterns)

    @property
    def channel_patterns(self) -> str:
        """The patterns of channels, as in ACL GETUSER."""
        return " ".join(f"&{_text(prefix)}*" for prefix in self.channels)

    @property
    def channel_rules(self) -> str:
        """The rules of channels."""
        if self.has_all_channels:
            return "&*"
        return f"resetchannels {self.channel_patterns}".rstrip()

    @property
    def all_command_rules(self) -> str:
        """The rules of commands, as in ACL GETUSER."""
        return " ".join(("+@all" if self.includes_future else "-@all", *self.command_rules))

    def changed(self, rules: Iterable[str]) -> "Rights":
        """Return these rights after some rules. Raises `RuleError`."""
        draft = RightsDraft(self)
        for rule in rules:
            draft.apply(rule)
        return draft.rights()


class RightsDraft:
    """Rights while rules change them, one after the other. A refused rule changes nothing."""

    def __init__(self, rights: Rights) -> None:
        self._includes_future = rights.includes_future
        self._command_rules = list(rights.command_rules)
        self._keys = {pattern.prefix: pattern for pattern in rights.key_patterns}
        self._channels = list(rights.channels)

    def rights(self) -> Rights:
        """Return the rights after the rules."""
        return Rights(
            self._includes_future, tuple(self._command_rules), tuple(self._keys.values()), tuple(self._channels)
        )

    def apply(self, rule: str) -> None:
        """Apply a rule. Raises `RuleError`."""
        match rule.lower():
            case "allkeys" | "~*":
                self._keys = {b"": KeyPattern(b"")}
            case "resetkeys":
                self._keys = {}
            case "allchannels" | "&*":
                self._channels = [b""]
            case "resetchannels":
                self._channels = []
            case "allcommands" | "+@all":
                self._includes_future, self._command_rules = True, []
            case "nocommands" | "-@all":
                self._includes_future, self._command_rules = False, []
            case _:
                self._apply_named(rule)

    def _apply_named(self, rule: str) -> None:
        match rule[:1]:
            case "~" | "%":
                self._add_keys(rule)
            case "&":
                self._add_channels(rule)
            case "+" | "-":
                self._add_command(rule)
            case "(":
                raise RuleError(rule, NO_SELECTORS)
            case _:
                raise RuleError(rule, SYNTAX_ERROR)

    def _add_keys(self, rule: str) -> None:
        before = self._keys.get(b"")
        if before is not None and before.is_all:
            raise RuleError(rule, AFTER_ALL_KEYS)
        access = re.match(r"~|%([RW]{1,2})~", rule, re.IGNORECASE)
        given = "rw" if access is None or access[1] is None else access[1].lower()
        if access is None or given in ("rr", "ww"):
            raise RuleError(rule, SYNTAX_ERROR)
        prefix = _prefix(rule, access.end())
        before = self._keys.get(prefix, KeyPattern(prefix, read=False, write=False))
        pattern = KeyPattern(prefix, read=before.read or "r" in given, write=before.write or "w" in given)
        if pattern.is_all:
            self._keys.clear()
        elif prefix not in self._keys and len(self._keys) >= PATTERNS_MAX:
            raise RuleError(rule, TOO_MANY)
        self._keys[prefix] = pattern

    def _add_channels(self, rule: str) -> None:
        if b"" in self._channels:
            raise RuleError(rule, AFTER_ALL_CHANNELS)
        prefix = _prefix(rule, 1)
        if prefix not in self._channels:
            if len(self._channels) >= PATTERNS_MAX:
                raise RuleError(rule, TOO_MANY)
            self._channels.append(prefix)

    def _add_command(self, rule: str) -> None:
        name = rule[1:].lower()
        if name.count("|") > 1 and name.rpartition("|")[0] in names():
            raise RuleError(rule, ARGUMENT_OF_SUBCOMMAND)
        if not (name[1:] in CATEGORIES if name.startswith("@") else name in names()):
            raise RuleError(rule, UNKNOWN_NAME)
        # The new rule decides about the same name and its subcommands, so earlier rules of these have no effect.
        kept = [old for old in self._command_rules if old[1:] != name and not old[1:].startswith(f"{name}|")]
        self._command_rules = [*kept, rule[0] + name]


def _named(name: str) -> frozenset[str]:
    return names_by_category()[name[1:]] if name.startswith("@") else names_below(name)


def _prefix(rule: str, begin: int) -> bytes:
    """Return the prefix of a pattern, which begins at a place of the rule."""
    pattern = rule[begin:]
    if has_spaces(pattern):
        raise RuleError(rule, SYNTAX_ERROR)
    if not pattern.endswith("*") or re.search(r"[*?[\\]", pattern[:-1]):
        raise RuleError(rule, NOT_A_PREFIX)
    return pattern[:-1].encode("utf-8", "surrogateescape")


def _text(prefix: bytes) -> str:
    return prefix.decode("utf-8", "surrogateescape")


def _shortest(prefixes: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return the prefixes that do not begin with another one, in order."""
    kept: list[bytes] = []
    for prefix in sorted(prefixes):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)
