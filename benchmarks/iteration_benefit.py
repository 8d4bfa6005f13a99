"""Does a restorer get better by cleaning its own training targets, or by taking more steps?

    python benchmarks/iteration_benefit.py PHOTOS --out DATASET --faces SPEC --judge dlib [--images 9600] [--keep]

1. The benchmark curates the photos with the folder names as labels. It freezes the test set of
   benchmarks/reference_benefit.py, whose people are a fixed list.
2. `likeness iterate --rounds 2` trains recipe `tiny` on the originals (round 0), and twice more on cleaned targets.
3. `likeness train --steps 8` trains one more restorer. All restorers train on the same number of images.
4. The benchmark measures all restorers on the test people, who are in no training. The metrics are PSNR, sharpness and
   identity. No loss uses the judge that measures identity. Each restorer runs with 4 right references and without
   references.
5. The restorer of eight steps runs with 1, 2, 4 and 8 steps. The time per face is measured too.

Rounds are compared with round 0. Numbers of steps are compared with one step of the same restorer. Rounds and steps
are not compared with each other, because `iterate` also trains on mild defects and `train` does not.

Every step resumes. On a finished dataset, the command only measures. If the test people differ from the fixed list,
--keep writes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from record_result import record_result
from reference_benefit import PEOPLE, hashed, likeness, people_of
from restore_latency import milliseconds

ROUNDS = 2
STEPS = (1, 2, 4, 8)
REFERENCES = 4
METRICS = ("psnr", "ssim", "id_target", "face_restored")
SHOWN = (*METRICS, "sharpness")
REPEATS = 20  # the number of timed calls


def iterated(dataset: Path, images: int) -> dict[str, Any]:
    """Runs `likeness iterate --json` and returns its result."""
    words = ["iterate", dataset, "--rounds", ROUNDS, "--recipe", "tiny", "--images", images, "--json"]
    command = [sys.executable, "-m", "likeness", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(runs: dict[str, tuple[Path, int]], dataset: Path, lq_set: str, judge: str) -> tuple[list[Any], Any]:
    """Returns the rows of all runs, and the evaluator of the last run, which describes all runs.

    `runs` has for each name the folder of the run and the number of steps.
    """
    from manifests.runtime.progress import show_progress
    from train.evaluation.evaluator import EvaluationOptions, Evaluator
    from train.evaluation.systems import list_systems

    sharp: dict[tuple[str, str], float] = {}
    rows: list[Any] = []
    lines = list_systems(REFERENCES)[:3]  # the LQ input, no reference, right references
    for name, (run, steps) in runs.items():
        found = Evaluator(dataset, lq_set, EvaluationOptions(REFERENCES, metrics=METRICS, judge=judge, steps=steps))
        found.on_image = lambda row, image: sharp.__setitem__((row["key"], row["face_id"]), sharpness_of(image))
        with show_progress("images", True) as progress:
            rows += found.measure_run(run, lines[1:] if rows else lines, progress, name)
        if found.describe_run(run)["unseen_in_training"] != "checked":
            sys.exit(f"That {run} has not seen these people could not be checked.")
    return [row | {"sharpness": sharp[row["key"], row["face_id"]]} for row in rows], found


def sharpness_of(image: Any) -> float:
    """Returns the sharpness of an image, measured as in curation."""
    from curate.faces.measure import measure_sharpness

    return measure_sharpness(image)


def rounded(line: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the rounded mean and interval of each metric of a row."""
    kept = {"excludes_zero", "people_above"}
    return {
        name: {
            "mean": round(line[name]["mean"], 4),
            "ci95": [round(line[name][side], 4) for side in ("low", "high")],
            **{key: value for key, value in line[name].items() if key in kept},
        }
        for name in names
        if line.get(name) is not None
    }


def summary(rows: list[Any]) -> dict[str, Any]:
    """Returns the figures of every system by its key, and the paired differences by their names."""
    from train.evaluation.aggregate import average_differences, average_systems

    last = f"/{REFERENCES}"
    labels = list(dict.fromkeys(row["key"].split("/")[0] for row in rows if "/" in row["key"]))
    pairs = [(f"{label}: right - none", label + last, f"{label}/0") for label in labels]
    pairs += [
        (f"round-{n} - round-0{what}", f"round-{n}/{key}", f"round-0/{key}")
        for n in range(1, ROUNDS + 1)
        for key, what in ((str(REFERENCES), ""), ("0", ", no reference"))
    ]
    pairs += [(f"{n} steps - 1 step", f"{n}-steps{last}", f"1-steps{last}") for n in STEPS[1:]]
    found = {line["key"]: rounded(line, SHOWN) for line in average_systems(rows, SHOWN, 0)}
    found["differences"] = {
        line["difference"]: rounded(line, ("id_target", "psnr", "sharpness"))
        for line in average_differences(rows, pairs, SHOWN, 0)
    }
    return found


def times(run: Path) -> dict[str, float]:
    """Returns the milliseconds per face with four references, by the number of steps."""
    from train.restore.load import load_restorer

    return {
        str(steps): round(median(milliseconds(load_restorer(run, steps=steps), 1, REFERENCES, REPEATS, "fp32")), 1)
        for steps in STEPS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", help="a folder of a folder a person; none: it is curated")
    parser.add_argument("--out", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--faces", default="auto", help="as for `likeness curate`")
    parser.add_argument("--judge", default="dlib", help="dlib, or an .onnx recognizer, that is in no loss")
    parser.add_argument("--images", type=int, default=9_600, help="images seen in training, by each of the four")
    parser.add_argument("--size", type=int, default=128, help="pixels of the frozen set: the recipe's")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/iteration_benefit.json")
    options = parser.parse_args()
    dataset, lq_set = options.out, f"codeformer-test-{options.size}-s0"
    if options.photos is not None:
        likeness("curate", options.photos, "--out", dataset, "--faces", options.faces, "--labels", "folder")
    likeness("degrade", dataset, "--preset", "codeformer", "--split", "test", "--size", options.size, "--seed", 0)
    people = people_of(dataset, lq_set)
    print(f"test people: {', '.join(people)}", file=sys.stderr)
    fixed = hashed(people) == sorted(PEOPLE["test"])
    if options.keep and not fixed:
        sys.exit("Nothing is measured: leave --keep away, or use ../shared/data/people_crops with --labels folder.")
    rounds = iterated(dataset, options.images)
    several = dataset / "steps"
    trained = ("--recipe", "tiny", "--steps", STEPS[-1], "--images", options.images)
    likeness("train", dataset, *trained, "--out", several)
    runs = {f"round-{one['round']}": (Path(one["run"]), 1) for one in rounds["rounds"]}
    runs |= {f"{steps}-steps": (several, steps) for steps in STEPS}
    rows, found = measured(runs, dataset, lq_set, options.judge)
    described = found.build_result(rows, [])
    if described["judge"]["is_the_datasets_own"]:
        sys.exit(f"{options.judge} is the recognizer that the restorers were trained through: name another judge.")
    keys = ("lq_set", "images", "people", "interval")
    record_result(
        "iteration_benefit",
        {
            **summary(rows),
            "rounds": [{key: value for key, value in one.items() if key != "run"} for one in rounds["rounds"]],
            "ended": rounds["reason"],
            "milliseconds": times(several),
            "images_seen": options.images,
            **{key: described[key] for key in keys},
            "judge": described["judge"]["spec"],
            "fixed_people": fixed,
            "people_sha256": hashed(people),
        },
        options.keep,
    )


if __name__ == "__main__":
    main()
