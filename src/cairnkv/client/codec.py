"""Codecs: encode Python keys and values as bytes, and decode them.

Text is the default. JSON and MessagePack have structured values. There is no pickle, because decoding a pickle runs
code from the pickle.

Invariants: bytes that a codec cannot decode raise `CodecError`. A codec refuses a value that it would decode as another
value.
"""

import importlib
import itertools
import math
import reprlib
from collections.abc import Iterable
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar

from cairnkv.errors import CodecError, OptionError

V = TypeVar("V")
K_co = TypeVar("K_co", covariant=True)


class Codec(Protocol[V]):
    """Encodes and decodes values. Any object with these two methods is a codec."""

    def encode(self, value: V, /) -> bytes:
        """Return the bytes for a value."""

    def decode(self, data: bytes, /) -> V:
        """Return the value of bytes."""


CodecName: TypeAlias = Literal["text", "bytes", "json", "msgpack"]


class Text:
    """Strings, as UTF-8."""

    def encode(self, value: str) -> bytes:
        if isinstance(value, str):
            return utf8(value)
        raise CodecError(
            f"the text codec takes a string, not {type(value).__name__}; codec='json' takes numbers, lists and dicts, "
            "codec='bytes' takes bytes"
        )

    def decode(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise CodecError(f"{_shown(data)} is not UTF-8 text; codec='bytes' returns it unchanged") from None


class Bytes:
    """Bytes, unchanged."""

    def encode(self, value: bytes) -> bytes:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        raise CodecError(f"the bytes codec takes bytes, not {type(value).__name__}; codec='text' takes strings")

    def decode(self, data: bytes) -> bytes:
        return data


class Json:
    """JSON in its shortest form. The codec refuses a value that would not come back equal."""

    _NAME: Final = "json"
    _PLAIN: Final = (str, int, float)
    _KEYS: Final = (str,)
    _TAKEN: Final = "None, True, False, numbers, text, lists, and dicts with text as keys"

    def __init__(self) -> None:
        json = importlib.import_module("json")  # a slow import that only this codec needs
        self._write: Any = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
        self._read: Any = json.loads

    def encode(self, value: Any) -> bytes:
        try:
            text: str = self._write(value)
            data = text.encode()
            if self._read(text) == value:
                return data
        except (TypeError, ValueError, RecursionError) as error:
            raise _refused(self, value, error) from None
        raise _refused(self, value)

    def decode(self, data: bytes) -> Any:
        try:
            return self._read(data)
        except (ValueError, RecursionError) as error:
            raise CodecError(f"{_shown(data)} is not JSON: {error}") from None


class MessagePack:
    """MessagePack. Needs the package msgpack: `pip install 'cairnkv[msgpack]'`.

    The codec refuses a value that would not come back equal. Keys of maps are text or bytes: the hashes of other keys
    can be forged.
    """

    _NAME: Final = "msgpack"
    _PLAIN: Final = (str, int, float, bytes, bytearray, memoryview)
    _KEYS: Final = (str, bytes)
    _TAKEN: Final = "None, True, False, numbers, text, bytes, lists, and dicts with text or bytes as keys"

    def __init__(self) -> None:
        try:
            msgpack = importlib.import_module("msgpack")
        except ImportError:
            raise OptionError("codec='msgpack' needs a package: pip install 'cairnkv[msgpack]'") from None
        self._pack: Any = msgpack.packb
        self._unpack: Any = msgpack.unpackb

    def encode(self, value: Any) -> bytes:
        try:
            data: bytes = self._pack(value)
            if self._unpack(data) == value:
                return data
        except Exception as error:  # msgpack raises errors of many classes
            raise _refused(self, value, error) from None
        raise _refused(self, value)

    def decode(self, data: bytes) -> Any:
        try:
            return self._unpack(data)
        except Exception as error:  # msgpack raises errors of many classes
            raise CodecError(f"{_shown(data)} is not MessagePack: {error}") from None


WALK_MAX: Final = 10_000
"""Parts of a refused value that the codec searches for the part it cannot encode."""

_short: Final = reprlib.repr  # in bounded length and time

PATH_MAX: Final = 200
"""Length of the path to a part, above which the search does not go deeper."""


def _refused(codec: Json | MessagePack, value: Any, error: Exception | None = None) -> CodecError:
    """Return the error for a value that the codec refuses. It names the part of the value."""
    name, taken = codec._NAME, codec._TAKEN
    parts = [("value", value)]
    for where, part in parts:  # the loop appends to `parts`
        deeper: Iterable[tuple[Any, Any]] = ()
        if isinstance(part, dict):
            for key in part:
                if not isinstance(key, codec._KEYS):
                    return CodecError(f"codec={name!r} takes {taken}; {where} has the key {_short(key)}")
            deeper = part.items()
        elif isinstance(part, list):
            deeper = enumerate(part)
        elif isinstance(part, tuple):
            return CodecError(f"codec={name!r} would return a tuple as a list; {where} is {_short(part)}: use a list")
        elif isinstance(part, float) and not math.isfinite(part) and (part != part or name == "json"):
            return CodecError(f"codec={name!r} would not return {part!r}; {where} is {part!r}: use None")
        elif part is not None and not isinstance(part, codec._PLAIN):
            return CodecError(f"codec={name!r} takes {taken}; {where} is of type {type(part).__name__}: {_short(part)}")
        if len(where) <= PATH_MAX:
            room = WALK_MAX - len(parts)
            parts += [(f"{where}[{_short(at)}]", inner) for at, inner in itertools.islice(deeper, room)]
    why = "it would not come back equal" if error is None else f"{type(error).__name__}: {error}"
    return CodecError(f"codec={name!r} cannot keep {_short(value)}: {why}")


class KeyCodec(Protocol[K_co]):
    """Decodes keys. With every codec, keys that users pass are text or bytes."""

    def decode(self, data: bytes, /) -> K_co:
        """Return the key of bytes."""


_NAMED: Final[dict[str, type[Any]]] = {"text": Text, "bytes": Bytes, "json": Json, "msgpack": MessagePack}


def value_codec(codec: CodecName | Codec[Any]) -> Codec[Any]:
    """Return the codec with a name, or the codec itself. Raises `OptionError` if it is neither."""
    if isinstance(codec, str):
        if codec not in _NAMED:
            raise OptionError(f"codec is {', '.join(_NAMED)}, or an object with encode and decode, not {codec!r}")
        named: Codec[Any] = _NAMED[codec]()
        return named
    if callable(getattr(codec, "encode", None)) and callable(getattr(codec, "decode", None)):
        return codec
    raise OptionError(
        f"codec is {', '.join(map(repr, _NAMED))}, or an object with encode and decode, not {codec!r:.40}"
    )


def key_codec(codec: CodecName | Codec[Any]) -> KeyCodec[Any]:
    """Return the codec of keys beside a codec of values: bytes for codec='bytes', else text."""
    return Bytes() if codec == "bytes" else Text()


def key_bytes(key: str | bytes, what: str = "a key") -> bytes:
    """Return the bytes of a key. Raises `CodecError` if it is neither text nor bytes."""
    if isinstance(key, str):
        return utf8(key)
    if isinstance(key, bytes):
        return key
    raise CodecError(f"{what} is text or bytes, not {type(key).__name__}: {key!r:.40}")


def utf8(text: str) -> bytes:
    """Return the bytes of a text. Raises `CodecError` for a text without UTF-8, such as half a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise CodecError(f"{text!r:.40} has no UTF-8 encoding: {error.reason}") from None


def _shown(data: bytes) -> str:
    return f"{data[:24]!r}{'…' if len(data) > 24 else ''}"
