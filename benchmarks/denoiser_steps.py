"""Trains recipe `idm` as a denoiser and as a regression, and compares both in 1, 4 and 20 steps.

    python benchmarks/denoiser_steps.py DATASET --out FOLDER [--every N] [--images N] [--keep]

Both restorers have the recipe `idm` on the base tiny at 128 px, the same losses, the same seed and the same number of
images. The regression is trained with `denoise=false`: its UNet gets only the LQ latent, and draws no noise. A
regression takes one step, so its steps 4 and 20 restore its own result again.

The restorers are measured on the test people of DATASET with the preset `codeformer` and seed 0, by the code of
`likeness evaluate`. The script makes the frozen set if it is missing. The judge is a recognizer that no loss uses. A
run that FOLDER already contains is not trained again.

| column | meaning |
|---|---|
| psnr, ssim | PSNR in dB, and SSIM |
| sharp | the detail of the restored face divided by the detail of the target |
| identity | cosine of the judge's embeddings of the restored face and the target |
| ms | milliseconds per face: median |

Every mean has a 95% bootstrap interval over people. The row `2m-<n>` is the denoiser in n steps with the solver
DPM-Solver++ of order 2 in place of order 1, which is DDIM.

`FOLDER/strip.png` has a row for each of a few people: the LQ input, the regression in 1, 4 and 20 steps, the denoiser
in 1, 4 and 20 steps, and the target.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from record_result import record_result
from reference_benefit import hash_names, list_people, run_likeness
from restore_latency import time_calls

import train.models.timesteps.denoise
from train.data.face_measures import measure_detail
from train.evaluation.aggregate import Row, average_differences, average_systems
from train.evaluation.evaluator import EvaluationOptions, Evaluator
from train.evaluation.systems import list_systems
from train.models.io import Restoration
from train.models.restorer import Restorer

STEPS = (1, 4, 20)
SIZE, PRESET = 128, "codeformer"  # The preset is the preset of recipe idm.
LQ_SET = f"{PRESET}-test-{SIZE}-s0"
# The words of each run for `likeness train`. The number of data workers does not change the result.
RUNS: dict[str, tuple[str, ...]] = {"regression": ("--change", "denoise=false"), "denoiser": ()}
SHARED = ("--recipe", "idm", "--base-model", "tiny", "--size", SIZE, "--workers", 0)
METRICS = ("psnr", "ssim", "id_target")
SHOWN = (*METRICS, "sharpness")
SHOWN_PEOPLE = 6  # rows of the strip
REPEATS = 10  # timed calls
SEED = 0  # the seed of the bootstrap


def repeat(model: Restorer, times: int) -> None:
    """Lets each call of the restorer restore `times` times. Each restoration after the first gets the last result."""
    once = model.forward

    def forward(lq: torch.Tensor, *rest: torch.Tensor) -> Restoration:
        restored = once(lq, *rest)
        for _ in range(times - 1):
            restored = once(restored.image, *rest)
        return restored

    model.forward = forward  # type: ignore[method-assign, assignment]


class Measurement:
    """Holds the rows of all measured systems, and the pictures of a few people."""

    def __init__(self, dataset: Path, judge: str, every: int) -> None:
        self.dataset, self.judge, self.every = dataset, judge, every
        self.rows: list[Row] = []
        self.pictures: dict[tuple[str, str], np.ndarray] = {}  # the keys are the system and the face id
        self.shown: list[str] = []
        self.milliseconds: dict[str, float] = {}
        self.targets: dict[str, np.ndarray] = {}

    def measure(self, label: str, run: Path, steps: int, times: int = 1) -> None:
        """Measures a run in `steps` steps. With `times` above 1, the restorer restores its own result again."""
        options = EvaluationOptions(1, metrics=METRICS, judge=self.judge, steps=steps)
        evaluator = Evaluator(self.dataset, LQ_SET, options, self._keep)
        evaluator.load_run(run)
        assert evaluator.frozen_set is not None
        evaluator.frozen_set = replace(evaluator.frozen_set, cases=evaluator.cases[:: self.every])
        self.targets = {case.face_id: case.target for case in evaluator.cases}
        people = {case.identity_id: case.face_id for case in reversed(evaluator.cases)}
        self.shown = sorted(people.values())[:SHOWN_PEOPLE]
        model = evaluator.models[run]
        if times > 1:
            repeat(model, times)
        self.milliseconds[label] = round(median(time_calls(model, 1, 0, REPEATS, "fp32")), 1)
        lq, restored = list_systems(1)[:2]
        systems = (restored,) if self.rows else (lq, restored)
        self.rows += evaluator.measure_run(run, systems, lambda *_: None, label)

    def _keep(self, row: Row, image: np.ndarray) -> None:
        target = self.targets[row["face_id"]]
        own, wanted = (measure_detail(one, SIZE / 8, SIZE / 4, 0, SIZE) for one in (image, target))
        row["sharpness"] = own / wanted
        if row["face_id"] in self.shown:
            self.pictures[row["key"].removesuffix("/0"), row["face_id"]] = image


def summarise(rows: list[Row]) -> dict[str, Any]:
    """Returns the figures of every system by its key, and the paired differences by their names."""

    def describe(average: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {key: round(average[name][key], 4) for key in ("mean", "low", "high")}
            for name in SHOWN
            if average.get(name) is not None
        }

    rows = [row | {"key": row["key"].removesuffix("/0")} for row in rows]
    pairs = [(f"denoiser - regression, {n} steps", f"denoiser-{n}", f"regression-{n}") for n in STEPS]
    pairs += [(f"{run}: {n} steps - 1 step", f"{run}-{n}", f"{run}-1") for run in RUNS for n in STEPS[1:]]
    return {
        "rows": {one["key"]: describe(one) for one in average_systems(rows, SHOWN, SEED)},
        "differences": {one["difference"]: describe(one) for one in average_differences(rows, pairs, SHOWN, SEED)},
    }


def format_table(summary: dict[str, Any], milliseconds: dict[str, float]) -> str:
    """Returns the means in Markdown, a line for each system."""
    lines = ["| | psnr | ssim | sharp | identity | ms |", "|---|---|---|---|---|---|"]
    for key, figures in summary["rows"].items():
        means = [figures[name]["mean"] for name in ("psnr", "ssim", "sharpness", "id_target")]
        cells = [f"{means[0]:.2f}", *(f"{mean:.3f}" for mean in means[1:]), f"{milliseconds.get(key, '')}"]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_strip(measured: Measurement) -> np.ndarray:
    """Returns a row of images for each shown person, uint8 (n S, m S, 3) RGB."""
    keys = ["lq", *(f"{run}-{steps}" for run in RUNS for steps in STEPS)]
    rows = [
        np.concatenate([*(measured.pictures[key, face] for key in keys), measured.targets[face]], 1)
        for face in measured.shown
    ]
    return np.concatenate(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="the dataset to train on, whose test people are restored")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs and of strip.png")
    parser.add_argument("--images", type=int, default=4800, help="the number of images of each training")
    parser.add_argument("--judge", default="dlib", help="a recognizer that no loss uses: dlib or an .onnx file")
    parser.add_argument("--every", type=int, default=1, help="measure only every N-th face of the set")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/denoiser_steps.json")
    options = parser.parse_args()
    run_likeness("degrade", options.dataset, "--preset", PRESET, "--split", "test", "--size", SIZE, "--seed", 0)
    for name, words in RUNS.items():
        run = options.out / name
        run_likeness("train", options.dataset, "--out", run, "--images", options.images, *SHARED, *words)
    measured = Measurement(options.dataset, options.judge, options.every)
    for steps in STEPS:
        measured.measure(f"regression-{steps}", options.out / "regression", 1, steps)
    for steps in STEPS:
        measured.measure(f"denoiser-{steps}", options.out / "denoiser", steps)
    train.models.timesteps.denoise.SOLVER_ORDER = 2
    for steps in STEPS[1:]:
        measured.measure(f"2m-{steps}", options.out / "denoiser", steps)
    summary = summarise(measured.rows)
    print(format_table(summary, measured.milliseconds))
    cv2.imwrite(str(options.out / "strip.png"), cv2.cvtColor(draw_strip(measured), cv2.COLOR_RGB2BGR))
    people = list_people(options.dataset, LQ_SET)
    about = {
        "images_seen": options.images,
        "size": SIZE,
        "lq_set": LQ_SET,
        "judge": options.judge,
        "every": options.every,
        "images": len(measured.targets),
        "people": len(people),
        "people_sha256": hash_names(people),
        "milliseconds": measured.milliseconds,
    }
    record_result("denoiser_steps", {**about, **summary}, options.keep)


if __name__ == "__main__":
    main()
