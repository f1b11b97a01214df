"""HELP of the words that have others behind them, made from what these declare."""

from cairnkv.session.redis.grammar import WORDS, Arguments, Value, in_conversation
from cairnkv.wire.redis import Simple


def help_of(name: str, *, since: str) -> None:
    """Declare HELP for a word with others behind it, which all are declared already."""
    word = WORDS[name.encode()]

    @in_conversation(f"{name} HELP", "", group=word.group, since=since, summary="What can be said here.")
    def say_help(_talk: object, _arguments: Arguments) -> Value:
        lines = [f"{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
        for second, behind in sorted(word.behind.items()):
            lines += (f"{second.decode()} {behind.syntax}".rstrip(), f"    {behind.summary}")
        return [Simple(line) for line in lines]
