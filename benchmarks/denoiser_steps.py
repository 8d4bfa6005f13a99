"""Trains recipe `idm` as a denoiser and as a regression, and compares both in 1, 4 and 20 steps.

    python benchmarks/denoiser_steps.py DATASET --out FOLDER [--every N] [--images N] [--row NAME] [--keep]

Both restorers have the recipe `idm` on the base tiny at 128 px, the same losses, the same seed and the same number of
images. The regression is trained with `denoise=false`: its UNet gets only the LQ latent and no noise. In each step
after the first, the regression restores its own result again.

The restorers are measured on the test people of DATASET with the preset `codeformer` and seed 0, by the code of
`likeness evaluate`. The script makes the frozen set if it is missing. The judge is a recognizer that no loss uses. A
run that FOLDER already contains is not trained or measured again.

| column | meaning |
|---|---|
| psnr, ssim | PSNR in dB, and SSIM |
| sharp | the detail of the restored face divided by the detail of the target |
| identity | cosine of the judge's embeddings of the restored face and the target |

Every mean has a 95% bootstrap interval over people. The solver is DPM-Solver++ of order 1, which is DDIM. In the row
`2m-<n>`, the denoiser takes n steps with order 2.

`FOLDER/strip.png` has a row for each of a few people: the LQ input, the regression in 1, 4 and 20 steps, the denoiser
in 1, 4 and 20 steps, and the target.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from measure_rows import compare_detail, load_run, measure_once, read_measured
from record_result import record_result
from reference_benefit import hash_names, list_people, run_likeness

import train.models.timesteps.denoise
from train.evaluation.cache.stored_restorer import hold_restorer
from train.evaluation.options import EvaluationOptions
from train.evaluation.results.aggregate import average_differences, average_systems
from train.evaluation.systems.row import Row
from train.evaluation.systems.system import list_systems
from train.models.io import Restoration
from train.models.restorer import Restorer

STEPS = (1, 4, 20)
SIZE, PRESET = 128, "codeformer"  # The preset is the preset of recipe idm.
LQ_SET = f"{PRESET}-test-{SIZE}-s0"
# The arguments of each run for `likeness train`. The number of data workers does not change the result.
RUNS: dict[str, tuple[str, ...]] = {"regression": ("--change", "denoise=false"), "denoiser": ()}
SHARED = ("--recipe", "idm", "--base-model", "tiny", "--size", SIZE, "--workers", 0)
METRICS = ("psnr", "ssim", "id_target")
SHOWN = (*METRICS, "sharpness")
SHOWN_PEOPLE = 6  # rows of the strip
SEED = 0  # the seed of the bootstrap


@contextmanager
def repeat(model: Restorer, times: int) -> Iterator[None]:
    """Inside the context, each call of the restorer restores the images `times` times.

    Each restoration after the first gets the result of the restoration before.
    """
    once = model.forward

    def forward(lq: torch.Tensor, *rest: torch.Tensor, **encoded: Any) -> Restoration:
        restored = once(lq, *rest, **encoded)
        for _ in range(times - 1):
            restored = once(restored.image, *rest, **encoded)
        return restored

    model.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        model.forward = once  # type: ignore[method-assign]


def measure_run(dataset: Path, name: str, run: Path, judge: str, every: int) -> list[Row]:
    """Measures a run with each number of steps, and writes the pictures of a few people beside the run.

    Returns the rows of the LQ input and of all systems.
    """
    rows: list[Row] = []
    sharpness: dict[tuple[str, str], float] = {}

    def keep(row: Row, image: np.ndarray) -> None:
        sharpness[row["key"], row["face_id"]] = compare_detail(image, targets[row["face_id"]])
        if row["face_id"] in shown:
            write_picture(run.parent, row["key"].removesuffix("/0"), shown.index(row["face_id"]), image)

    options = EvaluationOptions(references=1, metrics=METRICS, judge=judge)
    evaluator = load_run(dataset, LQ_SET, run, options, every, keep)
    cases = evaluator.cases
    targets = {case.face_id: case.target for case in cases}
    # The first face of each of the first people is shown.
    shown = sorted({case.identity_id: case.face_id for case in reversed(cases)}.values())[:SHOWN_PEOPLE]
    for place, face in enumerate(shown):
        write_picture(run.parent, "target", place, targets[face])

    model, (lq, restored) = evaluator.restorers[run].load(), list_systems(1)[:2]
    orders = (1, 2) if model.config.denoise else (1,)
    for order, steps in [(order, steps) for order in orders for steps in STEPS]:
        if order == 2 and steps == 1:  # one step is the same with both orders
            continue
        key = f"{name if order == 1 else '2m'}-{steps}"
        train.models.timesteps.denoise.SOLVER_ORDER = order
        # The cache finds images by `facts`, which contains neither the order nor the repetitions, so the key is added.
        model.facts["benchmark"] = key
        if model.config.denoise:
            model.set_sampling(steps)
        evaluator.restorers[run] = hold_restorer(model)
        with repeat(model, 1 if model.config.denoise else steps):
            rows += evaluator.measure_run(run, (restored,) if rows else (lq, restored), lambda *_: None, key)
    kept = ("face_id", "identity_id", "system", "reason", *METRICS)
    short = [
        {column: row[column] for column in kept}
        | {"key": row["key"].removesuffix("/0"), "sharpness": sharpness[row["key"], row["face_id"]]}
        for row in rows
    ]
    return short


def write_picture(out: Path, key: str, place: int, image: np.ndarray) -> None:
    """Writes a picture, uint8 (S, S, 3), to OUT/pictures. `place` is the row of the strip."""
    (out / "pictures").mkdir(exist_ok=True)
    cv2.imwrite(str(out / "pictures" / f"{key}-{place}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def summarise(rows: list[Row]) -> dict[str, Any]:
    """Returns the figures of every system by its key, and the paired differences by their names."""

    def describe(average: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {key: round(average[name][key], 4) for key in ("mean", "low", "high")}
            for name in SHOWN
            if average.get(name) is not None
        }

    pairs = [(f"denoiser - regression, {n} steps", f"denoiser-{n}", f"regression-{n}") for n in STEPS]
    pairs += [(f"{run}: {n} steps - 1 step", f"{run}-{n}", f"{run}-1") for run in RUNS for n in STEPS[1:]]
    return {
        "rows": {one["key"]: describe(one) for one in average_systems(rows, SHOWN, SEED)},
        "differences": {one["difference"]: describe(one) for one in average_differences(rows, pairs, SHOWN, SEED)},
    }


def format_table(summary: dict[str, Any]) -> str:
    """Returns the means in Markdown, a line for each system."""
    lines = ["| | psnr | ssim | sharp | identity |", "|---|---|---|---|---|"]
    for key, figures in summary["rows"].items():
        means = [figures[name]["mean"] for name in ("psnr", "ssim", "sharpness", "id_target")]
        cells = [f"{means[0]:.2f}", *(f"{mean:.3f}" for mean in means[1:])]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_strip(out: Path) -> np.ndarray:
    """Returns a row of images for each shown person, uint8 (n S, m S, 3) BGR."""
    keys = ["lq", *(f"{run}-{steps}" for run in RUNS for steps in STEPS), "target"]
    places = range(len(list((out / "pictures").glob("target-*.png"))))
    rows = [[cv2.imread(str(out / "pictures" / f"{key}-{place}.png")) for key in keys] for place in places]
    return np.concatenate([np.concatenate([image for image in row if image is not None], 1) for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="the dataset to train on, whose test people are restored")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs and of strip.png")
    parser.add_argument("--images", type=int, default=4800, help="the number of images of each training")
    parser.add_argument("--judge", default="dlib", help="a recognizer that no loss uses: dlib or an .onnx file")
    parser.add_argument("--every", type=int, default=1, help="measure only every N-th face of the set")
    parser.add_argument("--row", action="append", choices=RUNS, help="a run to train and measure; default: both")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/denoiser_steps.json")
    options = parser.parse_args()
    run_likeness("degrade", options.dataset, "--preset", PRESET, "--split", "test", "--size", SIZE, "--seed", 0)
    for name in options.row or RUNS:
        run = options.out / name
        run_likeness("train", options.dataset, "--out", run, "--images", options.images, *SHARED, *RUNS[name])
        measure_once(options.out, name, partial(measure_run, options.dataset, name, run, options.judge, options.every))
    parts = read_measured(options.out, RUNS).values()
    rows = [row for place, part in enumerate(parts) for row in part if not place or row["key"] != "lq"]
    summary = summarise(rows)
    print(format_table(summary))
    cv2.imwrite(str(options.out / "strip.png"), draw_strip(options.out))
    people = list_people(options.dataset, LQ_SET)
    about = {
        "images_seen": options.images,
        "size": SIZE,
        "lq_set": LQ_SET,
        "judge": options.judge,
        "every": options.every,
        "images": len({row["face_id"] for row in rows}),
        "people": len(people),
        "people_sha256": hash_names(people),
    }
    record_result("denoiser_steps", {**about, **summary}, options.keep)


if __name__ == "__main__":
    main()
