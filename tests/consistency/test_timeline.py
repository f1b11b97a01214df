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
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<div class='chart'>(.*?)</div>", html, re.DOTALL)]


def test_a_violation_is_drawn() -> None:
    html = page(History(STALE, [Action("kill", "node-1", 15, 35), Action("pause", "2", 500, 600)]))
    (chart,) = charts(html)
    bars = [one for one in chart.iter() if one.get("class", "").startswith("bar")]
    assert [one.get("class") for one in bars] == ["bar part", "bar part", "bar", "bar wrong"]
    assert [one[1].get("class") for one in bars] == ["ok", "ok", "unknown", "ok"]
    assert "client 3 get k → 'a'" in (bars[3][0].text or "")
    texts = [one.text for one in chart.iter() if one.tag == "text"]
    assert {"client 1", "client 2", "client 3", "kill node-1"} <= set(texts)
    assert "pause 2" not in texts  # it was elsewhere in time
    places = [float(one.get("x", "")) for one in bars]
    assert places == sorted(places)
    first, last = bars[1], bars[2]  # one above the other where they were under way at the same time
    assert float(last.get("x", "")) < float(first.get("x", "")) + float(first.get("width", ""))


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
    bars = [one for one in chart.iter() if one.get("class", "").startswith("bar")]
    assert len(bars) == timeline.OPERATIONS_MAX
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
