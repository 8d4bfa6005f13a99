"""Pictures and plots that travel inside the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from manifests.runtime.archives import ArchiveError, read_bytes
from manifests.runtime.files import sha256_bytes
from manifests.runtime.images import UndecodableImage, decode

Series = Sequence[tuple[float, float]]

# A picture that cannot be decoded, read or shrunk is left out of the page.
_BROKEN = (OSError, ValueError, UndecodableImage)
_COLOURS = ("var(--ink-1)", "var(--ink-2)", "var(--ink-3)")


def thumbnail(path: Path, side: int) -> str:
    """A picture as a JPEG data URI, its longer side at most `side` px; empty where it cannot be read."""
    try:
        return _small(Image.fromarray(decode(path)), side)
    except _BROKEN:
        return ""


def patch(uri: str, photo_id: str, box: Sequence[float], side: int) -> str:
    """What lies in a file's photo around `box` (x0, y0, x1, y1 in its pixels) as a square JPEG data URI of `side` px.

    Empty where the file no longer holds that photo or cannot be read.
    """
    try:
        data = read_bytes(uri)
        if sha256_bytes(data) != photo_id:
            return ""
        half = 0.7 * max(box[2] - box[0], box[3] - box[1])
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        cut = tuple(round(edge) for edge in (x - half, y - half, x + half, y + half))
        square = Image.fromarray(decode(data)).crop((cut[0], cut[1], cut[2], cut[3]))
        return _small(square.resize((side, side), Image.Resampling.LANCZOS), side)
    except (*_BROKEN, ArchiveError):
        return ""


def _small(image: Image.Image, side: int) -> str:
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.info = {}  # Pillow would write a photo's JPEG comment, for one, into the thumbnail
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def whole(path: Path) -> str:
    """A picture at its own size as a JPEG data URI; empty where it cannot be read."""
    return thumbnail(path, 1 << 20)


def histogram(edges: Sequence[float], within: Sequence[int], between: Sequence[int], threshold: float) -> str:
    """An SVG of two normalised histograms over cosine similarity, with the threshold as a line."""
    shown = [i for i in range(len(within)) if within[i] or between[i]]
    if not shown:
        return ""
    low, high = edges[shown[0]], edges[shown[-1] + 1]
    width, height, left, bottom, above = 720, 240, 8, 24, 28
    span = max(high - low, 1e-6)

    def x(value: float) -> float:
        return left + (value - low) / span * (width - 2 * left)

    parts = []
    for counts, colour in ((between, _COLOURS[1]), (within, _COLOURS[0])):
        top = max(max(counts), 1)
        points = [f"{x(edges[shown[0]]):.1f},{height - bottom}"]
        for i in range(shown[0], shown[-1] + 1):
            y = height - bottom - counts[i] / top * (height - bottom - above)
            points += [f"{x(edges[i]):.1f},{y:.1f}", f"{x(edges[i + 1]):.1f},{y:.1f}"]
        points.append(f"{x(edges[shown[-1] + 1]):.1f},{height - bottom}")
        parts.append(f'<polygon points="{" ".join(points)}" fill="{colour}" fill-opacity=".45" stroke="{colour}"/>')
    if low <= threshold <= high:
        line = x(threshold)
        side = ("end", -5) if line > width / 2 else ("start", 5)
        parts.append(f'<line x1="{line:.1f}" x2="{line:.1f}" y1="4" y2="{height - bottom}" class="mark"/>')
        words = f"same person from {threshold:g}"
        parts.append(f'<text x="{line + side[1]:.1f}" y="14" text-anchor="{side[0]}">{words}</text>')
    for tick in _ticks(low, high):
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>')
    return _svg(width, height, parts, "similarity histogram")


def curve(series: Mapping[str, Series], label: str) -> str:
    """An SVG line plot of up to three series over images seen; empty where none has two points."""
    series = {name: line for name, line in series.items() if len({images for images, _ in line}) > 1}
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    width, height, left, bottom = 332, 190, 48, 24
    above = 28 if len(series) < 2 else 20 + 13 * len(series)  # the names stand above the lines
    x0, x1 = min(p[0] for p in points), max(p[0] for p in points)
    y0, y1 = min(p[1] for p in points), max(p[1] for p in points)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1e-6)

    def place(point: tuple[float, float]) -> str:
        x = left + (point[0] - x0) / (x1 - x0) * (width - left - 8)
        y = height - bottom - (point[1] - y0) / (y1 - y0) * (height - bottom - above)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<text x="{left}" y="14" class="label">{label}</text>']
    for i, (name, line) in enumerate(series.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        drawn = " ".join(place(point) for point in line)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if len(series) > 1:
            parts.append(
                f'<text x="{width - 8}" y="{14 + 13 * i}" text-anchor="end" style="fill: {colour}">{name}</text>'
            )
    for value, y in ((y1, above), (y0, height - bottom)):
        parts.append(f'<text x="{left - 5}" y="{y + 4}" text-anchor="end">{value:.3g}</text>')
    parts.append(f'<line x1="{left}" x2="{width - 8}" y1="{height - bottom}" y2="{height - bottom}" class="axis"/>')
    parts.append(f'<text x="{left}" y="{height - 6}">{x0:,.0f}</text>')
    parts.append(f'<text x="{width - 8}" y="{height - 6}" text-anchor="end">{x1:,.0f} images</text>')
    return _svg(width, height, parts, label)


def bars(counts: Sequence[tuple[str, int]], label: str) -> str:
    """An SVG of named bars with their counts above them."""
    width, height, bottom, above = 332, 190, 24, 40
    step = (width - 16) / len(counts)
    top = max(max(count for _, count in counts), 1)
    parts = [f'<text x="8" y="14" class="label">{label}</text>']
    for i, (name, count) in enumerate(counts):
        tall = count / top * (height - bottom - above)
        x, y, middle = 8 + i * step, height - bottom - tall, 8 + (i + 0.5) * step
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" fill="{_COLOURS[0]}" '
            'fill-opacity=".7"/>'
        )
        parts.append(f'<text x="{middle:.1f}" y="{y - 4:.1f}" text-anchor="middle">{count:,}</text>')
        parts.append(f'<text x="{middle:.1f}" y="{height - 8}" text-anchor="middle">{name}</text>')
    parts.append(f'<line x1="8" x2="{width - 8}" y1="{height - bottom}" y2="{height - bottom}" class="axis"/>')
    return _svg(width, height, parts, label)


def outlines(series: Mapping[str, Mapping[int, float]], bin_width: float, label: str) -> str:
    """An SVG of up to three histograms, each in shares of its own sum; bin i holds i to i + 1 times `bin_width`. Empty
    where there is nothing to show."""
    bins = [i for counts in series.values() for i in counts]
    if not bins:
        return ""
    width, height, left, bottom, above = 332, 190, 8, 24, 44
    first, last = min(bins), max(bins) + 1
    shares = {name: {i: n / sum(counts.values()) for i, n in counts.items()} for name, counts in series.items()}
    top = max(share for counts in shares.values() for share in counts.values())

    def x(edge: float) -> float:
        return left + (edge - first) / (last - first) * (width - 2 * left)

    parts = [f'<text x="{left}" y="14" class="label">{label}</text>']
    for i, (name, counts) in enumerate(shares.items()):
        colour, points = _COLOURS[i % len(_COLOURS)], [f"{x(first):.1f},{height - bottom}"]
        for edge in range(first, last):
            y = height - bottom - counts.get(edge, 0) / top * (height - bottom - above)
            points += [f"{x(edge):.1f},{y:.1f}", f"{x(edge + 1):.1f},{y:.1f}"]
        points.append(f"{x(last):.1f},{height - bottom}")
        parts.append(
            f'<polygon points="{" ".join(points)}" fill="{colour}" fill-opacity=".15" stroke="{colour}" '
            f'stroke-width="{1.5 if i else 3}"/>'
        )
        parts.append(f'<text x="{left + 80 * i}" y="30" style="fill: {colour}">{name}</text>')
    for tick in _ticks(first * bin_width, last * bin_width):
        parts.append(f'<text x="{x(tick / bin_width):.1f}" y="{height - 8}" text-anchor="middle">{tick:g}</text>')
    return _svg(width, height, parts, label)


def _ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers between two bounds."""
    rough = (high - low) / 5
    step = 10.0 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
    return [round(i * step, 6) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
