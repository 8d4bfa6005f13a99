"""The curve over the number of references, with what else was shown beside it: an SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

Figure = Mapping[str, float]  # mean, low, high

BLUE, ORANGE, GRAY = "#1f6fb4", "#c2571a", "#777"


def draw_curve(
    counts: Mapping[int, Figure], others: Mapping[str, Figure], lq: Figure | None, title: str, caption: str = ""
) -> str:
    """`counts` by number of references, `others` by what they are, with a caption below, `lq` the input itself;
    intervals as bars."""
    width, height, left, right, top, bottom = 700, 400, 64, 230, 36, 56
    every = [*counts.values(), *others.values(), *([lq] if lq is not None else [])]
    low, high = min(one["low"] for one in every) - 0.005, max(one["high"] for one in every) + 0.005
    most = max(counts)
    # the curve takes the left of the field, whatever else was shown the rest
    wide = width - left - right
    share = 1.0 if not others else 0.72

    def x(count: float) -> float:
        return left + 18 + count / max(most, 1) * (wide * share - 36)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (height - top - bottom)

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

    def mark(figure: Figure, place: float, colour: str) -> list[str]:
        ends = f"M{place:.1f} {y(figure['low']):.1f}V{y(figure['high']):.1f}"
        return [
            f'<path d="{ends}" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{place:.1f}" cy="{y(figure["mean"]):.1f}" r="5" fill="{colour}"/>',
        ]

    line = " ".join(f"{x(count):.1f},{y(figure['mean']):.1f}" for count, figure in sorted(counts.items()))
    parts.append(f'<polyline points="{line}" fill="none" stroke="{BLUE}" stroke-width="2"/>')
    for count, figure in sorted(counts.items()):
        parts += mark(figure, x(count), BLUE)
        parts.append(f'<text x="{x(count):.1f}" y="{height - bottom + 22}" text-anchor="middle">{count}</text>')
    parts.append(f'<text x="{x(most / 2):.1f}" y="{height - 12}" text-anchor="middle">references shown</text>')
    labels = [(counts[most]["mean"], "of the person", BLUE)]
    if lq is not None:
        parts.append(f'<path d="M{left} {y(lq["mean"]):.1f}H{width - right}" stroke="{GRAY}" stroke-dasharray="5 4"/>')
        labels.append((lq["mean"], "the input itself", GRAY))
    if others:
        middle = (x(most) + 24 + width - right) / 2
        parts.append(
            f'<text x="{middle:.1f}" y="{height - bottom + 22}" text-anchor="middle" fill="{ORANGE}">'
            f"{escape(caption)}</text>"
        )
    gap = (width - right - x(most) - 24) / max(len(others), 1)
    for place, (name, figure) in enumerate(others.items()):
        here = x(most) + 24 + place * gap
        parts += mark(figure, here, ORANGE)
        if len(others) > 1:  # a number says which label is whose
            above = y(figure["high"]) - 6
            parts.append(
                f'<text x="{here:.1f}" y="{above:.1f}" text-anchor="middle" fill="{ORANGE}">{place + 1}</text>'
            )
            name = f"{place + 1} {name}"
        labels.append((figure["mean"], name, ORANGE))
    below = 0.0
    for value, words, colour in sorted(labels, key=lambda one: -one[0]):
        below = max(y(value) + 4, below + 17)
        told = f"{escape(words)}: {value:.3f}"
        parts.append(f'<text x="{width - right + 10}" y="{below:.1f}" fill="{colour}">{told}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
