"""Scripts of clients: their commands, their atomicity, and their share of the server's time."""

import hashlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cairnkv.limits import MIB, SCRIPT_ATTEMPTS_MAX, SCRIPT_MESSAGES_BYTES_MAX, SCRIPT_SOURCE_MAX
from cairnkv.protocol.resp import NULL_ARRAY, OK, Error, Push, Simple
from cairnkv.session.context import ServerContext
from cairnkv.session.resp.command_spec import every_spec
from cairnkv.session.resp.scripting.runner import Runner
from tests.session.resp.chat import Chat

pytest.importorskip("lupa")

PONG = Simple("PONG")
QUEUED = Simple("QUEUED")
BUSY = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
RELEASE = b"if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"
"""The script with which clients release locks."""

ENDLESS = b"while true do end"


def evaluate(chat: Chat, script: str, *arguments: str, keys: int = 0) -> Any:
    """Return the reply to EVAL."""
    return chat.say(b"EVAL", script.encode(), b"%d" % keys, *(argument.encode() for argument in arguments))


def text(reply: object) -> str:
    """Return the text of an error."""
    assert isinstance(reply, Error), reply
    return reply.text


# -- commands --------------------------------------------------------------------------------------------------


def test_script_gets_its_keys_and_arguments(chat: Chat) -> None:
    assert evaluate(chat, "return {KEYS, ARGV}", "k", "l", "a", keys=2) == [[b"k", b"l"], [b"a"]]


def test_lock_is_released_by_its_owner_only(chat: Chat) -> None:
    sha1 = chat.say(b"SCRIPT", b"LOAD", RELEASE)
    chat("SET lock mine")
    assert chat.say(b"EVALSHA", sha1, b"1", b"lock", b"other") == 0
    assert chat("GET lock") == b"mine"
    assert chat.say(b"EVALSHA", sha1.upper(), b"1", b"lock", b"mine") == 1
    assert chat("GET lock") is None


def test_evalsha_of_an_unknown_script_is_refused(chat: Chat) -> None:
    for sha1 in (b"f" * 40, b"short"):
        assert text(chat.say(b"EVALSHA", sha1, b"0")) == "NOSCRIPT No matching script. Please use EVAL."


def test_eval_keeps_the_script_for_evalsha(chat: Chat) -> None:
    evaluate(chat, "return 7")
    sha1 = hashlib.sha1(b"return 7").hexdigest().encode()
    assert chat.say(b"SCRIPT", b"EXISTS", sha1, b"0" * 40) == [1, 0]
    assert chat.say(b"EVALSHA", sha1, b"0") == 7


@pytest.mark.parametrize("how", ["", " ASYNC", " sync"])
def test_flush_removes_all_scripts(chat: Chat, how: str) -> None:
    sha1 = chat.say(b"SCRIPT", b"LOAD", b"return 7")
    chat(f"SCRIPT FLUSH{how}")
    assert chat.say(b"SCRIPT", b"EXISTS", sha1) == [0]
    assert "NOSCRIPT" in text(chat.say(b"EVALSHA", sha1, b"0"))


def test_info_counts_the_known_scripts(chat: Chat) -> None:
    chat.say(b"SCRIPT", b"LOAD", b"return 1")
    chat.say(b"SCRIPT", b"LOAD", b"return 22")
    info = chat("INFO memory").split(b"\r\n")
    assert {b"number_of_cached_scripts:2", b"used_memory_scripts_eval:17"} <= set(info)


@pytest.mark.parametrize("package", ["lupa", "greenlet"])
def test_error_names_the_extra_if_a_package_is_missing(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for words in ((b"EVAL", b"return 1", b"0"), (b"EVALSHA", b"0" * 40, b"0"), (b"SCRIPT", b"LOAD", b"return 1")):
        reply = text(chat.say(*words))
        assert reply.startswith("ERR unknown command: ")
        assert "pip install 'cairnkv[lua]'" in reply


def test_flush_has_two_options(chat: Chat) -> None:
    for wrong in ("later", "sync sync"):
        assert text(chat(f"SCRIPT FLUSH {wrong}")) == "ERR SCRIPT FLUSH only support SYNC|ASYNC option"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("x", "ERR value is not an integer or out of range"),
        ("2", "ERR Number of keys can't be greater than number of args"),
        ("-1", "ERR Number of keys can't be negative"),
    ],
)
def test_number_of_keys_is_checked(chat: Chat, number: str, expected: str) -> None:
    assert text(chat.say(b"EVAL", b"return 1", number.encode(), b"k")) == expected


def test_script_that_is_no_lua_is_refused(chat: Chat) -> None:
    for command in (("EVAL", "0"), ("SCRIPT LOAD",)):
        words = [*command[0].encode().split(), b"return return", *(word.encode() for word in command[1:])]
        assert text(chat.say(*words)).startswith("ERR Error compiling script (new function): user_script:1:")


def test_length_of_a_script_is_limited(chat: Chat) -> None:
    longest = b"return 1 --".ljust(SCRIPT_SOURCE_MAX, b"-")
    assert chat.say(b"EVAL", longest, b"0") == 1
    for words in ((b"EVAL", longest + b"-", b"0"), (b"SCRIPT", b"LOAD", longest + b"-")):
        assert text(chat.say(*words)) == "ERR a script has at most 1048576 bytes here"


def test_command_shows_where_the_keys_are(chat: Chat) -> None:
    assert chat("COMMAND GETKEYS EVAL script 2 a b c") == [b"a", b"b"]
    assert chat("COMMAND GETKEYS EVALSHA_RO sha 0 a") == []
    (described,) = chat("COMMAND INFO EVAL")
    assert described[1] == -3
    assert described[3:6] == [0, 0, 0]


# -- commands of a script ----------------------------------------------------------------------------------------


def test_unknown_commands_and_wrong_numbers_of_arguments(chat: Chat) -> None:
    for script, expected in (
        ("return redis.pcall('nosuch')", "ERR Unknown Redis command called from script"),
        ("return redis.pcall('object')", "ERR Wrong number of args calling Redis command from script"),
        ("return redis.pcall('object', 'nosuch', 'x')", "ERR Unknown Redis command called from script"),
        ("return redis.pcall('get')", "ERR Wrong number of args calling Redis command from script"),
    ):
        assert text(evaluate(chat, script)).startswith(expected)


def test_commands_of_connections_and_queues_are_refused(chat: Chat) -> None:
    refused = [spec for spec in every_spec() if "noscript" in spec.flags]
    assert {"multi", "watch", "subscribe", "client|id", "eval", "queue.put", "queue.take"} <= {
        spec.name for spec in refused
    }
    for spec in refused:
        words = [*spec.name.split("|"), *["1"] * 9][: abs(spec.arity)]
        script = f"return redis.pcall({', '.join(map(repr, words))})"
        assert text(evaluate(chat, script)).startswith("ERR This Redis command is not allowed from script"), spec.name


def test_error_of_a_command_has_its_text(chat: Chat) -> None:
    chat("SET k x")
    reply = text(evaluate(chat, "return redis.call('incr', KEYS[1])", "k", keys=1))
    assert reply.startswith("ERR value is not an integer or out of range script: ")
    assert reply.endswith(", on @user_script:1.")


def test_writes_before_an_error_stay(chat: Chat) -> None:
    reply = evaluate(chat, "redis.call('set', 'k', '1') return redis.call('incr', 'k', 'wrong')")
    assert isinstance(reply, Error)
    assert chat("GET k") == b"1"


def test_select_is_for_the_script_only(chat: Chat) -> None:
    evaluate(chat, "redis.call('select', 3) redis.call('set', 'k', 'in 3')")
    assert chat("GET k") is None
    chat("SELECT 3")
    assert chat("GET k") == b"in 3"
    assert evaluate(chat, "return redis.call('get', 'k')") == b"in 3"


def test_commands_for_the_conversation(chat: Chat) -> None:
    script = "return {redis.call('ping'), redis.call('ping', 'a'), redis.call('echo', 'b'), redis.call('time')[1]}"
    assert evaluate(chat, script) == [PONG, b"a", b"b", b"1000"]
    assert evaluate(chat, "return redis.call('info', 'server')").startswith(b"# Server")
    assert text(evaluate(chat, "return redis.pcall('ping', 'a', 'b')")) == (
        "ERR wrong number of arguments for 'ping' command"
    )


def test_keys_examines_all_keys(chat: Chat) -> None:
    for number in range(0, 12_000, 1_000):
        chat.say(b"MSET", *(b"k%d" % (number + at // 2) for at in range(2_000)))
    assert evaluate(chat, "return #redis.call('keys', 'k1*')") == 1 + 10 + 100 + 1_000 + 2_000


def test_flushall_in_a_script(chat: Chat) -> None:
    chat("SET k v")
    assert evaluate(chat, "return redis.call('flushall')") == OK
    assert chat("DBSIZE") == 0


@pytest.mark.parametrize("command", ["EVAL_RO", "EVALSHA_RO", "header"])
def test_read_only_scripts_do_not_write(chat: Chat, command: str) -> None:
    chat("SET k v")
    write, read = b"return redis.call('set', 'k', 'w')", b"return redis.call('get', 'k')"
    publish = b"return redis.call('publish', 'c', 'm')"
    for script in (write, publish, read):
        if command == "header":
            reply = chat.say(b"EVAL", b"#!lua flags=no-writes\n" + script, b"0")
        elif command == "EVAL_RO":
            reply = chat.say(b"EVAL_RO", script, b"0")
        else:
            reply = chat.say(b"EVALSHA_RO", chat.say(b"SCRIPT", b"LOAD", script), b"0")
        if script is read:
            assert reply == b"v"
        else:
            assert text(reply).startswith("ERR Write commands are not allowed from read-only scripts.")


def test_ro_command_refuses_a_script_that_declares_writes(chat: Chat) -> None:
    reply = chat.say(b"EVAL_RO", b"#!lua\nreturn 1", b"0")
    assert text(reply) == "ERR Can not execute a script with write flag using *_ro command."


# -- rights --------------------------------------------------------------------------------------------------------


@pytest.fixture
def limited(chat: Chat) -> Chat:
    """A client whose user may use some keys, channels and commands."""
    chat.say(*b"ACL SETUSER u on >p ~mine* %R~read* &c* +@all -echo".split())
    other = Chat(chat)
    assert other("AUTH u p") == OK
    return other


def test_declared_keys_need_rights(limited: Chat) -> None:
    assert evaluate(limited, "return 1", "mine", keys=1) == 1
    for key in ("read", "other"):
        assert text(evaluate(limited, "return 1", key, keys=1)) == "NOPERM No permissions to access a key"
    assert limited("EVAL_RO x 1 other").text == "NOPERM No permissions to access a key"
    assert limited.say(b"EVAL_RO", b"return 1", b"1", b"read") == 1


def test_each_command_of_a_script_needs_rights(limited: Chat) -> None:
    denied = "NOPERM ACL failure in script: "
    for command, reason in (
        ("'set', 'other', 'v'", "No permissions to access a key"),
        ("'set', 'read', 'v'", "No permissions to access a key"),
        ("'publish', 'other', 'v'", "No permissions to access a channel"),
        ("'echo', 'v'", "User u has no permissions to run the 'echo' command"),
    ):
        assert text(evaluate(limited, f"return redis.pcall({command})")) == denied + reason
    assert evaluate(limited, "return redis.call('set', 'mine', 'v')") == OK
    assert evaluate(limited, "return redis.call('get', 'read')") is None


def test_denials_in_scripts_are_in_the_access_log(chat: Chat, limited: Chat) -> None:
    evaluate(limited, "return redis.pcall('get', 'other')")
    (entry,) = chat("ACL LOG")
    fields = dict(zip(entry[::2], entry[1::2], strict=True))
    assert (fields[b"context"], fields[b"object"]) == (b"lua", b"other")


def test_script_asks_for_its_rights(limited: Chat) -> None:
    script = "return {redis.acl_check_cmd('get', 'mine'), redis.acl_check_cmd('get', 'other')}"
    assert evaluate(limited, script) == [1, None]


def test_user_without_the_category_runs_no_script(chat: Chat) -> None:
    chat.say(*b"ACL SETUSER u on >p ~* +@all -@scripting".split())
    other = Chat(chat)
    other("AUTH u p")
    assert text(evaluate(other, "return 1")) == "NOPERM User u has no permissions to run the 'eval' command"


# -- commits ---------------------------------------------------------------------------------------------------------


def test_script_is_one_entry() -> None:
    chat = Chat(late=True)
    chat.send(b"EVAL", b"redis.call('set', 'a', '1') redis.call('incr', 'a') return redis.call('get', 'a')", b"0")
    assert chat.hear() == []
    assert len(chat.storage.pending) == 1
    chat.storage.commit()
    assert chat.hear() == [b"2"]


def test_failed_commit_undoes_all_of_a_script() -> None:
    chat = Chat(late=True)
    chat.send(b"EVAL", b"redis.call('set', 'a', '1') redis.call('set', 'b', '1')", b"0")
    chat.storage.fail("the disk failed")
    (reply,) = chat.hear()
    assert isinstance(reply, Error)
    assert chat("EXISTS a b") == 0


def test_messages_of_a_script_wait_for_its_commit() -> None:
    chat = Chat(late=True)
    listener = Chat(chat)
    listener("SUBSCRIBE c")
    script = b"redis.call('set', 'a', '1') return redis.call('publish', 'c', 'm')"
    chat.send(b"EVAL", script, b"0")
    assert listener.hear() == []
    chat.storage.commit()
    assert listener.hear() == [[b"message", b"c", b"m"]]
    assert chat.hear() == [1]
    chat.send(b"EVAL", script, b"0")
    chat.storage.fail("the disk failed")
    assert isinstance(chat.hear()[0], Error)
    assert listener.hear() == []


def test_messages_of_a_script_are_limited(chat: Chat) -> None:
    script = """
        local count, message = 0, ('x'):rep(2^20)
        while true do
            local reply = redis.pcall('publish', 'c', message)
            if reply ~= 0 then return {count, reply} end
            count = count + 1
        end"""
    count, error = evaluate(chat, script)
    assert count == SCRIPT_MESSAGES_BYTES_MAX // MIB - 1
    assert text(error) == "ERR the script publishes more than 67,108,864 bytes"


def test_message_is_published_though_the_client_left_before_the_commit() -> None:
    chat = Chat(late=True)
    listener = Chat(chat)
    listener("SUBSCRIBE c")
    chat.send(b"EVAL", b"redis.call('set', 'a', '1') redis.call('publish', 'c', 'm')", b"0")
    chat.session.disconnected()
    chat.storage.commit()
    assert listener.hear() == [[b"message", b"c", b"m"]]


def test_message_to_the_own_client_follows_the_reply(chat: Chat) -> None:
    chat("HELLO 3")
    chat("SUBSCRIBE c")
    chat.send(b"EVAL", b"return redis.call('publish', 'c', 'm')", b"0")
    assert chat.hear() == [1, Push((b"message", b"c", b"m"))]


# -- transactions ----------------------------------------------------------------------------------------------------


def transaction(chat: Chat, *commands: tuple[bytes, ...]) -> Any:
    """Return the reply to EXEC."""
    chat("MULTI")
    for command in commands:
        assert chat.say(*command) == QUEUED, command
    return chat("EXEC")


def test_scripts_and_commands_of_a_transaction_are_one_entry() -> None:
    chat = Chat(late=True)
    chat("MULTI")
    for words in (
        (b"SET", b"a", b"1"),
        (b"EVAL", b"return redis.call('incr', KEYS[1])", b"1", b"a"),
        (b"SELECT", b"3"),
        (b"EVAL", b"return redis.call('set', 'k', 'in 3')", b"0"),
        (b"GET", b"k"),
        (b"INCR", b"k"),
    ):
        chat.say(*words)
    chat.send(b"EXEC")
    assert chat.hear() == []
    assert len(chat.storage.pending) == 1
    chat.storage.commit()
    (replies,) = chat.hear()
    assert replies[:5] == [OK, 2, OK, OK, b"in 3"]
    assert isinstance(replies[5], Error)
    assert chat("GET k") == b"in 3"  # SELECT stays in force


def test_script_commands_execute_in_the_order_of_the_transaction(chat: Chat) -> None:
    known = chat.say(b"SCRIPT", b"LOAD", b"return 7")
    replies = transaction(
        chat,
        (b"SCRIPT", b"FLUSH"),
        (b"EVALSHA", known, b"0"),
        (b"SCRIPT", b"LOAD", b"return 7"),
        (b"EVALSHA", known, b"0"),
        (b"EVAL", b"return x y", b"0"),
        (b"EVAL", b"return 1", b"x"),
    )
    assert text(replies[1]).startswith("NOSCRIPT")
    assert replies[2:4] == [known, 7]
    assert text(replies[4]).startswith("ERR Error compiling script")
    assert text(replies[5]) == "ERR value is not an integer or out of range"


def test_watched_key_prevents_a_transaction_with_a_script(chat: Chat) -> None:
    other = Chat(chat)
    for change in ("SET k w", "EVALSHA"):
        chat("SET k v")
        chat("WATCH k")
        if change == "EVALSHA":
            evaluate(other, "redis.call('set', 'k', 'w')")
        else:
            other(change)
        assert transaction(chat, (b"EVAL", b"return redis.call('set', 'k', 'x')", b"0")) is NULL_ARRAY
        assert chat("GET k") == b"w"


def test_transaction_has_no_scripts_beside_commands_on_queues(chat: Chat) -> None:
    for first, second in (("EVAL x 0", "QUEUE.PUT q m"), ("QUEUE.PUT q m", "EVALSHA x 0")):
        chat("MULTI")
        assert chat(first) == QUEUED
        assert text(chat(second)) == "ERR a transaction cannot have commands on queues and scripts"
        assert text(chat("EXEC")).startswith("EXECABORT")


def test_messages_of_scripts_in_a_transaction(chat: Chat) -> None:
    listener = Chat(chat)
    listener("SUBSCRIBE c")
    assert transaction(chat, (b"EVAL", b"return redis.call('publish', 'c', 'm')", b"0"), (b"PING",)) == [1, PONG]
    assert listener.hear() == [[b"message", b"c", b"m"]]


# -- time --------------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that advances by a millisecond each time that it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


class Timed:
    """A server's runner with a clock and a timer, and two clients."""

    def __init__(self, *, late: bool = False, **more: Any) -> None:
        self.chat = Chat(late=late)
        self.clock = Clock()
        self.timer: list[Callable[[], None]] = []
        self.runner = Runner(
            self.chat.store,
            seconds=self.clock,
            call_later=lambda _, callback: self.timer.append(callback),
            **more,
        )
        self.chat.context = ServerContext(self.chat.store, scripts=self.runner)
        self.chat = Chat(self.chat)
        self.other = Chat(self.chat)

    def fire(self) -> None:
        """Call the callbacks of the timer."""
        waiting, self.timer[:] = list(self.timer), []
        for callback in waiting:
            callback()

    def slow(self, script: bytes, *arguments: bytes) -> None:
        """Send a script, and let it run until it has paused."""
        self.chat.send(b"EVAL", script, *(arguments or (b"0",)))
        for _ in range(SCRIPT_ATTEMPTS_MAX):
            self.chat.session.advance()
        assert self.runner.is_busy


def test_other_clients_get_their_turn_before_a_long_script_has_ended() -> None:
    timed = Timed()
    script = b"redis.call('incr', 'attempts') for i = 1, 50000 do end return redis.call('get', 'attempts')"
    timed.chat.send(b"EVAL", script, b"0")
    assert timed.chat.session.output() == []
    assert timed.other("GET attempts") is None  # the attempt was undone
    assert timed.other("SET attempts 10") == OK
    assert timed.chat.hear() == [b"11"]


def test_script_that_has_written_in_a_later_attempt_is_not_undone() -> None:
    timed = Timed()
    timed.chat.send(b"EVAL", b"redis.call('set', 'k', 'v') for i = 1, 900000 do end return 1", b"0")
    timed.chat.session.advance()
    assert timed.other("GET k") == b"v"
    assert timed.chat.hear() == [1]


def test_attempts_of_a_script_are_bounded() -> None:
    timed = Timed(slice_seconds=0.005, seconds_max=0)
    timed.chat.send(b"EVAL", b"for i = 1, 400000 do end return 1", b"0")
    for _ in range(SCRIPT_ATTEMPTS_MAX - 1):
        assert timed.chat.session.output() == []
        timed.chat.session.advance()
    assert timed.chat.session.output() == [b":1\r\n"]


def test_server_is_busy_while_a_script_runs_for_too_long() -> None:
    timed = Timed(seconds_max=0.3)
    timed.slow(ENDLESS)
    for command in ("GET k", "SET k v", "EVAL x 0", "SCRIPT FLUSH", "WATCH k", "SUBSCRIBE c"):
        assert text(timed.other(command)) == BUSY
    assert timed.other("PING") == PONG
    assert timed.other("INFO server").startswith(b"# Server")
    timed.fire()
    assert timed.other("SCRIPT KILL") == OK
    timed.fire()
    (reply,) = timed.chat.hear()
    assert "Script killed by user with SCRIPT KILL" in text(reply)
    assert timed.other("SET k v") == OK
    assert evaluate(timed.chat, "return 1") == 1


def test_paused_script_goes_on_to_its_end() -> None:
    timed = Timed(seconds_max=0.3)
    timed.slow(b"for i = 1, 1000000 do end return redis.call('incr', 'k')")
    while timed.runner.is_busy:
        timed.fire()
    assert timed.chat.hear() == [1]
    assert timed.other("GET k") == b"1"


def test_script_that_has_written_cannot_be_killed() -> None:
    timed = Timed(seconds_max=0.3)
    timed.slow(b"redis.call('set', 'k', 'v') for i = 1, 1000000 do end return 1")
    assert text(timed.other("SCRIPT KILL")).startswith("UNKILLABLE Sorry the script already executed write commands")
    while timed.runner.is_busy:
        timed.fire()
    assert timed.chat.hear() == [1]
    assert timed.other("GET k") == b"v"


def test_endless_script_that_has_written_ends_by_its_steps() -> None:
    timed = Timed(seconds_max=0.3, steps_max=50_000_000)
    timed.slow(b"redis.call('set', 'k', 'v') while true do end")
    while timed.runner.is_busy:
        timed.fire()
    assert "steps" in text(timed.chat.hear()[0])
    assert timed.other("GET k") == b"v"


def test_nothing_is_killed_if_no_script_runs(chat: Chat) -> None:
    assert text(chat("SCRIPT KILL")) == "NOTBUSY No scripts in execution right now."


def test_client_of_a_paused_script_is_not_idle() -> None:
    timed = Timed(seconds_max=0.3)
    timed.slow(ENDLESS)
    assert timed.chat.session.may_idle
    timed.runner.close()
    assert timed.chat.hear()
    assert not timed.chat.session.may_idle


def test_paused_script_goes_on_without_its_client() -> None:
    timed = Timed(seconds_max=0.3)
    timed.slow(b"for i = 1, 1000000 do end return redis.call('set', 'k', 'v')")
    timed.chat.session.disconnected()
    while timed.runner.is_busy:
        timed.fire()
    assert timed.other("GET k") == b"v"


def test_closed_server_undoes_a_paused_script() -> None:
    timed = Timed(seconds_max=0.3)
    timed.slow(b"redis.call('set', 'k', 'v') while true do end")
    timed.runner.close()
    assert not timed.runner.is_busy
    assert text(timed.chat.hear()[0]) == "ERR the server stops; the script was undone"
    assert timed.other("GET k") is None


def test_paused_script_waits_for_its_commit() -> None:
    timed = Timed(seconds_max=0.3, late=True)
    listener = Chat(timed.chat)
    listener("SUBSCRIBE c")
    timed.slow(b"redis.call('set', 'k', 'v') redis.call('publish', 'c', 'm') for i = 1, 1000000 do end return 1")
    while timed.runner.is_busy:
        timed.fire()
    assert timed.chat.hear() == []
    assert listener.hear() == []
    timed.chat.storage.commit()
    assert timed.chat.hear() == [1]
    assert listener.hear() == [[b"message", b"c", b"m"]]


def test_transaction_with_a_long_script_is_attempted_as_a_whole() -> None:
    timed = Timed()
    chat = timed.chat
    chat("MULTI")
    chat("INCR k")
    chat.say(b"EVAL", b"for i = 1, 50000 do end return redis.call('incr', 'k')", b"0")
    chat.send(b"EXEC")
    assert chat.session.output() == []
    assert timed.other("SET k 10") == OK
    assert chat.hear() == [[11, 12]]


def test_exec_is_refused_while_a_script_has_paused() -> None:
    timed = Timed(seconds_max=0.3)
    timed.other("MULTI")
    timed.slow(ENDLESS)
    assert text(timed.other("EXEC")) == f"EXECABORT Transaction discarded because of: {BUSY}"
    timed.runner.close()


def test_right_that_ends_between_attempts_ends_the_script() -> None:
    timed = Timed()
    timed.other.say(*b"ACL SETUSER u on >p ~* +@all".split())
    timed.chat("AUTH u p")
    for taken, expected in (("-@scripting", "eval"), ("+@all -set", "set")):
        timed.other("ACL SETUSER u +@all")
        timed.chat.send(b"EVAL", b"for i = 1, 50000 do end return redis.pcall('set', 'k', 'v')", b"0")
        assert timed.chat.session.output() == []
        timed.other(f"ACL SETUSER u {taken}")
        assert f"run the '{expected}' command" in text(timed.chat.hear()[0])
    assert timed.other("GET k") is None


def test_right_that_ends_while_a_script_pauses_changes_nothing_for_it() -> None:
    timed = Timed(seconds_max=0.3)
    timed.other.say(*b"ACL SETUSER u on >p ~* +@all".split())
    timed.chat("AUTH u p")
    timed.slow(b"for i = 1, 1000000 do end return redis.call('incr', 'k')")
    users = timed.chat.context.users
    user = users.get(b"u")
    assert user is not None
    users.set(user.changed(["-@all"]))
    while timed.runner.is_busy:
        timed.fire()
    assert timed.chat.hear() == [1]


def test_arguments_of_a_long_script_count_as_unfinished_bytes() -> None:
    timed = Timed()
    timed.chat.send(b"EVAL", b"for i = 1, 50000 do end return 1", b"1", b"k" * 100, b"a" * 1_000)
    assert timed.chat.session.buffered == 1_100
    assert timed.chat.hear() == [1]
    assert timed.chat.session.buffered == 0


def test_many_long_scripts_leave_memory_for_others() -> None:
    chat = Timed(memory_max=8 * MIB).chat
    for number in range(10):
        reply = chat.say(b"SCRIPT", b"LOAD", b"local a " + b"a=1 " * 50_000 + b"return %d" % number)
        assert isinstance(reply, bytes)
    assert evaluate(chat, "return 1") == 1


def test_zero_time_is_no_limit() -> None:
    timed = Timed(seconds_max=0, steps_max=50_000_000)
    timed.chat.send(b"EVAL", ENDLESS, b"0")
    assert "steps" in text(timed.chat.hear()[0])
