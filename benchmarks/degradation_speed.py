"""Images a second at 512 x 512, beside basicsr on the same θ: `python benchmarks/degradation_speed.py`.

One core: OpenCV and torch have one thread, and the engines take turns on each picture, one first, then the other; each
picture counts with the median of its times, and a figure is pictures over the sum of these. Both run from float32 in
0..1 to float32 on the 1/255 grid. basicsr is the literature's code with θ's own noise numbers, which are drawn in less
time than its own; it needs `pip install --no-deps basicsr==1.4.2` (Python 3.11 or 3.12) and is null where it is
missing. Then the whole of a frozen set (decoding, PNG, disk) with one worker and with two, and the differentiable twin,
a batch at a time, forward and backward, on the CPU with all its threads and on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from record_result import record_result

from degrade.operations.apply import apply, run_steps
from degrade.operations.pixels import Image, to_float
from degrade.presets import PRESETS
from degrade.sampling import sample_theta
from degrade.theta import Theta
from manifests.errors import BadInput
from manifests.runtime.png_files import encode_png

SIDE = 512


def picture(seed: int) -> np.ndarray:
    """uint8 RGB (SIDE, SIDE, 3): smooth, with edges and some grain, as large a JPEG and PNG as a face makes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 9, 3), np.uint8)
    smooth = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    smooth[SIDE // 4 : SIDE // 2, SIDE // 4 : SIDE // 2] //= 2
    return np.asarray(np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255), np.uint8)


def timed(function: Callable[..., Any], *arguments: Any) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def side_by_side(
    images: list[Image], thetas: list[Theta], theirs: Callable[..., Any] | None, rounds: int
) -> dict[str, Any]:
    """Images/s of both engines, in turns: the images over the sum of each image's median time."""
    engines = {"ours": apply} | ({"basicsr": theirs} if theirs else {})
    total = dict.fromkeys(engines, 0.0)
    for image, theta in zip(images, thetas, strict=True):
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for turn in range(rounds):
            for name in list(engines)[:: 1 if turn % 2 else -1]:
                seconds[name].append(timed(engines[name], image, theta))
        for name in engines:
            total[name] += median(seconds[name])
    rate = {name: round(len(images) / each, 1) for name, each in total.items()}
    ratio = round(total["basicsr"] / total["ours"], 2) if theirs else None
    return {"ours": rate["ours"], "basicsr": rate.get("basicsr"), "ratio": ratio}


def where_time_goes(images: list[Image], thetas: list[Theta]) -> dict[str, float]:
    """Milliseconds of each kind of step in a mean image; a downsample that is one product with its blur is in it."""
    spent: dict[str, float] = {}
    for image, theta in zip(images, thetas, strict=True):
        before = 0.0
        steps = theta["steps"]
        for end in range(1, len(steps) + 1):
            if steps[end - 1]["op"] == "blur" and end < len(steps) and steps[end]["op"] == "downsample":
                continue
            # the run up to here, less the run up to the step before: small differences, hence the minimum of three
            now = min(timed(run_steps, image, steps[:end], theta["version"]) for _ in range(3))
            joined = end > 1 and steps[end - 1]["op"] == "downsample" and steps[end - 2]["op"] == "blur"
            name = "blur and downsample" if joined else steps[end - 1]["op"]
            spent[name] = spent.get(name, 0.0) + now - before
            before = now
        now = min(timed(apply, image, theta) for _ in range(3))
        spent["checks and rounding"] = spent.get("checks and rounding", 0.0) + now - before
    return {name: round(1000 * value / len(images), 2) for name, value in spent.items()}


def scaling(images: int, rounds: int) -> dict[str, float]:
    """Images/s of `likeness degrade FOLDER --preset gfpgan` with 1 and 2 workers, in turns.

    Decoding and encoding PNG and flushing each file to disk are in it. `times` leaves the first quarter out, in which
    workers start; `whole` does not.
    """
    from degrade.frozen.folders import degrade_folder

    rates: dict[int, list[float]] = {1: [], 2: []}
    whole: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as there:
        photos = Path(there) / "photos"
        photos.mkdir()
        for number in range(images):
            (photos / f"{number:04d}.png").write_bytes(encode_png(picture(number % 20)))
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


def twin(device: str, images: list[Image], thetas: list[Theta], batch: int, rounds: int) -> dict[str, float] | None:
    """Images/s of the differentiable twin; None where it is not there."""
    if importlib.util.find_spec("degrade.engines.differentiable") is None:
        return None
    import torch

    from degrade.engines.differentiable import apply as apply_twin

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    hq = torch.from_numpy(np.stack(images[:batch]).transpose(0, 3, 1, 2).copy()).to(device).requires_grad_()
    forward, backward = [], []
    for turn in range(rounds + 1):
        some = [thetas[(turn * batch + n) % len(thetas)] for n in range(batch)]
        wait()
        start = time.perf_counter()
        lq = apply_twin(hq, some)
        wait()
        middle = time.perf_counter()
        lq.sum().backward()
        wait()
        if turn:  # the first one loads libraries
            forward.append(middle - start)
            backward.append(time.perf_counter() - start)
    return {
        "batch": batch,
        "forward": round(batch / median(forward), 1),
        "forward_backward": round(batch / median(backward), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60, help="draws a preset (default 60)")
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is measured (default 3)")
    parser.add_argument("--preset", action="append", help="may be options again (default: all)")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/degradation_speed.json")
    options = parser.parse_args()

    theirs = None
    try:
        from degrade.engines import basicsr_reference

        basicsr_reference.load_basicsr()
        theirs = basicsr_reference.apply
    except BadInput as error:
        print(error)
    images = [to_float(picture(seed)) for seed in range(20)]
    result: dict[str, Any] = {}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    import torch

    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # basicsr's imresize and the colour jitter of its data sets are torch's
    some = [images[n % len(images)] for n in range(options.images)]
    for name in options.preset or PRESETS:
        thetas = [sample_theta(PRESETS[name], 0, f"benchmark {n}") for n in range(options.images)]
        side_by_side(some[:3], thetas[:3], theirs, 1)  # warm
        result[name] = side_by_side(some, thetas, theirs, options.rounds)
        print(f"{name:16}", result[name], flush=True)
    thetas = [sample_theta(PRESETS["gfpgan"], 0, f"benchmark {n}") for n in range(options.images)]
    result["gfpgan milliseconds"] = where_time_goes(some, thetas)
    print(result["gfpgan milliseconds"], flush=True)
    cv2.setNumThreads(threads)
    torch.set_num_threads(torch_threads)
    result["frozen set"] = scaling(2 * options.images, options.rounds)
    print(result["frozen set"], flush=True)
    result["twin cpu"] = twin("cpu", images, thetas, 4, options.rounds)
    result["twin gpu"] = twin("cuda", images, thetas, 16, options.rounds) if torch.cuda.is_available() else None
    print("twin", result["twin cpu"], result["twin gpu"], flush=True)
    record_result("degradation_speed", result, options.keep)


if __name__ == "__main__":
    main()
