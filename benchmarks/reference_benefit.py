"""Measures whether references help a restorer, and whether the references must show the same person.

    python benchmarks/reference_benefit.py PHOTOS --out DATASET --faces SPEC --judge dlib [--preset severe] [--keep]

The benchmark curates a folder with the folder names as labels, degrades the photos, and trains the recipe `tiny` on
some people. The restorer is measured on people who are not in its training set. `likeness counterfactuals` measures the
LQ input, and the restorer with 0, 1, 2, 4 and 8 references. The command also measures the restorer with 4 wrong
references, for example references of another person. The result also has the paired differences between these cases.

If the benchmark is interrupted, run it again, and each of its commands continues where it stopped. If the dataset and
its restorer already exist, the benchmark only measures. `--run RUN` measures another run of the same dataset. The judge
is a recognizer that no loss uses. To choose settings, measure on `--split val`. The test people are a fixed list, and a
result on other people is never kept.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from record_result import record_result

MEANS = ("psnr", "ssim", "vif", "lpips", "same_person", "id_references", "face_restored", "copy_ratio", "takeover")
MOST = 4  # The number of references in the rows with wrong references.
# The table lists the people of ../shared/data/people_crops in each split. A hash of the label determines the split.
# Each person is listed by the first 12 digits of the SHA-256 of the name of the folder.
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


def run_likeness(*words: object) -> None:
    """Runs a command of Likeness.

    The output of the command goes to standard error, because the last line of standard output is the result.
    """
    subprocess.run([sys.executable, "-m", "likeness", *map(str, words)], stdout=sys.stderr, check=True)


def list_people(dataset: Path, lq_set: str) -> list[str]:
    """Returns the sorted names of the people of a frozen set who have two usable photos or more."""
    from manifests.ledger.ledger import Ledger

    with Ledger.open(dataset) as ledger:
        return ledger.query(
            """SELECT coalesce(i.name, i.identity_id) AS person FROM splits s JOIN identities i USING (identity_id)
               WHERE s.status = 'ok' AND s.identity_id IN (
                   SELECT identity_id FROM degradations JOIN splits USING (face_id) WHERE lq_set = ?)
               GROUP BY i.identity_id, i.name HAVING count(*) > 1 ORDER BY person""",
            lq_set,
        )["person"].to_list()


def hash_names(names: list[str]) -> list[str]:
    """Returns the hashes of the names.

    The hashes show whether two results have the same people, without publishing the names of the people.
    """
    return sorted(hashlib.sha256(name.encode()).hexdigest()[:12] for name in names)


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the rows of `likeness counterfactuals` by their keys, and the differences by their names."""
    figures: dict[str, Any] = {}
    for row in result["rows"]:
        figures[row["key"]] = {
            "id_target": round(row["id_target"]["mean"], 4),
            "ci95": [round(row["id_target"][side], 4) for side in ("low", "high")],
            **{name: round(row[name]["mean"], 4) for name in MEANS if row.get(name) is not None},
            "images": row["images"],
        }
    figures["differences"] = {
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
                for name in ("id_target", "same_person", "psnr")
            },
        }
        for line in result["differences"]
    }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "photos", type=Path, nargs="?", help="a folder with a sub-folder for each person; not needed with --run"
    )
    parser.add_argument("--out", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--faces", default="auto", help="face models, as for `likeness curate`")
    parser.add_argument("--judge", default="dlib", help="a recognizer that no loss uses: dlib or an .onnx file")
    parser.add_argument(
        "--run", type=Path, help="the folder of an existing run (default: train a new run in DATASET/run)"
    )
    parser.add_argument("--split", choices=("val", "test"), default="test", help="val for tuning")
    parser.add_argument(
        "--preset", choices=("codeformer", "severe"), default="codeformer", help="the degradation of the photos"
    )
    parser.add_argument(
        "--size", type=int, default=256, help="side of the images of the frozen sets in pixels, as in the recipe"
    )
    parser.add_argument(
        "--images", type=int, help="number of images that the training sees (default: the number of the recipe)"
    )
    parser.add_argument("--minutes", type=float, default=40, help="the time limit of the training, in minutes")
    parser.add_argument("--weights", type=Path, help="a folder with the VGG16 of LPIPS, to measure LPIPS too")
    parser.add_argument("--plot", type=Path, help="an SVG file to which the curve is written")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/reference_benefit.json")
    options = parser.parse_args()
    if options.keep and options.split != "test":
        parser.error("--keep needs the test people: val is for tuning. Give --split test, or leave --keep out.")
    if options.run is not None and not (options.run / "snapshot").exists():
        parser.error(f"{options.run} has no folder snapshot, which lists the people of the training: name another run.")
    if options.photos is None and options.run is None:
        parser.error("Give the folder of photos, or a run with --run.")
    if options.run is None:
        # The fixed test set contains all usable faces, although most of their crops lie partly outside their photos.
        choices = ("--faces", options.faces, "--labels", "folder", "--filters", "keep-outside")
        run_likeness("curate", options.photos, "--out", options.out, *choices)
    lq_set = f"{options.preset}-{options.split}-{options.size}-s0"
    run_likeness(
        "degrade",
        options.out,
        "--preset",
        options.preset,
        "--split",
        options.split,
        "--size",
        options.size,
        "--seed",
        0,
    )
    people = list_people(options.out, lq_set)
    print(f"{options.split} people: {', '.join(people)}", file=sys.stderr)
    fixed = hash_names(people) == sorted(PEOPLE[options.split])
    if not fixed:
        print(
            f"The people of {lq_set} are not the fixed {options.split} people. The figures cannot be compared with the "
            "kept figures.",
            file=sys.stderr,
        )
        if options.keep:
            sys.exit(
                "A result on other people is not kept, so nothing is measured. Leave --keep out, or use "
                "../shared/data/people_crops."
            )
    run = options.run or options.out / "run"
    if options.run is None:
        length = () if options.images is None else ("--images", options.images)
        run_likeness("train", options.out, "--recipe", "tiny", "--out", run, "--minutes", options.minutes, *length)

    from manifests.runtime.progress import show_progress
    from train.evaluation.counterfactuals import DEFAULT_METRICS, counterfactuals, draw_metric_curve
    from train.evaluation.options import EvaluationOptions

    with show_progress("images", True) as progress:
        metrics = (*DEFAULT_METRICS, "ssim", "vif", *(("lpips",) if options.weights else ()))
        evaluation = EvaluationOptions(references=MOST, metrics=metrics, judge=options.judge, weights=options.weights)
        result = counterfactuals(run, options.out, lq_set, evaluation, progress)
    if result["judge"]["is_the_datasets_own"]:
        sys.exit(f"{options.judge} is the recognizer that the restorer was trained with. Give another --judge.")
    if not result["training_overlap"]["checked"]:
        sys.exit(f"Likeness cannot check whether {run} was trained on these people, because its snapshot is missing.")
    figures = summarise(result)
    keys = ("lq_set", "images", "people", "left_out", "interval", "recipe", "images_seen", "checkpoint")
    about = {**{key: result[key] for key in keys}, "judge": result["judge"]["spec"], "split": options.split}
    record_result(
        "reference_benefit" if options.preset == "codeformer" else f"reference_benefit_{options.preset}",
        {**figures, **about, "fixed_people": fixed, "people_sha256": hash_names(people)},
        options.keep,
    )
    # draw the plot after the commit is recorded, because the plot may be a file of the repository
    if options.plot is not None:
        options.plot.write_text(draw_metric_curve(result))


if __name__ == "__main__":
    main()
