r"""The formats of `cairn import` and `cairn export`: convert rows to lines, and lines to rows.

    jsonl   {"key": "a", "value": "b", "expires_ms": 1767225600000}     one object on each line
    tsv     a<TAB>b[<TAB>1767225600000]                                 one row on each line
    csv     key,value,expires_ms                                        a header, then rows of one or more lines

`expires_ms` is the expiry in milliseconds since 1970; a row without it does not expire. jsonl has bytes that are not
UTF-8 in base64, as `key_b64` and `value_b64`. tsv has unchanged bytes, except four: a tab is \t, a newline \n, a
carriage return \r, a backslash \\. csv has quotes (RFC 4180) and UTF-8 text only.

Invariants: a format reads the rows that it has written as the same bytes, or refuses to write them. A reader yields
`Bad` with the line number for a bad line, and continues with the next line. Memory holds one row.

Out of scope: files, progress and servers (`transfer`).
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
from typing import IO, Any, Final, NamedTuple, TypeAlias

from cairnkv.cli.output import named
from cairnkv.errors import CallerError
from cairnkv.limits import FRAME_MAX, KEY_MAX, TTL_MAX

LINE_MAX: Final = 6 * FRAME_MAX
"""Maximum bytes of a line. JSON takes six bytes for a control character."""


class Row(NamedTuple):
    """A key, its value, and its expiry in milliseconds since 1970 (None: it does not expire)."""

    key: bytes
    value: bytes
    expires_ms: int | None = None


class Line(NamedTuple):
    """A row, and the number of its first line."""

    number: int
    row: Row


class Bad(NamedTuple):
    """A line that has no valid row, and the reason."""

    number: int
    why: str


class Unwritable(CallerError):
    """A row that a format cannot represent."""


class Misfit(ValueError):
    """An error in a line."""


# -- lines -------------------------------------------------------------------------------------------------

_RawLine: TypeAlias = tuple[int, bytes | None]
"""A line's number, and its bytes including the newline; None if the line is too long."""


MARK: Final = b"\xef\xbb\xbf"
"""The UTF-8 byte order mark that some programs write at the beginning of a file. The first line does not include it."""

_OTHER_MARKS: Final = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""Byte order marks of unsupported encodings. The mark of little-endian UTF-32 begins with the mark of UTF-16."""


def _lines(file: IO[bytes], limit: int) -> Iterator[_RawLine]:
    """Yield the lines of a file without its mark. Raises `CallerError` if the file is UTF-16 or UTF-32."""
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
    """A format with one row on each line. It skips empty lines."""

    def __init__(self, parse: Callable[[bytes], Row], unparse: Callable[[Row], bytes], limit: int = LINE_MAX) -> None:
        self._parse = parse
        self._unparse = unparse
        self._limit = limit

    def read(self, file: IO[bytes]) -> Iterator[Line | Bad]:
        """Yield the rows of a file, in order."""
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
        """Yield the bytes of a file, in parts."""
        for number, row in enumerate(rows):
            line = self._unparse(row)
            # The key may begin with a mark. A reader removes one UTF-8 mark, and refuses a file with another mark.
            yield MARK + line if not number and line.startswith((MARK, *_OTHER_MARKS)) else line


def _checked(row: Row) -> Row:
    if not 1 <= len(row.key) <= KEY_MAX:
        raise Misfit(f"a key has 1 to {KEY_MAX:,} bytes, but this one has {len(row.key):,}")
    if row.expires_ms is not None and not 0 <= row.expires_ms <= TTL_MAX:
        raise Misfit(f"expires_ms is a number of milliseconds since 1970, not {str(row.expires_ms)[:24]}")
    return row


_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{0,20})?([eE]\+?[0-9]{1,2})?")
"""Spreadsheets and data frames write whole numbers as 1999999999000.0 or 1.9e12."""


def _milliseconds(text: str) -> int | None:
    """Return the time in a column, or None if the column is empty."""
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
        raise Misfit("the object has a member twice")
    if unknown := row.keys() - _MEMBERS:
        raise Misfit(f"{sorted(unknown)[0]!r} is not a member; use {', '.join(sorted(_MEMBERS))}")
    expires = row.get("expires_ms")
    if type(expires) is float and expires.is_integer():
        expires = row["expires_ms"] = int(expires)
    if expires is not None and type(expires) is not int:
        raise Misfit(f"expires_ms is a whole number of milliseconds since 1970, not {expires!r:.24}")
    return Row(_bytes_of(row, "key"), _bytes_of(row, "value"), expires)


def _bytes_of(row: dict[str, Any], name: str) -> bytes:
    names = [given for given in (name, f"{name}_b64") if given in row]
    if len(names) != 1:
        raise Misfit(f"the object needs one of {name} and {name}_b64, but has {len(names)}")
    text = row[names[0]]
    if not isinstance(text, str):
        raise Misfit(f"{names[0]} is a string, not {text!r:.24}")
    try:
        return text.encode() if names[0] == name else base64.b64decode(text, validate=True)
    except UnicodeEncodeError:
        raise Misfit(f"{name} contains half of a surrogate pair, which is not valid text") from None
    except (binascii.Error, ValueError) as error:
        raise Misfit(f"{name}_b64 is not base64: {error}") from None


def _unparse_json(row: Row) -> bytes:
    members: dict[str, Any] = {**named("key", row.key), **named("value", row.value)}
    if row.expires_ms is not None:
        members["expires_ms"] = row.expires_ms
    return json.dumps(members, ensure_ascii=False).encode() + b"\n"


# -- key<TAB>value -------------------------------------------------------------------------------------------

_ESCAPES: Final = {b"\\": b"\\\\", b"\t": b"\\t", b"\n": b"\\n", b"\r": b"\\r"}
"""The escape of each byte. The backslash comes first, because the other escapes contain it."""

_PLAIN: Final = {written[1:]: plain for plain, written in _ESCAPES.items()}
_ESCAPED: Final = re.compile(rb"\\(.?)", re.DOTALL)


def _escape(data: bytes) -> bytes:
    for plain, written in _ESCAPES.items():
        data = data.replace(plain, written)
    return data


def _unescaped(match: re.Match[bytes]) -> bytes:
    plain = _PLAIN.get(match[1])
    if plain is None:
        raise Misfit(f"there is no escape {_text(match[0])}; write \\\\ for a backslash")
    return plain


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _parse_tsv(line: bytes) -> Row:
    columns = line.split(b"\t")
    if len(columns) not in (2, 3):
        raise Misfit(
            f"a line is key<TAB>value or key<TAB>value<TAB>expires_ms, but this one has {len(columns)} columns"
        )
    expires = _milliseconds(_text(columns[2])) if len(columns) == 3 else None
    return Row(_ESCAPED.sub(_unescaped, columns[0]), _ESCAPED.sub(_unescaped, columns[1]), expires)


def _unparse_tsv(row: Row) -> bytes:
    columns = [_escape(row.key), _escape(row.value)]
    if row.expires_ms is not None:
        columns.append(b"%d" % row.expires_ms)
    return b"\t".join(columns) + b"\n"


# -- CSV -----------------------------------------------------------------------------------------------------

_COLUMNS: Final = ("key", "value", "expires_ms")


class _Csv:
    """CSV. The header names the columns, in any order; a row may take several lines."""

    def __init__(self, limit: int = LINE_MAX) -> None:
        self._limit = limit

    def read(self, file: IO[bytes]) -> Iterator[Line | Bad]:
        """Yield the rows of a file, in order."""
        csv.field_size_limit(self._limit)  # of the whole process, which reads no other CSV
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
                why = _csv_message(error) if isinstance(error, csv.Error) else str(error)
                if header is None:
                    raise CallerError(f"line {number}: {why}") from None
                yield Bad(number, why)

    def _decoded(self, file: IO[bytes]) -> Iterator[str]:
        for number, line in _lines(file, self._limit):
            if line is None:
                raise CallerError(f"line {number}: longer than {self._limit:,} bytes")
            yield line.decode("utf-8", "surrogateescape")

    def write(self, rows: Iterable[Row]) -> Iterator[bytes]:
        """Yield the bytes of a file, in parts. Raises `Unwritable`."""
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer)  # ends lines in \r\n, and so quotes both of these within a field
        writer.writerow(_COLUMNS)
        for row in rows:
            try:
                key, value = row.key.decode(), row.value.decode()
            except UnicodeDecodeError:
                shown = row.key[:24].decode("utf-8", "backslashreplace")
                raise Unwritable(f"key {shown!r}: CSV is for UTF-8 text only; use jsonl") from None
            writer.writerow((key, value, "" if row.expires_ms is None else row.expires_ms))
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
        if buffer.tell():
            yield buffer.getvalue().encode()


_CSV_MESSAGES: Final = {
    "new-line character seen": "a carriage return without a newline does not end a line; save the file with line ends "
    "\\n or \\r\\n, or quote the field",
    "unexpected end of data": "the file ends within a quoted field",
    "',' expected after": "text follows the closing quote of a field; write a quote within a field twice",
    "field larger than": "a field is longer than the maximum length of a line",
}
"""Our messages, by the beginnings of the messages of Python's module."""


def _csv_message(error: csv.Error) -> str:
    text = str(error)
    return next((ours for begin, ours in _CSV_MESSAGES.items() if text.startswith(begin)), f"not CSV: {text}")


def _header(columns: list[str]) -> list[str]:
    names = [column.strip().lower() for column in columns]
    if not {"key", "value"} <= set(names) <= set(_COLUMNS) or len(names) > len(set(names)):
        raise Misfit("the first line of a CSV file must name the columns: key,value or key,value,expires_ms")
    return names


def _parse_csv(header: list[str], columns: list[str]) -> Row:
    if len(columns) != len(header):
        raise Misfit(f"the row has {len(columns)} columns, but the header has {len(header)}")
    row = dict(zip(header, columns, strict=True))
    try:
        return Row(row["key"].encode(), row["value"].encode(), _milliseconds(row.get("expires_ms", "")))
    except UnicodeEncodeError:
        raise Misfit("not UTF-8") from None


# -- all of them ---------------------------------------------------------------------------------------------

JSONL: Final = _ByLine(_parse_json, _unparse_json)
TSV: Final = _ByLine(_parse_tsv, _unparse_tsv)
CSV: Final = _Csv()

Format: TypeAlias = _ByLine | _Csv

FORMATS: Final[dict[str, Format]] = {"jsonl": JSONL, "tsv": TSV, "csv": CSV}
"""Each format by its name."""

SUFFIXES: Final = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".tsv": "tsv", ".tab": "tsv", ".csv": "csv"}
"""The format of each suffix of a file name."""


def format_of(file: str, name: str | None) -> Format:
    """Return the named format; without a name, the format of the file's suffix, or jsonl for `-`."""
    if name is None:
        name = "jsonl" if file == "-" else SUFFIXES.get(PurePath(file).suffix.lower())
    if name is None:
        raise CallerError(f"{file}: unknown suffix; name the format with --format {', '.join(FORMATS)}")
    return FORMATS[name]
