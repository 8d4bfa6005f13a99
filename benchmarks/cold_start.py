"""Measures how long a command takes to print its help, to refuse a wrong argument, or to restore one photo.

    python benchmarks/cold_start.py [--run RUN --onnx FOLDER --photo PHOTO --reference PHOTO] [--repeats 5] [--keep]

Each command runs in a process of its own. The figures are medians in seconds of wall-clock time. The machine must be
idle. For comparison, the result also has the time of `python -c "import typer"`.

With the four options in brackets, the script also restores PHOTO, which shows one face, with the run (torch) and with
its ONNX files (without torch). FOLDER is the folder that `likeness export --format onnx` wrote.
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
    parser.add_argument("--run", type=Path, help="a training run")
    parser.add_argument("--onnx", type=Path, help="the folder with the ONNX files of the run")
    parser.add_argument("--photo", type=Path, help="the photo that is restored")
    parser.add_argument("--reference", type=Path, help="a photo of the same person")
    parser.add_argument("--repeats", type=int, default=5, help="number of runs of each command")
    parser.add_argument("--keep", action="store_true", help="write the result to benchmarks/results")
    options = parser.parse_args()
    commands = dict(COMMANDS)
    files = (options.run, options.onnx, options.photo, options.reference)
    if any(files):
        if not all(files):
            parser.error("give --run, --onnx, --photo and --reference together.")
        run, onnx, photo, reference = (str(path.resolve()) for path in files)
        words = ["-m", "likeness", "restore", photo, "--reference", reference, "--always", "--out"]
        commands["restore a photo with torch"] = [*words, "torch", "--run", run]
        commands["restore a photo with ONNX"] = [*words, "onnx", "--run", f"onnx:{onnx}"]
    medians = {}
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "photo.jpg").write_bytes(b"")
        for name, words in commands.items():
            seconds = []
            for _ in range(options.repeats):
                start = time.perf_counter()
                process = subprocess.run(
                    [sys.executable, *words], cwd=scratch, capture_output=True, text=True, check=False
                )
                seconds.append(time.perf_counter() - start)
                if name.startswith("restore a photo") and process.returncode:
                    parser.error(f"the photo was not restored: {process.stderr.strip()}")
            medians[name] = round(statistics.median(seconds), 3)
            print(f"{medians[name]:6.2f} s  {name}", flush=True)
    record_result("cold_start", {"repeats": options.repeats, "median_seconds": medians}, options.keep)


if __name__ == "__main__":
    main()
