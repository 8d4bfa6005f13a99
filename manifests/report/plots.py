"""Draws plots for the report as SVG text. All sizes are in px of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

# Points of a curve: the number of images that the training has seen, and the value
Line = Sequence[tuple[float, float]]

# template.html.j2 defines these colours for light and dark pages
_COLOURS = ("var(--ink-1)", "var(--ink-2)", "var(--ink-3)")


def draw_similarities(edges: Sequence[float], within: Sequence[int], between: Sequence[int], threshold: float) -> str:
    """Returns two histograms of cosine similarities, with the threshold as a line.

    For each bin, `within` counts the pairs of faces of one person, and `between` counts the pairs of faces of two
    people. Each histogram is scaled to its own peak. `edges` are the borders of the bins. Returns "" if there are no
    pairs.
    """
    filled = [i for i in range(len(within)) if within[i] or between[i]]
    if not filled:
        return ""
    first, last = filled[0], filled[-1]
    low, high = edges[first], edges[last + 1]
    width, height, left, bottom, top = 720, 240, 8, 24, 28
    span = max(high - low, 1e-6)

    def x_of(value: float) -> float:
        return left + (value - low) / span * (width - 2 * left)

    # the outline of a histogram has two points for each bin
    parts = []
    for counts, colour in ((between, _COLOURS[1]), (within, _COLOURS[0])):
        peak = max(max(counts), 1)
        points = [f"{x_of(edges[first]):.1f},{height - bottom}"]
        for i in range(first, last + 1):
            y = height - bottom - counts[i] / peak * (height - bottom - top)
            points += [f"{x_of(edges[i]):.1f},{y:.1f}", f"{x_of(edges[i + 1]):.1f},{y:.1f}"]
        points.append(f"{x_of(edges[last + 1]):.1f},{height - bottom}")
        parts.append(f'<polygon points="{" ".join(points)}" fill="{colour}" fill-opacity=".45" stroke="{colour}"/>')

    # draw the threshold, with its label on the side that has more room
    if low <= threshold <= high:
        x = x_of(threshold)
        anchor, gap = ("end", -5) if x > width / 2 else ("start", 5)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - bottom}" class="mark"/>')
        label = f"same person at {threshold:g} or more"
        parts.append(f'<text x="{x + gap:.1f}" y="14" text-anchor="{anchor}">{label}</text>')
    for tick in _choose_ticks(low, high):
        parts.append(f'<text x="{x_of(tick):.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>')
    return _wrap_svg(width, height, parts, "histogram of similarities")


def draw_curves(lines: Mapping[str, Line], label: str) -> str:
    """Returns a plot of up to three curves. `lines` maps the name of a curve to its points.

    Returns "" if no curve has two points."""
    lines = {name: line for name, line in lines.items() if len({images for images, _ in line}) > 1}
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    width, height, left, bottom = 332, 190, 48, 24
    top = 28 if len(lines) < 2 else 20 + 13 * len(lines)  # the names of several curves are written above the plot
    x0, x1 = min(p[0] for p in points), max(p[0] for p in points)
    y0, y1 = min(p[1] for p in points), max(p[1] for p in points)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1e-6)

    def place(point: tuple[float, float]) -> str:
        x = left + (point[0] - x0) / (x1 - x0) * (width - left - 8)
        y = height - bottom - (point[1] - y0) / (y1 - y0) * (height - bottom - top)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<text x="{left}" y="14" class="label">{label}</text>']
    for i, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        places = " ".join(place(point) for point in line)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if len(lines) > 1:
            parts.append(
                f'<text x="{width - 8}" y="{14 + 13 * i}" text-anchor="end" style="fill: {colour}">{name}</text>'
            )
    # write the smallest and the largest value beside the axes
    for value, y in ((y1, top), (y0, height - bottom)):
        parts.append(f'<text x="{left - 5}" y="{y + 4}" text-anchor="end">{value:.3g}</text>')
    parts.append(f'<line x1="{left}" x2="{width - 8}" y1="{height - bottom}" y2="{height - bottom}" class="axis"/>')
    parts.append(f'<text x="{left}" y="{height - 6}">{x0:,.0f}</text>')
    parts.append(f'<text x="{width - 8}" y="{height - 6}" text-anchor="end">{x1:,.0f} images</text>')
    return _wrap_svg(width, height, parts, label)


def draw_bars(counts: Sequence[tuple[str, int]], label: str) -> str:
    """Returns a bar plot. `counts` has the name below each bar and the count above the bar."""
    width, height, bottom, top = 332, 190, 24, 40
    step = (width - 16) / len(counts)
    peak = max(max(count for _, count in counts), 1)
    parts = [f'<text x="8" y="14" class="label">{label}</text>']
    for i, (name, count) in enumerate(counts):
        bar = count / peak * (height - bottom - top)
        x, y, middle = 8 + i * step, height - bottom - bar, 8 + (i + 0.5) * step
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{step - 2:.1f}" height="{bar:.1f}" fill="{_COLOURS[0]}" '
            'fill-opacity=".7"/>'
        )
        parts.append(f'<text x="{middle:.1f}" y="{y - 4:.1f}" text-anchor="middle">{count:,}</text>')
        parts.append(f'<text x="{middle:.1f}" y="{height - 8}" text-anchor="middle">{name}</text>')
    parts.append(f'<line x1="8" x2="{width - 8}" y1="{height - bottom}" y2="{height - bottom}" class="axis"/>')
    return _wrap_svg(width, height, parts, label)


def draw_histograms(series: Mapping[str, Mapping[int, float]], bin_width: float, label: str) -> str:
    """Returns a plot of up to three histograms. `series` maps the name of a histogram to its bins.

    The bins map the number of a bin to its weight. The weights of a histogram are scaled to the sum 1. Bin i has the
    values from i * `bin_width` to (i + 1) * `bin_width`. Returns "" if no histogram has a bin.
    """
    bins = [i for weights in series.values() for i in weights]
    if not bins:
        return ""
    width, height, left, bottom, top = 332, 190, 8, 24, 44
    first, last = min(bins), max(bins) + 1
    shares = {name: {i: n / sum(weights.values()) for i, n in weights.items()} for name, weights in series.items()}
    peak = max(share for weights in shares.values() for share in weights.values())

    def x_of(edge: float) -> float:
        return left + (edge - first) / (last - first) * (width - 2 * left)

    parts = [f'<text x="{left}" y="14" class="label">{label}</text>']
    for i, (name, weights) in enumerate(shares.items()):
        colour, points = _COLOURS[i % len(_COLOURS)], [f"{x_of(first):.1f},{height - bottom}"]
        for edge in range(first, last):
            y = height - bottom - weights.get(edge, 0) / peak * (height - bottom - top)
            points += [f"{x_of(edge):.1f},{y:.1f}", f"{x_of(edge + 1):.1f},{y:.1f}"]
        points.append(f"{x_of(last):.1f},{height - bottom}")
        # the first outline is thicker, because the later outlines are drawn over it
        parts.append(
            f'<polygon points="{" ".join(points)}" fill="{colour}" fill-opacity=".15" stroke="{colour}" '
            f'stroke-width="{1.5 if i else 3}"/>'
        )
        parts.append(f'<text x="{left + 80 * i}" y="30" style="fill: {colour}">{name}</text>')
    for tick in _choose_ticks(first * bin_width, last * bin_width):
        parts.append(f'<text x="{x_of(tick / bin_width):.1f}" y="{height - 8}" text-anchor="middle">{tick:g}</text>')
    return _wrap_svg(width, height, parts, label)


def _choose_ticks(low: float, high: float) -> list[float]:
    """Returns a few round numbers between two bounds, with equal distances."""
    rough = (high - low) / 5
    step = 10.0 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
    return [round(i * step, 6) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _wrap_svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
