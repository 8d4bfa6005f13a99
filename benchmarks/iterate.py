"""Does a restorer get better by cleaning its own training targets, or by taking more steps?

    python benchmarks/iterate.py PHOTOS --out DATASET --faces SPEC --judge dlib [--images 9600] [--keep]

Curates with the folder names as labels and freezes the test set of benchmarks/reference_benefit.py, whose people are a
fixed list. Then `likeness iterate --rounds 2` trains recipe `tiny` on the originals (round 0) and twice more on cleaned
targets, and `likeness train --steps 8` trains one more restorer, each for the same number of images. All are measured
on the people who are in no training: identity by a judge in no loss, PSNR, sharpness, with 4 right references and
without; then the restorer of eight steps in 1, 2, 4 and 8 of them, with the time of a face. Rounds are compared with
round 0, steps with one step of the same restorer, and neither with the other: `iterate` also trains on mild defects,
`train` does not. Every step resumes; on a finished dataset this is the measurement alone. Nothing is kept where the
people are others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from record import finish
from reference_benefit import PEOPLE, hashed, likeness, people_of
from restore_latency import milliseconds

ROUNDS = 2
STEPS = (1, 2, 4, 8)
REFERENCES = 4
METRICS = ("psnr", "ssim", "id_target", "face_restored")
SHOWN = (*METRICS, "sharpness")
REPEATS = 20  # timed calls


def iterated(dataset: Path, images: int) -> dict[str, Any]:
    """What `likeness iterate --json` answers."""
    words = ["iterate", dataset, "--rounds", ROUNDS, "--recipe", "tiny", "--images", images, "--json"]
    command = [sys.executable, "-m", "likeness", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(runs: dict[str, tuple[Path, int]], dataset: Path, lq_set: str, judge: str) -> tuple[list[Any], Any]:
    """The rows of every run, by its name, in so many steps, and the evaluation of the last, which describes all."""
    from manifests.runtime.progress import show_progress
    from train.evaluation.evaluator import EvaluationOptions, Evaluator
    from train.evaluation.systems import list_systems

    sharp: dict[tuple[str, str], float] = {}
    rows: list[Any] = []
    lines = list_systems(REFERENCES)[:3]  # the LQ input, no reference, right ones
    for name, (run, steps) in runs.items():
        found = Evaluator(dataset, lq_set, EvaluationOptions(REFERENCES, metrics=METRICS, judge=judge, steps=steps))
        found.on_image = lambda row, image: sharp.__setitem__((row["key"], row["face_id"]), sharpness_of(image))
        with show_progress("images", True) as progress:
            rows += found.measure_run(run, lines[1:] if rows else lines, progress, name)
        if found.describe_run(run)["unseen_in_training"] != "checked":
            sys.exit(f"That {run} has not seen these people could not be checked.")
    return [row | {"sharpness": sharp[row["key"], row["face_id"]]} for row in rows], found


def sharpness_of(image: Any) -> float:
    """As curation measures it."""
    from curate.faces.measure import measure_sharpness

    return measure_sharpness(image)


def rounded(line: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Mean and interval of each metric of a line of a table or of differences."""
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
    """The figures of every system by its key, and the paired differences by their names."""
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
    """Milliseconds a face with four references, by the number of steps."""
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
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/iterate.json")
    told = parser.parse_args()
    dataset, lq_set = told.out, f"codeformer-test-{told.size}-s0"
    if told.photos is not None:
        likeness("curate", told.photos, "--out", dataset, "--faces", told.faces, "--labels", "folder")
    likeness("degrade", dataset, "--preset", "codeformer", "--split", "test", "--size", told.size, "--seed", 0)
    people = people_of(dataset, lq_set)
    print(f"test people: {', '.join(people)}", file=sys.stderr)
    fixed = hashed(people) == sorted(PEOPLE["test"])
    if told.keep and not fixed:
        sys.exit("Nothing is measured: leave --keep away, or use ../shared/data/people_crops with --labels folder.")
    rounds = iterated(dataset, told.images)
    several = dataset / "steps"
    trained = ("--recipe", "tiny", "--steps", STEPS[-1], "--images", told.images)
    likeness("train", dataset, *trained, "--out", several)
    runs = {f"round-{one['round']}": (Path(one["run"]), 1) for one in rounds["rounds"]}
    runs |= {f"{steps}-steps": (several, steps) for steps in STEPS}
    rows, found = measured(runs, dataset, lq_set, told.judge)
    described = found.build_result(rows, [])
    if described["judge"]["is_the_datasets_own"]:
        sys.exit(f"{told.judge} is the recognizer that the restorers were trained through: name another judge.")
    keys = ("lq_set", "images", "people", "interval")
    finish(
        "iterate",
        {
            **summary(rows),
            "rounds": [{key: value for key, value in one.items() if key != "run"} for one in rounds["rounds"]],
            "ended": rounds["reason"],
            "milliseconds": times(several),
            "images_seen": told.images,
            **{key: described[key] for key in keys},
            "judge": described["judge"]["spec"],
            "fixed_people": fixed,
            "people_sha256": hashed(people),
        },
        told.keep,
    )


if __name__ == "__main__":
    main()
