"""Measures the speed and the memory of training, and how long training waits for data.

    python benchmarks/train_step_speed.py --dataset DATASET [--recipe R] [--base-model FOLDER|sd21] [--baseline]

The benchmark runs `likeness train` for a few hundred images into a temporary folder, and reads the log of the trainer.
The first 320 images are not counted, because workers and kernels still start during this time. DATASET is a dataset or
a snapshot of a dataset. Without --base-model, the recipe is tiny. `sd21` is the shape of Stable Diffusion 2.1-base with
random weights, which is as fast as the real model. The memory is the peak memory of the training process. The peak
memory of a worker is a separate figure. If the machine has a GPU, the script also reports the peak memory of the GPU.

With --baseline, the script also measures the first trial of training at 256 px, in float32 (benchmarks/first_trial.py).
The trial and the recipe run alternately, twice each. The script compares their median speeds. The trial needs a
dataset, and cannot use a snapshot.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from first_trial import TRIAL_COMMIT, train_trial
from record_result import record_result

from manifests.ledger.paths import LEDGER_NAME


def train_here(words: list[str]) -> dict[str, Any]:
    """Runs `likeness train` with these arguments in this process. Returns the name of the device, and the peak memory
    in GiB."""
    import torch

    from likeness import app

    app(["train", *words], standalone_mode=False)
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads",
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "peak_rss_gib_of_a_worker": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
        "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
    }


def read_speed(stats: Path) -> dict[str, Any]:
    """Returns medians over the training lines of RUN/stats.jsonl.

    If there are several training lines, the first line is not counted.
    """
    lines = [json.loads(line) for line in stats.read_text().splitlines()]
    lines = [line for line in lines if line["kind"] == "train"]
    if not lines:
        raise SystemExit("The trainer logged nothing. Give --images 320 or more.")
    counted = lines[1:] or lines
    return {
        "images_per_second": round(median(line["images_per_second"] for line in counted), 2),
        "data_wait": round(median(line["data_wait"] for line in counted), 4),
        "data_wait_at_most": round(max(line["data_wait"] for line in counted), 4),
        "intervals": len(counted),
        "first_interval_counted": len(lines) == 1,
    }


def measure_recipe(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Trains a restorer by the recipe that `options` names, and writes the run into `folder`.

    Returns the memory, the contents of config.json and the speed.
    """
    run, base = folder / "run", options.base_model
    folder.mkdir()
    if base == "sd21":
        from random_sd21 import write_random_sd21

        base = str(folder / "sd21")
        write_random_sd21(Path(base))
    words = [options.dataset, "--recipe", options.recipe, "--out", run, "--images", options.images]
    words += ["--workers", options.workers, *(["--base-model", base] if base else [])]
    command = [sys.executable, str(Path(__file__).resolve()), "--one", *map(str, words)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        sys.exit(f"`likeness train` ended with {ran.returncode}; its output is above.")
    memory, config = json.loads(ran.stdout.splitlines()[-1]), json.loads((run / "config.json").read_text())
    return memory, config, read_speed(run / "stats.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="a dataset, or a snapshot of a dataset")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument(
        "--base-model", help="a diffusers folder, tiny, or sd21 (the shape of SD 2.1 with random weights)"
    )
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--baseline", action="store_true", help="also measure benchmarks/first_trial.py")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/train_step_speed.json")
    parser.add_argument("--one", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(train_here(options.one)))
        return
    if options.dataset is None:
        parser.error("Give --dataset: a dataset, or a snapshot of a dataset.")
    if options.baseline and not (options.dataset / LEDGER_NAME).is_file():
        parser.error(f"{options.dataset} is not a dataset, and --baseline needs a dataset: give --dataset DATASET.")
    trials: list[float] = []
    speeds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(2 if options.baseline else 1):
            if options.baseline:
                stats = train_trial(options.dataset, Path(folder) / f"trial{turn}", options.images, options.workers)
                trials.append(read_speed(stats)["images_per_second"])
            memory, config, speed = measure_recipe(options, Path(folder) / f"turn{turn}")
            speeds.append(speed)
    speed = speeds[0] | {"images_per_second": median(one["images_per_second"] for one in speeds)}
    if trials:
        baseline = {"trial_images_per_second": round(median(trials), 2), "trial_commit": TRIAL_COMMIT}
        speed |= baseline | {"times_the_trial": round(speed["images_per_second"] / median(trials), 2)}
    recipe = config["recipe"]
    about = {"recipe": options.recipe, "base_model": options.base_model or "tiny", "size": recipe["size"]}
    record_result(
        "train_step_speed",
        {**about, "batch": recipe["batch"], "workers": options.workers, **speed, **memory},
        options.keep,
    )


if __name__ == "__main__":
    main()
