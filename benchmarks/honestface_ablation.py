"""Compares the recipe `honestface` on the base tiny with variants that lack a branch or the face alignment loss.

    likeness train DATASET --recipe vre --base-model tiny --size 128 --change vre.channels=16 --images 640 \\
        --loss reconstruction_lpips=0 --loss gan=0 --change cooldown=160 --change warmup=80 --change ema=80 --out VRE
    python benchmarks/honestface_ablation.py DATASET --snapshot DATASET|SNAPSHOT --vre VRE --out FOLDER

The script trains a restorer for each row of the table, on the snapshot, with the same embedder (run VRE) and the same
number of images. The restorers are measured on the val people of DATASET with the preset `codeformer` and seed 0. The
script makes the frozen set if it is missing. The judge is a recognizer that no loss uses. The restorers use every
reference, while `restore` would first check that a reference shows the person. A row that FOLDER already contains is
not trained or measured again.

| column | meaning |
|---|---|
| psnr, vif | PSNR in dB and visual information fidelity, with 4 references |
| none, four, wrong | share of faces that the judge counts as the person, with 0, 4 right and 4 wrong references |
| deg | the angle between the judge's embeddings in degrees, with 4 references |
| lmd, l2_ld | the mean distance of dlib's 68 points, and of the judge's five points, in pixels of a 512 px crop |
| sharp | median of (detail of the face restored with 4 references / detail of the target) |

The second table has the differences from the recipe `honestface`, image by image, with the 95% bootstrap interval over
images. The row `second_seed` is the same recipe with another seed, so it shows how much two trainings of one recipe
differ. The last two columns of the second table compare two results of the same restorer, by the cosine of the restored
face to the target. `right - none` is the cosine with 4 right references minus the cosine without references.
`right - wrong` is the cosine with 4 right references minus the cosine with 4 wrong references.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measure_rows import measure_once, measure_rows, read_measured
from record_result import record_result
from reference_benefit import run_likeness
from training_ablation import LQ_SET, MOST

from train.evaluation.options import EvaluationOptions
from train.evaluation.systems.row import Row
from train.evaluation.systems.system import System
from train.metrics.intervals import mean_interval

SIZE, PRESET = 256, "codeformer"  # The size of the recipe on base tiny, and the preset of LQ_SET.
# The settings of all rows (ours). ea_dists needs weights of VGG16, which we did not have when we made the table, so
# pixel and edge take its place. All rows are trained and measured with the same preset.
SHARED = (
    *("--recipe", "honestface", "--base-model", "tiny", "--preset", PRESET),
    *("--change", "vre.channels=16"),
    *("--change", "loss.ea_dists=0", "--change", "loss.pixel=1", "--change", "loss.edge=1"),
    *("--change", "batch=4", "--change", "cooldown=400", "--change", "ema=200"),
)
# The arguments that each row adds to SHARED for `likeness train` (ours).
ROWS: dict[str, tuple[str, ...]] = {
    "honestface": (),
    "second_seed": ("--seed", "1"),
    "no_identity_branch": ("--change", 'parts=["vre","features"]'),
    "no_feature_branch": ("--change", 'parts=["vre","identity"]'),
    "no_alignment_loss": ("--change", "loss.face_alignment=0"),
}
WHOLE = "honestface"  # The row with which the other rows are compared.
RIGHT, WRONG = f"trusted{MOST}", f"trusted_wrong{MOST}"
SYSTEMS = (
    System("lq", "LQ input", restores=False),
    System("0", "restored, no reference"),
    System(RIGHT, "references, not checked", MOST, trust=True),
    System(WRONG, "wrong references, not checked", MOST, source="wrong", trust=True),
)
METRICS = ("psnr", "vif", "same_person", "id_target", "deg_judge", "lmd", "l2_ld")
# The columns of the first table: the metric, the system and the number of digits.
COLUMNS = {
    "psnr": ("psnr", RIGHT, 2),
    "vif": ("vif", RIGHT, 3),
    "none": ("same_person", "0", 3),
    "four": ("same_person", RIGHT, 3),
    "wrong": ("same_person", WRONG, 3),
    "deg": ("deg_judge", RIGHT, 2),
    "lmd": ("lmd", RIGHT, 2),
    "l2_ld": ("l2_ld", RIGHT, 2),
    "sharp": ("sharpness", RIGHT, 2),
}
SEED = 0  # The seed of the bootstrap.


def measure_run(dataset: Path, run: Path, judge: str, every: int) -> list[Row]:
    """Returns the measures of a run: a row for each image and each system."""
    options = EvaluationOptions(references=MOST, metrics=METRICS, judge=judge)
    kept = ("face_id", "key", *METRICS, "sharpness")
    rows = measure_rows(dataset, LQ_SET, run, options, SYSTEMS, every)
    return [{column: row[column] for column in kept} for row in rows]


def average(rows: Sequence[Row], metric: str, key: str) -> float:
    """Returns the mean of a metric over the images of a system that have a value.

    For the metric sharpness, returns the median instead. The result is NaN if no image has a value.
    """
    values = [row[metric] for row in rows if row["key"] == key and math.isfinite(row[metric])]
    if not values:
        return math.nan
    return median(values) if metric == "sharpness" else float(np.mean(values))


def compare(first: Mapping[str, float], second: Mapping[str, float], digits: int = 4) -> dict[str, Any]:
    """Returns the mean of `first` minus `second` over the images that have both values, with its 95% interval.

    The keys are the ids of the images. The interval is a bootstrap over images.
    """
    differences = [value - second[face] for face, value in first.items() if face in second]
    finite = [value for value in differences if math.isfinite(value)]
    # All images get the same name of a person, so that `mean_interval` resamples images and not people.
    found = mean_interval(finite, [""] * len(finite), np.random.default_rng(SEED))
    bounds = [round(bound, digits) for bound in (found.low, found.high)]
    return {"mean": round(found.mean, digits), "ci95": bounds, "images": len(finite)}


def select(rows: Sequence[Row], metric: str, key: str) -> dict[str, float]:
    """Returns the values of a metric for one system. The keys are the ids of the images."""
    return {row["face_id"]: row[metric] for row in rows if row["key"] == key}


def summarise(measured: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, Any]]:
    """Returns for each row of the table the means of all systems, and the differences with their intervals.

    Only faces that all rows of the table contain are counted.
    """
    common = set.intersection(*({row["face_id"] for row in rows} for rows in measured.values()))
    measured = {name: [row for row in rows if row["face_id"] in common] for name, rows in measured.items()}
    summary: dict[str, dict[str, Any]] = {}
    for name, rows in measured.items():
        means = {
            system.key: {metric: round(average(rows, metric, system.key), 4) for metric in (*METRICS, "sharpness")}
            for system in SYSTEMS
        }
        identity = {system.key: select(rows, "id_target", system.key) for system in SYSTEMS}
        summary[name] = {
            "images": len(identity["lq"]),
            "means": means,
            "right_minus_none": compare(identity[RIGHT], identity["0"]),
            "right_minus_wrong": compare(identity[RIGHT], identity[WRONG]),
        }
        if name != WHOLE and WHOLE in measured:
            summary[name]["minus_whole"] = {
                column: compare(select(rows, metric, key), select(measured[WHOLE], metric, key))
                for column, (metric, key, _) in COLUMNS.items()
            }
    return summary


def format_tables(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the two tables in Markdown. The first row of the first table is the LQ input."""
    lq = next(iter(summary.values()))["means"]["lq"]
    lines = [_format_line("", COLUMNS), _format_line("---", ["---"] * len(COLUMNS))]
    cells = [
        "" if column in ("four", "wrong") else f"{lq[metric]:.{digits}f}"
        for column, (metric, _, digits) in COLUMNS.items()
    ]
    lines.append(_format_line("LQ input", cells))
    for name, row in summary.items():
        cells = [f"{row['means'][key][metric]:.{digits}f}" for metric, key, digits in COLUMNS.values()]
        lines.append(_format_line(name, cells))
    heads = [*COLUMNS, "right - none", "right - wrong"]
    lines += ["", _format_line("", heads), _format_line("---", ["---"] * len(heads))]
    for name, row in summary.items():
        compared = row.get("minus_whole", {})
        cells = [_format_difference(compared[column]) if compared else "" for column in COLUMNS]
        cells += [_format_difference(row[key]) for key in ("right_minus_none", "right_minus_wrong")]
        lines.append(_format_line(name, cells))
    return "\n".join(lines)


def _format_difference(found: Mapping[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{found['mean']:+.3f} ({low:+.3f} to {high:+.3f})"


def _format_line(name: str, cells: Sequence[str] | Mapping[str, Any]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="the dataset whose val people are restored")
    parser.add_argument("--snapshot", type=Path, required=True, help="the dataset or snapshot to train on")
    parser.add_argument("--vre", type=Path, required=True, help="a run of recipe vre with 16 channels, see above")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--images", type=int, default=1600, help="the number of images of each training")
    parser.add_argument("--judge", default="dlib", help="a recognizer that no loss uses: dlib or an .onnx file")
    parser.add_argument("--every", type=int, default=1, help="measure only every N-th face of the set")
    parser.add_argument("--row", action="append", choices=ROWS, help="a row to train and measure; default: all")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/honestface_ablation.json")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    run_likeness("degrade", options.dataset, "--preset", PRESET, "--split", "val", "--size", SIZE, "--seed", 0)
    for name in options.row or ROWS:
        run = options.out / name
        words = ("--out", run, "--images", options.images, "--vre", options.vre, *SHARED, *ROWS[name])
        run_likeness("train", options.snapshot, *words)
        measure_once(options.out, name, partial(measure_run, options.dataset, run, options.judge, options.every))
    summary = summarise(read_measured(options.out, ROWS))
    print(format_tables(summary))
    about = {"images_seen": options.images, "size": SIZE, "lq_set": LQ_SET, "judge": options.judge}
    words = {"shared": list(SHARED), "words": {name: list(ROWS[name]) for name in summary}}
    record_result("honestface_ablation", {**about, **words, "rows": summary}, options.keep)


if __name__ == "__main__":
    main()
