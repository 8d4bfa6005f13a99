"""Evaluates a run twice, and prints the time of the second evaluation as a share of the first.

    python benchmarks/evaluate_twice.py DATASET RUN [--set NAME] [--metrics NAMES] [--weights FOLDER] [--keep]

The script evaluates a copy of the run. The copy contains only links to the checkpoints and to the snapshot, so the
first evaluation finds no cache. The time is processor time of the whole command, because other programs may run on the
machine. The script ends with an error if the two evaluations do not write the same bytes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record_result import record_result

from manifests.privacy.run_cleanup import EVALUATION_CACHE

GOAL = 0.1  # The second evaluation should take less than this share (ours) of the time of the first.


def evaluate(dataset: Path, run: Path, options: list[str]) -> tuple[float, bytes]:
    """Runs `likeness evaluate` in a process of its own. Returns its processor seconds and the bytes of the result."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "likeness", "evaluate", dataset, "--run", run, *options]
    subprocess.run(command, stdout=sys.stderr, cwd=Path(__file__).resolve().parents[1], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, next(run.glob("evaluation-*.json")).read_bytes()


def compare_evaluations(dataset: Path, checkpoints: Path, options: list[str]) -> dict[str, Any]:
    """Evaluates the run `checkpoints` twice with the same options, and returns the figures.

    Ends the script if the two evaluations do not write the same bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        run.mkdir()
        for linked in (*checkpoints.resolve().glob("checkpoint-*"), *checkpoints.resolve().glob("snapshot")):
            (run / linked.name).symlink_to(linked)
        first, written = evaluate(dataset.resolve(), run, options)
        second, written_again = evaluate(dataset.resolve(), run, options)
        size = (run / EVALUATION_CACHE).stat().st_size
    if written != written_again:
        raise SystemExit("The second evaluation wrote other bytes than the first.")
    facts = json.loads(written)
    return {
        "images": facts["images"],
        "pixels": facts["size"],
        "systems": len(facts["rows"]),
        "metrics": [name for name in facts["metrics"] if name not in facts["not_measured"]],
        "recipe": facts["recipe"],
        "compared_with_training": facts["training_overlap"]["checked"],
        "first_processor_seconds": round(first, 1),
        "second_processor_seconds": round(second, 1),
        "ratio": round(second / first, 3),
        "goal": GOAL,
        "cache_mb": round(size / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--set")
    parser.add_argument("--metrics")
    parser.add_argument("--weights")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    options = []
    for name in ("set", "metrics", "weights"):
        if (value := getattr(arguments, name)) is not None:
            options += [f"--{name}", value]
    result = compare_evaluations(arguments.dataset, arguments.run, options)
    record_result("evaluate_twice", result, arguments.keep)


if __name__ == "__main__":
    main()
