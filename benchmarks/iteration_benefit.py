"""Measures whether a restorer gets better by cleaning its own training targets.

    python benchmarks/iteration_benefit.py PHOTOS --out DATASET --faces SPEC --judge dlib [--images 9600] [--keep]

The benchmark curates with the folder names as labels, and freezes the test set of reference_benefit.py. The people of
the test set are a fixed list. `likeness iterate --rounds 2` trains the recipe `tiny` on the originals (round 0), and
twice more on cleaned targets. Each of the three restorers is trained on the same number of images.

All three restorers are measured on people who are in no training set, with 4 references of the person and without
references. The metrics are PSNR, sharpness and identity. No loss uses the judge that measures identity. Rounds are
compared with round 0.

If the benchmark is interrupted, run it again, and each of its commands continues where it stopped. If the dataset and
its restorers already exist, the benchmark only measures. A result is kept only if it was measured on the fixed list of
test people.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from record_result import record_result
from reference_benefit import PEOPLE, hash_names, list_people, run_likeness

ROUNDS = 2
REFERENCES = 4
METRICS = ("psnr", "ssim", "id_target", "face_restored")
SHOWN = (*METRICS, "sharpness")


def run_iterate(dataset: Path, images: int) -> dict[str, Any]:
    """Runs `likeness iterate --json` and returns the JSON that the command prints."""
    words = ["iterate", dataset, "--rounds", ROUNDS, "--recipe", "tiny", "--images", images, "--json"]
    command = [sys.executable, "-m", "likeness", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure_runs(runs: dict[str, Path], dataset: Path, lq_set: str, judge: str) -> tuple[list[Any], Any]:
    """Measures training runs. `runs` maps a name to the folder of a run.

    Returns the rows of all runs, and the evaluator of the last run. The evaluator describes the set and the judge.
    """
    from manifests.runtime.progress import show_progress
    from train.evaluation.evaluator import Evaluator
    from train.evaluation.options import EvaluationOptions
    from train.evaluation.systems.system import list_systems

    sharp: dict[tuple[str, str], float] = {}
    rows: list[Any] = []
    # The three systems are the LQ input, and the restorer without references and with references of the person.
    lines = list_systems(REFERENCES)[:3]
    for name, run in runs.items():
        evaluator = Evaluator(dataset, lq_set, EvaluationOptions(REFERENCES, metrics=METRICS, judge=judge))
        evaluator.on_image = lambda row, image: sharp.__setitem__(
            (row["key"], row["face_id"]), compute_sharpness(image)
        )
        with show_progress("images", True) as progress:
            rows += evaluator.measure_run(run, lines[1:] if rows else lines, progress, name)
        if not evaluator.describe_run(run)["training_overlap"]["checked"]:
            sys.exit(f"Likeness cannot check whether {run} was trained on these people.")
    return [row | {"sharpness": sharp[row["key"], row["face_id"]]} for row in rows], evaluator


def compute_sharpness(image: Any) -> float:
    """Returns the sharpness of an image as curation measures it."""
    from curate.faces.measure import measure_sharpness

    return measure_sharpness(image)


def round_line(line: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the rounded mean and the rounded interval of each metric of one system, or of one paired difference."""
    extra_keys = {"excludes_zero", "people_above"}
    return {
        name: {
            "mean": round(line[name]["mean"], 4),
            "ci95": [round(line[name][side], 4) for side in ("low", "high")],
            **{key: value for key, value in line[name].items() if key in extra_keys},
        }
        for name in names
        if line.get(name) is not None
    }


def summarise(rows: list[Any]) -> dict[str, Any]:
    """Returns the figures of every system by its key, and the paired differences by their names."""
    from train.evaluation.results.aggregate import average_differences, average_systems

    last = f"/{REFERENCES}"
    labels = list(dict.fromkeys(row["key"].split("/")[0] for row in rows if "/" in row["key"]))
    pairs = [(f"{label}: right - none", label + last, f"{label}/0") for label in labels]
    pairs += [
        (f"round-{n} - round-0{what}", f"round-{n}/{key}", f"round-0/{key}")
        for n in range(1, ROUNDS + 1)
        for key, what in ((str(REFERENCES), ""), ("0", ", no reference"))
    ]
    figures = {line["key"]: round_line(line, SHOWN) for line in average_systems(rows, SHOWN, 0)}
    figures["differences"] = {
        line["difference"]: round_line(line, ("id_target", "psnr", "sharpness"))
        for line in average_differences(rows, pairs, SHOWN, 0)
    }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "photos",
        type=Path,
        nargs="?",
        help="a folder with a sub-folder for each person; not needed if the dataset is curated",
    )
    parser.add_argument("--out", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--faces", default="auto", help="face models, as for `likeness curate`")
    parser.add_argument("--judge", default="dlib", help="a recognizer that no loss uses: dlib or an .onnx file")
    parser.add_argument(
        "--images", type=int, default=9_600, help="number of images that each of the three restorers sees in training"
    )
    parser.add_argument(
        "--size", type=int, default=128, help="side of the images of the frozen set in pixels, as in the recipe"
    )
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/iteration_benefit.json")
    options = parser.parse_args()
    dataset, lq_set = options.out, f"codeformer-test-{options.size}-s0"
    if options.photos is not None:
        filters = ("--filters", "keep-outside")  # in the fixed test set, most crops lie partly outside their photo
        run_likeness(
            "curate", options.photos, "--out", dataset, "--faces", options.faces, "--labels", "folder", *filters
        )
    run_likeness("degrade", dataset, "--preset", "codeformer", "--split", "test", "--size", options.size, "--seed", 0)
    people = list_people(dataset, lq_set)
    print(f"test people: {', '.join(people)}", file=sys.stderr)
    fixed = hash_names(people) == sorted(PEOPLE["test"])
    if options.keep and not fixed:
        sys.exit(
            f"The people of {lq_set} are not the fixed test people, so the result cannot be kept, and nothing is "
            "measured. Leave --keep out, or use ../shared/data/people_crops."
        )
    rounds = run_iterate(dataset, options.images)
    runs = {f"round-{one['round']}": Path(one["run"]) for one in rounds["rounds"]}
    rows, evaluator = measure_runs(runs, dataset, lq_set, options.judge)
    description = evaluator.build_result(rows, [])
    if description["judge"]["is_the_datasets_own"]:
        sys.exit(f"{options.judge} is the recognizer that the restorers were trained with. Give another --judge.")
    keys = ("lq_set", "images", "people", "interval")
    record_result(
        "iteration_benefit",
        {
            **summarise(rows),
            "rounds": [{key: value for key, value in one.items() if key != "run"} for one in rounds["rounds"]],
            "ended": rounds["reason"],
            "images_seen": options.images,
            **{key: description[key] for key in keys},
            "judge": description["judge"]["spec"],
            "fixed_people": fixed,
            "people_sha256": hash_names(people),
        },
        options.keep,
    )


if __name__ == "__main__":
    main()
