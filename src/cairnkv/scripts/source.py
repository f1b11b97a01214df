"""The header of a script: the line `#!lua flags=...`, as Redis 7 reads it."""

from typing import Final

FLAGS: Final = frozenset((b"no-writes", b"allow-oom", b"allow-stale", b"no-cluster", b"allow-cross-slot-keys"))


class ScriptRefused(Exception):
    """The source of a script is invalid. The text is that of the error reply."""


def flags_of(source: bytes) -> frozenset[str] | None:
    """Return the flags of a script's header, or None without a header. Raises `ScriptRefused`.

    >>> flags_of(b"#!lua flags=no-writes\\nreturn 1")
    frozenset({'no-writes'})
    """
    if not source.startswith(b"#!"):
        return None
    line, end, _ = source.partition(b"\n")
    if not end:
        raise ScriptRefused("ERR Invalid script shebang")
    engine, *options = line.split() or [b""]
    if engine != b"#!lua":
        raise ScriptRefused(f"ERR Unexpected engine in script shebang: {_text(engine)}")
    flags = set()
    for option in options:
        if not option.startswith(b"flags="):
            raise ScriptRefused(f"ERR Unknown lua shebang option: {_text(option)}")
        for flag in option.removeprefix(b"flags=").split(b","):
            if flag not in FLAGS:
                raise ScriptRefused(f"ERR Unexpected flag in script shebang: {_text(flag)}")
            flags.add(flag.decode())
    return frozenset(flags)


def body_of(source: bytes) -> bytes:
    """Return the Lua source behind the header; the line's end stays, so that lines keep their numbers."""
    if flags_of(source) is None:
        return source
    return source[source.index(b"\n") :]


def _text(part: bytes) -> str:
    return part.decode("utf-8", "surrogateescape")
