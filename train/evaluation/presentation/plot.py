"""Draws an SVG: the curve of a metric over the number of references, with the counterfactual systems beside the
curve."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

Figure = Mapping[str, float]  # a value with the keys mean, low and high

BLUE, ORANGE, GRAY = "#1f6fb4", "#c2571a", "#777"


def draw_curve(
    counts: Mapping[int, Figure], others: Mapping[str, Figure], lq: Figure | None, title: str, caption: str = ""
) -> str:
    """Returns the drawing as SVG.

    `counts` has the points of the curve, by the number of references. `others` has the values of the counterfactual
    systems by name. The points of the counterfactual systems are to the right of the curve, above `caption`. `lq` is
    the value of the LQ images, which is drawn as a dashed line. Vertical bars are intervals.
    """
    width, height, left, right, top, bottom = 700, 400, 64, 230, 36, 56
    figures = [*counts.values(), *others.values(), *([lq] if lq is not None else [])]
    low, high = min(one["low"] for one in figures) - 0.005, max(one["high"] for one in figures) + 0.005
    most = max(counts)
    # the curve is in the left part of the drawing, and the counterfactual systems are in the right part
    field = width - left - right
    curve_share = 1.0 if not others else 0.72

    def x(count: float) -> float:
        return left + 18 + count / max(most, 1) * (field * curve_share - 36)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (height - top - bottom)

    # Draw the background, the title, and at most eight horizontal lines with their values.
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="20">{escape(title)}</text>',
    ]
    step = next((size for size in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / size < 8), 1.0)
    for tick in range(int(low / step) - 1, int(high / step) + 2):
        if low <= tick * step <= high:
            parts.append(f'<path d="M{left} {y(tick * step):.1f}H{width - right}" stroke="#ddd"/>')
            parts.append(
                f'<text x="{left - 8}" y="{y(tick * step) + 4:.1f}" text-anchor="end">{tick * step:.2f}</text>'
            )

    def draw_figure(figure: Figure, place: float, colour: str) -> list[str]:
        ends = f"M{place:.1f} {y(figure['low']):.1f}V{y(figure['high']):.1f}"
        return [
            f'<path d="{ends}" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{place:.1f}" cy="{y(figure["mean"]):.1f}" r="5" fill="{colour}"/>',
        ]

    # Draw the curve with the numbers of references below.
    line = " ".join(f"{x(count):.1f},{y(figure['mean']):.1f}" for count, figure in sorted(counts.items()))
    parts.append(f'<polyline points="{line}" fill="none" stroke="{BLUE}" stroke-width="2"/>')
    for count, figure in sorted(counts.items()):
        parts += draw_figure(figure, x(count), BLUE)
        parts.append(f'<text x="{x(count):.1f}" y="{height - bottom + 22}" text-anchor="middle">{count}</text>')
    parts.append(f'<text x="{x(most / 2):.1f}" y="{height - 12}" text-anchor="middle">number of references</text>')
    # Draw the line of the LQ images and the points of the counterfactual systems. Each system gets a label on the
    # right.
    labels = [(counts[most]["mean"], "right references", BLUE)]
    if lq is not None:
        parts.append(f'<path d="M{left} {y(lq["mean"]):.1f}H{width - right}" stroke="{GRAY}" stroke-dasharray="5 4"/>')
        labels.append((lq["mean"], "LQ input", GRAY))
    if others:
        middle = (x(most) + 24 + width - right) / 2
        parts.append(
            f'<text x="{middle:.1f}" y="{height - bottom + 22}" text-anchor="middle" fill="{ORANGE}">'
            f"{escape(caption)}</text>"
        )
    gap = (width - right - x(most) - 24) / max(len(others), 1)
    for number, (name, figure) in enumerate(others.items(), 1):
        place = x(most) + 24 + (number - 1) * gap
        parts += draw_figure(figure, place, ORANGE)
        if len(others) > 1:  # a number connects each point with its label
            above = y(figure["high"]) - 6
            parts.append(f'<text x="{place:.1f}" y="{above:.1f}" text-anchor="middle" fill="{ORANGE}">{number}</text>')
            name = f"{number} {name}"
        labels.append((figure["mean"], name, ORANGE))
    # Draw the labels from top to bottom, at least 17 px apart.
    label_y = 0.0
    for value, name, colour in sorted(labels, key=lambda label: -label[0]):
        label_y = max(y(value) + 4, label_y + 17)
        text = f"{escape(name)}: {value:.3f}"
        parts.append(f'<text x="{width - right + 10}" y="{label_y:.1f}" fill="{colour}">{text}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
