r"""The formats of `cairn import` and `cairn export`: rows to lines, and lines back to rows.

    jsonl   {"key": "a", "value": "b", "expires_ms": 1767225600000}     one object on a line
    tsv     a<TAB>b[<TAB>1767225600000]                                 one row on a line
    csv     key,value,expires_ms                                        the header, then a row on a line or several

`expires_ms` is when the key expires, in milliseconds since 1970; where it is left out, the key does not.
jsonl says what is not UTF-8 as `key_b64` and `value_b64`. tsv has bytes as they are, but for four: a tab is
written \t, a newline \n, a carriage return \r, a backslash \\. csv has quotes (RFC 4180) and is for text only.

What always holds: what a format writes, it reads back as the same rows, byte for byte, or it has refused to
write it; a bad line is given as `Bad` with its number, never guessed at, and the lines behind it can be read;
memory is bounded by one row.

Not for files, progress or servers (`transfer`).
"""

import base64
import binascii
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import PurePath
from typing import IO, Any, Final, NamedTuple, Protocol, TypeAlias

from cairnkv.errors import CallerError
from cairnkv.limits import FRAME_MAX, KEY_MAX, TTL_MAX

LINE_MAX: Final = 6 * FRAME_MAX
"""Bytes in one line: JSON takes six for one control character."""


class Row(NamedTuple):
    """A key, its value, and when it expires, in milliseconds since 1970, if it does."""

    key: bytes
    value: bytes
    expires_ms: int | None = None


class Line(NamedTuple):
    """A row, and the number of the line it begins at."""

    number: int
    row: Row


class Bad(NamedTuple):
    """Why there is no row at a line."""

    number: int
    why: str


class CannotSay(CallerError):
    """A row that a format has no words for."""


class Misfit(ValueError):
    """What is wrong with a line."""


class Format(Protocol):
    """One format, in both directions."""

    def read(self, file: IO[bytes]) -> Iterator[Line | Bad]:
        """The rows of a file, in order."""

    def write(self, rows: Iterable[Row]) -> Iterator[bytes]:
        """The bytes of a file, in pieces. Raises `CannotSay` for a row that cannot be read back."""


# -- lines -------------------------------------------------------------------------------------------------

_RawLine: TypeAlias = tuple[int, bytes | None]
"""A line's number and its bytes with their newline; None when it is too long."""


MARK: Final = b"\xef\xbb\xbf"
"""The UTF-8 byte order mark that some programs write at the beginning of a file. It is not a part of the first line."""

_OTHER_MARKS: Final = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""Byte order marks of encodings that no format has. The mark of little-endian UTF-32 begins with that of UTF-16."""


def _lines(file: IO[bytes], limit: int) -> Iterator[_RawLine]:
    """Return the lines of a file without its mark. Raises `CallerError` if the file is UTF-16 or UTF-32."""
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        fits = len(line) <= limit
        if number == 1:
            if other := next((name for mark, name in _OTHER_MARKS.items() if line.startswith(mark)), None):
                raise CallerError(f"line 1: {other}; save the file as UTF-8")
            line = line.removeprefix(MARK)
        if fits:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(limit)
        yield number, None


class _ByLine:
    """A format with a row on each line; empty lines are passed over."""

    def __init__(self, parse: Callable[[bytes], Row], unparse: Callable[[Row], bytes], limit: int = LINE_MAX) -> None:
        self._parse = parse
        self._unparse = unparse
        self._limit = limit

    def read(self, file: IO[bytes]) -> Iterator[Line | Bad]:
        for number, line in _lines(file, self._limit):
            if line is None:
                yield Bad(number, f"longer than {self._limit:,} bytes")
                continue
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if not line:
                continue
            try:
                yield Line(number, _checked(self._parse(line)))
            except Misfit as misfit:
                yield Bad(number, str(misfit))

    def write(self, rows: Iterable[Row]) -> Iterator[bytes]:
        first = True
        for row in rows:
            line = self._unparse(row)
            # A key may begin with a mark. Import removes one mark of UTF-8, and refuses a file with another mark.
            if first and line.startswith((MARK, *_OTHER_MARKS)):
                line = MARK + line
            first = False
            yield line


def _checked(row: Row) -> Row:
    if not 1 <= len(row.key) <= KEY_MAX:
        raise Misfit(f"a key has 1 to {KEY_MAX:,} bytes, this one {len(row.key):,}")
    if row.expires_ms is not None and not 0 <= row.expires_ms <= TTL_MAX:
        raise Misfit(f"expires_ms is a number of milliseconds since 1970, not {str(row.expires_ms)[:24]}")
    return row


_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{0,20})?([eE]\+?[0-9]{1,2})?")
"""Spreadsheets and data frames write whole numbers as 1999999999000.0 or 1.9e12."""


def _milliseconds(text: str) -> int | None:
    """The moment that stands in a column: none where it is empty."""
    if not text:
        return None
    if _NUMBER.fullmatch(text) and (number := Decimal(text)) == number.to_integral_value():
        return int(number)
    raise Misfit(f"expires_ms is a whole number of milliseconds since 1970, not {text[:24]!r}")


# -- JSON lines ----------------------------------------------------------------------------------------------

_MEMBERS: Final = frozenset({"key", "key_b64", "value", "value_b64", "expires_ms"})


def _parse_json(line: bytes) -> Row:
    try:
        members = json.loads(line.decode(), object_pairs_hook=list)
    except UnicodeDecodeError:
        raise Misfit("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Misfit(f"not JSON: {error.msg}, at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise Misfit(f"not JSON: {error}") from None
    if not line.lstrip().startswith(b"{"):
        raise Misfit("not an object: {...}")
    row = dict(members)
    if len(row) < len(members):
        raise Misfit("a member stands there twice")
    if unknown := row.keys() - _MEMBERS:
        raise Misfit(f"it has no member {sorted(unknown)[0]!r}, only {', '.join(sorted(_MEMBERS))}")
    expires = row.get("expires_ms")
    if type(expires) is float and expires.is_integer():
        expires = row["expires_ms"] = int(expires)
    if expires is not None and type(expires) is not int:
        raise Misfit(f"expires_ms is a whole number of milliseconds since 1970, not {expires!r:.24}")
    return Row(_bytes_of(row, "key"), _bytes_of(row, "value"), expires)


def _bytes_of(row: dict[str, Any], name: str) -> bytes:
    names = [given for given in (name, f"{name}_b64") if given in row]
    if len(names) != 1:
        raise Misfit(f"it has one of {name} and {name}_b64, and here are {len(names)}")
    text = row[names[0]]
    if not isinstance(text, str):
        raise Misfit(f"{names[0]} is a string, not {text!r:.24}")
    try:
        return text.encode() if names[0] == name else base64.b64decode(text, validate=True)
    except UnicodeEncodeError:
        raise Misfit(f"{name} holds half of a surrogate pair, which is no text") from None
    except (binascii.Error, ValueError) as error:
        raise Misfit(f"{name}_b64 is not base64: {error}") from None


def _unparse_json(row: Row) -> bytes:
    members: dict[str, Any] = {}
    for name, data in (("key", row.key), ("value", row.value)):
        try:
            members[name] = data.decode()
        except UnicodeDecodeError:
            members[f"{name}_b64"] = base64.b64encode(data).decode()
    if row.expires_ms is not None:
        members["expires_ms"] = row.expires_ms
    return json.dumps(members, ensure_ascii=False).encode() + b"\n"


# -- key<TAB>value -------------------------------------------------------------------------------------------

_ESCAPES: Final = {b"\\": b"\\\\", b"\t": b"\\t", b"\n": b"\\n", b"\r": b"\\r"}
"""What is written for a byte; the backslash first, since it is what the others are written with."""


def _escape(data: bytes) -> bytes:
    for plain, written in _ESCAPES.items():
        data = data.replace(plain, written)
    return data


_PLAIN: Final = {written[1:]: plain for plain, written in _ESCAPES.items()}


def _unescape(data: bytes) -> bytes:
    return _ESCAPED.sub(_unescaped, data)


_ESCAPED: Final = re.compile(rb"\\(.?)", re.DOTALL)


def _unescaped(match: re.Match[bytes]) -> bytes:
    plain = _PLAIN.get(match[1])
    if plain is None:
        raise Misfit(f"there is no escape {_text(match[0])}; a backslash that stands for itself is written twice")
    return plain


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _parse_tsv(line: bytes) -> Row:
    columns = line.split(b"\t")
    if len(columns) not in (2, 3):
        raise Misfit(
            f"a line is key<TAB>value or key<TAB>value<TAB>expires_ms, and this one has {len(columns)} columns"
        )
    expires = _milliseconds(_text(columns[2])) if len(columns) == 3 else None
    return Row(_unescape(columns[0]), _unescape(columns[1]), expires)


def _unparse_tsv(row: Row) -> bytes:
    columns = [_escape(row.key), _escape(row.value)]
    if row.expires_ms is not None:
        columns.append(b"%d" % row.expires_ms)
    return b"\t".join(columns) + b"\n"


# -- CSV -----------------------------------------------------------------------------------------------------

_COLUMNS: Final = ("key", "value", "expires_ms")


class _Csv:
    """Columns by the names in the header, in any order; a row may take several lines."""

    def __init__(self, limit: int = LINE_MAX) -> None:
        self._limit = limit

    def read(self, file: IO[bytes]) -> Iterator[Line | Bad]:
        # The module's limit holds for the whole process, which is a command line and reads nothing else.
        csv.field_size_limit(self._limit)
        reader = csv.reader(self._decoded(file), strict=True)
        header: list[str] | None = None
        while True:
            number = reader.line_num + 1
            try:
                columns = next(reader, None)
                if columns is None:
                    return
                if not columns:
                    continue
                if header is None:
                    header = _header(columns)
                else:
                    yield Line(number, _checked(_parse_csv(header, columns)))
            except (csv.Error, Misfit) as error:
                why = _csv_words(error) if isinstance(error, csv.Error) else str(error)
                if header is None:
                    raise CallerError(f"line {number}: {why}") from None
                yield Bad(number, why)

    def _decoded(self, file: IO[bytes]) -> Iterator[str]:
        for number, line in _lines(file, self._limit):
            if line is None:
                raise CallerError(f"line {number}: longer than {self._limit:,} bytes")
            yield line.decode("utf-8", "surrogateescape")

    def write(self, rows: Iterable[Row]) -> Iterator[bytes]:
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer)  # ends lines in \r\n, and so quotes both of these within a field
        writer.writerow(_COLUMNS)
        for row in rows:
            try:
                key, value = row.key.decode(), row.value.decode()
            except UnicodeDecodeError:
                shown = row.key[:24].decode("utf-8", "backslashreplace")
                raise CannotSay(f"key {shown!r}: CSV is for UTF-8 text, which this is not; try jsonl") from None
            writer.writerow((key, value, "" if row.expires_ms is None else row.expires_ms))
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
        if buffer.tell():
            yield buffer.getvalue().encode()


_CSV_WORDS: Final = {
    "new-line character seen": "a carriage return without a newline ends no line; save the file with line ends \\n or "
    "\\r\\n, or put the field in quotes",
    "unexpected end of data": "the file ends within the quotes of a field",
    "',' expected after": "after the closing quote of a field there is neither a comma nor the end of the line; write "
    "a quote within a field twice",
    "field larger than": "a field is longer than the longest line",
}
"""Our messages, by the beginnings of the messages of Python's module."""


def _csv_words(error: csv.Error) -> str:
    text = str(error)
    return next((words for begin, words in _CSV_WORDS.items() if text.startswith(begin)), f"not CSV: {text}")


def _header(columns: list[str]) -> list[str]:
    names = [column.strip().lower() for column in columns]
    if not {"key", "value"} <= set(names) <= set(_COLUMNS) or len(names) > len(set(names)):
        raise Misfit("the first line of a CSV file names its columns: key,value or key,value,expires_ms")
    return names


def _parse_csv(header: list[str], columns: list[str]) -> Row:
    if len(columns) != len(header):
        raise Misfit(f"{len(columns)} columns, and the header has {len(header)}")
    row = dict(zip(header, columns, strict=True))
    try:
        return Row(row["key"].encode(), row["value"].encode(), _milliseconds(row.get("expires_ms", "")))
    except UnicodeEncodeError:
        raise Misfit("not UTF-8") from None


# -- all of them ---------------------------------------------------------------------------------------------

JSONL: Final = _ByLine(_parse_json, _unparse_json)
TSV: Final = _ByLine(_parse_tsv, _unparse_tsv)
CSV: Final = _Csv()

FORMATS: Final[dict[str, Format]] = {"jsonl": JSONL, "tsv": TSV, "csv": CSV}
"""Each format by its name."""

ENDINGS: Final = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".tsv": "tsv", ".tab": "tsv", ".csv": "csv"}
"""What a file's ending says of its format."""


def format_of(file: str, name: str | None) -> Format:
    """The format that was named, else the one that a file's ending says, else JSON lines for `-`."""
    if name is None:
        name = "jsonl" if file == "-" else ENDINGS.get(PurePath(file).suffix.lower())
    if name is None:
        raise CallerError(f"{file}: its ending says no format; say --format {', '.join(FORMATS)}")
    return FORMATS[name]
