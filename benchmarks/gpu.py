"""Prints how fast and how exact each part of Likeness is on this machine, on the GPU if the machine has a GPU.

    python benchmarks/gpu.py [--quick] [--rows ROW...] [--people PHOTOS] [--run RUN] [--dataset DATASET] [--set SET]
        [--faces SPEC] [--vae FOLDER] [--weights FOLDER] [--keep]

Each row measures one part, and in the same run the peer that the part is compared with. The table ROWS names the rows.
A row that lacks a package, a file or an option is marked "not run", with the reason. The last line is the JSON of all
rows. Each row runs in a process of its own, so a row that fails does not end the other rows, and the memory of a row is
free for the next.

PHOTOS has a folder of photos for each person. RUN is the folder of a training run, and DATASET the dataset of this run,
with a frozen set SET. SPEC names the face models. FOLDER of --vae has the VAE of a light base (see light_ceiling.py).
FOLDER of --weights has the weights of metrics. With --quick, all rows are small, and take a few minutes together on two
cores. Do not cite the figures of --quick.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import gpu_rows
from gpu_rows import Figures, NotRun
from record_result import record_result

from manifests.errors import LikenessError

# The rows: the name for --rows, what the row measures, and the function that returns its figures.
ROWS: dict[str, tuple[str, Callable[[Namespace], Figures]]] = {
    "batches": ("faces restored in batches, compared with one face at a time", gpu_rows.measure_batches),
    "precision": (
        "bfloat16 compared with float32: milliseconds a face, and the difference in levels of 255",
        gpu_rows.measure_precision,
    ),
    "osdface": (
        "a face of 512 px in OSDFace's shape, compared with OSDFace's own order of operations",
        gpu_rows.measure_osdface,
    ),
    "light": ("faces reconstructed by the VAE of a light base, in float32 and in bfloat16", gpu_rows.measure_light),
    "curation": ("curation on each device, compared with a loop over insightface", gpu_rows.measure_curation),
    "metrics": ("no-reference metrics of a batch of faces, compared with one face at a time", gpu_rows.measure_metrics),
    "evaluation": ("a second evaluation of the same outputs, compared with the first", gpu_rows.measure_evaluation),
    "training": ("training, compared with the first trial", gpu_rows.measure_training),
    "options": (
        "bf16, kept latents, kept activations and torch.compile in training, compared with float32 and checkpointing",
        gpu_rows.measure_training_options,
    ),
    "degradation": (
        "degradation of batches on the device, compared with the exact engine and BasicSR",
        gpu_rows.measure_degradation,
    ),
}

OWN_PACKAGES = ("curate", "degrade", "manifests", "train", "likeness")


def measure_row(name: str, options: Namespace) -> Figures:
    """Returns the row `name`: its status "measured" with the figures, or "not run" with the reason."""
    row = {"row": name, "measures": ROWS[name][0]}
    try:
        return {**row, "status": "measured", "figures": ROWS[name][1](options)}
    except NotRun as reason:
        return {**row, "status": "not run", "reason": str(reason)}
    except ModuleNotFoundError as error:
        package = str(error.name).split(".")[0]
        if package in OWN_PACKAGES:  # a mistake of ours
            raise
        return {**row, "status": "not run", "reason": f"the package {package} is not installed"}
    except (LikenessError, SystemExit) as error:
        return {**row, "status": "failed", "reason": str(error)}


def measure_alone(name: str, words: list[str]) -> Figures:
    """Returns the row `name`, which is measured in a process of its own. `words` are the options of this script."""
    command = [sys.executable, __file__, *words, "--one", name]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        reason = f"its process ended with the exit code {ran.returncode}, and its output is above"
        return {"row": name, "measures": ROWS[name][0], "status": "failed", "reason": reason}
    row: Figures = json.loads(ran.stdout.splitlines()[-1])
    return row


def describe_device() -> str:
    """Returns the name of the GPU, or says that there is none."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"


def main() -> None:
    rows = "\n".join(f"  {name:12} {measures}" for name, (measures, _) in ROWS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nROWS:\n{rows}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--people", type=Path, metavar="PHOTOS")
    for name in ("run", "dataset", "vae", "weights"):
        parser.add_argument(f"--{name}", type=Path)
    for name in ("set", "faces"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/gpu.json")
    parser.add_argument("--one", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure_row(options.one, options)))
        return
    found = []
    for name in dict.fromkeys(options.rows):
        found.append(measure_alone(name, sys.argv[1:]))
        print(f"{name}: {found[-1]['status']} {found[-1].get('reason', '')}", file=sys.stderr, flush=True)
    record_result("gpu", {"device": describe_device(), "quick": options.quick, "rows": found}, options.keep)
    if any(row["status"] == "failed" for row in found):
        sys.exit("A row failed. Its output is above.")


if __name__ == "__main__":
    main()
