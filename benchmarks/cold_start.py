"""Measures how long a command takes to print its help or to refuse a wrong argument.

    python benchmarks/cold_start.py [--repeats 5] [--keep]

Each command runs in a process of its own. The figures are medians in seconds of wall-clock time. The machine must be
idle. For comparison, the result also has the time of `python -c "import typer"`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record_result import record_result

COMMANDS = {
    "import typer": ["-c", "import typer"],
    "--help": ["-m", "likeness", "--help"],
    "train --help": ["-m", "likeness", "train", "--help"],
    "train, missing dataset": ["-m", "likeness", "train", "nowhere", "--out", "run"],
    "train, unknown recipe": ["-m", "likeness", "train", "nowhere", "--recipe", "huge", "--out", "run"],
    "restore, missing photo": ["-m", "likeness", "restore", "nowhere.jpg", "--run", "run", "--out", "out"],
    "restore, missing run": ["-m", "likeness", "restore", ".", "--run", "nowhere", "--out", "out"],
    "evaluate, missing dataset": ["-m", "likeness", "evaluate", "nowhere", "--run", "run"],
    "curate, missing photos": ["-m", "likeness", "curate", "nowhere", "--out", "dataset"],
    "run, wrong number": ["-m", "likeness", "run", ".", "--out", "dataset", "--images", "0"],
    "manifest show, missing dataset": ["-m", "likeness", "manifest", "show", "nowhere"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="number of runs of each command")
    parser.add_argument("--keep", action="store_true", help="write the result to benchmarks/results")
    options = parser.parse_args()
    medians = {}
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "photo.jpg").write_bytes(b"")
        for name, words in COMMANDS.items():
            seconds = []
            for _ in range(options.repeats):
                start = time.perf_counter()
                subprocess.run([sys.executable, *words], cwd=scratch, capture_output=True, check=False)
                seconds.append(time.perf_counter() - start)
            medians[name] = round(statistics.median(seconds), 3)
            print(f"{medians[name]:6.2f} s  {name}", flush=True)
    record_result("cold_start", {"repeats": options.repeats, "median_seconds": medians}, options.keep)


if __name__ == "__main__":
    main()
