"""Import and export formats: rows are equal byte for byte after a round trip; bad lines are errors with a number."""

import codecs
import csv
import io
import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.cli import formats
from cairnkv.cli.formats import CSV, FORMATS, JSONL, TSV, Bad, Format, Line, Row, Unwritable, format_of
from cairnkv.errors import CallerError
from cairnkv.limits import KEY_MAX, TTL_MAX

OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
SPECIAL = [b"\\", b"\t", b"\n", b"\r", b'"', b",", b"\\n", b"\x00", b"\xef\xbb\xbf", b"'", b"=", "é\u2028".encode()]
pieces = st.lists(st.sampled_from([*SPECIAL, *OTHER_MARKS]) | st.binary(max_size=4), max_size=6).map(b"".join)
expiries = st.none() | st.integers(0, TTL_MAX)
rows = st.builds(Row, pieces.filter(bool), pieces, expiries)
text_pieces = st.lists(st.sampled_from(SPECIAL) | st.text(max_size=4).map(str.encode), max_size=6).map(b"".join)
text_rows = st.builds(Row, text_pieces.filter(bool), text_pieces, expiries)


def written(form: Format, some: Iterable[Row]) -> bytes:
    return b"".join(form.write(some))


def read(form: Format, data: bytes) -> list[Line | Bad]:
    return list(form.read(io.BytesIO(data)))


def rows_in(form: Format, data: bytes) -> list[Row]:
    lines = read(form, data)
    assert not [line for line in lines if isinstance(line, Bad)]
    return [line.row for line in lines if isinstance(line, Line)]


@pytest.mark.parametrize("form", [JSONL, TSV], ids=["jsonl", "tsv"])
@given(some=st.lists(rows, max_size=5))
def test_any_bytes_survive_a_round_trip(form: Format, some: list[Row]) -> None:
    data = written(form, some)
    assert rows_in(form, data) == some
    assert [line.number for line in read(form, data)] == list(range(1, len(some) + 1))
    assert data.count(b"\n") == len(some)


@given(some=st.lists(text_rows, max_size=5))
def test_any_text_survives_a_round_trip_as_csv(some: list[Row]) -> None:
    assert rows_in(CSV, written(CSV, some)) == some


@given(some=st.lists(text_rows, max_size=5))
def test_other_programs_read_equal_rows(some: list[Row]) -> None:
    table = list(csv.DictReader(io.StringIO(written(CSV, some).decode(), newline="")))
    assert [(row["key"].encode(), row["value"].encode()) for row in table] == [(row.key, row.value) for row in some]
    objects = [json.loads(line) for line in written(JSONL, some).split(b"\n")[:-1]]
    assert [(row["key"].encode(), row["value"].encode()) for row in objects] == [(row.key, row.value) for row in some]


@given(row=rows)
def test_csv_refuses_bytes_that_are_not_utf8(row: Row) -> None:
    try:
        row.key.decode()
        row.value.decode()
    except UnicodeDecodeError:
        with pytest.raises(Unwritable, match="CSV is for UTF-8 text"):
            written(CSV, [row])
    else:
        assert rows_in(CSV, written(CSV, [row])) == [row]


@given(data=st.binary(max_size=200), form=st.sampled_from(list(FORMATS.values())))
def test_readers_never_crash_on_any_bytes(data: bytes, form: Format) -> None:
    try:
        lines = read(form, data)
    except CallerError:
        assert form is CSV or data.startswith(OTHER_MARKS)  # CSV: its header
    else:
        assert all(isinstance(line, Bad) or 1 <= len(line.row.key) <= KEY_MAX for line in lines)


@pytest.mark.parametrize(
    ("form", "line", "why"),
    [
        (JSONL, b"{", "not JSON"),
        (JSONL, b"[" * 100_000, "not JSON"),
        (JSONL, b"1", "not an object"),
        (JSONL, b'[["key", "a"], ["value", "b"]]', "not an object"),
        (JSONL, b'{"key": "a"}', "one of value and value_b64, but has 0"),
        (JSONL, b'{"key": "a", "key_b64": "YQ==", "value": "b"}', "one of key and key_b64, but has 2"),
        (JSONL, b'{"key": "a", "key": "b", "value": "b"}', "twice"),
        (JSONL, b'{"key": 1, "value": "b"}', "key is a string, not 1"),
        (JSONL, b'{"key": "a", "value": {"b": 1}}', "value is a string"),
        (JSONL, b'{"key": "", "value": "b"}', "1 to 65,535 bytes"),
        (JSONL, b'{"key": "a", "value_b64": "?"}', "not base64"),
        (JSONL, b'{"key": "\\ud800", "value": "b"}', "surrogate"),
        (JSONL, b'{"key": "\xff", "value": "b"}', "not UTF-8"),
        (JSONL, b'{"key": "a", "value": "b", "ttl": 5}', "'ttl' is not a member"),
        (JSONL, b'{"key": "a", "value": "b", "expires_ms": "5"}', "milliseconds since 1970, not '5'"),
        (JSONL, b'{"key": "a", "value": "b", "expires_ms": true}', "milliseconds since 1970, not True"),
        (JSONL, b'{"key": "a", "value": "b", "expires_ms": -1}', "milliseconds since 1970, not -1"),
        (JSONL, b'{"key": "a", "value": "b", "expires_ms": 1' + b"0" * 5_000 + b"}", "not JSON"),
        (TSV, b"no tab", "this one has 1 columns"),
        (TSV, b"a\tb\t1\t2", "this one has 4 columns"),
        (TSV, b"\tb", "1 to 65,535 bytes"),
        (TSV, b"a\tC:\\path", "no escape \\p"),
        (TSV, b"a\tb\\", "no escape \\;"),
        (TSV, b"a\tb\tsoon", "milliseconds since 1970, not 'soon'"),
        (TSV, b"a\tb\t-1", "milliseconds since 1970"),
        (TSV, b"x" * (KEY_MAX + 1) + b"\tb", "this one has 65,536"),
        (CSV, b"a", "1 columns, but the header has 3"),
        (CSV, b"a,b,1,2", "4 columns, but the header has 3"),
        (CSV, b",b,", "1 to 65,535 bytes"),
        (CSV, b"a,b,soon", "milliseconds since 1970"),
        (CSV, b"\xff,b,", "not UTF-8"),
        (CSV, b'a,"b"c,', "text follows the closing quote of a field"),
        (CSV, b"a,b\rc,", "a carriage return without a newline does not end a line"),
    ],
)
def test_bad_line_is_named_and_later_lines_are_read(form: Format, line: bytes, why: str) -> None:
    good = Row(b"k", b"v", 7)
    before = written(form, [good])
    after = before.removeprefix(b"key,value,expires_ms\r\n")
    number = before.count(b"\n") + 1
    first, bad, second = read(form, before + line + b"\n" + after)
    assert (first, second) == (Line(number - 1, good), Line(number + 1, good))
    assert isinstance(bad, Bad)
    assert bad.number == number
    assert why in bad.why


@pytest.mark.parametrize(
    ("form", "data"),
    [
        (JSONL, b'{"key": "a", "value": "b"}'),
        (JSONL, b'\n{"value": "b", "key": "a", "expires_ms": null}\r\n\n'),
        (JSONL, b'  {"key_b64": "YQ==", "value_b64": "Yg=="}\n'),
        (TSV, b"a\tb"),
        (TSV, b"a\tb\t\n\n"),
        (TSV, b"\r\na\tb\r\n"),
        (CSV, b"key,value\na,b"),
        (CSV, b"\xef\xbb\xbfkey,value\r\na,b\r\n\r\n"),
        (CSV, b'"Value", KEY ,expires_ms\nb,"a",\n'),
    ],
)
def test_files_of_other_programs_are_read(form: Format, data: bytes) -> None:
    assert rows_in(form, data) == [Row(b"a", b"b")]


@pytest.mark.parametrize(
    "header", [b"a,b\n", b"key\n", b"key,value,ttl\n", b"key,value,key\n", b'"key', b"\xff,value\n"]
)
def test_csv_without_a_header_is_refused(header: bytes) -> None:
    with pytest.raises(CallerError, match="line 1: "):
        read(CSV, header + b"a,b\n")


def test_unclosed_quote_is_a_bad_line() -> None:
    lines = read(CSV, b'key,value\na,b\nc,"d\ne,f\n')
    assert lines[0] == Line(2, Row(b"a", b"b"))
    assert [line.number for line in lines] == [2, 3]
    assert isinstance(lines[1], Bad)


def test_row_of_several_lines_is_numbered_by_its_first() -> None:
    assert read(CSV, b'key,value\na,"b\n\nc"\nd,e\n') == [
        Line(2, Row(b"a", b"b\n\nc")),
        Line(5, Row(b"d", b"e")),
    ]


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_length_of_a_line_is_bounded(ending: bytes) -> None:
    form = formats._ByLine(formats._parse_tsv, formats._unparse_tsv, limit=100)
    fits = b"k\t" + b"v" * (98 - len(ending)) + ending
    assert isinstance(read(form, fits)[0], Line)
    for more in (1, 50, 100, 101, 1_000):
        over = fits.removesuffix(ending) + b"v" * more + ending
        assert read(form, over)[0] == Bad(1, "longer than 100 bytes")
        assert read(form, over.removesuffix(b"\n") + b"\n" + fits)[1] == Line(2, Row(b"k", fits[2:].strip()))


def test_length_of_a_csv_line_is_bounded() -> None:
    form = formats._Csv(limit=100)
    with pytest.raises(CallerError, match="line 2: longer than 100 bytes"):
        read(form, b"key,value\na," + b"b" * 99 + b"\n")


@pytest.mark.parametrize(
    ("file", "name", "form"),
    [
        ("a.jsonl", None, JSONL),
        ("a.NDJSON", None, JSONL),
        ("a.tsv", None, TSV),
        ("/x.y/a.csv", None, CSV),
        ("a.csv", "tsv", TSV),
        ("-", None, JSONL),
        ("-", "csv", CSV),
    ],
)
def test_format_comes_from_the_option_or_the_file_ending(file: str, name: str | None, form: Format) -> None:
    assert format_of(file, name) is form


@pytest.mark.parametrize("file", ["a", "a.txt", "csv", ".csv/a"])
def test_unknown_file_ending_is_an_error(file: str) -> None:
    with pytest.raises(CallerError, match="name the format with --format jsonl, tsv, csv"):
        format_of(file, None)


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("form", "data"),
    [
        (JSONL, b'{"key": "a", "value": "b"}\n'),
        (TSV, b"a\tb\n"),
        (CSV, b"key,value\na,b\n"),
    ],
    ids=["jsonl", "tsv", "csv"],
)
def test_utf8_byte_order_mark_belongs_to_no_row(form: Format, data: bytes) -> None:
    for begin in (MARK, MARK + b"\r\n", MARK + b"\n"):
        assert rows_in(form, begin + data) == [Row(b"a", b"b")]
    assert rows_in(form, MARK) == []


def test_tsv_keeps_a_key_that_begins_with_a_byte_order_mark() -> None:
    row = Row(MARK + b"a", b"b")
    assert written(TSV, [row, row]) == MARK + MARK + b"a\tb\n" + MARK + b"a\tb\n"
    assert rows_in(TSV, written(TSV, [row, row])) == [row, row]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32-le", "UTF-32"), ("utf-32-be", "UTF-32")],
)
@pytest.mark.parametrize(
    ("form", "text"),
    [(JSONL, '{"key": "a", "value": "b"}\n'), (TSV, "a\tb\n"), (CSV, "key,value\na,b\n")],
    ids=["jsonl", "tsv", "csv"],
)
@pytest.mark.parametrize("begin", ["", "\n"])
def test_file_in_another_encoding_is_refused(form: Format, text: str, encoding: str, name: str, begin: str) -> None:
    data = f"\ufeff{begin}{text}".encode(encoding)
    with pytest.raises(CallerError, match=f"^line 1: {name}; save the file as UTF-8$"):
        next(form.read(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"key,value\ra,b\rc,d\r", "line 1: a carriage return without a newline does not end a line"),
        (b'key,"value', "line 1: the file ends within a quoted field"),
        (b'"key"x,value\n', "line 1: text follows the closing quote"),
    ],
)
def test_bad_csv_header_gives_our_own_error(data: bytes, says: str) -> None:
    with pytest.raises(CallerError, match=says):
        read(CSV, data)


def test_file_that_ends_within_quotes_gives_our_own_error() -> None:
    assert read(CSV, b'key,value\na,"b\n') == [Bad(2, "the file ends within a quoted field")]


def test_long_first_line_in_another_encoding_is_refused() -> None:
    form = formats._ByLine(formats._parse_tsv, formats._unparse_tsv, limit=100)
    with pytest.raises(CallerError, match="UTF-16"):
        read(form, ("a\t" + "b" * 100).encode("utf-16"))


@pytest.mark.parametrize("mark", OTHER_MARKS)
@pytest.mark.parametrize("form", [TSV, JSONL], ids=["tsv", "jsonl"])
def test_key_that_begins_with_a_utf16_mark_is_kept(form: Format, mark: bytes) -> None:
    for key in (mark, mark + b"a", MARK + mark + b"a"):
        some = [Row(key, b"b"), Row(key + b"2", b"b")]
        assert rows_in(form, written(form, some)) == some


@pytest.mark.parametrize("form", [JSONL, TSV, CSV], ids=["jsonl", "tsv", "csv"])
@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1999999999000.0", 1_999_999_999_000),
        ("1999999999000.000", 1_999_999_999_000),
        ("1.9e12", 1_900_000_000_000),
        ("1.9E+12", 1_900_000_000_000),
        ("19e11", 1_900_000_000_000),
        ("0.0", 0),
        ("1.5", None),
        ("1e-3", None),
        ("1e30", None),
        ("1e99", None),
        ("-1.0", None),
        ("NaN", None),
        ("Infinity", None),
        ("true", None),
    ],
)
def test_expiry_is_a_whole_number_in_any_notation(form: Format, text: str, milliseconds: int | None) -> None:
    data = {
        JSONL: f'{{"key": "a", "value": "b", "expires_ms": {text}}}\n',
        TSV: f"a\tb\t{text}\n",
        CSV: f"key,value,expires_ms\na,b,{text}\n",
    }[form]
    (line,) = read(form, data.encode())
    if milliseconds is None:
        assert isinstance(line, Bad)
        assert "expires_ms" in line.why
    else:
        assert isinstance(line, Line)
        assert line.row == Row(b"a", b"b", milliseconds)
