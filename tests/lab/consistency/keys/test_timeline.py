"""The drawing of a history is well-formed, bounded and near the violation; it escapes all text."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from cairnkv.lab.consistency.history import Action, Outcome
from cairnkv.lab.consistency.keys import checks, timeline
from cairnkv.lab.consistency.keys.history import History, Operation, Verb


def put(client: int, begin: int, end: int, value: str, outcome: Outcome = Outcome.OK) -> Operation:
    return Operation(client, Verb.SET, "k", begin, end, outcome, value=value)


def get(client: int, begin: int, end: int, result: str | None) -> Operation:
    return Operation(client, Verb.GET, "k", begin, end, result=result, node="n1")


STALE = [put(1, 0, 10, "a"), put(1, 20, 30, "b"), put(2, 22, 90, "<c>", Outcome.UNKNOWN), get(3, 40, 50, "a")]


def page(history: History) -> str:
    return timeline.draw(history, checks.check(history), "the verdict & more")


def charts(html: str) -> list[ElementTree.Element]:
    """Return the charts of a page, each with the names of its lanes."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<div class='chart'>.*?</div></div>", html, re.DOTALL)]


def bars_of(chart: ElementTree.Element) -> list[ElementTree.Element]:
    """Return the bars of a chart, each with a title, a rectangle and a label."""
    return [one for one in chart.iter() if one.get("class", "").startswith("bar")]


def x(one: ElementTree.Element) -> float:
    return float(one[1].get("x", ""))


def width(one: ElementTree.Element) -> float:
    return float(one[1].get("width", ""))


def texts(chart: ElementTree.Element, kind: str) -> list[str]:
    return [one.text or "" for one in chart.iter() if one.tag == "text" and one.get("class") == kind]


def test_violation_is_drawn() -> None:
    html = page(History(STALE, [Action("kill", "node-1", 15, 35), Action("pause", "2", 500, 600)]))
    (chart,) = charts(html)
    bars = bars_of(chart)
    assert [one.get("class") for one in bars] == ["bar part", "bar part", "bar", "bar wrong"]
    assert [one[1].get("class") for one in bars] == ["write", "write", "unknown", "read"]
    assert "client 3 get k → 'a'" in (bars[3][0].text or "")
    assert texts(chart, "client")[:3] == [
        "client 3",
        "client 1",
        "client 2",
    ]  # the violation and its reason stand first
    assert [one[2].text for one in bars] == ["3: set 'a'", "2: set 'b'", "set '<c>' → ?", "1: get → 'a'"]
    assert texts(chart, "bandname") == ["kill node-1"]  # the pause was elsewhere in time
    assert texts(chart, "why") == ["2 ended before 1 began"]
    places = [x(one) for one in bars]
    assert places == sorted(places)
    first, last = bars[1], bars[2]  # one above the other where they were under way at the same time
    assert x(last) < x(first) + width(first)
    assert x(bars[3]) > x(first) + width(first)  # and here not


def test_labels_fit_into_their_bars_and_rows() -> None:
    """Also if all operations take no time, or values are long."""
    long = [put(n, 5, 5, f"{n}" * 50) for n in range(4)]
    actions = [Action("pause", f"node-{n}", 0, 90) for n in range(3)]
    (chart,) = charts(page(History([*long, get(5, 7, 7, "nobody's")], actions)))
    assert {len(one[2].text or "") for one in bars_of(chart)} >= {timeline.LABEL_MAX}
    for one in bars_of(chart):
        assert width(one) >= 6.6 * len(one[2].text or "")
    rows = [(one.get("y"), one.get("dy")) for one in chart.iter() if one.get("class") == "bandname"]
    assert len(rows) == len(set(rows)) == 3


def test_stale_value_is_shown_before_its_overwrite() -> None:
    (chart,) = charts(page(History([get(1, 0, 5, "a"), put(2, 10, 20, "a")])))
    assert texts(chart, "why") == ["1 ended before 2 began"]


def test_drawing_is_self_contained_and_escapes_text() -> None:
    nasty = "</svg><script>alert('x')</script>&\u0000"
    html = page(History([put(1, 0, 1, nasty), put(1, 2, 3, "b"), get(2, 4, 5, nasty)], about={"seed": nasty}))
    assert "<script" not in html
    assert "the verdict &amp; more" in html
    assert not re.search(r"(src|href)=|url\(|@import", html)
    assert len(charts(html)) == 1


def test_drawing_is_bounded_and_near_the_violation() -> None:
    others = [get(4, n * 10, n * 10 + 5, None) for n in range(-50_000, 0)]
    shifted = [
        Operation(one.client, one.verb, "k", one.invoked + 500_000, one.completed + 500_000, result=one.result)
        for one in others
    ]
    late = [
        Operation(
            one.client,
            one.verb,
            "k",
            one.invoked + 600_000,
            one.completed + 600_000,
            one.outcome,
            one.result,
            one.value,
        )
        for one in STALE
    ]
    html = page(History([*shifted, *late]))
    (chart,) = charts(html)
    bars = bars_of(chart)
    assert len(bars) == timeline.OPERATIONS_MAX
    assert texts(chart, "more") == [f"+{50_004 - timeline.OPERATIONS_MAX:,}"]
    assert sum("wrong" in one.get("class", "") for one in bars) == 1
    assert len(html) < 200_000
    many = [Operation(1, Verb.GET, f"k{n}", n, n, result="x") for n in range(50)]
    html = page(History(many))
    assert len(charts(html)) == timeline.VIOLATIONS_MAX
    assert "And 40 more" in html


# -- the whole run -----------------------------------------------------------------------------------------------------

SECOND = 1_000_000_000


def whole_run(html: str) -> ElementTree.Element:
    (svg,) = re.findall(r"<div class='overview'>(<svg.*?</svg>)</div>", html, re.DOTALL)
    return ElementTree.fromstring(svg)


def of_class(chart: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [one for one in chart.iter() if one.get("class") == kind]


def put_at(second: float, outcome: Outcome = Outcome.OK) -> Operation:
    at = round(second * SECOND)
    return put(1, at, at + 1_000_000, f"{at}", outcome)


def test_consistent_run_is_drawn_with_faults_and_gaps() -> None:
    calm = [put_at(n / 10) for n in range(100)]
    unknown = [put_at(12.5, Outcome.UNKNOWN)]
    later = [put_at(15 + n / 10) for n in range(50)]
    actions = [Action("kill", "node-1", 10 * SECOND, 14 * SECOND), Action("pause", "2", 16 * SECOND, 17 * SECOND)]
    html = page(History([*calm, *unknown, *later], actions))
    assert "the verdict &amp; more" in html
    assert not charts(html)
    drawing = whole_run(html)
    assert (
        sum(int((one[0].text or "").split()[0]) for one in drawing.iter("g") if one[1].get("class") == "answered")
        == 150
    )
    assert len(of_class(drawing, "unknown")) == 1
    assert texts(drawing, "bandname") == ["kill node-1", "pause 2"]
    assert texts(drawing, "gapname") == ["no reply for 5.10 s"]
    (gap,) = of_class(drawing, "gap")
    kill = of_class(drawing, "band")[0]
    assert float(gap.get("x", "")) <= float(kill.get("x", ""))
    assert "0.00 s" in texts(drawing, "tick")


def test_violations_are_marked_in_the_whole_run() -> None:
    drawing = whole_run(page(History(STALE)))
    (mark,) = of_class(drawing, "here")
    assert 0 < float(mark.get("x1", "")) < float(drawing.get("width", ""))


def test_run_without_operations_has_no_drawing() -> None:
    assert "<svg" not in page(History([]))


def test_drawing_of_any_run_is_small() -> None:
    many = [put_at(n / 10_000) for n in range(100_000)]
    actions = [Action("kill", f"node-{n}", n * SECOND // 100, n * SECOND // 90) for n in range(1_000)]
    html = page(History(many, actions))
    assert len(html) < 200_000
    assert len(of_class(whole_run(html), "answered")) == timeline.BINS


@pytest.mark.parametrize("target", ["1", "node-1", "kill 1 and 2 and 3 and 4", "x" * 60])
def test_labels_are_not_clipped(target: str) -> None:
    """Every text ends within its drawing, at the average width of letters."""
    late = [put(1, 0, 10, "a"), put(1, 20, 30, "b"), get(100_000, 40, 50, "a")]
    actions = [Action("majority", target, at, 60) for at in (0, 25, 45, 49)]
    html = page(History(late, actions))
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        drawing = ElementTree.fromstring(svg)
        for one in drawing.iter("text"):
            begins, wide = float(one.get("x", "")), 6.5 * len(one.text or "")
            if one.get("class") == "more":  # in its middle
                begins -= wide / 2
            assert begins >= 0, one.text
            assert begins + wide <= float(drawing.get("width", "")), one.text
