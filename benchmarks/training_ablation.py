"""Trains the recipe `tiny` and variants with one change each, for the same number of images, and compares them.

    python benchmarks/training_ablation.py DATASET --snapshot DATASET|SNAPSHOT --out FOLDER [--images N] [--row NAME]

The restorers train on the snapshot. The restorers are measured on the val people of DATASET with the preset
`codeformer` and seed 0, by `likeness evaluate`. The script makes the frozen set if it is missing. The judge is a
recognizer that no loss uses. A row that FOLDER already contains is not trained or measured again, so the script can be
interrupted. With `--row`, which may be repeated, only the named rows are trained and measured. The table always has all
rows that FOLDER contains.

| column | meaning |
|---|---|
| psnr | PSNR in dB without references |
| vif | visual information fidelity without references |
| none, four, wrong | share of faces that the judge counts as the person, with no, 4 right and 4 wrong references |
| sharp | median of (detail of the face restored with 4 references / detail of the target) |
| images/s | the speed of the training: median |

`FOLDER/strip.png` shows a public-domain portrait (benchmarks/astronaut.py) several times, from left to right: the LQ
input, the result of each row in the order of the table, and the target.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from astronaut import make_astronaut
from measure_rows import measure_once, measure_rows, read_measured
from record_result import record_result
from reference_benefit import run_likeness
from train_step_speed import read_speed

from degrade.presets import find_preset
from train.evaluation.options import EvaluationOptions
from train.evaluation.systems.system import list_systems
from train.models.restorer import Restorer
from train.restore.restorers.face_restorer import load_restorer_faces

# Each row has the values that `likeness train --change` gets. The rows are ours.
ROWS: dict[str, tuple[str, ...]] = {
    "tiny": (),
    "no_detail_loss": ("loss.detail=0",),
    "shown_detail": ("loss.detail=0", "loss.shown_detail=5"),
    "half_shown_detail": ("loss.detail=2.5", "loss.shown_detail=2.5"),
    "half_refinement": ("refine_channels=16",),
    "no_identity_loss": ("loss.identity=0",),
    "full_resolution_loss": ("limit_resolution=false",),
    "no_easy_inputs": ("mixture.clean=0", "mixture.mild=0"),
    "patch_discriminator": ('discriminator="image"', "loss.gan=0.02"),
    "no_refinement": ("refine_channels=0",),
    "deeper": ("channels=[64,128,192,256]", "reference_channels=[48,96,128,128]"),
    "maps_and_embedding": ('parts=["maps","embedding"]',),
    "attention_only": ('parts=["extended"]',),
    "warped_references": ('parts=["maps","embedding","extended","warped"]',),
}
COLUMNS = ("psnr", "vif", "none", "four", "wrong", "sharp", "images/s")
MOST = 4  # The number of references.
INTERVAL = 320  # The training writes the speed after each interval of this number of images.
LQ_SET = "codeformer-val-256-s0"


def measure_run(dataset: Path, run: Path, judge: str) -> dict[str, Any]:
    """Returns the figures of a run: one dict for each system, with the means over the images that all systems have."""
    metrics, systems = ("psnr", "vif", "same_person", "id_target"), list_systems(MOST)
    options = EvaluationOptions(references=MOST, metrics=metrics, judge=judge)
    rows = measure_rows(dataset, LQ_SET, run, options, systems)
    figures: dict[str, Any] = {
        "images": len({row["face_id"] for row in rows}),
        "images_per_second": read_speed(run / "stats.jsonl")["images_per_second"],
    }
    for system in systems:
        chosen = [row for row in rows if row["key"] == system.key]
        figures[system.key] = {name: round(float(np.mean([row[name] for row in chosen])), 4) for name in metrics}
        figures[system.key]["sharpness"] = round(median(row["sharpness"] for row in chosen), 3)
    return figures


def format_table(results: dict[str, dict[str, Any]]) -> str:
    """Returns the table as text. The first row is the LQ input."""
    lines = [f"{'':22}" + "".join(f"{column:>10}" for column in COLUMNS)]
    first = next(iter(results.values()))["lq"]
    lq = (f"{first['psnr']:.2f}", f"{first['vif']:.3f}", f"{first['same_person']:.3f}", "", "")
    lines.append(f"{'LQ input':22}" + "".join(f"{cell:>10}" for cell in (*lq, f"{first['sharpness']:.2f}", "")))
    for name, figures in results.items():
        none, four, wrong = (figures[key] for key in ("0", str(MOST), f"wrong{MOST}"))
        shares = (f"{one['same_person']:.3f}" for one in (none, four, wrong))
        cells = (f"{none['psnr']:.2f}", f"{none['vif']:.3f}", *shares, f"{four['sharpness']:.2f}")
        lines.append(f"{name:22}" + "".join(f"{cell:>10}" for cell in (*cells, f"{figures['images_per_second']:.1f}")))
    return "\n".join(lines)


def draw_strip(runs: list[Path]) -> np.ndarray:
    """Returns the LQ input, the result of each run and the target side by side, uint8 (S, n S, 3)."""
    models = [Restorer.from_pretrained(run) for run in runs]
    shown = make_astronaut(
        load_restorer_faces(models[0].facts, None), models[0].config.size, find_preset("codeformer"), 0
    )
    return np.concatenate([shown.lq, *(shown.restore(model) for model in models), shown.target], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="the dataset whose val people are restored")
    parser.add_argument("--snapshot", type=Path, required=True, help="the dataset or snapshot to train on")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--images", type=int, default=3200, help="the number of images of each training")
    parser.add_argument("--judge", default="dlib", help="a recognizer that no loss uses: dlib or an .onnx file")
    parser.add_argument("--row", action="append", choices=ROWS, help="a row to train; default: all")
    parser.add_argument("--train-only", action="store_true", help="train, and measure nothing")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/training_ablation.json")
    options = parser.parse_args()
    if options.images < INTERVAL:
        parser.error(f"--images {options.images} is too small to measure the speed: give {INTERVAL} or more.")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.row or ROWS:
        run = options.out / name
        words = (word for change in ROWS[name] for word in ("--change", change))
        run_likeness("train", options.snapshot, "--out", run, "--images", options.images, *words)
    if options.train_only:
        return
    run_likeness("degrade", options.dataset, "--preset", "codeformer", "--split", "val", "--size", 256, "--seed", 0)
    for name in options.row or ROWS:
        measure_once(options.out, name, partial(measure_run, options.dataset, options.out / name, options.judge))
    results = read_measured(options.out, ROWS)
    print(format_table(results))
    strip = draw_strip([options.out / name for name in results])
    cv2.imwrite(str(options.out / "strip.png"), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))
    changes = {name: list(ROWS[name]) for name in results}
    about = {"images_seen": options.images, "lq_set": LQ_SET, "judge": options.judge, "changes": changes}
    record_result("training_ablation", {**about, "rows": results}, options.keep)


if __name__ == "__main__":
    main()
