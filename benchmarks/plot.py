"""Bars as SVG, readable on a light page and on a dark one. Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final, NamedTuple

WIDTH: Final = 380
HEIGHT: Final = 250
TOP, BOTTOM, SIDE = 56, 64, 24
COLOURS: Final = 2
STYLE: Final = """\
    .page { fill: #ffffff; stroke: #d0d7de; }
    .title { fill: #1f2328; font-weight: 600; }
    .text { fill: #424a53; font-size: 12px; }
    .axis { stroke: #57606a; }
    .s0 { fill: #0969da; }
    .s1 { fill: #bf8700; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; stroke: #30363d; }
      .title { fill: #f0f6fc; }
      .text { fill: #b1bac4; }
      .axis { stroke: #8b949e; }
      .s0 { fill: #4493f8; }
      .s1 { fill: #d29922; }
    }"""


class Panel(NamedTuple):
    """One diagram: for each label a bar of each series."""

    title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float]]


def svg(title: str, panels: Sequence[Panel]) -> str:
    """The panels side by side. `title` is for who does not see them."""
    width = WIDTH * len(panels)
    body = "".join(_panel(panel, WIDTH * number) for number, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" '
        f'height="{HEIGHT}" role="img" aria-label="{escape(title)}" '
        "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"14\">\n"
        f"  <style>\n{STYLE}\n  </style>\n"
        f'  <rect class="page" x="0.5" y="0.5" width="{width - 1}" height="{HEIGHT - 1}" rx="6"/>\n'
        f"{body}</svg>\n"
    )


def _panel(panel: Panel, left: float) -> str:
    assert len(panel.series) <= COLOURS
    floor, room = HEIGHT - BOTTOM, HEIGHT - TOP - BOTTOM
    highest = max((value for values in panel.series.values() for value in values), default=0) or 1
    slot = (WIDTH - 2 * SIDE) / len(panel.labels)
    bar = min(slot * 0.8 / len(panel.series), 60)
    lines = [_text(left + SIDE, 26, panel.title, "title", "start")]
    for at, label in enumerate(panel.labels):
        middle = left + SIDE + slot * (at + 0.5)
        lines.append(_text(middle, floor + 18, label))
        for number, values in enumerate(panel.series.values()):
            x = middle + bar * (number - len(panel.series) / 2)
            tall = room * values[at] / highest
            lines.append(
                f'<rect class="s{number}" x="{x:.1f}" y="{floor - tall:.1f}" width="{bar - 2:.1f}" '
                f'height="{tall:.1f}"/>'
            )
            lines.append(_text(x + bar / 2 - 1, floor - tall - 5, number_of(values[at])))
    lines.append(
        f'<line class="axis" x1="{left + SIDE}" x2="{left + WIDTH - SIDE}" y1="{floor}" y2="{floor}"/>'
    )
    if len(panel.series) > 1:
        for number, name in enumerate(panel.series):
            x = left + SIDE + 130 * number
            lines.append(f'<rect class="s{number}" x="{x}" y="{HEIGHT - 28}" width="11" height="11"/>')
            lines.append(_text(x + 17, HEIGHT - 18, name, anchor="start"))
    return "".join(f"  {line}\n" for line in lines)


def _text(x: float, y: float, text: str, kind: str = "text", anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def number_of(value: float) -> str:
    """Three figures, as a reader wants them."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
