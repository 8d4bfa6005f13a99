"""Measures time, memory and quality of the grouping for 10^4 to 10^6 synthetic faces of 512 dimensions.

    python benchmarks/grouping_scale.py [--sizes 10000 100000 1000000] [--graphs 3000000] [--plot FILE.svg] [--keep]

The faces have the statistics of ArcFace embeddings of photos of people. The cosines between faces of two people have
the mean 0 and the standard deviation .096. The cosines between faces of one person have the mean .52 and the standard
deviation .15. Faces in poor photos have cosines below .2. Three in ten people have one photo, and the other people have
2 to 500 photos by a power law. Two in a hundred people look like another person. Three in a hundred faces are
near-copies of another face. Three in ten photos show a second person.

A process of its own writes the faces of each size to a file, and another process maps the file into its memory and
groups the faces. The peak memory is measured from outside this process, and includes the pages of the file. At 10^5
faces, the exact neighbour graph and the approximate search are compared. For the sizes of --graphs, only the neighbour
graph is made. The recall of a graph is measured on 10,000 faces. The true neighbours of a face are the faces whose
cosine to it is at least .42, .55 or .60. For each of the three limits, the recall is the share of the true neighbours
that the search finds.

With --memory, the faces are grouped within a limit of the memory, as with `likeness curate --memory`, and the result is
printed and not kept.

--keep writes benchmarks/results/grouping_scale.json. Rows of other sizes stay in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from grouping_scores import score_grouping
from record_result import HERE, read_commit, record_result

from curate.people.clustering.group_embeddings import group_embeddings
from curate.people.clustering.neighbours import find_neighbours, measure_recall
from manifests.runtime.text import parse_size
from manifests.runtime.workspace import Workspace

DIMENSIONS = 512
EFFECTIVE = (
    108.0  # = 1 / .096^2: in 108 dimensions, the cosines between random directions have the standard deviation .096
)
GRAPH_COSINE = 0.42  # = 4.4 * .096, the lowest cosine at which two faces are compared in a large collection
SINGLE = 0.30  # The share of people with one photo.
LOOK_ALIKE = 0.02  # The share of people who look like another person.
COPIES = 0.03  # The share of faces that are near-copies of another face.
SECOND_FACE = 0.30  # The share of photos that show a second person.


def make_faces(n: int, folder: Path, seed: int = 0) -> None:
    """Writes `vectors.npy`, unit embeddings in random order, float32 (n, 512), and the person and the photo of each
    face, `people.npy` and `photos.npy`, int64 (n,).
    """
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
    file = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (n, DIMENSIONS))
    for begin in range(0, n, 2**16):
        file[begin : begin + 2**16] = faces[order[begin : begin + 2**16]]
    person = person[order]
    # Three in ten photos show a second person: the face in a chosen row gets the photo of the face in the row before.
    second = np.flatnonzero((rng.random(n - 1) < SECOND_FACE) & (person[1:] != person[:-1])) + 1
    photo = np.arange(n)
    photo[second] = photo[second - 1]
    np.save(folder / "people.npy", person)
    np.save(folder / "photos.npy", photo)


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


def measure_grouping(folder: Path, exact: bool, memory: str | None) -> dict[str, Any]:
    """Groups the faces of `folder` in this process. Returns the scores of the grouping and its time."""
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    start = time.perf_counter()
    grouping = group_embeddings(
        vectors,
        np.load(folder / "photos.npy"),
        exact=len(vectors) if exact else min(len(vectors) - 1, 50_000),
        workspace=Workspace(None if memory is None else parse_size("--memory", memory), folder),
    )
    return {
        **score_grouping(np.load(folder / "people.npy"), grouping.labels),
        "graph": "exact" if exact else "approximate",
        "seconds": round(time.perf_counter() - start, 1),
        "threshold": round(grouping.threshold, 3),
        "false_match_rate": grouping.false_match_rate,
        "neighbour_recall": round(grouping.recall, 4),
    }


def make_graph(folder: Path) -> dict[str, Any]:
    """Makes the neighbour graph of the faces of `folder` in this process, and writes it into `folder`."""
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    order = np.arange(len(vectors))
    start = time.perf_counter()
    near = find_neighbours(vectors, order, 64, GRAPH_COSINE, 50_000)
    seconds = round(time.perf_counter() - start, 1)
    np.save(folder / "rows.npy", near.rows)
    return {"faces": len(vectors), "graph": "graph alone", "seconds": seconds}


def measure_graph(folder: Path) -> dict[str, Any]:
    """Returns the recall of the graph in `folder` for 10,000 faces at three cosines."""
    vectors, rows = np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "rows.npy")
    order = np.arange(len(vectors))
    recalls = {
        str(cosine): round(measure_recall(vectors, order, rows, cosine, 10_000), 4)
        for cosine in (GRAPH_COSINE, 0.55, 0.6)
    }
    return {"recall_above_cosine": recalls}


def run_measured(command: list[str]) -> tuple[dict[str, Any], float]:
    """Runs a command that prints one line of JSON last. Returns the JSON, and the peak memory of the process in GiB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return json.loads(text.splitlines()[-1]), round(usage.ru_maxrss / 2**20, 2)


def draw_plot(rows: list[dict[str, Any]]) -> str:
    """Returns an SVG with the seconds and the MiB as functions of the number of faces. Both axes are logarithmic.

    Dashed lines continue the measured lines to 10^8 faces. The time of the graph grows as n^1.5, and the memory and the
    time of the other steps grow linearly.
    """
    grouped = [row for row in rows if row["graph"] == ("exact" if row["faces"] <= 50_000 else "approximate")]
    graphs = [row for row in rows if row["graph"] == "graph alone"]
    width, height, left, top, right = 690, 420, 80, 20, 130

    def x(faces: float) -> float:
        return left + (np.log10(faces) - 4) / 4 * (width - left - right)

    def y(value: float) -> float:  # seconds and MiB share an axis from 1 to 10^6
        return top + (1 - np.log10(max(value, 1)) / 6) * (height - top - 50)

    def line(rows: list[dict[str, Any]], key: str, scale: float, power: float, colour: str, words: str) -> list[str]:
        points = [(x(row["faces"]), y(row[key] * scale)) for row in rows]
        last = rows[-1]
        end = (x(1e8), y(last[key] * scale * (1e8 / last["faces"]) ** power))
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        dots = [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{colour}"/>' for px, py in points]
        label = f'<text x="{end[0] + 8:.1f}" y="{end[1] + 4:.1f}" fill="{colour}">{words}</text>'
        dashes = f'<path d="M{path.split()[-1]}L{end[0]:.1f} {end[1]:.1f}" stroke="{colour}" stroke-dasharray="5 4"/>'
        return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots, dashes, label]

    box = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {box}>']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for decade in range(7):
        parts.append(f'<path d="M{left} {y(10**decade):.1f}H{width - right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(10**decade) + 4:.1f}" text-anchor="end">{10**decade:,}</text>')
    for decade, words in enumerate(("10k", "100k", "1M", "10M", "100M"), start=4):
        parts.append(f'<path d="M{x(10**decade):.1f} {top}V{height - 50}" stroke="#eee"/>')
        parts.append(f'<text x="{x(10**decade):.1f}" y="{height - 32}" text-anchor="middle">{words}</text>')
    parts.append(f'<text x="{(left + width - right) / 2:.0f}" y="{height - 10}" text-anchor="middle">faces</text>')
    parts += line(grouped, "seconds", 1, 1, "#1f6fb4", "seconds, linear")
    if graphs:
        parts += line(graphs, "seconds", 1, 1.5, "#2a8f4d", "graph, n^1.5")
    parts += line(grouped, "peak_gib", 1024, 1, "#c2571a", "MiB at most")
    return "\n".join([*parts, "</svg>"]) + "\n"


TASKS = {
    "exact": lambda folder, memory: measure_grouping(folder, True, memory),
    "approximate": lambda folder, memory: measure_grouping(folder, False, memory),
    "graph alone": lambda folder, _: make_graph(folder),
    "recall": lambda folder, _: measure_graph(folder),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", type=int, default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--graphs", nargs="*", type=int, default=[1_000_000, 3_000_000])
    parser.add_argument("--folder", type=Path, help="a folder with space for the faces: 6 GB for 3,000,000 faces")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--plot", type=Path, help="an SVG file for a plot of time and memory by number of faces")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/grouping_scale.json")
    parser.add_argument("--memory", help="a limit of the memory, such as 3G")
    options = parser.parse_args()
    if options.memory and (options.keep or options.plot):
        parser.error("A run with --memory is only printed. Leave out --keep and --plot.")
    if options.make:
        make_faces(options.make, options.folder)
        print("{}")
        return
    if options.task:
        print(json.dumps(TASKS[options.task](options.folder, options.memory)))
        return
    runs = [(n, "exact" if n <= 50_000 else "approximate") for n in options.sizes]
    runs += [(n, "exact") for n in options.sizes if 50_000 < n <= 100_000]
    runs += [(n, "graph alone") for n in options.graphs]
    rows = _read_kept_rows() if options.keep or options.plot else []
    for n, task in sorted(runs):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            command = [sys.executable, str(Path(__file__).resolve()), "--folder", folder]
            run_measured([*command, "--make", str(n)])
            limit = ["--memory", options.memory] if options.memory else []
            row, peak = run_measured([*command, "--task", task, *limit])
            row |= {"peak_gib": peak}
            if task == "graph alone":
                row |= run_measured([*command, "--task", "recall"])[0]
        print(json.dumps(row), flush=True)
        rows = [old for old in rows if (old["faces"], old["graph"]) != (n, task)]
        rows.append(row | {"date": datetime.now(UTC).date().isoformat(), "commit": read_commit()})
    rows.sort(key=lambda row: (row["graph"] == "graph alone", row["faces"], row["graph"] == "exact"))
    if options.plot:
        options.plot.write_text(draw_plot(rows))
    record_result("grouping_scale", {"dimensions": DIMENSIONS, "runs": rows}, options.keep)


def _read_kept_rows() -> list[dict[str, Any]]:
    path = HERE / "results" / "grouping_scale.json"
    return json.loads(path.read_text())["result"]["runs"] if path.exists() else []


if __name__ == "__main__":
    main()
