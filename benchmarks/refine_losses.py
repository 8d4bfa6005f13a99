"""Compares ReFine's generator trained with ReFine's losses and with plain losses, as in Fig. 8 of the ReFine paper.

    python benchmarks/refine_losses.py DATASET --weights FOLDER --out FOLDER [--minutes 40] [--picture FILE] [--keep]

The folder of --weights contains torchvision's VGG16 (benchmarks/lpips_backbones.py). The script trains a restorer for
each row of the table, with the same preset and the same time limit, on the train people of DATASET. The restorers are
measured on the test people, with the preset `refine` and one reference. The restorers use every reference, while
`restore` would first check that a reference shows the person. A row that FOLDER already contains is not trained or
measured again.

| column | meaning |
|---|---|
| images | the number of images of the training |
| psnr, lpips | PSNR in dB and LPIPS to the target, with a right reference |
| target, ips | mean cosine to the target and to the references (IPS), with a right reference |
| copy | copy ratio: 0 means that the result is as near as the target, 1 means as near as the reference |
| person | share of faces that the judge counts as the person of the target, with a right reference |
| wrong | mean cosine to the target with a reference of another person |
| takeover | share of faces that are nearer to the wrong reference than to the target |

The judge computes the cosines. No loss uses the judge. IPS alone rewards copying, so IPS is never shown without the
cosine to the target and the copy ratio. `--picture` writes a picture with a line of images for each of the first faces
of DATASET. A line shows the LQ input, and then the result of each row with a reference of the person. If the picture is
published, DATASET must contain only free photos, for example the photos of the astronaut that `likeness demo` writes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measure_rows import measure_once, measure_rows, read_measured
from record_result import record_result
from reference_benefit import run_likeness

from train.evaluation.options import EvaluationOptions
from train.evaluation.systems.system import System
from train.models.checkpoint_files import list_checkpoints

SIZE, PRESET = 128, "refine"  # The size and the preset of recipe refine-small.
LQ_SET = f"{PRESET}-test-{SIZE}-s0"
# The arguments of each row for `likeness train` (ours). `plain` has only the absolute difference and LPIPS to the
# target, and a cycle loss whose weight is too small to matter. A training with a cycle loss degrades its inputs at the
# size of the model. Without this loss, the inputs of `plain` would be clearer than the inputs of the other rows.
# `refine-unet` has ReFine's losses with another network: a small UNet.
ROWS: dict[str, tuple[str, ...]] = {
    "refine-small": ("--recipe", "refine-small"),
    "plain": (
        *("--recipe", "refine-small", "--loss", "pixel=10", "--loss", "lpips=10"),
        *("--loss", "spatial_min=0", "--loss", "cycle=0.001", "--loss", "reference_identity=0", "--loss", "gan=0"),
    ),
    "refine-unet": (
        *("--recipe", "refine-unet", "--base-model", "tiny", "--size", str(SIZE), "--preset", PRESET),
        *("--change", "reference_counts=[1]", "--change", "batch=4", "--images", "4000"),
        *("--change", "cooldown=600", "--change", "ema=400"),
    ),
}
RIGHT, WRONG = "trusted1", "trusted_wrong1"
SYSTEMS = (
    System("lq", "LQ input", restores=False),
    System(RIGHT, "a reference, not checked", 1, trust=True),
    System(WRONG, "a wrong reference, not checked", 1, source="wrong", trust=True),
)
METRICS = ("psnr", "lpips", "id_target", "id_references", "copy_ratio", "takeover", "same_person")
# The columns of the table: the metric, the system and the number of digits.
COLUMNS = {
    "psnr": ("psnr", RIGHT, 2),
    "lpips": ("lpips", RIGHT, 3),
    "target": ("id_target", RIGHT, 3),
    "ips": ("id_references", RIGHT, 3),
    "copy": ("copy_ratio", RIGHT, 2),
    "person": ("same_person", RIGHT, 3),
    "wrong": ("id_target", WRONG, 3),
    "takeover": ("takeover", WRONG, 3),
}
SHOWN = 4  # The number of faces in the picture.


def measure_run(dataset: Path, run: Path, judge: str, weights: Path) -> dict[str, Any]:
    """Returns the figures of a run.

    For each system, a dict has the mean of each metric over the images with a value.
    """
    options = EvaluationOptions(references=1, metrics=METRICS, judge=judge, weights=weights)
    rows = measure_rows(dataset, LQ_SET, run, options, SYSTEMS)
    figures: dict[str, Any] = {
        "images": len({row["face_id"] for row in rows}),
        "images_seen": json.loads((list_checkpoints(run)[-1] / "config.json").read_text())["images"],
    }
    for system in SYSTEMS:
        own = [row for row in rows if row["key"] == system.key]
        means = {name: [row[name] for row in own if math.isfinite(row.get(name, math.nan))] for name in METRICS}
        figures[system.key] = {name: round(float(np.mean(found)), 4) for name, found in means.items() if found}
    return figures


def format_table(results: dict[str, dict[str, Any]]) -> str:
    """Returns the table in Markdown. The first row is the LQ input."""
    lines = ["| | images | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    first = next(iter(results.values()))["lq"]
    cells = [_format_cell(first, metric, digits) for metric, _, digits in COLUMNS.values()]
    lines.append("| LQ input | | " + " | ".join([*cells[:-2], "", ""]) + " |")
    for name, figures in results.items():
        cells = [_format_cell(figures[key], metric, digits) for metric, key, digits in COLUMNS.values()]
        lines.append(f"| {name} | {figures['images_seen']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _format_cell(means: dict[str, float], metric: str, digits: int) -> str:
    return f"{means[metric]:.{digits}f}" if metric in means else ""


def draw_picture(dataset: Path, runs: Sequence[Path], judge: str, every: int) -> np.ndarray:
    """Returns a picture, uint8 (SHOWN S, n S, 3), with a line of n images for each of the first SHOWN faces.

    n is 1 + the number of runs.
    """
    options = EvaluationOptions(references=1, metrics=("psnr",), judge=judge)
    images: list[dict[tuple[str, str], np.ndarray]] = []
    for run in runs:
        images.append({})
        measure_rows(dataset, LQ_SET, run, options, SYSTEMS[:2], every, images[-1])
    faces = sorted({face for face, _ in images[0]})[:SHOWN]
    lines = [[images[0][face, "lq"], *(own[face, RIGHT] for own in images)] for face in faces]
    return np.concatenate([np.concatenate(line, 1) for line in lines], 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--snapshot", type=Path, help="a snapshot to train on (default: made from DATASET)")
    parser.add_argument("--weights", type=Path, required=True, help="the folder with the VGG16 of torchvision")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--minutes", type=float, default=40, help="the time limit of each training, in minutes")
    parser.add_argument("--judge", default="dlib", help="a recognizer that no loss uses: dlib or an .onnx file")
    parser.add_argument("--row", action="append", choices=ROWS, help="a row to train; default: all")
    parser.add_argument("--train-only", action="store_true", help="train, and measure nothing")
    parser.add_argument("--picture", type=Path, help="a PNG file to write instead of a table; trains nothing")
    parser.add_argument("--every", type=int, default=1, help="the picture shows only every N-th face of the set")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/refine_losses.json")
    options = parser.parse_args()
    names = options.row or list(ROWS)
    run_likeness("degrade", options.dataset, "--preset", PRESET, "--split", "test", "--size", SIZE, "--seed", 0)
    if options.picture is not None:
        picture = draw_picture(options.dataset, [options.out / name for name in names], options.judge, options.every)
        cv2.imwrite(str(options.picture), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        flags = ("--out", options.out / name, "--weights", options.weights, "--minutes", options.minutes)
        training = partial(run_likeness, "train", options.snapshot or options.dataset, *flags, *ROWS[name])
        measure_once(options.out, f"{name}-trained", training)
    if options.train_only:
        return
    for name in names:
        run = options.out / name
        measure_once(options.out, name, partial(measure_run, options.dataset, run, options.judge, options.weights))
    results = read_measured(options.out, ROWS)
    print(format_table(results))
    about = {"lq_set": LQ_SET, "judge": options.judge, "minutes": options.minutes}
    words = {name: list(ROWS[name]) for name in results}
    record_result("refine_losses", {**about, "words": words, "rows": results}, options.keep)


if __name__ == "__main__":
    main()
