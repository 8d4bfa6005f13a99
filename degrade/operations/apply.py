"""The exact engine: pure functions on float32 RGB pictures (H, W, 3) in 0..1, and `apply`, which runs the steps of a θ.

The chain is the literature's: blur -> downsample -> noise -> JPEG -> upsample (-> colour). Where it clips and rounds
follows BasicSR's degradations.py and GFPGAN's ffhq_degradation_dataset.py, and is said at each operation:
noise clips to 0..1 and does not round; JPEG rounds to 8 bits because an encoder can do nothing else; the end of the
chain clips and rounds to 8 bits, so what `apply` returns is exactly what a PNG holds.

θ is plain JSON, versioned and complete:

    {"version": 2, "preset": "gfpgan", "steps": [
        {"op": "blur", "kernel": "aniso", "size": 41, "sigma_x": 3.1, "sigma_y": 7.9, "angle": 0.4},
        {"op": "downsample", "factor": 4.2, "interpolation": "bilinear"},
        {"op": "noise", "sigma": 11.0, "gray": false, "seed": 81985529216486},
        {"op": "jpeg", "quality": 73},
        {"op": "upsample", "interpolation": "bilinear"}]}

`version` 1 runs every step by itself, plain. Version 2 runs the same steps fast (`blur.fast_blur`), within 0.25/255 of
the plain ones before the next rounding; those are other bytes, so an old θ keeps its version and its bytes. `preset` is
a note and changes nothing. Lengths are pixels of the picture given, angles radians, noise is in 1/255.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from degrade.operations.blur import blur, fast_blur
from degrade.operations.colour import brightness, contrast, gray, hue, saturation, shift
from degrade.operations.jpeg import jpeg
from degrade.operations.noise import noise, poisson
from degrade.operations.pixels import Image, Pixels, quantise, to_float, to_uint8
from degrade.operations.resize import downsample, downsampled_size, resize
from degrade.theta import VERSION, Step, Theta, check_theta
from manifests.errors import BadInput

MAX_PIXELS = 64_000_000  # ours: a float32 copy of such a picture is 768 MB

_FUNCTIONS: dict[str, Callable[..., Image]] = {
    "blur": blur,
    "downsample": downsample,
    "noise": noise,
    "poisson": poisson,
    "jpeg": jpeg,
    "upsample": resize,
    "shift": shift,
    "gray": gray,
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
    "quantise": quantise,
}


def check_image(image: Any) -> None:
    """Raise BadInput unless `image` is a float32 RGB array (H, W, 3) in 0..1 with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        shape = getattr(image, "shape", type(image).__name__)
        raise BadInput(
            f"A picture to degrade is an RGB array of shape (height, width, 3), not {shape}: "
            "repeat the channel of a gray one, drop the alpha of an RGBA one."
        )
    if image.dtype != np.float32:
        raise BadInput(f"A picture to degrade is float32 in 0..1, not {image.dtype}: divide uint8 by 255 first.")
    if not (image.min() >= 0 and image.max() <= 1):  # NaN fails too
        raise BadInput("A picture to degrade has values from 0 to 1, and this one has others.")


def check_sizes(height: int, width: int, theta: Theta) -> None:
    """Raise BadInput where a checked θ would leave less than a pixel of this picture, too many, or another size."""
    at = (height, width)
    for number, step in enumerate(theta["steps"], 1):
        if step["op"] == "upsample":
            at = (height, width)
        elif step["op"] == "downsample":
            factor = step["factor"]
            if min(at) < factor and theta["version"] > 1:  # version 1 kept one pixel
                raise BadInput(
                    f"Step {number} of this θ (downsample by {factor:g}) leaves less than one pixel of "
                    f"{at[1]} x {at[0]}: take a larger picture or a smaller factor."
                )
            at = downsampled_size(*at, factor)
            if at[0] * at[1] > MAX_PIXELS:
                raise BadInput(
                    f"Step {number} of this θ (downsample by {factor:g}) makes {at[1]} x {at[0]} pixels, more than "
                    f"{MAX_PIXELS // 1_000_000} million: take a smaller picture or a larger factor."
                )
    if at != (height, width):
        raise BadInput("This θ downsamples and never upsamples, so its result has another size than its input.")


def run_steps(hq: Image, steps: list[Step], version: int = VERSION) -> Image:
    """Run checked steps without the rounding at the end; float32, the size where the steps leave it."""
    image = np.ascontiguousarray(hq)
    for _, after in iterate_steps(hq, steps, version):
        image = after
    return image


def iterate_steps(hq: Image, steps: list[Step], version: int = VERSION) -> Iterator[tuple[int, Image]]:
    """Run checked steps one after the other: how many are done, and the picture then. A blur and the downsample after
    it are done at once where version 2 makes one product of them."""
    image = np.ascontiguousarray(hq)
    at = 0
    while at < len(steps):
        step, then = steps[at], steps[at + 1] if at + 1 < len(steps) else None
        at += 1
        if step["op"] == "blur" and version > 1:
            then = then if then and then["op"] == "downsample" else None
            image = fast_blur(image, step, then)
            at += then is not None
        else:
            parameters = {key: value for key, value in step.items() if key != "op"}
            if step["op"] == "upsample":
                parameters |= {"height": hq.shape[0], "width": hq.shape[1]}
            image = _FUNCTIONS[step["op"]](image, **parameters)
        image = np.ascontiguousarray(image)
        yield at, image


def apply(hq: Image, theta: Theta) -> Image:
    """Degrade one picture by θ.

    `hq` is float32 RGB (H, W, 3) in 0..1 and is not changed; the result has the same shape, dtype and range, and values
    on the 1/255 grid. The same θ and picture give the same bits whatever the number of workers or OpenCV threads.
    Raises BadInput for a θ or a picture that cannot be used.
    """
    check_theta(theta)
    check_image(hq)
    check_sizes(hq.shape[0], hq.shape[1], theta)
    return quantise(run_steps(hq, theta["steps"], theta["version"]))


def apply_to_pixels(pixels: Pixels, theta: Theta) -> Pixels:
    """`apply` from 8 bits to 8 bits, uint8 RGB (H, W, 3) in and out: the same pixels, with one conversion less."""
    check_theta(theta)
    if pixels.dtype != np.uint8:
        raise BadInput(f"A picture in 8 bits is uint8, not {pixels.dtype}.")
    hq = to_float(pixels)
    check_image(hq)
    check_sizes(hq.shape[0], hq.shape[1], theta)
    return to_uint8(run_steps(hq, theta["steps"], theta["version"]))
