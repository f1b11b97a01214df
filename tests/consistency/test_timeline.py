"""The drawing: well formed, bounded, of the violation's neighbourhood, and harmless whatever it shows."""

import re
import xml.etree.ElementTree as ElementTree

from cairnkv.consistency import checks, timeline
from cairnkv.consistency.history import Action, History, Operation, Outcome, Verb


def put(client: int, begin: int, end: int, value: str, outcome: Outcome = Outcome.OK) -> Operation:
    return Operation(client, Verb.SET, "k", begin, end, outcome, value=value)


def get(client: int, begin: int, end: int, result: str | None) -> Operation:
    return Operation(client, Verb.GET, "k", begin, end, result=result, node="n1")


STALE = [put(1, 0, 10, "a"), put(1, 20, 30, "b"), put(2, 22, 90, "<c>", Outcome.UNKNOWN), get(3, 40, 50, "a")]


def page(history: History) -> str:
    return timeline.drawn(history, checks.check(history), "the verdict & more")


def charts(html: str) -> list[ElementTree.Element]:
    """Each with the names of its lanes and what is in them."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<div class='chart'>.*?</div></div>", html, re.DOTALL)]


def bars_of(chart: ElementTree.Element) -> list[ElementTree.Element]:
    """A title, a rectangle and a label each."""
    return [one for one in chart.iter() if one.get("class", "").startswith("bar")]


def x(one: ElementTree.Element) -> float:
    return float(one[1].get("x", ""))


def width(one: ElementTree.Element) -> float:
    return float(one[1].get("width", ""))


def texts(chart: ElementTree.Element, kind: str | None = None) -> list[str]:
    return [one.text or "" for one in chart.iter() if one.tag == "text" and one.get("class") == kind]


def test_a_violation_is_drawn() -> None:
    html = page(History(STALE, [Action("kill", "node-1", 15, 35), Action("pause", "2", 500, 600)]))
    (chart,) = charts(html)
    bars = bars_of(chart)
    assert [one.get("class") for one in bars] == ["bar part", "bar part", "bar", "bar wrong"]
    assert [one[1].get("class") for one in bars] == ["write", "write", "unknown", "read"]
    assert "client 3 get k → 'a'" in (bars[3][0].text or "")
    assert texts(chart)[:3] == ["client 3", "client 1", "client 2"]  # what is wrong, and why, stands first
    assert [one[2].text for one in bars] == ["3: set 'a'", "2: set 'b'", "set '<c>' → ?", "1: get → 'a'"]
    assert texts(chart, "bandname") == ["kill node-1"]  # the pause was elsewhere in time
    assert texts(chart, "why") == ["2 was over before 1 began"]
    places = [x(one) for one in bars]
    assert places == sorted(places)
    first, last = bars[1], bars[2]  # one above the other where they were under way at the same time
    assert x(last) < x(first) + width(first)
    assert x(bars[3]) > x(first) + width(first)  # and here not


def test_labels_fit_into_their_bars_and_rows() -> None:
    """Also where all happens in no time, and what is written is long."""
    long = [put(n, 5, 5, f"{n}" * 50) for n in range(4)]
    actions = [Action("pause", f"node-{n}", 0, 90) for n in range(3)]
    (chart,) = charts(page(History([*long, get(5, 7, 7, "nobody's")], actions)))
    assert {len(one[2].text or "") for one in bars_of(chart)} >= {timeline.LABEL_MAX}
    for one in bars_of(chart):
        assert width(one) >= 6.6 * len(one[2].text or "")
    rows = [one.get("y") for one in chart.iter() if one.get("class") == "bandname"]
    assert len(rows) == len(set(rows)) == 3


def test_what_came_too_late_is_shown_the_other_way_round() -> None:
    (chart,) = charts(page(History([get(1, 0, 5, "a"), put(2, 10, 20, "a")])))
    assert texts(chart, "why") == ["1 was over before 2 began"]


def test_it_stands_alone_and_shows_what_it_is_given_as_text() -> None:
    nasty = "</svg><script>alert('x')</script>&\u0000"
    html = page(History([put(1, 0, 1, nasty), put(1, 2, 3, "b"), get(2, 4, 5, nasty)], about={"seed": nasty}))
    assert "<script" not in html
    assert "the verdict &amp; more" in html
    assert not re.search(r"(src|href)=|url\(|@import", html)
    assert len(charts(html)) == 1


def test_it_is_bounded_and_near_to_the_violation() -> None:
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


def test_without_a_violation_there_is_the_verdict() -> None:
    html = page(History([put(1, 0, 1, "a")]))
    assert "the verdict" in html
    assert not charts(html)
