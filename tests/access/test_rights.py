"""The rules of rights: single rules, the texts of Redis, and any sequence of rules against a plain model."""

import fnmatch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairnkv.session.access.categories import names, names_below, names_by_category, names_for_everyone
from cairnkv.session.access.rights import (
    AFTER_ALL_CHANNELS,
    AFTER_ALL_KEYS,
    ARGUMENT_OF_SUBCOMMAND,
    NO_SELECTORS,
    NOT_A_PREFIX,
    PATTERNS_MAX,
    SYNTAX_ERROR,
    UNKNOWN_NAME,
    KeyPattern,
    Rights,
    RuleError,
)


def rights(rules: str) -> Rights:
    return Rights().changed(rules.split())


class TestCommands:
    def test_no_rules_allow_only_the_commands_for_everyone(self) -> None:
        assert rights("").commands == names_for_everyone()
        assert rights("-@all").commands == names_for_everyone()

    def test_all_commands_include_those_of_later_versions(self) -> None:
        assert rights("+@all").has_all_commands
        assert not rights("+@all -get").has_all_commands
        assert rights("+@all -get +get").has_all_commands

    def test_all_present_commands_one_by_one_are_not_all(self) -> None:
        assert not rights(" ".join(f"+{name}" for name in sorted(names()))).has_all_commands

    def test_category_stands_for_its_commands(self) -> None:
        assert rights("+@read").commands == names_by_category()["read"] | names_for_everyone()
        assert not rights("+@all -@dangerous").may_execute("config|set")

    def test_command_stands_for_its_subcommands(self) -> None:
        only = rights("+client -client|kill")
        assert only.may_execute("client|id")
        assert not only.may_execute("client|kill")
        assert rights("+client|kill").may_execute("client|kill")
        assert not rights("+client|kill").may_execute("client|id")

    def test_later_rule_wins(self) -> None:
        assert not rights("+get -@read").may_execute("get")
        assert rights("-@read +get").may_execute("get")

    def test_case_of_rules_does_not_matter(self) -> None:
        assert rights("+GET +@READ AllKeys ALLCHANNELS") == rights("+get +@read ~* &*")
        assert rights("%rw~a*") == rights("~a*")

    def test_unknown_command_needs_unlimited_rights(self) -> None:
        assert not rights("+@all ~*").may_execute("nothing")
        assert rights("+@all ~* &*").may_execute("nothing")


class TestKeysAndChannels:
    def test_prefix_applies_to_reads_and_writes_apart(self) -> None:
        some = rights("~a:* %R~b:* %W~c:*")
        assert [some.may_read(key) for key in (b"a:1", b"b:1", b"c:1", b"a", b"")] == [True, True, False, False, False]
        assert [some.may_write(key) for key in (b"a:1", b"b:1", b"c:1", b"a", b"")] == [True, False, True, False, False]
        assert (some.read, some.write) == ((b"a:", b"b:"), (b"a:", b"c:"))

    def test_prefix_within_a_prefix_needs_no_comparison(self) -> None:
        assert rights("~app:* ~app:x:* ~apple* ~b*").read == (b"app:", b"apple", b"b")

    def test_reads_of_all_keys_are_not_all_keys(self) -> None:
        some = rights("%R~* ~a*")
        assert some.may_read(b"anything")
        assert not some.may_write(b"b")
        assert not some.has_all_keys
        assert some.rules.startswith("%R~* ~a*")

    def test_rules_of_both_accesses_join(self) -> None:
        assert rights("%R~a* %W~a*") == rights("~a*")
        assert rights("%R~* %W~*") == rights("~*")
        assert rights("~a* %RW~*") == rights("~*")

    def test_binary_prefix_survives_its_text(self) -> None:
        some = rights("").changed(["~" + b"\xff\x01:".decode("utf-8", "surrogateescape") + "*"])
        assert some.read == (b"\xff\x01:",)
        assert rights(some.rules) == some

    def test_channels_are_apart_from_keys(self) -> None:
        some = rights("&news:*")
        assert some.may_use_channel(b"news:1")
        assert not some.may_use_channel(b"other")
        assert not some.may_read(b"news:1")
        assert not rights("~* +@all").may_use_channel(b"news")

    def test_unlimited_needs_all_commands_keys_and_channels(self) -> None:
        assert rights("+@all ~* &*").unlimited
        for fewer in ("+@all -get ~* &*", "+@all ~a* &*", "+@all ~*", "+@all ~* &a*", "+@all %R~* &*"):
            assert not rights(fewer).unlimited


class TestErrors:
    @pytest.mark.parametrize(
        ("rules", "reason"),
        [
            ("+nothing", UNKNOWN_NAME),
            ("-nothing", UNKNOWN_NAME),
            ("+@nothing", UNKNOWN_NAME),
            ("+config|nothing", UNKNOWN_NAME),
            ("+get|key", UNKNOWN_NAME),
            ("+get|key|key", UNKNOWN_NAME),
            ("+config|get|appendonly", ARGUMENT_OF_SUBCOMMAND),
            ("+", UNKNOWN_NAME),
            ("%~", SYNTAX_ERROR),
            ("%", SYNTAX_ERROR),
            ("%R", SYNTAX_ERROR),
            ("%RR~a*", SYNTAX_ERROR),
            ("%X~a*", SYNTAX_ERROR),
            ("~* ~a*", AFTER_ALL_KEYS),
            ("&* &a*", AFTER_ALL_CHANNELS),
            ("~app", NOT_A_PREFIX),
            ("~", NOT_A_PREFIX),
            ("~a*b*", NOT_A_PREFIX),
            ("~a?*", NOT_A_PREFIX),
            ("~[ab]*", NOT_A_PREFIX),
            ("~a\\*", NOT_A_PREFIX),
            ("&app", NOT_A_PREFIX),
            ("(~a*", NO_SELECTORS),
        ],
    )
    def test_refused_rule_has_the_reason_of_redis_or_ours(self, rules: str, reason: str) -> None:
        with pytest.raises(RuleError) as caught:
            rights(rules)
        assert caught.value.reason == reason
        assert str(caught.value) == f"Error in ACL SETUSER modifier '{rules.split()[-1]}': {reason}"

    @pytest.mark.parametrize("rule", ["~a b*", "&a\tb*", "~a\0b*", "~a\nuser x on*"])
    def test_spaces_do_not_fit_into_a_line(self, rule: str) -> None:
        with pytest.raises(RuleError, match=SYNTAX_ERROR):
            rights("").changed([rule])

    @pytest.mark.parametrize("rule", ["s3cret", ">s3cret", "", "s3cret*"])
    def test_error_shows_no_secret(self, rule: str) -> None:
        with pytest.raises(RuleError) as caught:
            rights("").changed([rule])
        assert "s3cret" not in str(caught.value) + repr(caught.value)
        assert "(hidden)" in str(caught.value)

    def test_refused_rule_changes_nothing(self) -> None:
        before = rights("+get ~a*")
        with pytest.raises(RuleError):
            before.changed(["+set", "~b*", "+nothing"])
        assert before == rights("+get ~a*")

    def test_number_of_patterns_is_limited(self) -> None:
        most = rights(" ".join(f"~{number}:*" for number in range(PATTERNS_MAX)))
        assert most.changed(["~0:*"]) == most
        assert most.changed(["&a:*"]).may_use_channel(b"a:")
        with pytest.raises(RuleError, match="at most 256 patterns"):
            most.changed(["~more:*"])
        assert most.changed(["~*"]).has_all_keys


class TestText:
    @pytest.mark.parametrize(
        ("rules", "text"),
        [
            ("", "resetchannels -@all"),
            ("+@all ~* &*", "~* &* +@all"),
            ("+@all -@hash -@slow +get", "resetchannels +@all -@hash -@slow +get"),
            ("+@all -@hash -@slow +get -@hash", "resetchannels +@all -@slow +get -@hash"),
            ("+@all -@hash -@slow +get +@hash", "resetchannels +@all -@slow +get +@hash"),
            ("+@all -@hash -@slow +get -@all", "resetchannels -@all"),
            ("-@string -@slow +@all", "resetchannels +@all"),
            ("+@all -client|kill -client +client|id", "resetchannels +@all -client +client|id"),
            ("+client|id +client", "resetchannels -@all +client"),
            ("&foo:* &bar:* ~a* %R~b*", "~a* %R~b* resetchannels &foo:* &bar:* -@all"),
        ],
    )
    def test_rules_have_the_order_of_redis(self, rules: str, text: str) -> None:
        assert rights(rules).rules == text


# -- any rules, against a plain model ---------------------------------------------------------------------------

NAMES = ["get", "set", "config", "config|get", "client", "client|kill", "client|id", "queue.put", "ping", "flushall"]
PATTERNS = ["*", "a*", "ab*", "abc:*", "b*"]
TEXTS = [b"", b"a", b"ab", b"abc", b"abc:1", b"b", b"c"]

rules_of_commands = st.builds(
    "{}{}".format,
    st.sampled_from("+-"),
    st.sampled_from([*NAMES, "@all", "@read", "@write", "@admin", "@dangerous", "@slow", "@queue", "@geo"]),
)
rules_of_keys = st.builds("{}~{}".format, st.sampled_from(["", "%R", "%W", "%RW", "%wr"]), st.sampled_from(PATTERNS))
rules_of_channels = st.builds("&{}".format, st.sampled_from(PATTERNS))
WORDS = ["allkeys", "resetkeys", "allchannels", "resetchannels", "allcommands", "nocommands"]
any_rules = st.lists(st.one_of(rules_of_commands, rules_of_keys, rules_of_channels, st.sampled_from(WORDS)))


class Model:
    """Rights as sets of permitted names, and lists of patterns, changed rule by rule."""

    def __init__(self) -> None:
        self.commands: set[str] = set()
        self.later = False
        self.read: list[str] = []
        self.write: list[str] = []
        self.channels: list[str] = []

    def apply(self, rule: str) -> bool:
        """Apply a rule; return False if Redis would refuse it."""
        match rule:
            case "allkeys":
                rule = "~*"
            case "allchannels":
                rule = "&*"
            case "allcommands":
                rule = "+@all"
            case "nocommands":
                rule = "-@all"
            case "resetkeys":
                self.read, self.write = [], []
                return True
            case "resetchannels":
                self.channels = []
                return True
        if rule[0] in "+-":
            self._command(rule[0] == "+", rule[1:])
        elif rule[0] == "&":
            if "*" in self.channels and rule != "&*":
                return False
            self.channels.append(rule[1:])
        else:
            access, _, pattern = rule.partition("~")
            if "*" in self.read and "*" in self.write and rule != "~*":
                return False
            self.read += [pattern] * ("W" not in access.upper() or "R" in access.upper())
            self.write += [pattern] * ("R" not in access.upper() or "W" in access.upper())
        return True

    def _command(self, allowed: bool, name: str) -> None:
        if name == "@all":
            self.commands = set(names()) if allowed else set()
            self.later = allowed
            return
        of_rule = names_by_category()[name[1:]] if name.startswith("@") else names_below(name)
        self.commands = self.commands | of_rule if allowed else self.commands - of_rule


def permitted(patterns: list[str], text: bytes) -> bool:
    return any(fnmatch.fnmatchcase(text.decode(), pattern) for pattern in patterns)


@given(any_rules)
@example(["~a*", "%R~*", "%W~*", "~b*"])
def test_any_rules_decide_as_the_model(rules: list[str]) -> None:
    model, some = Model(), Rights()
    for rule in rules:
        if model.apply(rule):
            some = some.changed([rule])
        else:
            with pytest.raises(RuleError):
                some.changed([rule])
    for name in names():
        allowed = name in model.commands or name in names_for_everyone()
        assert some.may_execute(name) == (name in some.commands) == allowed
    for text in TEXTS:
        assert some.may_read(text) == permitted(model.read, text)
        assert some.may_write(text) == permitted(model.write, text)
        assert some.may_use_channel(text) == permitted(model.channels, text)
    everything = model.later and model.commands | names_for_everyone() == names()
    assert some.has_all_commands == everything
    assert some.has_all_keys == ("*" in model.read and "*" in model.write)
    assert some.unlimited == (everything and some.has_all_keys and "*" in model.channels)


@given(any_rules)
def test_text_of_any_rights_makes_the_same_rights(rules: list[str]) -> None:
    some = Rights()
    for rule in rules:
        try:
            some = some.changed([rule])
        except RuleError:
            continue
    again = Rights().changed(some.rules.split(" "))
    assert again == some
    assert again.rules == some.rules
    assert (again.commands, again.read, again.write) == (some.commands, some.read, some.write)


PREFIXES = st.text(st.characters(exclude_characters="*?[\\ \t\n\r\v\f\0", max_codepoint=0x2FF), max_size=6)


@given(st.lists(PREFIXES, max_size=6), st.binary(max_size=8))
def test_prefixes_in_any_order_decide_alike(prefixes: list[str], key: bytes) -> None:
    some = Rights(key_patterns=tuple(KeyPattern(prefix.encode()) for prefix in prefixes))
    assert some.may_read(key) == some.may_write(key) == any(key.startswith(prefix.encode()) for prefix in prefixes)
