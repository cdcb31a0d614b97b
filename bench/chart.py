"""Draws bars as SVG, readable on light and on dark."""
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LABEL, VALUE, ROW, BAR, MOST = 1040, 430, 230, 24, 14, 2.5
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px }
  .good { fill: #1a7f5a } .bad { fill: #c4502b } .other { fill: #8c959f } .mark { stroke: #57606a; stroke-dasharray: 3 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .good { fill: #3fb68b } .bad { fill: #f0825a } .other { fill: #7d8590 } .mark { stroke: #9198a1 }
  }
"""


@dataclass
class Bar:
    name: str
    value: float
    label: str
    # Its colour: good, bad or other.
    kind: str


@dataclass
class Panel:
    title: str
    bars: list
    # Where the dashed line stands.
    mark: float


def draw(panels):
    shapes, top = [], 0
    for panel in panels:
        top += 30
        shapes.append(f'<text class="title" x="8" y="{top - 8}">{escape(panel.title)}</text>')
        # A bar that is longer than the chart says so by its label.
        longest = min(MOST, max(panel.mark, *(bar.value for bar in panel.bars)))
        scale = (WIDTH - LABEL - VALUE) / longest
        for at, bar in enumerate(panel.bars):
            y, length = top + at * ROW, scale * min(bar.value, longest)
            middle = y + ROW / 2 + 4
            shapes.append(f'<text x="{LABEL - 8}" y="{middle}" text-anchor="end">{escape(bar.name)}</text>')
            shapes.append(f'<rect class="{bar.kind}" x="{LABEL}" y="{y + (ROW - BAR) / 2}" '
                          f'width="{length:.1f}" height="{BAR}" rx="2"/>')
            shapes.append(f'<text x="{WIDTH - VALUE + 8}" y="{middle}">{escape(bar.label)}</text>')
        bottom, x = top + len(panel.bars) * ROW, LABEL + scale * panel.mark
        shapes.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        top = bottom + 16
    body = "\n".join(shapes)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" aria-label="Ratios of the benchmarks">\n'
            f"<style>{STYLE}</style>\n{body}\n</svg>\n")
