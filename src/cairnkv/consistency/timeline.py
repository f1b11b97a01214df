"""The neighbourhood of a violation, drawn: one HTML file with SVG in it, and nothing that it loads from elsewhere.

A lane for each client, a bar for each operation from its invocation to its completion, and the nemesis' actions behind.
From left to right is the order of the ends of bars, not the clock: two bars are one above the other exactly where the
operations were under way at the same time, which is what linearizability is about, and a microsecond is as wide as a
second. The clock stands below.

What always holds: at most `VIOLATIONS_MAX` violations with `OPERATIONS_MAX` operations each are drawn, whatever the
history's size; whatever keys, values and errors contain, it is shown as text.
"""

from bisect import bisect_left
from collections.abc import Sequence
from html import escape
from typing import Final

from cairnkv.consistency.checks import Report, Violation
from cairnkv.consistency.history import Action, History, Operation, Outcome, Verb

VIOLATIONS_MAX: Final = 10
"""Violations in one file."""

OPERATIONS_MAX: Final = 120
"""Operations drawn of one violation: those it names, and those on the same key that are nearest."""

_STEP: Final = 22
"""Pixels between one end of a bar and the next."""

_LANE: Final = 34
_BAR: Final = 24
_LEFT: Final = 110
_TOP: Final = 24
_TICKS_EVERY: Final = 6
"""How many steps from one time on the axis to the next."""

_STYLE: Final = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --dim: #6a737d; --line: #d8dee4; --ok: #9cc4f2;
  --refused: #c9ced4; --unknown: #f3c969; --wrong: #d1242f; --part: #1b1f24; --band: #8250df; --bartext: #10151b; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --ink: #e6edf3; --dim: #9198a1; --line: #30363d;
  --ok: #4a7fb8; --refused: #596069; --unknown: #a87b1f; --wrong: #ff6b6b; --part: #e6edf3; --band: #a475f9;
  --bartext: #fff; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
.chart { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .tick { fill: var(--dim); font-size: 11px; } svg .lane { stroke: var(--line); }
svg .bar text { fill: var(--bartext); font: 11px ui-monospace, monospace; }
.ok { fill: var(--ok); background: var(--ok); } .refused { fill: var(--refused); background: var(--refused); }
.unknown { fill: var(--unknown); background: var(--unknown); stroke-dasharray: 4 3; stroke: var(--dim); }
.part rect { stroke: var(--part); stroke-width: 3; } .wrong rect { stroke: var(--wrong); stroke-width: 5; }
.band { fill: var(--band); opacity: .16; } svg .bandname { fill: var(--band); }
.key { display: inline-block; width: 1em; height: 1em; border-radius: 3px; vertical-align: -2px; margin: 0 .3em 0 1em; }
.keywrong { border: 3px solid var(--wrong); box-sizing: border-box; } li { font-family: ui-monospace, monospace;
  font-size: 13px; } p.dim { color: var(--dim); }
"""


def drawn(history: History, report: Report, verdict: str) -> str:
    """The page: the verdict, and a drawing of each of the first violations."""
    by_key = history.by_key()
    parts = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>cairn check consistency</title><style>{_STYLE}</style></head><body>",
        f"<h1>cairn check consistency</h1><p>{_text(verdict)}</p>",
    ]
    if report.violations:
        parts.append(
            "<p><span class='key ok'></span>ok<span class='key unknown'></span>unknown: it may take effect later, or "
            "never<span class='key refused'></span>not executed<span class='key keywrong'></span>cannot be</p>"
        )
    parts += [
        _section(violation, by_key.get(violation.key, []), history.actions)
        for violation in report.violations[:VIOLATIONS_MAX]
    ]
    if len(report.violations) > VIOLATIONS_MAX:
        parts.append(f"<p>And {len(report.violations) - VIOLATIONS_MAX:,} more.</p>")
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _section(violation: Violation, of_key: Sequence[Operation], actions: Sequence[Action]) -> str:
    shown = _neighbourhood(violation, of_key)
    named = "".join(f"<li>{_text(str(one))}</li>" for one in violation.operations)
    aside = "" if len(shown) == len(of_key) else f" of the {len(of_key):,}"
    return (
        f"<h2>{_text(violation.kind.value)}, key {_text(violation.key)}</h2><p>{_text(violation.text)}.</p>"
        f"<ol>{named}</ol><div class='chart'>{_chart(violation, shown, actions)}</div>"
        f"<p class='dim'>{len(shown):,}{aside} operations on this key. Numbers are those of the list; the first is "
        "what cannot be. From left to right: the order of ends, not the clock.</p>"
    )


def _neighbourhood(violation: Violation, of_key: Sequence[Operation]) -> list[Operation]:
    """The operations of the violation, and those that are nearest to what is wrong."""
    wrong = violation.operations[0]
    named = {id(one) for one in violation.operations}

    def distance(one: Operation) -> tuple[bool, int]:
        return id(one) not in named, max(wrong.invoked - one.completed, one.invoked - wrong.completed, 0)

    return sorted(sorted(of_key, key=distance)[:OPERATIONS_MAX], key=lambda one: one.invoked)


class _Axis:
    """Where a time is, in pixels: each end of a bar has a place of its own, and what is between is in proportion."""

    def __init__(self, shown: Sequence[Operation]) -> None:
        self.times = sorted({time for one in shown for time in (one.invoked, one.completed)})

    def __call__(self, time: int) -> float:
        times = self.times
        at = bisect_left(times, time)
        if at == len(times):
            return self.width - _STEP / 2
        if times[at] == time:
            return _LEFT + _STEP * (at + 0.5)
        if at == 0:
            return _LEFT
        share = (time - times[at - 1]) / (times[at] - times[at - 1])
        return _LEFT + _STEP * (at - 0.5 + share)

    @property
    def width(self) -> int:
        return _LEFT + _STEP * (len(self.times) + 1)


def _chart(violation: Violation, shown: Sequence[Operation], actions: Sequence[Action]) -> str:
    axis = _Axis(shown)
    clients = sorted({one.client for one in shown})
    lanes = {client: _TOP + _LANE * at for at, client in enumerate(clients)}
    height = _TOP + _LANE * len(clients) + 30
    bottom = height - 30
    parts = [f"<svg width='{axis.width}' height='{height}' role='img' aria-label='{_text(violation.kind.value)}'>"]
    first, last = axis.times[0], axis.times[-1]
    for action in actions:
        if action.began <= last and action.ended >= first:
            left = axis(max(action.began, first))
            width = max(axis(min(action.ended, last)) - left, 2)
            parts.append(
                f"<g><title>{_text(str(action))}</title><rect class='band' x='{left:.0f}' y='0' width='{width:.0f}' "
                f"height='{bottom}'/><text class='bandname' x='{left + 4:.0f}' y='15'>"
                f"{_text(f'{action.what} {action.target}')}</text></g>"
            )
    for client, top in lanes.items():
        parts.append(
            f"<line class='lane' x1='0' x2='{axis.width}' y1='{top + _LANE}' y2='{top + _LANE}'/>"
            f"<text x='8' y='{top + 21}'>client {client}</text>"
        )
    numbers = {id(one): number for number, one in enumerate(violation.operations, 1)}
    parts += [_bar(one, lanes[one.client], axis, numbers.get(id(one), 0)) for one in shown]
    for at in range(0, len(axis.times), _TICKS_EVERY):
        left = _LEFT + _STEP * (at + 0.5)
        parts.append(f"<text class='tick' x='{left:.0f}' y='{height - 10}'>{axis.times[at] / 1e6:,.2f} ms</text>")
    parts.append("</svg>")
    return "".join(parts)


def _text(text: str) -> str:
    """Text as HTML shows it; what cannot be shown, which XML does not even allow, is replaced."""
    return escape("".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text))


_CLASSES: Final = {Outcome.OK: "ok", Outcome.NOT_EXECUTED: "refused", Outcome.UNKNOWN: "unknown"}


def _bar(one: Operation, top: int, axis: _Axis, number: int) -> str:
    """A bar. number: in the violation's list, from 1; 0 if it is not there."""
    left = axis(one.invoked)
    width = max(axis(one.completed) - left, _STEP / 2)
    marked = " wrong" if number == 1 else " part" if number else ""
    label = f"{number}: {_brief(one)}" if number else _brief(one)
    note = f"\n{one.note}" if one.note else ""
    # An SVG within the SVG cuts off what does not fit.
    return (
        f"<svg class='bar{marked}' x='{left:.1f}' y='{top + 5}' width='{width:.1f}' height='{_BAR}'>"
        f"<title>{_text(str(one) + note)}</title>"
        f"<rect class='{_CLASSES[one.outcome]}' width='{width:.1f}' height='{_BAR}' rx='4'/>"
        f"<text x='5' y='16'>{_text(label)}</text></svg>"
    )


def _brief(one: Operation) -> str:
    """An operation in few characters, since bars are short."""
    match one.verb:
        case Verb.GET:
            return one.answer
        case Verb.EXISTS:
            return f"there? {one.answer}"
        case Verb.CLEAR:
            return "clear"
        case Verb.INCR:
            return f"{one.amount:+} = {one.answer}"
        case Verb.SET:
            return f"={one.value}"
        case Verb.SWAP:
            return f"={one.value}, was {one.answer}"
        case Verb.CLEAR_IF:
            return f"clear if {one.expected}: {one.answer}"
        case Verb.SET_IF:
            return f"={one.value} if {one.expected}: {one.answer}"
