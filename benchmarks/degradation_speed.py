"""Measures how many images of 512 x 512 pixels per second Likeness and basicsr degrade with equal θ.

    python benchmarks/degradation_speed.py [--preset gfpgan] [--keep]

The comparison uses one core: OpenCV and torch have one thread. In each round, both engines degrade each image one time.
The time of an image is the median over the rounds. A figure is the number of images divided by the sum of their times.
Both engines read float32 in 0..1 and write float32 multiples of 1/255. The package basicsr is the code of published
papers. The package gets the noise that numpy draws from the seed in θ, because its own way to draw noise would take
longer. To install basicsr, run `pip install --no-deps basicsr==1.4.2` with Python 3.11 or 3.12. If basicsr is not
installed, the figures of basicsr are null.

Then each operation of the preset gfpgan is timed beside its floor: the time of OpenCV's own calls on the same data.

Then a whole frozen set is timed with one worker and with two workers. The time of a set includes decoding, encoding
PNG, and writing to disk. At the end, the torch engine is timed in batches, forward and backward. The torch engine runs
on the CPU with all threads, and on a GPU if the machine has a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from record_result import record_result

from degrade.operations.apply import apply, check_image, check_sizes, iterate_steps, run_steps
from degrade.operations.kernels import gaussian_line, make_kernel
from degrade.operations.pixels import Image, quantise, to_float, to_uint8
from degrade.operations.resize import downsampled_size, resize
from degrade.presets import PRESETS
from degrade.sampling import sample_theta
from degrade.theta import Step, Theta, check_theta
from manifests.errors import BadInput
from manifests.pictures.png_files import encode_png

SIDE = 512


def make_image(seed: int) -> np.ndarray:
    """Returns a smooth image with edges and some grain, uint8 RGB (SIDE, SIDE, 3).

    Saved as JPEG or PNG, the image has about as many bytes as an image of a face.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 9, 3), np.uint8)
    smooth = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    smooth[SIDE // 4 : SIDE // 2, SIDE // 4 : SIDE // 2] //= 2
    return np.asarray(np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255), np.uint8)


def time_call(function: Callable[..., Any], *arguments: Any) -> float:
    """Returns the seconds of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def compare_engines(
    images: list[Image], thetas: list[Theta], theirs: Callable[..., Any] | None, rounds: int
) -> dict[str, Any]:
    """Returns the images per second of both engines: the number of images divided by the sum of their times.

    The time of an image is the median over the rounds.
    """
    engines = {"ours": apply} | ({"basicsr": theirs} if theirs else {})
    total = dict.fromkeys(engines, 0.0)
    for image, theta in zip(images, thetas, strict=True):
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for turn in range(rounds):
            for name in list(engines)[:: 1 if turn % 2 else -1]:
                seconds[name].append(time_call(engines[name], image, theta))
        for name in engines:
            total[name] += median(seconds[name])
    rate = {name: round(len(images) / each, 1) for name, each in total.items()}
    ratio = round(total["basicsr"] / total["ours"], 2) if theirs else None
    return {"ours": rate["ours"], "basicsr": rate.get("basicsr"), "ratio": ratio}


def time_operations(images: list[Image], thetas: list[Theta]) -> dict[str, dict[str, float]]:
    """Returns the figures of each kind of operation, and of all operations together ("all").

    `ours` is the mean time of the engine in milliseconds per image. `floor` is the mean time of OpenCV's own calls on
    the same data (`make_floor`). `share` is the share of the operation in the time of the engine. `calls` is the share
    of the images that the operation changes. A blur and the next downsample count as one operation, because the engine
    computes both together.
    """
    spent: dict[str, list[float]] = {}

    def add(name: str, *functions: Callable[[], Any]) -> None:
        sums = spent.setdefault(name, [0.0, 0.0, 0.0])
        for place, function in enumerate(functions):  # the engine, then OpenCV
            sums[place] += min(time_call(function) for _ in range(3))
        sums[2] += 1

    for image, theta in zip(images, thetas, strict=True):
        steps, before, start = theta["steps"], image, 0
        for end, after in iterate_steps(image, steps, theta["version"]):
            some = steps[start:end]
            name = " and ".join(step["op"] for step in some)
            add(name, partial(run_part, before, some, theta["version"]), make_floor(before, some, SIDE))
            before, start = after, end
        add("checks and rounding", partial(check_and_round, image, theta, before), make_floor(before, [], SIDE))
    spent["all"] = [*(sum(sums[place] for sums in spent.values()) for place in (0, 1)), len(images)]
    whole = spent["all"][0]
    return {
        name: {
            "ours": round(1000 * ours / len(images), 2),
            "floor": round(1000 * floor / len(images), 2),
            "share": round(ours / whole, 3),
            "calls": round(calls / len(images), 2),
        }
        for name, (ours, floor, calls) in spent.items()
    }


def run_part(image: Image, steps: list[Step], version: int) -> Image:
    """Runs a step, or a blur and its downsample, with the engine."""
    if steps[0]["op"] == "upsample":
        return resize(image, SIDE, SIDE, steps[0]["interpolation"])
    return run_steps(image, steps, version)


def check_and_round(hq: Image, theta: Theta, result: Image) -> Image:
    """Checks the arguments and rounds the result, as `apply` does before and after the steps."""
    check_theta(theta)
    check_image(hq)
    check_sizes(SIDE, SIDE, theta)
    return quantise(result)


def make_floor(image: Image, steps: list[Step], side: int) -> Callable[[], Any]:
    """Returns a function that runs OpenCV's own calls for a step, or for a blur and its downsample, on the same data.

    The calls use no code of ours. The calls do less than the engine: the colours are not clipped, and the hue is not
    turned. Data that the calls need, for example kernels, is made here and is not timed. JPEG starts from 8-bit BGR.
    Noise is drawn by OpenCV's generator. The step "checks and rounding" checks the input and rounds the result to 8
    bits.
    """
    step = steps[0] if steps else {"op": "checks and rounding"}
    linear = {"interpolation": cv2.INTER_LINEAR}
    factor = float(step.get("factor", 1))
    match step["op"]:
        case "checks and rounding":
            least, most = 0.0, float(np.nextafter(1, 2))
            return lambda: (
                cv2.checkRange(image, True, least, most),
                cv2.multiply(cv2.convertScaleAbs(image, alpha=255), (1 / 255,) * 4, dtype=cv2.CV_32F),
            )
        case "blur":
            small = downsampled_size(*image.shape[:2], steps[1]["factor"]) if len(steps) > 1 else image.shape[:2]
            if step["kernel"] == "iso":
                line = gaussian_line(step["size"], step["sigma_x"])
                return lambda: cv2.resize(cv2.sepFilter2D(image, -1, line, line), small[::-1], **linear)
            kernel = make_kernel(step)
            return lambda: cv2.resize(cv2.filter2D(image, -1, kernel), small[::-1], **linear)
        case "noise":
            numbers, sigma = np.empty_like(image), (step["sigma"] / 255,) * 3
            return lambda: cv2.add(image, cv2.randn(numbers, (0, 0, 0), sigma))
        case "jpeg":
            pixels = cv2.cvtColor(to_uint8(image), cv2.COLOR_RGB2BGR)
            options = [cv2.IMWRITE_JPEG_QUALITY, step["quality"]]
            return lambda: cv2.imdecode(cv2.imencode(".jpg", pixels, options)[1], cv2.IMREAD_COLOR)
        case "upsample":
            return lambda: cv2.resize(image, (side, side), **linear)
        case "shift":
            return lambda: cv2.add(image, (step["red"], step["green"], step["blue"], 0))
        case "gray":
            return lambda: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        case "brightness":
            return lambda: cv2.multiply(image, (factor,) * 4)
        case "contrast":
            return lambda: cv2.addWeighted(
                image, factor, image, 0, (1 - factor) * cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
            )
        case "saturation":
            return lambda: cv2.addWeighted(
                image, factor, cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), 1 - factor, 0
            )
        case "hue":
            return lambda: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), cv2.COLOR_HSV2RGB)
    raise SystemExit(f"There is no floor for the operation {step['op']}. Add its calls to make_floor.")


def print_operations(figures: dict[str, dict[str, float]]) -> None:
    """Prints the figures of `time_operations` as a table, the slowest operation first."""
    print(f"{'operation of gfpgan':24} {'ours, ms':>9} {'floor, ms':>9} {'share':>6} {'images':>6}")
    for name, one in sorted(figures.items(), key=lambda item: -item[1]["ours"]):
        print(f"{name:24} {one['ours']:9.2f} {one['floor']:9.2f} {one['share']:6.0%} {one['calls']:6.0%}", flush=True)


def time_frozen_set(images: int, rounds: int) -> dict[str, float]:
    """Returns the images per second of `likeness degrade FOLDER --preset gfpgan` with 1 worker and with 2 workers.

    The time includes decoding, encoding PNG, and flushing each file to disk. `times` is the speed with 2 workers
    divided by the speed with 1 worker. The first quarter of the images is not counted, because the workers start during
    this time. `whole` is the same ratio over all images.
    """
    from degrade.frozen.folders import degrade_folder

    rates: dict[int, list[float]] = {1: [], 2: []}
    whole: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as there:
        photos = Path(there) / "photos"
        photos.mkdir()
        for number in range(images):
            (photos / f"{number:04d}.png").write_bytes(encode_png(make_image(number % 20)))
        for turn in range(rounds):
            for workers in rates:
                done: list[float] = []
                start = time.perf_counter()
                out = Path(there) / f"{turn}-{workers}"
                degrade_folder(
                    photos, out, workers=workers, progress=lambda _, done=done: done.append(time.perf_counter())
                )
                first = images // 4
                rates[workers].append((images - first) / (done[-1] - done[first - 1]))
                whole[workers].append(images / (time.perf_counter() - start))
    one, two = (median(each) for each in rates.values())
    return {
        "workers_1": round(one, 1),
        "workers_2": round(two, 1),
        "times": round(two / one, 2),
        "whole": round(median(whole[2]) / median(whole[1]), 2),
    }


def time_differentiable(
    device: str, images: list[Image], thetas: list[Theta], batch: int, rounds: int
) -> dict[str, float] | None:
    """Returns the images per second of the torch engine: forward alone, and forward and backward together.

    Returns None if the module of the torch engine is missing.
    """
    if importlib.util.find_spec("degrade.engines.differentiable") is None:
        return None
    import torch

    from degrade.engines.differentiable import apply as apply_differentiable

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    hq = torch.from_numpy(np.stack(images[:batch]).transpose(0, 3, 1, 2).copy()).to(device).requires_grad_()
    forward, backward = [], []
    for turn in range(rounds + 1):
        some = [thetas[(turn * batch + n) % len(thetas)] for n in range(batch)]
        wait()
        start = time.perf_counter()
        lq = apply_differentiable(hq, some)
        wait()
        middle = time.perf_counter()
        lq.sum().backward()
        wait()
        if turn:  # the first round loads libraries and is not counted
            forward.append(middle - start)
            backward.append(time.perf_counter() - start)
    return {
        "batch": batch,
        "forward": round(batch / median(forward), 1),
        "forward_backward": round(batch / median(backward), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60, help="number of images for each preset (default 60)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds of each measurement (default 3)")
    parser.add_argument("--preset", action="append", help="a preset; may be repeated (default: all)")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/degradation_speed.json")
    options = parser.parse_args()

    theirs = None
    try:
        from degrade.engines import basicsr_reference

        basicsr_reference.load_basicsr()
        theirs = basicsr_reference.apply
    except BadInput as error:
        print(error)
    images = [to_float(make_image(seed)) for seed in range(20)]
    result: dict[str, Any] = {}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    import torch

    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # basicsr uses torch for imresize and for the colour jitter of its data sets
    some = [images[n % len(images)] for n in range(options.images)]
    for name in options.preset or PRESETS:
        thetas = [sample_theta(PRESETS[name], 0, f"benchmark {n}") for n in range(options.images)]
        compare_engines(some[:3], thetas[:3], theirs, 1)  # the first calls are slower and are not counted
        result[name] = compare_engines(some, thetas, theirs, options.rounds)
        print(f"{name:16}", result[name], flush=True)
    thetas = [sample_theta(PRESETS["gfpgan"], 0, f"benchmark {n}") for n in range(options.images)]
    result["gfpgan operations"] = time_operations(some, thetas)
    print_operations(result["gfpgan operations"])
    cv2.setNumThreads(threads)
    torch.set_num_threads(torch_threads)
    result["frozen set"] = time_frozen_set(2 * options.images, options.rounds)
    print(result["frozen set"], flush=True)
    result["twin cpu"] = time_differentiable("cpu", images, thetas, 4, options.rounds)
    result["twin gpu"] = (
        time_differentiable("cuda", images, thetas, 16, options.rounds) if torch.cuda.is_available() else None
    )
    print("torch engine on the CPU and on the GPU:", result["twin cpu"], result["twin gpu"], flush=True)
    record_result("degradation_speed", result, options.keep)


if __name__ == "__main__":
    main()
