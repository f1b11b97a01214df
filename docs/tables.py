"""Write the tables of the documents from the code: `python docs/tables.py`. A test fails if a table is outdated.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. The program replaces the text between these lines.
"""

import argparse
import ast
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cairnkv
import cairnkv.aio
from cairnkv import limits
from cairnkv.client.aio.pipeline import AsyncPipeline
from cairnkv.commands import BY_NUMBER, CODES, COUNTED_FROM, Answer, CommandSpec
from cairnkv.lab.consistency.keys.checks import Kind
from cairnkv.lab.consistency.queues.checks import Kind as QueueKind
from cairnkv.server.settings import ENVIRONMENT_PREFIX, OPTIONS
from cairnkv.session import TRANSITIONS
from cairnkv.session.access.categories import names_by_category
from cairnkv.session.resp import command_spec
from cairnkv.session.resp.command_spec import RespCommandSpec

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # this file is run as a program

from docs import applications as uses  # noqa: E402
from docs import client_suites as tested  # noqa: E402
from docs import redis_suite as suite  # noqa: E402
from docs.redis_differences import KNOWN_DIFFERENCES  # noqa: E402

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

ANSWERS = {
    Answer.OK: "`OK`",
    Answer.BYTES: "the bytes",
    Answer.NUMBER: "decimal text",
    Answer.ITEMS: "strings",
}


def table(*rows: tuple[str, ...]) -> str:
    """Return rows as a Markdown table. The first row is the heading."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def commands() -> str:
    """Return the table of the commands of the native protocol."""
    rows = [
        (
            str(spec.number),
            f"`{spec.usage}`",
            ", ".join(f"`{name}`" for name in spec.redis).replace("|", "\\|"),
            "yes" if spec.writes else "no",
            explained(spec),
            ANSWERS[spec.answer],
        )
        for spec in BY_NUMBER.values()
    ]
    return table(("number", "arguments", "rights", "writes", "effect", "payload of a success"), *rows)


PLURALS = {"body": "bodies"}


def explained(spec: CommandSpec) -> str:
    """Return the command's docstring as one line, with wire names and a list of exclusive options."""
    text = " ".join(spec.description.split())
    sent = {name: slot.keyword.decode() for name, slot in spec.fields if slot.keyword}
    for name, option in sent.items():
        text = re.sub(rf"(?:(?<=\. )|(?<=, )|(?<=\()){name}(?=[,:)])|`{name}`", option, text)
    for group in spec.exclusive:
        text += f" At most one of {', '.join(sent[name] for name in group)}."
    for slot in (slot for _, slot in spec.fields if slot.most):
        noun = slot.kinds[0].placeholder
        text += f" At most {slot.most:,} {PLURALS.get(noun, f'{noun}s')}."
    return text.replace("`MISSING`", "`Key not found`").replace("|", "\\|")


INFO = {
    "every store": {
        "cairnkv_version": "version of the server",
        "mode": "`in-memory`, `durable` or `replicated`",
        "loading": "1 while the server reads its store from disk, else 0",
        "path": "`native` or `pure Python`",
        "commands": "commands executed since the start",
        "keys": "keys of all databases; expired keys count until they are removed",
        "used_bytes": "memory of keys and values, by estimate",
        "garbage_bytes": "unused memory that the process has not released yet, by estimate",
        "memory_limit_bytes": "memory limit; 0: none",
        "expired_keys": "keys that expired since the start",
        "evicted_keys": "keys evicted since the start",
        "queues": "number of queues",
        "messages_ready": "messages of all queues that are ready",
        "messages_delayed": "messages of all queues that are delayed",
        "messages_leased": "messages of all queues that are leased",
        "messages_dead": "messages of all queues that are dead",
        "waiting_takes": "TAKE commands that wait for messages",
        "log_position": "number of the last write",
        "log_time_ms": "the store's time, in milliseconds since 1970",
        "log_time_ahead_ms": "milliseconds by which `log_time_ms` is ahead of the wall clock",
    },
    "every server": {
        "loop": "event loop",
        "pid": "process number",
        "uptime_seconds": "seconds since the start",
        "addresses": "addresses that the server listens on, separated by blanks",
        "connections": "connected clients",
        "connections_accepted": "accepted clients since the start",
        "connections_refused": "refused clients since the start, because of too many connections",
        "unfinished_bytes": "bytes of unfinished frames of all clients",
        "used_bytes_peak": "maximum of `used_bytes` plus `garbage_bytes`, of ten samples a second",
        "keyspace_hits": "keys that GET, MGET, EXISTS, TTL and DEADLINE have found; in a cluster, not in transactions",
        "keyspace_misses": "keys that they have not found",
        "received_bytes": "bytes received from clients since the start",
        "sent_bytes": "bytes sent to clients since the start",
        "commands_per_second": "commands per second, of the last 1.6 seconds",
        "received_bytes_per_second": "bytes received per second, likewise",
        "sent_bytes_per_second": "bytes sent per second, likewise",
        "connections_unauthenticated": "clients that must log in and have not done so",
        "logins": "successful logins since the start",
        "logins_failed": "failed logins since the start",
        "audit_events_dropped": "events that the audit log lacks, because it could not be written",
        "system": "operating system",
        "bits": "bits of a pointer",
        "cpu_system_seconds": "CPU time of the process in the kernel",
        "cpu_user_seconds": "CPU time of the process in user mode",
        "resident_bytes": "memory of the process",
        "users": "number of users",
        "users_digest": "beginning of the SHA-256 of all users; nodes with the same users have the same",
        "run_id": "40 hexadecimal digits, new at every start",
    },
    "server with TLS": {
        "tls_certificate_expires": "end of the server's certificate, in seconds since 1970",
        "tls_reloads": "new certificates since the start",
        "tls_reload_failed": "1 if the files of TLS cannot be used and the server keeps its certificate, else 0",
        "tls_reload_failure": "the reason",
        "tls_handshakes": "complete handshakes since the start",
        "tls_handshakes_failed": "failed handshakes since the start",
    },
    "durable store": {
        "data": "directory of the store",
        "sync": "the option `--sync`",
        "disk_commits": "commits since the start",
        "disk_queued_entries": "writes in the queue for the disk",
        "disk_queued_bytes": "bytes of the writes in the queue for the disk",
        "disk_reads": "values read from the disk since the start",
        "disk_failures": "disk failures since the start",
        "disk_state": "`ok`, or the error",
    },
    "durable store with `--backup-dir`": {
        "backup_job": "number of the last backup; 0: none yet",
        "backup_state": "`none`, `running`, `done` or `failed`",
        "backup_name": "its name",
        "backup_made": "its path below the backup directory",
        "backup_bytes": "its size in bytes; while it runs, the expected size",
        "backup_bytes_done": "bytes done",
        "backup_bytes_new": "bytes that it does not share with earlier backups of its name",
        "backup_seconds": "its duration so far, in seconds",
        "backup_error": "reason of its failure",
        "backup_last_ms": "end of the newest backup of any name, in milliseconds since 1970; 0: none",
    },
}
"""The names of INFO and their meanings. A test compares them with the replies of servers."""


def info() -> str:
    """Return the table of the names of INFO, without those of nodes of a cluster."""
    return table(
        ("name", "meaning", "present in"),
        *((f"`{name}`", meaning, where) for where, names in INFO.items() for name, meaning in names.items()),
    )


def failures() -> str:
    """Return the table of the failure codes."""
    rows = [
        (
            f"`{code.name}`",
            code.meaning,
            {False: "not executed (0x02)", None: "unknown (0x04)"}.get(code.executed, "executed"),
            "closes" if code.closes else "stays open",
            ("may succeed later" if code.passing else "fails again")
            + ("; another node may succeed" if code.elsewhere else ""),
        )
        for code in CODES.values()
    ]
    return table(("code", "meaning", "executed?", "connection", "a retry"), *rows)


def wire_limits() -> str:
    """Return the table of the limits that concern clients."""
    rows = (
        ("bytes in a key", f"1 to {limits.KEY_MAX:,}", "fixed"),
        ("bytes in a value, or in any one string", f"0 to {limits.VALUE_MAX:,}", "`--max-value`"),
        ("bytes in a frame, in either direction", f"{limits.FRAME_MAX:,}", "`--max-frame`"),
        (f"arguments of a command from {COUNTED_FROM} on", f"{limits.ARGUMENTS_MAX:,}", "fixed"),
        ("seconds from a frame's first byte to its last", f"{limits.FRAME_TIMEOUT:g}", "`--frame-timeout`"),
        ("seconds without a command", f"{limits.IDLE_TIMEOUT:g}", "`--idle-timeout`"),
        ("seconds in which a client reads none of its replies", f"{limits.STALL_TIMEOUT:g}", "`--stall-timeout`"),
        ("bytes of unfinished frames, all clients together", f"{limits.UNFINISHED_MAX:,}", "`--max-unfinished`"),
        ("bytes of unsent replies, all clients together", f"{limits.UNSENT_MAX:,}", "`--max-unsent`"),
        ("bytes of commands read ahead from one client", f"{limits.READ_AHEAD_MAX:,}", "fixed"),
        ("bytes of unsent replies to one client before reading stops", f"{limits.CLIENT_UNSENT_MAX:,}", "fixed"),
        ("clients at once", f"{limits.CONNECTIONS_MAX:,}", "`--max-connections`"),
        ("bytes in a frame of a client that must log in first", f"{limits.UNAUTHENTICATED_FRAME_MAX:,}", "fixed"),
        ("seconds to log in", f"{limits.LOGIN_TIMEOUT:g}", "fixed"),
        ("clients that have not logged in", f"{limits.CONNECTIONS_MAX // limits.UNAUTHENTICATED_SHARE:,}", "a quarter"),
        ("the same of one address, or of a /64 of IPv6", f"{limits.UNAUTHENTICATED_PER_ADDRESS_MAX:,}", "fixed"),
        ("bytes of frames and replies of all of them", f"{limits.UNAUTHENTICATED_BYTES_MAX:,}", "fixed"),
        ("milliseconds in a TTL", f"1 to {limits.TTL_MAX:,}", "fixed"),
        ("keys that one SCAN examines", f"1 to {limits.SCAN_COUNT_MAX:,}", "fixed"),
        ("messages that one command puts, takes, names or examines", f"1 to {limits.TAKE_MAX:,}", "fixed"),
        ("queues of one TAKE_ANY, frames of one TOGETHER", f"1 to {limits.TAKE_MAX:,}", "fixed"),
        ("milliseconds that one TAKE or TAKE_ANY waits", f"0 to {limits.WAIT_MAX:,}", "fixed"),
    )
    return table(("limit", "default", "option"), *rows)


def options() -> str:
    """Return the table of the options of the server."""
    rows = [
        (
            f"`--{name.replace('_', '-')}{' ' + option.metavar if option.metavar else ''}`",
            f"`{ENVIRONMENT_PREFIX}{name.upper()}`",
            option.shown,
            option.help,
        )
        for name, option in OPTIONS.items()
    ]
    return table(("flag", "variable", "default", "meaning"), *rows)


def transitions() -> str:
    """Return the table of the states of a session and their transitions."""
    rows = [
        (f"`{state.name}`: {state.value}", f"`{event.name}`: {event.value}", f"`{then.name}`")
        for (state, event), then in TRANSITIONS.items()
    ]
    return table(("state", "event", "next state"), *rows)


# -- clients -----------------------------------------------------------------------------------------------------------

CLIENTS = {
    "`open()`": cairnkv.Embedded,
    "`connect()`": cairnkv.Client,
    "its pipeline": cairnkv.Pipeline,
    "`aio.open()`": cairnkv.aio.Embedded,
    "`aio.connect()`": cairnkv.aio.Client,
    "its pipeline ": AsyncPipeline,
}
"""The classes with the methods of a store, by the heading of their column."""

SYNTAX = {
    "__getitem__": "kv[key]",
    "__setitem__": "kv[key] = value",
    "__delitem__": "del kv[key]",
    "__contains__": "key in kv",
    "__iter__": "for key in kv",
    "__aiter__": "async for key in kv",
    "__len__": "len(kv)",
    "__ior__": "kv |= values",
    "__enter__": "with kv",
    "__aenter__": "async with kv",
}
"""The special methods that are part of the interface, as programs write them."""


def clients() -> str:
    """Return the table of all methods and the classes that have them."""
    names = [*SYNTAX, *sorted({name for kind in CLIENTS.values() for name in dir(kind) if not name.startswith("_")})]
    rows = [
        (_code(SYNTAX.get(name, name)), *("✓" if hasattr(kind, name) else "" for kind in CLIENTS.values()))
        for name in names
        if name != "direct_calls"  # only the native class has it, for tests
    ]
    return table(("", *CLIENTS), *rows)


# -- Redis -------------------------------------------------------------------------------------------------------------

REDIS_GROUPS = (
    *("string", "bitmap", "generic", "queue", "transactions", "scripting", "pubsub", "connection", "server", "cluster"),
)
"""The groups of commands of the Redis protocol, in the order of the table."""

REDIS_ABSENT = {
    "lists": "LPUSH RPUSH LPOP RPOP LRANGE LLEN LINDEX LREM LMOVE BLPOP BRPOP BLMOVE",
    "hashes": "HSET HGET HMGET HGETALL HDEL HINCRBY HSCAN",
    "sets": "SADD SREM SMEMBERS SISMEMBER SINTER SUNION SSCAN",
    "sorted sets": "ZADD ZRANGE ZSCORE ZREM ZINCRBY ZSCAN",
    "streams": "XADD XREAD XRANGE XGROUP XACK",
    "functions": "FCALL FUNCTION",
    "geography, cardinality": "GEOADD GEOSEARCH PFADD PFCOUNT PFMERGE",
    "other commands on strings and bits": "LCS BITOP BITPOS BITFIELD BITFIELD_RO",
    "other commands on keys": "MOVE SWAPDB SORT SORT_RO DUMP RESTORE MIGRATE",
    "sharded channels": "SSUBSCRIBE SUNSUBSCRIBE SPUBLISH",
    "several servers": "CLUSTER ASKING REPLICAOF SLAVEOF PSYNC SYNC FAILOVER WAITAOF",
    "disk": "BGREWRITEAOF",
    "diagnosis": "MONITOR SLOWLOG LATENCY DEBUG MODULE LOLWUT",
    "subcommands": "CLIENT|TRACKING CLIENT|CACHING CLIENT|PAUSE CLIENT|UNPAUSE CLIENT|UNBLOCK "
    "OBJECT|FREQ OBJECT|IDLETIME OBJECT|REFCOUNT MEMORY|STATS MEMORY|DOCTOR COMMAND|GETKEYSANDFLAGS CONFIG|REWRITE "
    "PUBSUB|SHARDCHANNELS PUBSUB|SHARDNUMSUB SCRIPT|DEBUG",
}
"""Commands of Redis that the server does not support, by subject."""


def redis_commands() -> str:
    """Return the table of the commands of the Redis protocol, by group."""
    specs = [spec for spec in command_spec.every_spec() if spec.on_keys or spec.in_conversation]
    specs.sort(key=lambda spec: REDIS_GROUPS.index(spec.group))  # within a group in the order of the declarations
    return table(
        ("command", "arguments", "group", "since", "effect"),
        *((_redis_name(spec), _code(spec.syntax), spec.group, spec.since, _cell(spec.summary)) for spec in specs),
    )


def categories() -> str:
    """Return the table of the categories of commands."""
    found = {category: " ".join(sorted(commands)) for category, commands in names_by_category().items()}
    empty = ", ".join(f"`@{category}`" for category, commands in found.items() if not commands)
    return table(
        ("category", "commands"),
        *((f"`@{category}`", _cell(commands)) for category, commands in found.items() if commands),
        (empty, "none: categories of Redis without commands here"),
    )


def _redis_name(spec: RespCommandSpec) -> str:
    return f"`{spec.name.upper().replace('|', ' ')}`"


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def redis_absent() -> str:
    """Return the table of unsupported commands of Redis."""
    rows = [
        (subject, ", ".join(f"`{name.replace('|', ' ')}`" for name in names.split()))
        for subject, names in REDIS_ABSENT.items()
    ]
    return table(("subject", "unsupported commands, among others"), *rows)


def redis_differences() -> str:
    """Return the table of the differences between cairnkv and Redis."""
    rows = [(_cell(it.what), _cell(it.reason), "✓" if it.shown else "") for it in KNOWN_DIFFERENCES]
    return table(("difference", "reason", "tested"), *rows)


def redis_clients() -> str:
    """Return the table of the tested Redis clients, from the docstrings of their tests."""
    files = sorted((ROOT / "tests" / "clients").glob("test_*.py"))
    docs = {file: ast.get_docstring(ast.parse(file.read_text())) or "" for file in files}
    return table(
        ("clients", "tests"),
        *((_cell(" ".join(doc.split())), f"[{file.name}](../tests/clients/{file.name})") for file, doc in docs.items()),
    )


def redis_suite() -> str:
    """Return the tables of the recorded runs of the test suites of Redis and Valkey."""
    return "\n\n".join(map(suite.markdown, json.loads(suite.RECORD.read_text())))


def client_suites() -> str:
    """Return the table of the recorded runs of the tests of Redis clients."""
    return tested.markdown(json.loads(tested.RECORD.read_text()))


def applications() -> str:
    """Return the tables of the uses of packages, with the results of the recorded runs."""
    return uses.markdown(json.loads(uses.RECORD.read_text()))


def silent_failures() -> str:
    """Return the table of the uses that fail silently on a server without scripts."""
    return uses.silent(json.loads(uses.RECORD.read_text()))


# -- guarantees --------------------------------------------------------------------------------------------------------

RUNS = ROOT / "docs" / "runs.json"
"""The file that `docs/record.py` writes."""


def runs() -> str:
    """Return the table of the recorded runs."""
    if not RUNS.exists():
        return "no recorded run"
    rows = [
        (f"`{it['command']}`", it["result"], f"{it['minutes']:g} min", it["date"], f"`{it['commit']}`", it["machine"])
        for it in json.loads(RUNS.read_text())
    ]
    return table(("command", "last line of its output", "duration", "date", "commit", "computer"), *rows)


# -- performance -------------------------------------------------------------------------------------------------------

RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
"""The results of the last `make bench`."""


def performance() -> str:
    """Return the table of all rows of the last `make bench`, and its chart."""
    found = figures(lambda rows: rows)
    return f"{found}\n\n![Ratios and targets](../benchmarks/results/latest.svg)" if RESULTS.exists() else found


def headlines() -> str:
    """Return the table with one row for each target of the last `make bench`: the row with the worst result."""
    return figures(worst)


SUMMARY = (
    ("GET, 16 in a pipeline, 32 B: commands/s", "redis-server"),
    ("SET with fsync, not in a pipeline, 32 B: commands/s", "redis-server"),
    ("asyncio client, 100 tasks: GET/s", "redis-py asyncio"),
    ("embedded get: calls/s", "diskcache"),
)
"""The rows of README, by measurement and peer: the server, its worst result, a client, an embedded store."""


def summary() -> str:
    """Return four rows of the last `make bench`."""
    return figures(lambda rows: [row for row in rows if (row["what"], row["peer"]) in SUMMARY], notes=False)


CLUSTER = ROOT / "benchmarks" / "results" / "cluster" / "latest.json"
"""The results of the last separate run of the cluster benchmarks."""

CLUSTER_COMMAND = "python benchmarks/bench.py --only cluster --output benchmarks/results/cluster"


def cluster() -> str:
    """Return the table of all rows of the last separate run of the cluster benchmarks."""
    return figures(lambda rows: rows, CLUSTER, CLUSTER_COMMAND)


QUEUES = ROOT / "benchmarks" / "results" / "queues" / "latest.json"
"""The results of the last separate run of the benchmarks of queues."""

QUEUES_COMMAND = "python benchmarks/bench.py --only queues --output benchmarks/results/queues"


def queues() -> str:
    """Return the table of all rows of the last separate run of the benchmarks of queues."""
    return figures(lambda rows: rows, QUEUES, QUEUES_COMMAND)


def figures(
    chosen: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    path: Path | None = None,
    command: str = "make bench",
    *,
    notes: bool = True,
) -> str:
    """Return the table of chosen rows of a command's results, with computer, date and versions.

    path: the file with the results; None: that of `make bench`. notes: whether to add the notes of the run.
    """
    path = path or RESULTS
    if not path.exists():
        return f"no results; run {command}"
    results = json.loads(path.read_text())
    rows = [
        (
            row["what"],
            row["peer"],
            measured(row["ours"], row["unit"]),
            "–" if row["theirs"] is None else measured(row["theirs"], row["unit"]),
            "–" if row["ratio"] is None else f"{row['ratio']:.3g}",
            " to ".join(f"{number:.3g}" for number in row["spread"]),
            row["target"] or "–",
            {"met": "met", "missed": "**missed**", "report": "–"}[row["verdict"]],
        )
        for row in chosen(results["rows"])
    ]
    made = results["made"]
    machine, ours = made["machine"], made["cairnkv"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items() if version)
    where = (
        f"`{command}{' BENCH=full' if made['profile'] == 'full' else ''}`, {made['date'][:10]}: {machine['cores']} "
        f"cores of {machine['processor']}, {machine['kernel']}; cairnkv {ours['version']}, "
        f"{ours['runs_on']}; {versions}."
    )
    heading = ("measurement", "peer", "cairnkv", "peer's result", "ratio", "spread", "target", "")
    left_out = [f"Omitted: {note}." for note in results["notes"] if notes]
    return "\n\n".join([table(heading, *rows), where, *left_out])


def measured(figure: float, unit: str) -> str:
    """Return a figure with its unit, in three digits or in whole numbers."""
    text = f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"
    return f"{text}{'' if unit.startswith('/') else ' '}{unit}"


def worst(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each group, peer and target, the row whose result is the worst relative to the target."""
    chosen: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        if row["target"] is None:
            continue
        best = chosen.setdefault((row["group"], row["peer"], row["target"]), row)
        judged, before = ((it["ours"] if it["ratio"] is None else it["ratio"]) for it in (row, best))
        if (judged < before) if row["target"].startswith("≥") else (judged > before):
            chosen[row["group"], row["peer"], row["target"]] = row
    return list(chosen.values())


# -- the cluster -------------------------------------------------------------------------------------------------------

VIOLATIONS = {
    Kind.LOST: "a final read, or a sum, does not include a write whose reply was a success",
    Kind.DOUBLED: "a counter is higher than the sum of all additions that may have been executed",
    Kind.STALE: "a read returns a value that was replaced before the read began",
    Kind.OWN_WRITE: "the same, and the client that reads had replaced the value",
    Kind.BACKWARDS: "the same, and the client that reads had read a newer value",
    Kind.INVENTED: "a read returns a value that no client has sent to this key",
    Kind.REFUSED: 'a command whose reply was "not executed" has an effect',
    Kind.MINORITY: "a node executed a command during `majority`",
    Kind.FUTURE: "a read ended before the write of its value began",
    Kind.ORDER: "none of the others, but the key is not linearizable",
}
"""The kinds of violations that the consistency checker reports, and their meanings."""


def violations() -> str:
    """Return the table of the kinds of violations."""
    return table(("violation", "meaning"), *((kind.value, VIOLATIONS[kind]) for kind in Kind))


QUEUE_VIOLATIONS = {
    QueueKind.LOST: "at the end, a message whose PUT returned is missing, and no client has acked or removed it",
    QueueKind.DOUBLED: "the body of one PUT is in two messages",
    QueueKind.INVENTED: "a message has a body or a group that no client sent",
    QueueKind.REFUSED: 'a message exists, but the reply to its PUT was "not executed", or "name taken"',
    QueueKind.STUCK: "at the end, no TAKE returns a message that is neither leased nor delayed",
    QueueKind.TOKENS: "a TAKE returned a token that is not higher than all earlier ones of the store",
    QueueKind.TWO_LEASES: "a TAKE returned a message whose lease from another TAKE had not ended",
    QueueKind.EARLY: "a TAKE returned a message before its delay had ended",
    QueueKind.AFTER_END: "a TAKE or PEEK returned a message after an ACK or REMOVE that returned 1",
    QueueKind.STALE: "ACK, NACK or EXTEND returned 1 for a lease that is not the newest, or that a command had "
    "ended; or EXTEND returned 1 for a lease whose time had ended",
    QueueKind.LIVE_REFUSED: "ACK, NACK or EXTEND returned 0 for the newest lease of a message",
    QueueKind.ORDER: "with PERGROUP 1, a TAKE returned a message before an earlier one was deleted or dead",
    QueueKind.GROUP: "a TAKE leased more messages of a group than PERGROUP allows",
    QueueKind.ATTEMPTS: "the number of an attempt exceeds ATTEMPTS, repeats, or exceeds the number of TAKE commands",
    QueueKind.DEAD: "a message is dead before its last attempt, or a TAKE returned a dead message",
    QueueKind.NAME: "two messages had a unique name at the same time, or PUT refused the name of a deleted message",
    QueueKind.COUNTS: "the numbers of QUEUE_STATS do not add up, or contradict the replies to the clients",
    QueueKind.TOGETHER: "the SET or PUT of a TOGETHER had an effect without its ACK, or the ACK without them",
    QueueKind.MINORITY: VIOLATIONS[Kind.MINORITY],
}
"""The kinds of violations that the checker of queues reports, and their meanings."""


def queue_violations() -> str:
    """Return the table of the kinds of violations on queues."""
    return table(("violation", "meaning"), *((kind.value, QUEUE_VIOLATIONS[kind]) for kind in QueueKind))


PARTITION = ROOT / "benchmarks" / "results" / "partition.json"
"""The results of `benchmarks/partition.py --write`."""


def partition() -> str:
    """Return the table of each placement on each number of machines, and the parameters of the simulation."""
    found = json.loads(PARTITION.read_text())
    shown = ("slots", "weighted", "keys", "heat", "copies", "join", "join_copies", "leave")
    rows = [
        (
            f"{row['nodes']:,}",
            row["placement"],
            *("–" if row[name] is None else f"{row[name]:#.3g}".rstrip(".") for name in shown),
        )
        for row in found["rows"]
    ]
    made = found["made"]
    where = (
        f"`python benchmarks/partition.py --write`: {made['slots']:,} slots, {made['keys']:,} keys. The key of rank r "
        f"has a load of 1 / r^{made['zipf']:g}; the slot with the highest load has {made['hottest']:.1%} of the total. "
        f"Seed {made['seed']}."
    )
    heading = ("slots", "unequal machines", "keys", "uneven load", "copies", "join", "join: copies", "leave")
    return f"{table(('machines', 'placement', *heading), *rows)}\n\n{where}"


TABLES: dict[str, Callable[[], str]] = {
    "applications": applications,
    "clients": clients,
    "commands": commands,
    "categories": categories,
    "failures": failures,
    "headlines": headlines,
    "info": info,
    "cluster": cluster,
    "limits": wire_limits,
    "options": options,
    "partition": partition,
    "performance": performance,
    "queue_violations": queue_violations,
    "queues": queues,
    "redis_absent": redis_absent,
    "redis_clients": redis_clients,
    "redis_differences": redis_differences,
    "redis_suite": redis_suite,
    "client_suites": client_suites,
    "redis_commands": redis_commands,
    "runs": runs,
    "silent_failures": silent_failures,
    "summary": summary,
    "transitions": transitions,
    "violations": violations,
}
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def renewed(document: str) -> str:
    """Return a document with current tables."""
    return MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", document)


def main(arguments: Sequence[str]) -> int:
    """Rewrite the outdated documents and print their names. With --check, make every table and write none."""
    parser = argparse.ArgumentParser(
        prog="python docs/tables.py", description="write the documents' tables from the code"
    )
    parser.add_argument("--check", action="store_true", help="make every table and write none")
    check = parser.parse_args(arguments).check
    for path in DOCUMENTS:
        before = path.read_text()
        after = renewed(before)
        if check:
            if not os.access(path, os.W_OK):
                print(f"tables: {path} cannot be written", file=sys.stderr)
                return 1
        elif after != before:
            path.write_text(after)
            print(f"renewed {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
