"""Curates albums like the albums of users, and counts the errors of curation.

    python benchmarks/real_albums.py [--data ../shared/data] [--only NAME ...] [--seed N] [--keep]

Each file of benchmarks/album_situations builds the albums of one situation from photos of labelled people, curates the
albums, and returns figures. The docstring of each file states the goals of its situation. Most files also measure a
plain loop with insightface on the same photos.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record_result import record_result

HERE = Path(__file__).resolve().parent
SITUATIONS = tuple(sorted(path.stem for path in (HERE / "album_situations").glob("[a-z]*.py")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data", help="the labelled photos")
    parser.add_argument("--only", nargs="+", choices=SITUATIONS, default=SITUATIONS, help="the situations to measure")
    parser.add_argument("--seed", type=int, default=0, help="the seed of all random choices")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/real_albums.json")
    options = parser.parse_args()
    if options.keep and tuple(options.only) != SITUATIONS:
        parser.error("--keep needs all situations: leave --only out.")
    figures: dict[str, Any] = {}
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            situation = importlib.import_module(f"album_situations.{name}")
            figures[name] = situation.measure(Path(folder), options.data.resolve(), options.seed)
            figures[name]["seconds"] = round(time.monotonic() - began, 1)
        for key, value in figures[name].items():
            print(f"{name:14}{key:34}{value}", file=sys.stderr)
    record_result("real_albums", {"seed": options.seed, **figures}, options.keep)


if __name__ == "__main__":
    main()
