"""The rows of benchmarks/gpu.py. Each function calls the benchmark of one part, and returns its figures.

A function imports what it needs, so that a machine without a package measures the rows that do not need the package.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """Says how much each row measures."""

    repeats: int  # calls or rounds of which a figure is the median
    faces: int  # restored faces, in a third as many photos
    memory: tuple[int, ...]  # numbers of photos whose peak memory is measured
    photos: int | None  # curated photos; None for all
    crops: int  # aligned faces for the light base and for the metrics
    images: int  # images of a training
    degraded: int  # images for each degradation preset


FULL = Size(3, 200, (100, 1000), None, 40, 1600, 20)
QUICK = Size(1, 12, (), 24, 3, 320, 4)
# The most faces on which bfloat16 and float32 are compared. A face of a diffusion base takes 20 s on a CPU.
MOST_COMPARED = 4


class NotRun(Exception):
    """A row cannot be measured on this machine, or with these options. The text says why."""


def choose_size(options: Namespace) -> Size:
    """Returns the Size that all rows use."""
    return QUICK if options.quick else FULL


def require(options: Namespace, *names: str) -> None:
    """Raises NotRun if an option of `names` was not given."""
    missing = [f"--{name}" for name in names if getattr(options, name) is None]
    if missing:
        raise NotRun(f"give {' and '.join(missing)}")


def has_gpu() -> bool:
    """Returns whether torch can use a GPU."""
    import torch

    return torch.cuda.is_available()


def measure_batches(options: Namespace) -> Figures:
    """Compares `likeness restore` in batches with restoring one face at a time."""
    require(options, "people", "run")
    from restore_batches import compare_ways

    size = choose_size(options)
    return compare_ways(options.people, options.run, size.faces, size.faces // 3, size.repeats, None, size.memory)


def measure_precision(options: Namespace) -> Figures:
    """Compares bfloat16 with float32: the time, and the difference in levels of 0..255."""
    import restore_latency

    rows = restore_latency.measure("tiny", "tiny", "tiny", 3 * choose_size(options).repeats)
    figures: Figures = {"random weights": rows, "RUN": "not run: give --run and --dataset"}
    if options.run is not None and options.dataset is not None:
        from train.restore.restorers.load_restorer import load_restorer, move_to_device

        model = move_to_device(load_restorer(options.run))
        lq = read_lq_faces(options, model.config.size)[:MOST_COMPARED]
        _, *others = restore_latency.draw_inputs(model, len(lq), 0)
        inputs = (lq.to(others[0].device), *others)
        figures["RUN"] = {"faces": len(lq), **restore_latency.compare_with_float32(model, inputs, "bf16")}
    return figures


def read_lq_faces(options: Namespace, size: int) -> Any:
    """Returns crops of the dataset, degraded by the preset `codeformer`, as a tensor (n,3,size,size) in 0..1."""
    import cv2
    import numpy as np
    import torch

    from degrade.operations.apply import apply
    from degrade.operations.pixels import to_float
    from degrade.presets import PRESETS
    from degrade.sampling import sample_theta
    from manifests.pictures.images import decode

    images = []
    for number, path in enumerate(list_crops(options)):
        lq = apply(to_float(decode(path)), sample_theta(PRESETS["codeformer"], 0, f"benchmark {number}"))
        images.append(cv2.resize(lq, (size, size), interpolation=cv2.INTER_AREA).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(images)).float()


def list_crops(options: Namespace) -> list[Path]:
    """Returns some aligned faces of the dataset, which have 512 x 512 pixels."""
    require(options, "dataset")
    crops = sorted((options.dataset / "faces").rglob("*.png"))
    if not crops:
        raise NotRun(f"{options.dataset} contains no aligned faces")
    return crops[:: max(1, len(crops) // choose_size(options).crops)][: choose_size(options).crops]


def measure_osdface(options: Namespace) -> Figures:
    """Compares our order of operations for OSDFace at 512 px, also on a light base, with OSDFace's own order."""
    import osdface_speed

    # The whole networks need minutes on a CPU, and --quick makes them small.
    return osdface_speed.measure(options.quick, choose_size(options).repeats)


def measure_light(options: Namespace) -> Figures:
    """Measures how well the VAE of a light base reconstructs faces, in float32 and in bfloat16."""
    require(options, "vae", "faces")
    import light_ceiling

    vae = light_ceiling.load_autoencoder(options.vae).to("cuda" if has_gpu() else "cpu")
    return {"vae": options.vae.name, **light_ceiling.measure(vae, list_crops(options), options.faces)}


def measure_curation(options: Namespace) -> Figures:
    """Compares curation on each device of onnxruntime with a plain loop of insightface."""
    require(options, "people", "faces")
    if not options.faces.startswith("insightface:"):
        raise NotRun("give --faces insightface:FOLDER, because the loop runs only these models")
    import curation_speed
    import insightface.app  # noqa: F401  (its import is not timed)

    import curate.run.pipeline  # noqa: F401  (its import is not timed)
    from curate.faces.networks.devices import DEVICES, list_devices
    from manifests.runtime.workers import count_cores

    size = choose_size(options)
    found = sorted(path for path in options.people.resolve().rglob("*") if path.is_file())
    photos = [path for path in found if curation_speed.measure_size(path) <= 2e6]
    if not photos:
        raise NotRun(f"{options.people} contains no photo of at most 2 megapixels")
    photos = photos[:: max(1, len(photos) // (size.photos or len(photos)))][: size.photos]
    seconds, loop_boxes = curation_speed.time_loop(photos, options.faces.removeprefix("insightface:"))
    rows: Figures = {
        "insightface's loop": {"photos_per_s": round(len(photos) / seconds, 2), "faces": count(loop_boxes)}
    }
    boxes: dict[str, Any] = {}
    for device in DEVICES:
        if device not in list_devices():
            rows[device] = f"not run: onnxruntime has no {DEVICES[device].provider}"
            continue
        with tempfile.TemporaryDirectory() as scratch:
            dataset = Path(scratch) / "dataset"
            stages = curation_speed.time_curation(photos, dataset, options.faces, count_cores(), device)
            boxes[device] = curation_speed.read_boxes(dataset, photos)
        needed = sum(stages.values())
        same = curation_speed.match_boxes(boxes[device], boxes["cpu"])
        rows[device] = {
            "photos_per_s": round(len(photos) / needed, 2),
            "ratio_to_loop": round(seconds / needed, 2),
            "faces": count(boxes[device]),
            "faces_as_on_cpu": len(same),
            "least_iou_with_cpu": round(min(same, default=0.0), 5),
        }
    return {"photos": len(photos), "workers": count_cores(), **rows}


def count(boxes: dict[Path, Any]) -> int:
    """Returns the number of all boxes."""
    return sum(map(len, boxes.values()))


def measure_metrics(options: Namespace) -> Figures:
    """Compares the no-reference metrics on a batch of faces with one face at a time."""
    import torch

    from train.metrics.networks.no_reference import WEIGHTS, explain_missing, load_no_reference

    reasons = {name: explain_missing(name, options.weights) for name in WEIGHTS}
    figures: Figures = {name: f"not run: {reason}" for name, reason in reasons.items() if reason is not None}
    if len(figures) == len(WEIGHTS):
        raise NotRun(" ".join(dict.fromkeys(reason for reason in reasons.values() if reason is not None)))
    device = "cuda" if has_gpu() else "cpu"
    images = read_lq_faces(options, 512).to(device)
    for name in WEIGHTS.keys() - figures.keys():
        score = load_no_reference(name, options.weights, device)
        score(images[:1])  # the first call is slower
        began = time.perf_counter()
        alone = [score(image[None])[0] for image in images]
        middle = time.perf_counter()
        together = score(images)
        end = time.perf_counter()
        figures[name] = {
            "faces": len(images),
            "ms_alone": round((middle - began) / len(images) * 1000, 1),
            "ms_in_batch": round((end - middle) / len(images) * 1000, 1),
            "largest_difference": float((torch.tensor(alone) - torch.tensor(together)).abs().max()),
        }
    return {"device": device, **figures}


def measure_evaluation(options: Namespace) -> Figures:
    """Compares a second `likeness evaluate` of unchanged outputs with the first."""
    require(options, "dataset", "run", "set")
    from evaluate_twice import compare_evaluations

    words = ["--set", options.set, *(["--weights", str(options.weights)] if options.weights is not None else [])]
    if options.quick:
        words += ["--metrics", "psnr,id_target"]
    return compare_evaluations(options.dataset, options.run, words)


def measure_training(options: Namespace) -> Figures:
    """Compares the images per second of a training with those of the first trial (first_trial.py)."""
    require(options, "dataset")
    import train_step_speed
    from first_trial import train_trial

    images, figures = choose_size(options).images, dict[str, Any]()
    for recipe, base in (("tiny", None), ("osdface", "sd21")):
        if base is not None and (options.quick or not has_gpu()):
            reason = "it is too large for --quick" if options.quick else "a training step takes minutes on a CPU"
            figures[recipe] = f"not run: {reason}"
            continue
        words = {"dataset": options.dataset, "recipe": recipe, "base_model": base, "images": images, "workers": 1}
        with tempfile.TemporaryDirectory() as scratch:
            try:
                memory, _, speed = train_step_speed.measure_recipe(Namespace(**words), Path(scratch) / "run")
                figures[recipe] = {**speed, **memory}
            except SystemExit as error:
                figures[recipe] = f"failed: {error}"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            stats = train_trial(options.dataset, Path(scratch) / "trial", images, 1)
            figures["first trial"] = train_step_speed.read_speed(stats)
        except SystemExit as error:  # the clone lacks the history
            figures["first trial"] = f"not run: {error}"
        except subprocess.CalledProcessError as error:
            figures["first trial"] = f"failed: its process ended with the exit code {error.returncode}"
    return figures


def measure_training_options(options: Namespace) -> Figures:
    """Measures what the options of training on a diffusion base save."""
    import train_options_speed

    # A step of the shape of Stable Diffusion 2.1 takes minutes on a CPU.
    large = has_gpu() and not options.quick
    model, size, batch = ("sd21", 512, 4) if large else ("miniature", 64 if options.quick else 128, 2)
    rounds = 2 * choose_size(options).repeats
    return train_options_speed.measure_base(model, size, batch, rounds, compiled=large)


def measure_degradation(options: Namespace) -> Figures:
    """Compares the engine that degrades batches on the device with the exact engine and BasicSR on one core."""
    import cv2
    import degradation_speed
    import torch

    from degrade.engines import basicsr_reference
    from degrade.operations.pixels import to_float
    from degrade.presets import PRESETS
    from degrade.sampling import sample_theta
    from manifests.errors import BadInput

    size = choose_size(options)
    theirs: Any = basicsr_reference.apply
    try:
        basicsr_reference.load_basicsr()
    except BadInput as error:
        print(error, file=sys.stderr)
        theirs = None
    # The batches have up to 16 images. The comparison on one core uses the first `size.degraded` images.
    images = [to_float(degradation_speed.make_image(seed)) for seed in range(20)]
    threads, figures = (cv2.getNumThreads(), torch.get_num_threads()), dict[str, Any]()
    for name in ["gfpgan"] if options.quick else PRESETS:
        thetas = [sample_theta(PRESETS[name], 0, f"benchmark {number}") for number in range(20)]
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        some, own = images[: size.degraded], thetas[: size.degraded]
        row = degradation_speed.compare_engines(some, own, theirs, size.repeats)
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
        row["device_cpu"] = degradation_speed.time_differentiable("cpu", images, thetas, 4, size.repeats)
        row["device_cuda"] = "not run: no GPU"
        if has_gpu():
            row["device_cuda"] = degradation_speed.time_differentiable("cuda", images, thetas, 16, size.repeats)
        figures[name] = row
    return figures
