"""Random rules of users: redis-server and cairnkv refuse the same rules, and decide alike about commands.

ACL DRYRUN asks both servers. Its texts differ in Redis 7.0, and so do the texts of rules about commands, so that this
test compares decisions. Patterns are those that both servers have. Commands for everyone are left out, and commands
that need different accesses here (docs/redis_differences.py).
"""

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.raw_resp import Peer, value_of
from tests.support.targets import Target

TRY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

COMMANDS = ["get", "set", "del", "config", "config|get", "config|set", "client", "client|kill", "client|id", "flushall"]
CATEGORIES = ["read", "write", "keyspace", "string", "dangerous", "admin", "slow", "fast", "connection", "geo", "all"]
PATTERNS = ["a*", "ab*", "b:*"]

RULES = st.one_of(
    st.builds("{}{}".format, st.sampled_from("+-"), st.sampled_from(COMMANDS)),
    st.builds("{}@{}".format, st.sampled_from("+-"), st.sampled_from(CATEGORIES)),
    st.builds("{}~{}".format, st.sampled_from(["", "%R", "%W", "%RW", "%wr"]), st.sampled_from(PATTERNS)),
    # Redis keeps %RW~* as a pattern beside others; here it is allkeys, which allows the same.
    st.sampled_from(["~*", "%R~*"]),
    st.builds("&{}".format, st.sampled_from(["*", *PATTERNS])),
    st.sampled_from(["allkeys", "resetkeys", "allchannels", "resetchannels", "allcommands", "nocommands", "reset"]),
    st.sampled_from(["on", "off", "nopass", "resetpass", ">secret", ">other", "#" + "ab" * 32]),
    st.sampled_from(["+nothing", "-nothing", "+@nothing", "+config|nothing", "-client|nothing"]),
    st.sampled_from(["%", "%~", "%X~a*", "%RR"]),
)

PROBES = (
    *("GET a", "GET ab", "GET b:1", "GET c", "SET a x", "SET ab x", "SET b:1 x", "SET c x", "DEL a", "DEL a c"),
    *("GETSET a x", "GETSET ab x", "GETDEL b:1", "MSET a 1 b:1 2", "MGET a ab b:1", "EXPIRE ab 5", "INCR a"),
    *("COPY a ab", "COPY b:1 a", "RENAME a b:2", "RENAMENX ab a", "APPEND a x", "GETRANGE ab 0 1", "TTL a"),
    *("CONFIG GET x", "CONFIG SET x y", "CLIENT ID", "CLIENT KILL 1.2.3.4:5", "CLIENT LIST", "EXISTS b:1"),
    *("SUBSCRIBE a", "SUBSCRIBE ab b:1", "PUBLISH a x", "PUBLISH c x", "SETBIT a 1 1", "TIME"),
)

READ_AND_WRITE = {
    probe for probe in PROBES if probe.split()[0] in ("GETSET", "GETDEL", "INCR", "SETBIT", "RENAME", "RENAMENX")
}
"""The probes that read and write the same key. In Redis, one pattern must allow both."""


def has_parts(rules: list[str]) -> bool:
    """Return whether different patterns may allow to read a key and to write it."""
    return any(rule.startswith("%R~") for rule in rules) and any(rule.startswith("%W~") for rule in rules)


class Side:
    """One of the two servers."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.ask("ACL", "DELUSER", "x")

    def ask(self, *words: str) -> bytes:
        return self.peer.ask(*(word.encode() for word in words))

    def allowed(self) -> set[str]:
        """Return the probes that the user may execute."""
        return {probe for probe in PROBES if self.ask("ACL", "DRYRUN", "x", *probe.split()) == b"+OK\r\n"}

    def described(self) -> dict[str, object]:
        """Return the state of the user, without the words that only Redis has, and without the rules of commands."""
        _, items = value_of(self.ask("ACL", "GETUSER", "x"))
        found = {items[at][1].decode(): items[at + 1][1] for at in range(0, len(items), 2)}
        flags = {flag for _, flag in found["flags"]} - {b"sanitize-payload", b"allkeys", b"allchannels", b"allcommands"}
        return {name: found[name] for name in ("passwords", "keys", "channels")} | {"flags": flags}


@TRY
@given(rules=st.lists(RULES, max_size=10))
def test_rules_decide_as_in_redis(real_redis: Target, redis_target: Target, rules: list[str]) -> None:
    with Peer(real_redis.address, real_redis.tls) as first, Peer(redis_target.address, redis_target.tls) as second:
        theirs, ours = Side(first), Side(second)
        for rule in ("reset", *rules):
            replies = [side.ask("ACL", "SETUSER", "x", rule) for side in (theirs, ours)]
            assert replies[0] == replies[1], (rules, rule)
        assert theirs.described() == ours.described(), rules
        allowed, allowed_here = theirs.allowed(), ours.allowed()
        assert allowed <= allowed_here, rules
        assert allowed_here - allowed <= (READ_AND_WRITE if has_parts(rules) else set()), rules


@TRY
@given(rules=st.lists(RULES, max_size=6))
def test_rules_of_one_command_apply_together(real_redis: Target, redis_target: Target, rules: list[str]) -> None:
    with Peer(real_redis.address, real_redis.tls) as first, Peer(redis_target.address, redis_target.tls) as second:
        theirs, ours = Side(first), Side(second)
        replies = [side.ask("ACL", "SETUSER", "x", *rules) for side in (theirs, ours)]
        assert replies[0] == replies[1], rules
        exists = [re.search(rb"\r\nx\r\n", side.ask("ACL", "USERS")) is not None for side in (theirs, ours)]
        assert exists[0] == exists[1] == (replies[0] == b"+OK\r\n"), rules
