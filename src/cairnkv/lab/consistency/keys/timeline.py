"""Draws a history as one HTML file with SVG. The file loads no other files.

The first drawing shows the whole run over time: the operations that ended in each part, the actions of the nemesis, and
the longest times without a reply. Then follows a drawing of each violation: a lane for each client, a bar for each
operation from its invocation to its completion, and the actions of the nemesis in the background. The horizontal axis
is the order of the ends of bars, not the time: two bars overlap exactly if the operations were concurrent, and each bar
is as wide as its label. The times are below. The first lane is of the client with the impossible reply; the lanes of
the other operations of the violation follow.

Invariants: the page draws at most `VIOLATIONS_MAX` violations with `OPERATIONS_MAX` operations each, and shows the
number of omitted operations in each place. Keys, values and errors appear as text. A label fits into its bar.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import Final, TypeAlias

from cairnkv.lab.consistency.history import Action, Outcome
from cairnkv.lab.consistency.keys.checks import Kind, Report, Violation
from cairnkv.lab.consistency.keys.history import History, Operation

VIOLATIONS_MAX: Final = 10
"""Maximum violations in a file."""

OPERATIONS_MAX: Final = 16
"""Maximum operations in the drawing of a violation: those of the violation, and the nearest ones on the same key."""

LABEL_MAX: Final = 40
"""Maximum characters in a bar."""

_STEP: Final = 22
"""Minimum pixels between two ends of bars."""

_CHARACTER: Final = 6.7
"""Width in pixels of a character in a bar, in a monospaced font."""

_LANE: Final = 34
_BAR: Final = 24
_ROW: Final = 18
"""Heights, in pixels: of a lane, its bars, and a line of text above or below."""

_EDGE: Final = 40
"""Pixels to the left and right of the bars, for the number of omitted operations."""

_LANES_WIDTH: Final = 76
_TICKS_APART: Final = 84

_LETTER: Final = 7.2
"""Average width in pixels of a character outside of bars, rounded up."""

BINS: Final = 120
"""The number of parts of the whole run. Each part is a bar."""

GAPS_MAX: Final = 3
"""Maximum number of gaps in the drawing: the longest times without a reply, if longer than two parts of the run."""

FAULTS_MAX: Final = 100
"""Maximum number of the nemesis' actions in the drawing of the whole run."""

_RUN_WIDTH: Final = 960
_RUN_HEIGHT: Final = 120
"""Width in pixels of all bars of the whole run together."""

_RULES: Final = {
    Kind.LOST: "An acknowledged write stays until another write replaces it",
    Kind.DOUBLED: "A write takes effect only once, also after several attempts",
    Kind.STALE: "A read must see the newest write that ended before the read began, or a later write",
    Kind.OWN_WRITE: "A client must see its own write, or a newer one",
    Kind.BACKWARDS: "A client must see the value that it saw before, or a newer one",
    Kind.INVENTED: "A client must have written the value of a read",
    Kind.REFUSED: "A write that was not executed has no effect",
    Kind.MINORITY: "Without a majority of hosts no command succeeds, because the other hosts may have a newer state",
    Kind.FUTURE: "A read cannot see a value before its write begins",
    Kind.ORDER: "An order of all operations must exist in which each reply follows from the operations before, and in "
    "which an operation that ended before another began comes first",
}
"""The rule that each kind of violation breaks."""

_STYLE: Final = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --dim: #5d6670; --line: #d8dee4; --write: #a9cdf5;
  --read: #cde8c5; --refused: #d3d7dc; --unknown: #f6d98a; --wrong: #cf222e; --part: #1b1f24; --band: #8250df; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --ink: #e6edf3; --dim: #9aa4ae; --line: #30363d;
  --write: #2f5c8f; --read: #35663f; --refused: #4a5159; --unknown: #785a12; --wrong: #ff7b72; --part: #e6edf3;
  --band: #b28cf5; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 80rem; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; } p { max-width: 60rem; }
ol { font: 13px/1.6 ui-monospace, monospace; padding-left: 2rem; } li.wrong { color: var(--wrong); font-weight: 600; }
.keys { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; } .keys span { white-space: nowrap; }
.keys i { display: inline-block; width: 1.1em; height: 1.1em; border-radius: 3px; vertical-align: -3px;
  margin-right: .4em; box-sizing: border-box; }
.keys .wrong { border: 3px solid var(--wrong); } .keys .part { border: 2px solid var(--part); }
.chart { display: flex; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
.scroll { overflow-x: auto; flex: 1; border-left: 1px solid var(--line); } svg { display: block; flex: none; }
/* The impossible reply is on the right; a narrow page shows that end first. */
.scroll { direction: rtl; } .scroll svg { direction: ltr; margin-right: auto; min-width: 100%; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; } svg .lane { stroke: var(--line); }
svg .tick, svg .more { fill: var(--dim); font-size: 11px; } svg .more { text-anchor: middle; }
svg .bar rect { rx: 4px; } svg .bar text { font: 11px ui-monospace, monospace; }
.write { fill: var(--write); background: var(--write); } .read { fill: var(--read); background: var(--read); }
.refused { fill: var(--refused); background: var(--refused); }
.unknown { fill: var(--unknown); background: var(--unknown); stroke: var(--ink); stroke-dasharray: 4 3; }
svg .part rect { stroke: var(--part); stroke-width: 2; } svg .wrong rect { stroke: var(--wrong); stroke-width: 3; }
svg .wrong text, svg .part text { font-weight: 600; }
svg .order { stroke: var(--wrong); stroke-dasharray: 3 3; fill: none; } svg .arrow { fill: var(--wrong); }
svg .why { fill: var(--wrong); font-weight: 600; }
.overview { border: 1px solid var(--line); border-radius: 6px; overflow-x: auto; padding: .5rem; }
.gap { fill: var(--wrong); background: var(--wrong); opacity: .16; } .keys .gap { opacity: .4; }
svg .gapname { fill: var(--wrong); } svg .here { stroke: var(--wrong); stroke-width: 2; }
svg .refused, svg .unknown { stroke: none; }
.keys .answered, svg .answered { fill: var(--read); background: var(--read); }
.band { fill: var(--band); opacity: .16; } .keys .band { background: var(--band); opacity: .4; }
svg .bandname { fill: var(--band); } p.dim { color: var(--dim); }
"""

_LEGEND: Final = (
    ("write", "a write, perhaps conditional"),
    ("read", "a read"),
    ("unknown", "outcome unknown: it may take effect later, or never"),
    ("refused", "not executed"),
    ("wrong", "impossible reply"),
    ("part", "evidence"),
    ("band", "a fault"),
)


_RUN_LEGEND: Final = (
    ("answered", "succeeded"),
    ("unknown", "outcome unknown"),
    ("refused", "not executed"),
    ("gap", "no reply for long"),
    ("band", "a fault"),
)


def draw(history: History, report: Report, verdict: str) -> str:
    """Return the page: the verdict, the whole run, and a drawing of each of the first violations."""
    by_key = history.by_key()
    parts = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>cairn check consistency</title><style>{_STYLE}</style></head><body>",
        f"<h1>cairn check consistency</h1><p>{_text(verdict)}</p>",
    ]
    if history.operations:
        parts.append(_whole_run(history, report))
    if report.violations:
        parts.append(
            "<p>Each row is a client, and each bar an operation, from the request to the reply. The reply follows the "
            "\u2192; without one, the operation was acknowledged. Operations whose bars overlap were concurrent, and "
            "may have taken effect in either order. An operation that ends to the left of another one's beginning "
            "comes first. The horizontal axis is the order of beginnings and ends, not the time, which is below.</p>"
            + _keys(_LEGEND if history.actions else _LEGEND[:-1])
        )
    shown = report.violations[:VIOLATIONS_MAX]
    parts += [_section(violation, by_key.get(violation.key, []), history.actions) for violation in shown]
    if len(report.violations) > VIOLATIONS_MAX:
        parts.append(f"<p>And {len(report.violations) - VIOLATIONS_MAX:,} more.</p>")
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _keys(legend: Sequence[tuple[str, str]]) -> str:
    keys = "".join(f"<span><i class='{name}'></i>{meaning}</span>" for name, meaning in legend)
    return f"<p class='keys'>{keys}</p>"


# -- shapes ----------------------------------------------------------------------------------------------------------


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f"<rect class='{kind}' x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}'/>"


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f"<line class='{kind}' x1='{x1:.1f}' x2='{x2:.1f}' y1='{y1:.1f}' y2='{y2:.1f}'/>"


def _note(kind: str, x: float, y: float, text: str) -> str:
    return f"<text class='{kind}' x='{x:.1f}' y='{y:.1f}'>{_text(text)}</text>"


def _titled(title: str, *shapes: str, kind: str = "") -> str:
    """Return shapes with a title, which a browser shows near the pointer."""
    return f"<g class='{kind}'><title>{_text(title)}</title>{''.join(shapes)}</g>"


# -- the whole run ---------------------------------------------------------------------------------------------------


_Mark: TypeAlias = tuple[Action, float, float]
"""An action of the nemesis, and its left and right end."""


class _Clock:
    """Maps times of the whole run to pixels, and to parts of the run."""

    def __init__(self, history: History) -> None:
        self.first = min(one.invoked for one in history.operations)
        self.last = max(one.completed for one in history.operations)
        self.span = max(self.last - self.first, 1)

    def place(self, time: int) -> float:
        return _RUN_WIDTH * min(max(time - self.first, 0), self.span) / self.span

    def part(self, time: int) -> int:
        return min(BINS * (time - self.first) // self.span, BINS - 1)


def _whole_run(history: History, report: Report) -> str:
    """Draw the whole run over time."""
    clock = _Clock(history)
    actions = sorted(history.actions, key=lambda action: action.began)[:FAULTS_MAX]
    marks = [(action, clock.place(action.began), clock.place(action.ended)) for action in actions]
    names, rows = _names(marks, _RUN_WIDTH)
    top = _ROW * 2
    bottom = top + _RUN_HEIGHT
    height = bottom + _ROW * (rows + 1) + 8
    parts = [*_counted(clock, history.operations, bottom), *_gaps(clock, history.operations, top, bottom)]
    parts += _bands(marks, names, top, bottom, bottom + _ROW + 14)
    for violation in report.violations[:VIOLATIONS_MAX]:
        x = clock.place(violation.operations[0].invoked)
        parts.append(_titled(f"{violation.kind.value}, key {violation.key}", _line("here", x, top, x, bottom)))
    for eighth in range(8):
        parts.append(_note("tick", _RUN_WIDTH * eighth / 8, bottom + 14, f"{clock.span * eighth / 8e9:,.2f} s"))
    busiest = max(len(part) for part in _by_part(clock, history.operations))
    return (
        f"<h2>The whole run</h2><p>{len(history.operations):,} operations, each in the part of the run in which it "
        f"ended; {busiest:,} in the busiest. Time runs from left to right.</p>{_keys(_RUN_LEGEND)}"
        f"<div class='overview'><svg width='{_RUN_WIDTH}' height='{height}' role='img' aria-label='the whole run'>"
        f"{_line('lane', 0, bottom, _RUN_WIDTH, bottom)}{''.join(parts)}</svg></div>"
    )


def _by_part(clock: _Clock, operations: Sequence[Operation]) -> list[list[Operation]]:
    parts: list[list[Operation]] = [[] for _ in range(BINS)]
    for one in operations:
        parts[clock.part(one.completed)].append(one)
    return parts


def _counted(clock: _Clock, operations: Sequence[Operation], bottom: int) -> Iterator[str]:
    """Draw the operations that ended in each part of the run, as stacked bars by outcome."""
    by_part = _by_part(clock, operations)
    busiest = max(map(len, by_part))
    wide = _RUN_WIDTH / BINS
    names = {Outcome.OK: "answered", Outcome.UNKNOWN: "unknown", Outcome.NOT_EXECUTED: "refused"}
    for at, ended in enumerate(by_part):
        y = float(bottom)
        for outcome, name in names.items():
            if count := sum(one.outcome is outcome for one in ended):
                high = _RUN_HEIGHT * count / busiest
                y -= high
                yield _titled(f"{count:,} {name}", _rect(name, at * wide, y, wide - 1, high))


def _gaps(clock: _Clock, operations: Sequence[Operation], top: int, bottom: int) -> Iterator[str]:
    """Draw the longest times without a reply."""
    answers = sorted(one.completed for one in operations if one.outcome is Outcome.OK)
    ends = [clock.first, *answers, clock.last]
    gaps = sorted(pairwise(ends), key=lambda gap: gap[0] - gap[1])[:GAPS_MAX]
    taken = 0.0
    for begin, end in sorted(gap for gap in gaps if (gap[1] - gap[0]) * BINS > 2 * clock.span):
        left, right = clock.place(begin), clock.place(end)
        text = f"no reply for {(end - begin) / 1e9:,.2f} s"
        x = max(_fitted(left, text, _RUN_WIDTH), taken)
        yield _titled(text, _rect("gap", left, top, right - left, bottom - top))
        if x + _LETTER * len(text) <= _RUN_WIDTH:
            yield _note("gapname", x, top - 6, text)
            taken = x + _LETTER * len(text) + 8


def _names(marks: Sequence[_Mark], width: float) -> tuple[list[tuple[float, int]], int]:
    """Return the place of each action's name, from the left, its row, and the number of rows."""
    ends: list[float] = []  # the right end of each row
    places = []
    for action, left, _ in marks:
        name = f"{action.what} {action.target}"
        x = _fitted(left, name, width)
        row = next((at for at, taken in enumerate(ends) if taken <= x), len(ends))
        ends[row:] = [x + _LETTER * len(name) + 8, *ends[row + 1 :]]
        places.append((x, row))
    return places, len(ends)


def _bands(
    marks: Sequence[_Mark], names: Sequence[tuple[float, int]], top: float, bottom: float, below: float
) -> Iterator[str]:
    """Draw the nemesis' actions. names: the places of their names. below: the place of the first row of names."""
    for (action, left, right), (x, row) in zip(marks, names, strict=True):
        name = _note("bandname", x, below + _ROW * row, f"{action.what} {action.target}")
        yield _titled(str(action), _rect("band", left, top, max(right - left, 2), bottom - top), name)


def _fitted(x: float, text: str, width: float) -> float:
    """Return the position of a text near x that ends within the width."""
    return max(min(x, width - _LETTER * len(text)), 0)


def _section(violation: Violation, of_key: Sequence[Operation], actions: Sequence[Action]) -> str:
    shown = _neighbourhood(violation, of_key)
    wrong, *others = violation.operations
    named = f"<li class='wrong'>{_text(str(wrong))}</li>" + "".join(f"<li>{_text(str(one))}</li>" for one in others)
    aside = ""
    if len(shown) < len(of_key):
        aside = f", {len(shown):,} of the {len(of_key):,} on this key; +3 marks three omitted operations"
    found = violation.text[0].upper() + violation.text[1:]
    return (
        f"<h2>{_text(violation.kind.value)}, key {_text(violation.key)}</h2><p>{_text(found)}. "
        f"{_RULES[violation.kind]}.</p><ol>{named}</ol>{_chart(violation, shown, of_key, actions)}"
        f"<p class='dim'>The drawing has these operations, with their numbers, and those nearest to the first{aside}."
        "</p>"
    )


def _neighbourhood(violation: Violation, of_key: Sequence[Operation]) -> list[Operation]:
    """Return the operations of a violation, and those nearest to its first, preferably before it."""
    wrong = violation.operations[0]
    named = {id(one) for one in violation.operations}

    def distance(one: Operation) -> tuple[bool, bool, int]:
        later = one.invoked - wrong.completed
        return id(one) not in named, later > 0, max(wrong.invoked - one.completed, later, 0)

    return sorted(sorted(of_key, key=distance)[:OPERATIONS_MAX], key=lambda one: one.invoked)


class _Axis:
    """Maps times to pixels: each end of a bar has its own place, so that labels fit. Other times are interpolated."""

    def __init__(self, shown: Sequence[Operation], labels: Sequence[str]) -> None:
        # Beginnings before ends at the same time: such operations were concurrent.
        ends = sorted(
            [(one.invoked, 0, at) for at, one in enumerate(shown)]
            + [(one.completed, 1, at) for at, one in enumerate(shown)]
        )
        self.begins = [0.0] * len(shown)
        self.ends = [0.0] * len(shown)
        """The left and right ends of each bar."""
        self.times: list[int] = []
        self.places: list[float] = []
        """All beginnings and ends, from left to right."""
        place = float(_EDGE - _STEP)
        for time, is_end, at in ends:
            place += _STEP
            if is_end:
                place = max(place, self.begins[at] + _CHARACTER * len(labels[at]) + 10)
            (self.ends if is_end else self.begins)[at] = place
            self.times.append(time)
            self.places.append(place)
        self.width = round(place) + _EDGE

    def __call__(self, time: int) -> float:
        """Return the place of a time between the first beginning and the last end."""
        at = bisect_left(self.times, time)
        if self.times[at] == time:
            return self.places[at]
        share = (time - self.times[at - 1]) / (self.times[at] - self.times[at - 1])
        return self.places[at - 1] + share * (self.places[at] - self.places[at - 1])


def _chart(
    violation: Violation, shown: Sequence[Operation], of_key: Sequence[Operation], actions: Sequence[Action]
) -> str:
    numbers = {id(one): number for number, one in enumerate(violation.operations, 1)}
    labels = [_label(one, numbers.get(id(one), 0)) for one in shown]
    axis = _Axis(shown, labels)
    axis.width = max(axis.width, round(_LETTER * max((len(name) for name in _around(violation, actions)), default=0)))
    first, last = axis.times[0], axis.times[-1]
    marks = [
        (action, axis(max(action.began, first)), axis(min(action.ended, last)))
        for action in sorted(actions, key=lambda action: action.began)
        if action.began <= last and action.ended >= first
    ]
    names, rows = _names(marks, axis.width)
    top = _ROW * (rows + 1) + 8
    # The clients of the violation first.
    clients = dict.fromkeys([one.client for one in violation.operations] + sorted({one.client for one in shown}))
    lanes = {client: top + _LANE * at for at, client in enumerate(clients)}
    bottom = top + _LANE * len(lanes)
    height = bottom + 2 * _ROW + 4
    beside = "".join(_note("client", 10, lane + 21, f"client {client}") for client, lane in lanes.items())
    beside_width = max(_LANES_WIDTH, 20 + round(_LETTER * max(len(f"client {client}") for client in lanes)))
    lines = "".join(f"<line class='lane' x1='0' x2='100%' y1='{y}' y2='{y}'/>" for y in [top, bottom, *lanes.values()])
    parts = [f"<svg width='{axis.width}' height='{height}' role='img' aria-label='{_text(violation.kind.value)}'>"]
    parts += _bands(marks, names, 0, bottom, 14)
    parts.append(lines)
    parts += _order(violation, shown, axis, lanes, top)
    for at, one in enumerate(shown):
        left, width = axis.begins[at], axis.ends[at] - axis.begins[at]
        parts.append(_bar(one, lanes[one.client], left, width, labels[at], numbers.get(id(one), 0)))
    parts += _left_out(axis, shown, of_key, bottom + 14)
    parts += _ticks(axis, bottom + 14 + _ROW)
    parts.append("</svg>")
    return (
        f"<div class='chart'><svg width='{beside_width}' height='{height}' aria-hidden='true'>{lines}{beside}</svg>"
        f"<div class='scroll' tabindex='0'>{''.join(parts)}</div></div>"
    )


def _around(violation: Violation, actions: Sequence[Action]) -> Iterator[str]:
    """Yield the texts around the bars, each of which must fit into the width of the drawing."""
    yield from (f"{action.what} {action.target}" for action in actions)
    yield f"{len(violation.operations)} ended before {len(violation.operations)} began"


def _order(
    violation: Violation, shown: Sequence[Operation], axis: _Axis, lanes: dict[int, int], top: int
) -> Iterator[str]:
    """Draw an arrow from the end of one operation of the violation to the beginning of another."""
    wrong, *others = violation.operations
    before = [one for one in others if one.completed < wrong.invoked]
    if before:
        pair = (max(before, key=lambda one: one.completed), wrong)
    elif violation.kind is Kind.FUTURE and others:
        pair = (wrong, others[0])
    else:
        return
    numbers = [violation.operations.index(one) + 1 for one in pair]
    places = [next(at for at, one in enumerate(shown) if one is wanted) for wanted in pair]
    left, right = axis.ends[places[0]], axis.begins[places[1]]
    y = top - 10
    for x, one in zip((left, right), pair, strict=True):
        yield _line("order", x, y, x, lanes[one.client] + 5)
    yield _line("order", left, y, right, y)
    yield f"<path class='arrow' d='M{right:.1f},{y} l-8,-4 v8 z'/>"
    text = f"{numbers[0]} ended before {numbers[1]} began"
    x = _fitted(right + 6, text, axis.width)
    if x < right + 6 and left - 6 >= _LETTER * len(text):
        x = left - 6 - _LETTER * len(text)
    yield _note("why", x, y + 4 if x >= right or x < left else y - 4, text)


def _left_out(axis: _Axis, shown: Sequence[Operation], of_key: Sequence[Operation], y: int) -> Iterator[str]:
    """Draw the numbers of omitted operations, each at the place of their beginnings."""
    drawn = {id(one) for one in shown}
    counts = Counter(bisect_right(axis.times, one.invoked) for one in of_key if id(one) not in drawn)
    for at, count in counts.items():
        if at == 0:
            x = _EDGE / 2
        elif at == len(axis.places):
            x = axis.width - _EDGE / 2
        else:
            x = (axis.places[at - 1] + axis.places[at]) / 2
        yield _note("more", x, y, f"+{count:,}")


def _ticks(axis: _Axis, y: int) -> Iterator[str]:
    last = -_TICKS_APART
    for time, place in zip(axis.times, axis.places, strict=True):
        text = f"{time / 1e6:,.2f} ms"
        if place >= last + max(_TICKS_APART, _LETTER * len(text)) and place + _LETTER * len(text) <= axis.width:
            last = round(place)
            yield _note("tick", place, y, text)


def _text(text: str) -> str:
    """Return text for HTML. Replaces characters that XML does not allow."""
    return escape("".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text))


def _bar(one: Operation, lane: int, left: float, width: float, label: str, number: int) -> str:
    """Draw a bar. number: in the list of the violation, from 1; 0: not in the list."""
    kind = "bar wrong" if number == 1 else "bar part" if number else "bar"
    bar = _rect(_class(one), left, lane + 5, width, _BAR)
    title = f"{one}\n{one.note}" if one.note else str(one)
    return _titled(title, bar, _note("label", left + 5, lane + 21, label), kind=kind)


def _class(one: Operation) -> str:
    if one.outcome is Outcome.OK:
        return "write" if one.verb.writes else "read"
    return "unknown" if one.outcome is Outcome.UNKNOWN else "refused"


def _label(one: Operation, number: int) -> str:
    """Return a short text for an operation: its number, command and reply, without the reply "ok"."""
    label = one.call.replace(f" {one.key}", "", 1)
    if one.outcome is not Outcome.OK or one.reply != "ok":
        label += f" → {'?' if one.outcome is Outcome.UNKNOWN else one.reply}"
    label = label if len(label) <= LABEL_MAX else f"{label[: LABEL_MAX - 1]}…"
    return f"{number}: {label}" if number else label
