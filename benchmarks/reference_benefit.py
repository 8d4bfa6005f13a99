"""Do references help, and does it matter whose they are? Trained on some people of a folder, measured on others.

    python benchmarks/reference_benefit.py PHOTOS --out DATASET --faces SPEC --judge dlib [--plot FILE.svg] [--keep]

Curates with the folder names as labels, degrades, trains recipe `tiny` and measures: the LQ input, 0, 1, 2, 4 and 8
references, and 4 shown in ways that should not be, another person's among them (`likeness counterfactuals`), with
paired differences. Each step resumes; on a finished dataset this is the
measurement alone. `--run RUN` measures another run of the same dataset. The judge is in no loss. Tune with --split val;
the test people are the fixed list below, and nothing is kept where they are others.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from record_result import record_result

MEANS = ("psnr", "ssim", "id_references", "face_restored", "copy_ratio", "takeover")
MOST = 4  # references that are shown in ways that should not be
# the people of people_crops that a hash of the label puts on either side: SHA-256 of the folder's name, 12 digits
PEOPLE = {
    "test": ("153d91bfaddb", "3c1ba76aa94e", "abf9eb9facd0", "ba6a6a5f94a0", "cbff757f8552"),
    "val": (
        "0a9a5d18dd7e",
        "1e157309936f",
        "64b475e5aca3",
        "96915a5b460f",
        "c56c7ddf51af",
        "dd5bb5aa82d2",
        "e209386dea69",
    ),
}


def likeness(*words: object) -> None:
    """Run a command; what it prints goes to standard error, since the last line of ours is the result."""
    subprocess.run([sys.executable, "-m", "likeness", *map(str, words)], stdout=sys.stderr, check=True)


def people_of(dataset: Path, lq_set: str) -> list[str]:
    """The names of the people of a frozen set who have two usable photos or more, sorted."""
    from manifests.ledger.ledger import Ledger

    with Ledger.open(dataset) as ledger:
        return ledger.query(
            """SELECT coalesce(i.name, i.identity_id) AS person FROM splits s JOIN identities i USING (identity_id)
               WHERE s.status = 'ok' AND s.identity_id IN (
                   SELECT identity_id FROM degradations JOIN splits USING (face_id) WHERE lq_set = ?)
               GROUP BY i.identity_id, i.name HAVING count(*) > 1 ORDER BY person""",
            lq_set,
        )["person"].to_list()


def hashed(names: list[str]) -> list[str]:
    """What of the names is kept: enough to know the people again by, too little to publish them."""
    return sorted(hashlib.sha256(name.encode()).hexdigest()[:12] for name in names)


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """What `train.evaluation.counterfactuals.counterfactuals` answers, by the key of the row, and the differences by
    their names."""
    found: dict[str, Any] = {}
    for row in result["rows"]:
        found[row["key"]] = {
            "id_target": round(row["id_target"]["mean"], 4),
            "ci95": [round(row["id_target"][side], 4) for side in ("low", "high")],
            **{name: round(row[name]["mean"], 4) for name in MEANS if row.get(name) is not None},
            "images": row["images"],
        }
    found["differences"] = {
        line["difference"].replace(" - ", "_").lower(): {
            "people": line["people"],
            "images": line["images"],
            **{
                name: {
                    "mean": round(line[name]["mean"], 4),
                    "ci95": [round(line[name][side], 4) for side in ("low", "high")],
                    "excludes_zero": line[name]["excludes_zero"],
                    "people_above": line[name]["people_above"],
                }
                for name in ("id_target", "psnr")
            },
        }
        for line in result["differences"]
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", help="a folder of a folder a person; not needed with --run")
    parser.add_argument("--out", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--faces", default="auto", help="as for `likeness curate`")
    parser.add_argument("--judge", default="dlib", help="dlib, or an .onnx recognizer, that is in no loss")
    parser.add_argument("--run", type=Path, help="a run that is there; default: train INTO/run")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="val for tuning")
    parser.add_argument("--size", type=int, default=128, help="pixels of the frozen sets: the recipe's")
    parser.add_argument("--images", type=int, help="images seen in training; default: the recipe's")
    parser.add_argument("--minutes", type=float, default=40, help="end training after this time at the latest")
    parser.add_argument("--plot", type=Path, help="draw the curve into this SVG")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/reference_benefit.json")
    options = parser.parse_args()
    if options.keep and options.split != "test":
        parser.error("--keep is for the test people: val is for tuning.")
    if options.photos is None and options.run is None:
        parser.error("name the folder of photos, or a run with --run.")
    if options.run is None:
        likeness("curate", options.photos, "--out", options.out, "--faces", options.faces, "--labels", "folder")
    lq_set = f"codeformer-{options.split}-{options.size}-s0"
    likeness(
        "degrade", options.out, "--preset", "codeformer", "--split", options.split, "--size", options.size, "--seed", 0
    )
    people = people_of(options.out, lq_set)
    print(f"{options.split} people: {', '.join(people)}", file=sys.stderr)
    fixed = hashed(people) == sorted(PEOPLE[options.split])
    if not fixed:
        print(f"These are not the fixed {options.split} people: not comparable with what is kept.", file=sys.stderr)
        if options.keep:
            sys.exit("Nothing is measured: leave --keep away, or use ../shared/data/people_crops with --labels folder.")
    run = options.run or options.out / "run"
    if options.run is None:
        length = () if options.images is None else ("--images", options.images)
        likeness("train", options.out, "--recipe", "tiny", "--out", run, "--minutes", options.minutes, *length)

    from manifests.runtime.progress import show_progress
    from train.evaluation.counterfactuals import DEFAULT_METRICS, counterfactuals, draw_metric_curve
    from train.evaluation.evaluator import EvaluationOptions

    with show_progress("images", True) as progress:
        options = EvaluationOptions(references=MOST, metrics=(*DEFAULT_METRICS, "ssim"), judge=options.judge)
        result = counterfactuals(run, options.out, lq_set, options, progress)
    if result["judge"]["is_the_datasets_own"]:
        sys.exit(f"{options.judge} is the recognizer that the restorer was trained through: name another judge.")
    if result["unseen_in_training"] != "checked":
        sys.exit(f"That {run} has not seen these people could not be checked: {result['unseen_in_training']}.")
    found = summary(result)
    keys = ("lq_set", "images", "people", "interval", "recipe", "images_seen", "checkpoint")
    about = {**{key: result[key] for key in keys}, "judge": result["judge"]["spec"], "split": options.split}
    record_result(
        "reference_benefit", {**found, **about, "fixed_people": fixed, "people_sha256": hashed(people)}, options.keep
    )
    if options.plot is not None:  # after the commit was noted, since the plot may be one of its files
        options.plot.write_text(draw_metric_curve(result))


if __name__ == "__main__":
    main()
