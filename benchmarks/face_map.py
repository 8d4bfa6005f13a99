"""Measures, on one core, the time and the memory that the map of faces in `likeness review` needs.

    python benchmarks/face_map.py [--sizes 10000 100000] [--keep]

The faces are those of grouping_scale.py: synthetic embeddings of 512 dimensions. The figure `nearest` counts only the
faces of people with two faces or more. `nearest` is the share of these faces whose nearest face on the map belongs to
the same person. Each size runs in a process of its own. The peak memory includes the embeddings.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
from grouping_scale import make_faces
from record_result import record_result
from scipy.spatial import cKDTree

from curate.review.map.face_map import place_faces


def measure(n: int) -> dict[str, Any]:
    """Returns the time, the peak memory and the quality of the map of `n` faces."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    faces, people, _ = make_faces(n)
    begin = time.perf_counter()
    places = place_faces(faces)
    seconds = time.perf_counter() - begin
    _, nearest = cKDTree(places).query(places, k=2)
    several = np.bincount(people)[people] > 1
    other = np.where(nearest[:, 0] == np.arange(n), nearest[:, 1], nearest[:, 0])
    return {
        "faces": n,
        "seconds": round(seconds, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "nearest": round(float((people[other] == people)[several].mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/face_map.json")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    rows = []
    for size in options.sizes:
        output = subprocess.run(
            [sys.executable, __file__, "--one", str(size)], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        rows.append(json.loads(output.splitlines()[-1]))
    record_result("face_map", {"sizes": rows}, options.keep)


if __name__ == "__main__":
    main()
