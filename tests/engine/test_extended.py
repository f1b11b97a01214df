"""Sums of numbers with a fraction: those of C's `long double` on a PC, digit for digit, on every machine."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.engine.extended_float import TEXT_MAX, text_of_sum

PROGRAM = """
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
static int read(const char *text, long double *number) {
    char *end;
    errno = 0;
    *number = strtold(text, &end);
    return *text && !*end && !(errno == ERANGE && (isinf(*number) || *number == 0)) && !isnan(*number);
}
int main(void) {
    static char texts[2][8192];
    while (scanf("%8191s %8191s", texts[0], texts[1]) == 2) {
        long double one, other;
        if (!read(texts[0], &one) || !read(texts[1], &other)) puts("no number");
        else if (!isfinite(one + other)) puts("not finite");
        else printf("%.17Lf\\n", one + other);
        fflush(stdout);
    }
}
"""
"""Adds two numbers as Redis does in INCRBYFLOAT, line for line."""

IS_PC = platform.machine().lower() in ("x86_64", "amd64", "i686")
Sum = Callable[[str, str], str]


def our_sum(one: str, other: str) -> str:
    try:
        return text_of_sum(one.encode(), other.encode()).decode()
    except ValueError:
        return "no number"
    except OverflowError:
        return "not finite"


@pytest.fixture(scope="module")
def c_sum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sum]:
    """Return the sum of two numbers in C."""
    if not IS_PC or shutil.which("gcc") is None:
        pytest.skip("C's long double is compared with on a PC that has gcc; this is none, or it has none")
    directory: Path = tmp_path_factory.mktemp("extended")
    (directory / "sum.c").write_text(PROGRAM)
    subprocess.run(["gcc", "-O1", "-o", "sum", "sum.c"], cwd=directory, check=True, timeout=60)
    with subprocess.Popen([directory / "sum"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        asked, answered = process.stdin, process.stdout
        assert asked is not None
        assert answered is not None

        def added(one: str, other: str) -> str:
            asked.write(f"{one} {other}\n")
            asked.flush()
            text = answered.readline().strip()
            if "." in text:
                text = text.rstrip("0").rstrip(".")
            return "0" if text == "-0" else text

        yield added


DIGITS = st.integers(0, 400).flatmap(lambda most: st.text("0123456789", max_size=min(most, 60)))
POWERS = st.integers(-40, 40) | st.integers(-5_200, 5_200) | st.sampled_from([99_999, -99_999, 10**9, -(10**9)])
NUMBERS = st.builds(
    lambda sign, whole, point, behind, power: (
        sign + whole + (f"{point}{behind}" if whole or behind else "0") + ("" if power is None else f"e{power}")
    ),
    st.sampled_from(["", "-", "+"]),
    DIGITS,
    st.just("."),
    DIGITS,
    st.none() | POWERS,
)
EDGES = [
    *(
        "0",
        "-0",
        "1",
        "-1",
        ".5",
        "5.",
        "-.5",
        "+5",
        "1e17",
        "-1e-17",
        "1e-18",
        "5e-18",
        "15e-18",
        "5.000000000001e-18",
    ),
    *("1e4931", "-1e4931", "1e4932", "1e4933", "-1e4933", "1e4283", "1e4300", "9" * 4_932, "1" + "0" * 4_932),
    *("1.18973149535723176502e4932", "1.1897314953572317650e4932", "1.18973149535723176508575932662800702e4932"),
    *("1e-4950", "1e-4951", "1.8e-4951", "1.9e-4951", "3.6e-4951", "1e-4952", "-1e-4952", "1e-5000"),
    *("0e99999", "0e-99999", "0." + "0" * 5_000 + "1e5001", "1" + "0" * 4_990 + "e-4990", "9" * TEXT_MAX),
    *("1e00000000005", "1e0000000099999", "1e999999999999", "1e-999999999999", "0" * 5_000 + "7"),
    *("5e", "e5", ".", "+", "--1", "1e+", "1e1.5", "1,5", "1_000", "x", "infin"),
    *("inf", "-inf", "+INFINITY", "nan", "18446744073709551615", "18446744073709551617", "9007199254740993"),
]


@given(one=NUMBERS, other=NUMBERS)
def test_sum_equals_that_of_c(c_sum: Sum, one: str, other: str) -> None:
    assert our_sum(one, other) == c_sum(one, other)


@pytest.mark.parametrize("one", EDGES, ids=lambda text: text[:24])
def test_sum_at_an_edge_equals_that_of_c(c_sum: Sum, one: str) -> None:
    for other in EDGES:
        assert our_sum(one, other) == c_sum(one, other), other


@pytest.mark.parametrize(
    ("one", "other", "total"),
    [
        ("10.5", "0.1", "10.6"),
        ("5.0e3", "2.0e2", "5200"),
        ("3", "-3.0", "0"),
        ("-0", "0", "0"),
        ("0.1", "0.2", "0.3"),
        ("1e4300", "0", None),
        ("1e4931", "1e-4950", None),
        ("1e-18", "0", "0"),
        ("-1e-18", "0", "0"),
        ("1e4932", "1e4932", "not finite"),
        ("inf", "1", "not finite"),
        ("inf", "x", "no number"),
        ("1", "", "no number"),
        ("1", " 1", "no number"),
        ("1", "1 ", "no number"),
        ("1", "1\0", "no number"),
        ("1", "0x10", "no number"),
        ("0" * TEXT_MAX, "1", "1"),
        ("0" * (TEXT_MAX + 1), "1", "no number"),
    ],
    ids=lambda text: str(text)[:24],
)
def test_sums_are_equal_on_all_machines(one: str, other: str, total: str | None) -> None:
    if total is None:
        power = int(one.partition("e")[2])
        assert len(our_sum(one, other)) == power + 1
        assert our_sum(our_sum(one, other), other) == our_sum(one, other)
    else:
        assert our_sum(one, other) == total


def test_interpreter_settings_do_not_change_sums() -> None:
    """Python refuses to convert long integers, and the limit is a setting."""
    before = sys.get_int_max_str_digits()
    found = set()
    try:
        for most in (640, before, 0):
            sys.set_int_max_str_digits(most)
            found.add((our_sum("1e4900", "9" * 4_900), our_sum("1e4900", "0." + "7" * 4_000)))
    finally:
        sys.set_int_max_str_digits(before)
    assert len(found) == 1
    assert "no number" not in found.pop()
