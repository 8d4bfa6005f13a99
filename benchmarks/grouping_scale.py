"""Measures time, memory and quality of the grouping for 10^4 to 10^6 synthetic faces of 512 dimensions.

    python benchmarks/grouping_scale.py [--sizes 10000 100000 1000000] [--plot FILE.svg] [--keep]

The faces have the statistics of ArcFace embeddings of photos of people. The cosines between faces of two people have
the mean 0 and the standard deviation .096. The cosines between faces of one person have the mean .52 and the standard
deviation .15. Faces in poor photos have cosines below .2. Three in ten people have one photo, and the other people have
2 to 500 photos by a power law. Two in a hundred people look like another person. Three in a hundred faces are
near-copies of another face. Three in ten photos show a second person.

Each size runs in a process of its own. The peak memory of the process includes the embeddings. At 10^5 faces, the exact
neighbour graph and the inverted file are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from grouping_scores import score_grouping
from record_result import record_result

from curate.people.clustering.group_embeddings import group_embeddings

DIMENSIONS = 512
EFFECTIVE = (
    108.0  # = 1 / .096^2: in 108 dimensions, the cosines between random directions have the standard deviation .096
)
SINGLE = 0.30  # The share of people with one photo.
LOOK_ALIKE = 0.02  # The share of people who look like another person.
COPIES = 0.03  # The share of faces that are near-copies of another face.
SECOND_FACE = 0.30  # The share of photos that show a second person.


def make_faces(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns unit embeddings, float32 (n, 512), in random order, and the person and photo of each face, int64 (n,)."""
    rng = np.random.default_rng(seed)
    sizes: list[np.ndarray] = []
    while sum(map(np.sum, sizes)) < n:
        several = np.floor(2 * (1 - rng.random(4096)) ** (-1 / 1.2)).clip(2, 500).astype(np.int64)
        sizes.append(np.where(rng.random(4096) < SINGLE, 1, several))
    person = np.repeat(np.arange(4096 * len(sizes)), np.concatenate(sizes))[:n]
    people = int(person[-1]) + 1
    # `scale` contains a standard deviation for each dimension. The deviations fall geometrically, so the cosines
    # between random directions spread as they would in a space of EFFECTIVE dimensions.
    scale = _make_spectrum()
    means = _normalise(rng.standard_normal((people, DIMENSIONS), np.float32) * scale)
    alike = np.flatnonzero(rng.random(people) < LOOK_ALIKE)
    other = (alike + 1 + rng.integers(0, people - 1, len(alike))) % people
    means[alike] = _normalise(means[alike] + rng.uniform(0.45, 0.65, (len(alike), 1)).astype(np.float32) * means[other])
    faces = np.empty((n, DIMENSIONS), np.float32)
    # The cosine of each face to the mean of its person is .72 on average, and lower for one face in twenty.
    near = np.clip(rng.normal(0.74, 0.08, n), 0.35, 0.95)
    near = np.where(rng.random(n) < 0.05, rng.uniform(0.2, 0.55, n), near).astype(np.float32)[:, None]
    for begin in range(0, n, 2**16):
        part = slice(begin, min(begin + 2**16, n))
        noise = _normalise(rng.standard_normal((part.stop - begin, DIMENSIONS), np.float32) * scale)
        faces[part] = _normalise(near[part] * means[person[part]] + np.sqrt(1 - near[part] ** 2) * noise)
    copies = np.flatnonzero((rng.random(n - 1) < COPIES) & (person[1:] == person[:-1])) + 1
    faces[copies] = _normalise(faces[copies - 1] + 0.008 * rng.standard_normal((len(copies), DIMENSIONS), np.float32))
    order = rng.permutation(n)
    faces, person = faces[order], person[order]
    # Three in ten photos show a second person: the face in a chosen row gets the photo of the face in the row before.
    second = np.flatnonzero((rng.random(n - 1) < SECOND_FACE) & (person[1:] != person[:-1])) + 1
    photo = np.arange(n)
    photo[second] = photo[second - 1]
    return faces, person, photo


def _make_spectrum() -> np.ndarray:
    """Returns standard deviations, float32 (512,), whose squares s have sum(s)^2 / sum(s^2) = EFFECTIVE."""
    low, high = 0.0, 1.0
    for _ in range(60):
        decay = (low + high) / 2
        squares = np.exp(-decay * np.arange(DIMENSIONS))
        low, high = (decay, high) if squares.sum() ** 2 / (squares**2).sum() > EFFECTIVE else (low, decay)
    return np.sqrt(squares).astype(np.float32)


def _normalise(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measure_size(n: int, exact: bool) -> dict[str, Any]:
    """Groups n faces in this process. Returns the scores of the grouping, its time and the peak memory."""
    vectors, person, photo = make_faces(n)
    start = time.perf_counter()
    grouping = group_embeddings(vectors, photo, exact=n if exact else min(n - 1, 50_000))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        **score_grouping(person, grouping.labels),
        "graph": "exact" if exact else "inverted file",
        "seconds": round(seconds, 1),
        "peak_gib": round(peak, 2),
        "threshold": round(grouping.threshold, 3),
        "false_match_rate": grouping.false_match_rate,
        "neighbour_recall": round(grouping.recall, 4),
    }


def draw_plot(rows: list[dict[str, Any]]) -> str:
    """Returns an SVG with the seconds and the MiB as functions of the number of faces. Both axes are logarithmic.

    A dashed line shows a time that grows linearly from the first run.
    """
    rows = sorted((row for row in rows if row["graph"] != "exact" or row["faces"] <= 50_000), key=lambda r: r["faces"])
    width, height, left, top = 640, 400, 60, 20

    def x(faces: float) -> float:
        return left + (np.log10(faces) - 4) / 2.1 * (width - left - 130)

    def y(value: float) -> float:  # seconds and MiB share an axis from 1 to 10^4.5
        return top + (1 - np.log10(max(value, 1)) / 4.5) * (height - top - 50)

    def line(key: str, scale: float, colour: str, words: str) -> list[str]:
        points = [(x(row["faces"]), y(row[key] * scale)) for row in rows]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        dots = [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{colour}"/>' for px, py in points]
        label = f'<text x="{points[-1][0] + 8:.1f}" y="{points[-1][1] + 4:.1f}" fill="{colour}">{words}</text>'
        return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots, label]

    box = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {box}>']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for decade in range(5):
        parts.append(f'<path d="M{left} {y(10**decade):.1f}H{width - 130}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(10**decade) + 4:.1f}" text-anchor="end">{10**decade:,}</text>')
    for faces in sorted({row["faces"] for row in rows}):
        parts.append(f'<path d="M{x(faces):.1f} {top}V{height - 50}" stroke="#eee"/>')
        parts.append(f'<text x="{x(faces):.1f}" y="{height - 32}" text-anchor="middle">{faces // 1000:,}k</text>')
    parts.append(f'<text x="{(left + width - 130) / 2:.0f}" y="{height - 10}" text-anchor="middle">faces</text>')
    first, last = rows[0], rows[-1]
    ideal = first["seconds"] * last["faces"] / first["faces"]
    parts.append(
        f'<path d="M{x(first["faces"]):.1f} {y(first["seconds"]):.1f}L{x(last["faces"]):.1f} {y(ideal):.1f}" '
        'stroke="#999" stroke-dasharray="5 4" fill="none"/>'
    )
    parts.append(f'<text x="{x(last["faces"]) + 8:.1f}" y="{y(ideal) + 4:.1f}" fill="#777">linear</text>')
    parts += line("seconds", 1, "#1f6fb4", "seconds") + line("peak_gib", 1024, "#c2571a", "MiB at most")
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--exact", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--plot", type=Path, help="an SVG file for a plot of time and memory by number of faces")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/grouping_scale.json")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_size(options.one, options.exact)))
        return
    rows: list[dict[str, Any]] = []
    runs = [(n, n <= 50_000) for n in options.sizes] + [(n, True) for n in options.sizes if 50_000 < n <= 100_000]
    for n, exact in runs:
        command = [sys.executable, str(Path(__file__).resolve()), "--one", str(n), *(["--exact"] if exact else [])]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(ran.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    if options.plot:
        options.plot.write_text(draw_plot(rows))
    record_result("grouping_scale", {"dimensions": DIMENSIONS, "runs": rows}, options.keep)


if __name__ == "__main__":
    main()
