"""Draws an SVG with a point for the quality and the identity of each system. A line joins the systems that no other
system beats in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from manifests.errors import BadInput

# The plot shows the first of these metrics that the result has (ours).
IDENTITY = ("id_target", "id_references")
QUALITY = ("lpips", "dists", "musiq", "maniqa", "clipiqa", "niqe", "ssim", "psnr")
BLUE, ORANGE, GRAY = "#1f6fb4", "#c2571a", "#777"
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 460, 70, 30, 36, 60


def choose_axes(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the metrics of quality and of identity that the plot shows. Raises BadInput if the result has no metric
    of one of these kinds.
    """
    axes = [next((name for name in names if name in metrics), None) for names in (QUALITY, IDENTITY)]
    if axes[0] is None or axes[1] is None:
        raise BadInput(
            f"The plot needs a metric of quality ({', '.join(QUALITY)}) and a metric of identity "
            f"({', '.join(IDENTITY)}) that all results have. Evaluate again with --metrics."
        )
    return axes[0], axes[1]


def find_pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Returns the names of the points that no other point beats, from low to high quality.

    `points` has (quality, identity) of each system; higher is better. A point beats another point if it is at least as
    good in both values, and better in one of them.
    """
    front = [
        name
        for name, (x, y) in points.items()
        if not any(a >= x and b >= y and (a > x or b > y) for a, b in points.values())
    ]
    return sorted(front, key=lambda name: points[name])


def draw_pareto(result: Mapping[str, Any]) -> str:
    """Returns the plot of a comparison as SVG. Better systems are further to the right and further up.

    The bars are the 95% intervals. The LQ images are gray and not part of the front. Raises BadInput if the result has
    no metric of quality or of identity, or if no system has values of both.
    """
    quality, identity = choose_axes(result["metrics"])
    signs = [-1 if result["metrics"][name]["better"] == "lower" else 1 for name in (quality, identity)]
    rows = [row for row in result["rows"] if row[quality] is not None and row[identity] is not None]
    if not rows:
        raise BadInput(f"No system has values of both {quality} and {identity}, so --plot cannot draw them.")
    points = {row["key"]: (signs[0] * row[quality]["mean"], signs[1] * row[identity]["mean"]) for row in rows}
    front = find_pareto_front({key: point for key, point in points.items() if key != "lq"})

    # The scales reach from the lowest to the highest bound of all intervals, with a margin of 6%.
    ranges = []
    for name, sign in zip((quality, identity), signs, strict=True):
        ends = [sign * row[name][bound] for row in rows for bound in ("low", "high")]
        margin = 0.06 * ((max(ends) - min(ends)) or 1.0)
        ranges.append((min(ends) - margin, max(ends) + margin))
    (x_low, x_high), (y_low, y_high) = ranges

    def x(value: float) -> float:
        return _LEFT + (value - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)

    # Draw the frame, the titles of the axes, and five values on each axis.
    titles = [_name_axis(result["metrics"][name]) for name in (quality, identity)]
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" stroke="#999" fill="none"/>',
        f'<text x="{right}" y="{_HEIGHT - 12}" text-anchor="end">{escape(titles[0])} →</text>',
        f'<text x="{_LEFT}" y="{_TOP - 14}">{escape(titles[1])} ↑</text>',
    ]
    for step in range(5):
        a, b = x_low + (x_high - x_low) * step / 4, y_low + (y_high - y_low) * step / 4
        parts.append(f'<text x="{x(a):.1f}" y="{bottom + 18}" text-anchor="middle">{signs[0] * a:.3g}</text>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(b) + 4:.1f}" text-anchor="end">{signs[1] * b:.3g}</text>')

    # Draw the front, then each system with its intervals and its name.
    line = " ".join(f"{x(points[key][0]):.1f},{y(points[key][1]):.1f}" for key in front)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{BLUE}" stroke-dasharray="5 4"/>')
    for row in rows:
        key, (a, b) = row["key"], points[row["key"]]
        colour = GRAY if key == "lq" else BLUE if key in front else ORANGE
        ends = [
            sorted(sign * row[name][one] for one in ("low", "high"))
            for name, sign in zip((quality, identity), signs, strict=True)
        ]
        parts += [
            f'<path d="M{x(ends[0][0]):.1f} {y(b):.1f}H{x(ends[0][1]):.1f}M{x(a):.1f} {y(ends[1][0]):.1f}'
            f'V{y(ends[1][1]):.1f}" stroke="{colour}"/>',
            f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="5" fill="{colour}"/>',
        ]
        is_right = x(a) > _WIDTH * 0.66
        anchor = "end" if is_right else "start"
        parts.append(
            f'<text x="{x(a) + (-8 if is_right else 8):.1f}" y="{y(b) - 8:.1f}" text-anchor="{anchor}" '
            f'fill="{colour}">{escape(row["system"])}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _name_axis(metric: Mapping[str, Any]) -> str:
    unit = f", {metric['unit']}" if metric["unit"] else ""
    better = "lower values are better" if metric["better"] == "lower" else "higher values are better"
    return f"{metric['title']}{unit} ({better})"
