"""The chart of the results as SVG: a bar for each ratio with a target, on a logarithmic axis around 1.

Out of scope: the tables, which `docs/tables.py` makes from the same JSON.
"""

import math
from html import escape
from typing import Any

LABELS, BARS, ROW, TOP = 500, 500, 22, 64
"""Pixels: width of the labels and of the bars, height of a row and of the title."""

COLOURS = {"met": "#3a7d44", "missed": "#c1553b"}
TICKS = (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


def svg(results: dict[str, Any]) -> str:
    """Return the chart of the rows with a ratio and a target."""
    rows = [row for row in results["rows"] if row["ratio"] is not None and row["target"] is not None]
    shown = [number for row in rows for number in (*row["spread"], _limit(row))] or [1]
    low, high = min(*shown, 0.5) / 1.2, max(*shown, 2) * 1.2

    def across(number: float) -> float:
        return LABELS + BARS * math.log(number / low) / math.log(high / low)

    height = TOP + ROW * len(rows) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABELS + BARS + 110}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        '<text x="12" y="20" font-size="14" font-weight="bold">cairnkv ÷ its peers: one computer, one run</text>',
        f'<text x="12" y="38">{escape(_subtitle(results))}</text>',
    ]
    for tick in TICKS:
        if low <= tick <= high:
            x = across(tick)
            parts.append(f'<text x="{x:.1f}" y="{TOP - 6}" text-anchor="middle" fill="#666">{tick:g}</text>')
            colour = "#444" if tick == 1 else "#ddd"
            parts.append(f'<path d="M{x:.1f} {TOP}V{height - 12}" stroke="{colour}"/>')
    for at, row in enumerate(rows):
        y = TOP + ROW * at
        middle = y + ROW / 2
        begin, end = sorted((across(1), across(row["ratio"])))
        least, most = map(across, row["spread"])
        target = across(_limit(row))
        label = f"{row['what'].replace('`', '')} ({row['peer'].replace('`', '')})"
        parts += [
            f'<text x="{LABELS - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{begin:.1f}" y="{y + 4}" width="{max(end - begin, 1):.1f}" height="{ROW - 8}" '
            f'fill="{COLOURS[row["verdict"]]}"/>',
            f'<path d="M{least:.1f} {middle}H{most:.1f}" stroke="#222" stroke-width="1.5"/>',
            f'<path d="M{target:.1f} {y + 1}V{y + ROW - 1}" stroke="#1f4e9c" stroke-width="2.5"/>',
            f'<text x="{LABELS + BARS + 8}" y="{middle + 4:.1f}">{row["ratio"]:.2f} ({row["target"]})</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _limit(row: dict[str, Any]) -> float:
    return float(row["target"].split()[1])


def _subtitle(results: dict[str, Any]) -> str:
    made = results["made"]
    return (
        f"{made['date'][:10]}, {made['machine']['cores']} cores of {made['machine']['processor']}. Blue: the target, "
        "at least (≥) or at most (≤). Thin line: the least and the most of the rounds."
    )
