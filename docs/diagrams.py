"""Draw the diagrams of the documents: `python docs/diagrams.py` makes an SVG of each text in docs/diagrams.

The first line is the title, behind a #. A line `label: box | box` is a row of boxes; a box may have a second line,
`name / explanation`. A line that begins with > is the text at the arrow between two rows. A test checks that the
files are up to date. Other programs may read a diagram: the SVG has its text as text.
"""

import sys
from html import escape
from pathlib import Path

TEXTS = Path(__file__).parent / "diagrams"

WIDTH, MARGIN, LABEL = 860, 16, 92
"""Pixels: of a diagram, around it, and of the column of labels."""

BOX, GAP, ARROW, TITLE = 46, 12, 40, 38
"""Pixels: height of a box, between two boxes, height of an arrow, height of the title."""

LETTER = 7.0
"""Pixels of a letter, at most on average, in the font of a box."""

STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1b2733}.t{font-size:16px;font-weight:600}.l,.a,.d{fill:#51606e}"
    ".d,.a{font-size:12px}rect.b{fill:#eef4fa;stroke:#5b84ad}path{stroke:#5b84ad;fill:none}"
)


def drawn(text: str) -> str:
    """Return the SVG of a diagram's text. Raises ValueError if a box is too small for its text."""
    title, *lines = text.strip().splitlines()
    title = title.removeprefix("#").strip()
    parts = [f'<text class="t" x="{MARGIN}" y="{MARGIN + 12}">{escape(title)}</text>']
    top = MARGIN + TITLE
    for line in lines:
        if line.startswith(">"):
            parts += arrow(line[1:].strip(), top)
            top += ARROW
        else:
            label, _, boxes = line.partition(":")
            parts += row(label.strip(), [box.strip() for box in boxes.split("|")], top)
            top += BOX
    height = top + MARGIN
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
            ' role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            '<rect width="100%" height="100%" rx="8" fill="#fff"/>',
            *parts,
            "</svg>\n",
        )
    )


def row(label: str, boxes: list[str], top: int) -> list[str]:
    """Return a row's label and boxes, which share the width."""
    left = MARGIN + LABEL
    width = (WIDTH - MARGIN - left - GAP * (len(boxes) - 1)) / len(boxes)
    parts = [f'<text class="l" x="{MARGIN}" y="{top + BOX / 2 + 4:g}">{escape(label)}</text>']
    for number, box in enumerate(boxes):
        texts = [text.strip() for text in box.split(" / ")]
        if max(map(len, texts)) * LETTER > width:
            raise ValueError(f"{box!r} needs a box of more than {width:.0f} pixels; shorten it")
        at = left + number * (width + GAP)
        parts.append(f'<rect class="b" x="{at:.1f}" y="{top}" width="{width:.1f}" height="{BOX}" rx="6"/>')
        first = top + BOX / 2 + (4 if len(texts) == 1 else -4)
        for kind, text, below in zip(("", "d"), texts, (first, first + 17), strict=False):
            style = f' class="{kind}"' if kind else ""
            parts.append(
                f'<text{style} x="{at + width / 2:.1f}" y="{below:g}" text-anchor="middle">{escape(text)}</text>'
            )
    return parts


def arrow(text: str, top: int) -> list[str]:
    """Return an arrow down and the text beside it."""
    at = MARGIN + LABEL + 24
    end = top + ARROW - 4
    return [
        f'<path d="M{at} {top + 4}V{end}M{at - 4} {end - 6}L{at} {end}L{at + 4} {end - 6}"/>',
        f'<text class="a" x="{at + 14}" y="{top + ARROW / 2 + 4:g}">{escape(text)}</text>',
    ]


def main() -> int:
    """Draw every diagram whose file is missing or not up to date."""
    for path in sorted(TEXTS.glob("*.txt")):
        svg, target = drawn(path.read_text()), path.with_suffix(".svg")
        if not target.exists() or target.read_text() != svg:
            target.write_text(svg)
            print(f"drew docs/diagrams/{target.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
