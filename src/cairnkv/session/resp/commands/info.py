"""INFO, TIME and MEMORY: information about the server.

Invariants: each figure is measured, or follows from the kind of the server. An unknown figure has no line.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from cairnkv.commands import Deadline, Get, Replies, Reply, Step
from cairnkv.engine.table import ENTRY_BYTES, EXPIRY_BYTES
from cairnkv.protocol.resp import Verbatim
from cairnkv.session.conversation import WHOLE_TABLE_COST
from cairnkv.session.resp.command_spec import (
    SYNTAX,
    Arguments,
    Calls,
    Refusal,
    Value,
    container,
    in_conversation,
    on_keys,
)
from cairnkv.session.resp.commands.help import help_of
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.version import REDIS_VERSION, VERSION

Facts: TypeAlias = Mapping[str, str | int]
"""The values of `Store.info`."""

Lines: TypeAlias = Iterable[tuple[str, object]]

COUNTERS: Final = {
    "total_connections_received": "connections_accepted",
    "total_commands_processed": "commands",
    "rejected_connections": "connections_refused",
    "expired_keys": "expired_keys",
    "evicted_keys": "evicted_keys",
    "keyspace_hits": "keyspace_hits",
    "keyspace_misses": "keyspace_misses",
    "total_net_input_bytes": "received_bytes",
    "total_net_output_bytes": "sent_bytes",
}
"""The names in `Store.info` that count since the start of the server, by Redis' names."""

CLUSTER_FACTS: Final = (
    "cluster",
    "node",
    "nats_connected",
    "nats_sync",
    "quorum",
    "stopped",
    "stopped_remedy",
    "stream_position",
    "stream_last_seen",
    "log_fill_percent",
    "proposals_waiting",
    "local_reads_behind_ms",
    "clock_off_ms",
    "semantics",
    "state_digest",
    "nodes",
)
"""The additional names of a node of a cluster."""


def counted(conversation: RespConversation, facts: Facts) -> dict[str, int]:
    """Return the values of the counters."""
    values: dict[str, int] = {name: int(facts[name]) for name in COUNTERS.values() if name in facts}
    values["commands"] += conversation.context.commands_executed
    return values


def _human(size: int) -> str:
    """Return a size for people, in the format of Redis."""
    if size < 1024:
        return f"{size}B"
    number, units = size / 1024, "KMGT"
    while number >= 1024 and len(units) > 1:
        number, units = number / 1024, units[1:]
    return f"{number:.2f}{units[0]}"


def _renamed(facts: Facts, names: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    """Return facts under Redis' names, without unknown facts."""
    return ((name, facts[fact]) for name, fact in names.items() if fact in facts)


# -- sections ----------------------------------------------------------------------------------------------


def _server(conversation: RespConversation, facts: Facts) -> Lines:
    yield "redis_version", REDIS_VERSION
    yield "cairnkv_version", VERSION
    yield "redis_mode", "standalone"
    names = {"os": "system", "arch_bits": "bits", "multiplexing_api": "loop", "process_id": "pid", "run_id": "run_id"}
    yield from _renamed(facts, names)
    if (value := conversation.context.options.get("port")) is not None:
        yield "tcp_port", value
    yield "server_time_usec", conversation.store.clock() * 1000
    if "uptime_seconds" in facts:
        yield "uptime_in_seconds", facts["uptime_seconds"]
        yield "uptime_in_days", int(facts["uptime_seconds"]) // 86_400
    yield from _renamed(facts, {"path": "path", "mode": "mode", "addresses": "addresses"})
    yield "password_wanted", int(conversation.context.users.required)
    yield from _renamed(facts, {"users_digest": "users_digest"})
    yield from ((name, value) for name, value in facts.items() if name.startswith("tls_"))


def _clients(conversation: RespConversation, facts: Facts) -> Lines:
    clients = conversation.context.clients.values()
    yield "connected_clients", facts.get("connections", len(clients))
    yield "redis_clients", len(clients)
    if (value := conversation.context.options.get("maxclients")) is not None:
        yield "maxclients", value
    yield "blocked_clients", facts["waiting_takes"]
    yield "tracking_clients", 0
    yield "pubsub_clients", sum(client.is_subscribed for client in clients)
    yield "watching_clients", sum(bool(client.transaction.watched) for client in clients)
    yield "total_watched_keys", sum(len(client.transaction.watched) for client in clients)


def _memory(conversation: RespConversation, facts: Facts) -> Lines:
    memory = conversation.store.memory
    used = memory.used_bytes + memory.garbage_bytes
    yield "used_memory", used
    yield "used_memory_human", _human(used)
    if "used_bytes_peak" in facts:
        yield "used_memory_peak", facts["used_bytes_peak"]
        yield "used_memory_peak_human", _human(int(facts["used_bytes_peak"]))
    if "resident_bytes" in facts:
        yield "used_memory_rss", facts["resident_bytes"]
        yield "used_memory_rss_human", _human(int(facts["resident_bytes"]))
    yield "used_memory_dataset", memory.used_bytes
    cache = conversation.context.scripts.cache
    yield "used_memory_scripts_eval", cache.used_bytes
    yield "number_of_cached_scripts", len(cache)
    limit = int(facts["memory_limit_bytes"])
    yield "maxmemory", limit
    yield "maxmemory_human", _human(limit)
    if (value := conversation.context.options.get("maxmemory-policy")) is not None:
        yield "maxmemory_policy", value


def _persistence(conversation: RespConversation, facts: Facts) -> Lines:
    yield "loading", int(conversation.store.loading)
    yield "async_loading", 0
    running = facts.get("backup_state") == "running"
    yield "rdb_bgsave_in_progress", int(running)
    if "backup_state" in facts:
        yield "rdb_last_save_time", int(facts["backup_last_ms"]) // 1000
        yield "rdb_last_bgsave_status", "err" if facts["backup_state"] == "failed" else "ok"
        yield "rdb_current_bgsave_time_sec", facts["backup_seconds"] if running else -1
    yield "aof_enabled", 0
    yield from _renamed(facts, {name: name for name in facts if name.startswith("disk_")})


def _stats(conversation: RespConversation, facts: Facts) -> Lines:
    before = conversation.context.counted_before
    since = {name: value - before.get(name, 0) for name, value in counted(conversation, facts).items()}
    yield from _renamed(since, COUNTERS)
    yield from _renamed(facts, {"instantaneous_ops_per_sec": "commands_per_second"})
    for name, fact in (("input", "received_bytes_per_second"), ("output", "sent_bytes_per_second")):
        if fact in facts:
            yield f"instantaneous_{name}_kbps", f"{int(facts[fact]) / 1024:.2f}"
    yield "pubsub_channels", len(conversation.context.pubsub.channels())
    yield "pubsub_patterns", conversation.context.pubsub.patterns()
    counts = conversation.context.logins.log.counts
    for name, reason in (("auth", "auth"), ("cmd", "command"), ("key", "key"), ("channel", "channel")):
        yield f"acl_access_denied_{name}", counts[reason]


def _replication(conversation: RespConversation, facts: Facts) -> Lines:
    return (("role", "master"), ("connected_slaves", 0), ("master_failover_state", "no-failover"))


def _cpu(conversation: RespConversation, facts: Facts) -> Lines:
    return _renamed(facts, {"used_cpu_sys": "cpu_system_seconds", "used_cpu_user": "cpu_user_seconds"})


def _cluster(conversation: RespConversation, facts: Facts) -> Lines:
    yield "cluster_enabled", 0  # this is not Redis Cluster
    yield from _renamed(facts, {name: name for name in CLUSTER_FACTS})


def _database(conversation: RespConversation, facts: Facts) -> Lines:
    for number, database in enumerate(conversation.store.databases):
        keys = database.count()
        if keys:
            yield f"db{number}", f"keys={keys},expires={database.count_expiring()},avg_ttl=0"


Section: TypeAlias = Callable[[RespConversation, Facts], Lines]

SECTIONS: Final[dict[bytes, Section]] = {
    b"server": _server,
    b"clients": _clients,
    b"memory": _memory,
    b"persistence": _persistence,
    b"stats": _stats,
    b"replication": _replication,
    b"cpu": _cpu,
    b"cluster": _cluster,
    b"keyspace": _database,
}
"""The sections of INFO, in order."""

_ALL: Final = frozenset({b"default", b"all", b"everything"})


@in_conversation("INFO [section [section ...]]", "loading allow-busy", group="server", since="1.0.0")
def info(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return information about the server, in sections."""
    wanted = {text.lower() for text in arguments.rest()} or _ALL
    conversation.costs(WHOLE_TABLE_COST)  # it counts the expired keys, second by second
    facts = dict(conversation.store.info())
    shown = []
    for name, section in SECTIONS.items():
        if name in wanted or not wanted.isdisjoint(_ALL):
            title = "CPU" if name == b"cpu" else name.decode().capitalize()
            lines = "".join(f"{field}:{value}\r\n" for field, value in section(conversation, facts))
            shown.append(f"# {title}\r\n{lines}")
    return Verbatim("\r\n".join(shown).encode("utf-8", "surrogateescape"))


@in_conversation("TIME", "loading fast", group="server", since="2.6.0")
def time(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the server's time: seconds since 1970, and microseconds."""
    seconds, milliseconds = divmod(conversation.store.clock(), 1000)
    return [b"%d" % seconds, b"%d" % (milliseconds * 1000)]


# -- memory ------------------------------------------------------------------------------------------------

container("MEMORY", group="server", since="4.0.0", summary="Inspect memory use.")


@on_keys("MEMORY USAGE key [SAMPLES count]", "readonly", group="server", since="4.0.0")
def memory_usage(arguments: Arguments) -> Calls:
    """Return the estimated memory of a key and its value in bytes; null for a missing key."""
    key = arguments.key()
    while len(arguments):
        if arguments.keyword() != b"SAMPLES":
            raise Refusal(SYNTAX)
        if arguments.integer() < 0:  # SAMPLES has no effect, because a string has no elements
            raise Refusal(SYNTAX)

    def show(reply: Reply) -> Value:
        assert isinstance(reply, Replies)
        value, expiry = reply.values
        if not isinstance(value, bytes):
            return None
        return ENTRY_BYTES + len(key) + len(value) + (EXPIRY_BYTES if expiry != -1 else 0)

    return Calls((Step(arguments.db, Get(key)), Step(arguments.db, Deadline(key))), show)


help_of("MEMORY", since="4.0.0")
