"""CSV in, an HTML report out: a bar chart as inline SVG, the table and its total.

The first row names the columns; the first column holds labels, the second numbers.
"""

import csv
from html import escape
from io import StringIO
from string import Template

WIDTH, BAR, GAP, LABEL = 720, 24, 8, 160

PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>$value by $label</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 720px; }
  table { border-collapse: collapse; width: 100%; }
  th, td { padding: .25rem .5rem; text-align: left; border-bottom: 1px solid #ddd; }
  td:last-child, th:last-child { text-align: right; font-variant-numeric: tabular-nums; }
  svg text { font: 14px system-ui, sans-serif; }
</style>
<h1>$value by $label</h1>
$chart
<table>
<thead><tr><th>$label</th><th>$value</th></tr></thead>
<tbody>
$rows
</tbody>
<tfoot><tr><th>Total</th><th>$total</th></tr></tfoot>
</table>
</html>
""")


def handler(event: bytes, context):
    names, rows = parse(event.decode("utf-8-sig"))
    context.logger.info("%d rows", len(rows))
    page = PAGE.substitute(
        label=escape(names[0]),
        value=escape(names[1]),
        chart=chart(rows),
        rows="\n".join(f"<tr><td>{escape(label)}</td><td>{value:,g}</td></tr>" for label, value in rows),
        total=f"{sum(value for _, value in rows):,g}",
    )
    return page.encode(), "text/html; charset=utf-8"


def parse(text: str) -> tuple[list[str], list[tuple[str, float]]]:
    names, *lines = list(csv.reader(StringIO(text))) or [[]]
    if len(names) < 2 or not lines:
        raise ValueError("the CSV needs a header and a row, with a label and a number in each")
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            rows.append((line[0], float(line[1])))
        except (IndexError, ValueError):
            raise ValueError(f"row {number} has no number in its second column: {line}") from None
    return names, rows


def chart(rows: list[tuple[str, float]]) -> str:
    """A horizontal bar for each row; negative values get one of no length."""
    longest = max(value for _, value in rows)
    scale = (WIDTH - LABEL - 80) / longest if longest > 0 else 0
    height = len(rows) * (BAR + GAP)
    bars = "\n".join(bar(row, index * (BAR + GAP), scale) for index, row in enumerate(rows))
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Bar chart">\n{bars}\n</svg>'


def bar(row: tuple[str, float], y: int, scale: float) -> str:
    label, value = row
    width = max(0, value * scale)
    middle = y + BAR * 0.7
    return (
        f'<text x="{LABEL - 8}" y="{middle:.0f}" text-anchor="end">{escape(label)}</text>'
        f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" rx="3" fill="#3b82f6"/>'
        f'<text x="{LABEL + width + 6:.1f}" y="{middle:.0f}">{value:,g}</text>'
    )
