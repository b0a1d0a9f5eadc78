"""Bar charts of the results as SVG pictures, which need nothing but a viewer.

A chart has a panel for each pipeline depth, or for whatever else must not share an axis, and in it
a group of bars for each operation. A bar is a median, and the line across its end goes from the
lowest to the highest round.
"""

import math
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH = 960
# Between these lie the bars. Left of them stand names, right of them the longest bar's value.
LEFT, RIGHT = 210, 840
TOP = 48
BAR, GAP = 16, 4
HEADING = 26
AXIS = 22
PANEL_GAP = 28
TICKS_MAX = 8
# These differ in brightness as well.
COLOURS = ["#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5195", "#8c564b", "#56b4e9",
           "#e69f00", "#b2182b", "#004d40", "#999933", "#882255"]


class Bar(NamedTuple):
    name: str
    value: float
    low: float
    high: float


class Group(NamedTuple):
    name: str
    bars: list


class Panel(NamedTuple):
    name: str
    groups: list


def throughput(rows):
    return svg("Throughput, operations per second", panels_by_pipeline(rows, "throughput"))


def server_cpu(rows):
    return svg("Processor time of all servers per operation, µs",
               panels_by_pipeline(rows, "server_cpu_us"))


def open_loop_latency(rows):
    quantiles = [("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9")]
    panels = [Panel(name, [Group("", [bar(row, field, 1000) for row in rows])])
              for field, name in quantiles]
    rate = rows[0]["rate"]
    return svg(f"Latency at {rate:,} operations per second, ms", panels)


def bar(row, field, unit=1):
    return Bar(row["contestant"], row[field] / unit, row[f"{field}_low"] / unit,
               row[f"{field}_high"] / unit)


def panels_by_pipeline(rows, field):
    panels = {}
    for row in rows:
        groups = panels.setdefault(f"pipeline {row['pipeline']}", {})
        groups.setdefault(row["operation"], []).append(bar(row, field))
    return [Panel(name, [Group(*group) for group in groups.items()])
            for name, groups in panels.items()]


def svg(title, panels):
    names = {bar.name: None for panel in panels for group in panel.groups for bar in group.bars}
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    elements, y = [text(WIDTH / 2, 24, "middle", title, 16)], TOP
    for panel in panels:
        y = draw_panel(elements, panel, y, colours) + PANEL_GAP
    height = y
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="sans-serif" font-size="12">')
    background = f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    return "\n".join([head, background, *elements, "</svg>"]) + "\n"


def draw_panel(elements, panel, y, colours):
    """Adds a panel whose upper edge is at `y`, and says where its lower edge is."""
    elements.append(text(LEFT, y + 12, "start", panel.name, 14))
    top = y + HEADING
    bottom = top + sum(group_height(group) for group in panel.groups)
    step, end = axis([bar.high for group in panel.groups for bar in group.bars])

    def place(value):
        return LEFT + (RIGHT - LEFT) * value / end

    for tick in range(round(end / step) + 1):
        x = place(tick * step)
        elements.append(line(x, top, x, bottom, "#d9d9d9"))
        elements.append(text(x, bottom + 15, "middle", number(tick * step)))
    for group in panel.groups:
        draw_group(elements, group, top, colours, place)
        top += group_height(group)
    return bottom + AXIS


def group_height(group):
    return (HEADING if group.name else GAP) + len(group.bars) * (BAR + GAP)


def draw_group(elements, group, y, colours, place):
    if group.name:
        elements.append(text(LEFT - 8, y + 17, "end", group.name, 14))
        y += HEADING
    for bar in group.bars:
        middle = y + BAR / 2
        end, low, high = place(bar.value), place(bar.low), place(bar.high)
        elements.append(text(LEFT - 8, middle + 4, "end", bar.name))
        elements.append(f'<rect x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{BAR}" '
                        f'fill="{colours[bar.name]}"/>')
        # White below black is seen on the bar and beside it.
        elements.append(line(low, middle, high, middle, "white", 4))
        elements.append(line(low, middle, high, middle, "black", 1.5))
        elements.append(text(max(end, high) + 6, middle + 4, "start", number(bar.value)))
        y += BAR + GAP


def axis(values):
    """The distance between ticks and the end of an axis from zero that has room for all values."""
    highest = max(values, default=0) or 1
    magnitude = 10 ** math.floor(math.log10(highest / TICKS_MAX))
    step = next(step for step in (magnitude * factor for factor in (1, 2, 5, 10))
                if highest / step <= TICKS_MAX)
    return step, step * math.ceil(highest / step)


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def line(x1, y1, x2, y2, colour, width=1.0):
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width}"/>')


def text(x, y, anchor, content, size=None):
    size = f' font-size="{size}"' if size else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{size}>{escape(content)}</text>'
