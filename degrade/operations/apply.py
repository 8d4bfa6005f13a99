"""Runs a θ with the exact engine: `apply` runs the steps of a θ on a float32 RGB image (H, W, 3) in 0..1.

The usual chain in published papers is blur, downsample, noise, JPEG and upsample. ReFine's chain is blur, noise,
downsample, upsample and JPEG. Some presets change the colours at the end of the chain. Clipping and rounding follow
BasicSR's degradations.py and GFPGAN's ffhq_degradation_dataset.py. Noise clips to 0..1 and does not round. JPEG rounds
to 8 bits, as every encoder does. The end of the chain clips and rounds to 8 bits, so the result of `apply` is exactly
the content of a PNG.

A θ is plain JSON with a version and all parameters:

    {"version": 2, "preset": "gfpgan", "steps": [
        {"op": "blur", "kernel": "aniso", "size": 41, "sigma_x": 3.1, "sigma_y": 7.9, "angle": 0.4},
        {"op": "downsample", "factor": 4.2, "interpolation": "bilinear"},
        {"op": "noise", "sigma": 11.0, "gray": false, "seed": 81985529216486},
        {"op": "jpeg", "quality": 73},
        {"op": "upsample", "interpolation": "bilinear"}]}

Every step of a θ of version 1 runs separately. In a θ of version 2, the same steps run faster (`blur.fast_blur`). After
a blur and its downsample, the images of the two versions differ by at most 0.25/255. This difference can change the
bytes of the result, so a θ of version 1 always runs as version 1. The key `preset` of a θ has no effect. Lengths are in
pixels of the image, angles are in radians, and the sigma of noise is in 1/255.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from degrade.operations.blur import blur, fast_blur
from degrade.operations.colour import brightness, contrast, gray, hue, saturation, shift
from degrade.operations.jpeg import jpeg
from degrade.operations.noise import noise, poisson
from degrade.operations.pixels import Image, Pixels, is_in_range, quantise, to_float, to_uint8
from degrade.operations.resize import downsample, downsampled_size, resize
from degrade.theta import VERSION, Step, Theta, check_theta
from manifests.errors import BadInput

MAX_PIXELS = 64_000_000  # our limit in pixels; a float32 copy of an image with so many pixels takes 768 MB

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
    """Raises BadInput if `image` is not a float32 RGB array (H, W, 3) in 0..1 with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        shape = getattr(image, "shape", type(image).__name__)
        raise BadInput(
            f"An image to degrade must be an RGB array of shape (height, width, 3), not {shape}: "
            "repeat the channel of a gray image, and drop the alpha channel of an RGBA image."
        )
    if image.dtype != np.float32:
        raise BadInput(
            f"An image to degrade must be float32 in 0..1, not {image.dtype}: divide uint8 values by 255 first."
        )
    if not is_in_range(image):
        raise BadInput(
            f"An image to degrade must have values from 0 to 1, but this image has {image.min():g} to {image.max():g}: "
            "clip its values, and replace NaN."
        )


def check_sizes(height: int, width: int, theta: Theta) -> None:
    """Raises BadInput if a valid θ does not fit an image of this size.

    A θ does not fit if a step leaves less than one pixel or makes too many pixels, or if the result has another size
    than the image.
    """
    size = (height, width)
    for number, step in enumerate(theta["steps"], 1):
        if step["op"] == "upsample":
            size = (height, width)
        elif step["op"] == "downsample":
            factor = step["factor"]
            if min(size) < factor and theta["version"] > 1:  # in version 1, one pixel remains
                raise BadInput(
                    f"Step {number} of this θ (downsample by {factor:g}) leaves less than one pixel of "
                    f"{size[1]} x {size[0]}: take a larger image or a smaller factor."
                )
            size = downsampled_size(*size, factor)
            if size[0] * size[1] > MAX_PIXELS:
                raise BadInput(
                    f"Step {number} of this θ (downsample by {factor:g}) makes {size[1]} x {size[0]} pixels, more than "
                    f"{MAX_PIXELS // 1_000_000} million: take a smaller image or a larger factor."
                )
    if size != (height, width):
        raise BadInput(
            "This θ downsamples and never upsamples, so the result has another size than the input: "
            "add an upsample step."
        )


def run_steps(hq: Image, steps: list[Step], version: int = VERSION) -> Image:
    """Runs valid steps. Returns the float32 image after the last step, which is not rounded to 8 bits."""
    image = np.ascontiguousarray(hq)
    for _, after in iterate_steps(hq, steps, version):
        image = after
    return image


def iterate_steps(hq: Image, steps: list[Step], version: int = VERSION) -> Iterator[tuple[int, Image]]:
    """Runs valid steps one after the other. After each step, yields (number of finished steps, image).

    In version 2, one call of `fast_blur` computes a blur and the downsample after the blur, so both steps finish
    together.
    """
    image = np.ascontiguousarray(hq)
    count = 0
    while count < len(steps):
        step, next_step = steps[count], steps[count + 1] if count + 1 < len(steps) else None
        count += 1
        if step["op"] == "blur" and version > 1:
            downsample_step = next_step if next_step and next_step["op"] == "downsample" else None
            image = fast_blur(image, step, downsample_step)
            count += downsample_step is not None
        else:
            parameters = {key: value for key, value in step.items() if key != "op"}
            if step["op"] == "upsample":
                parameters |= {"height": hq.shape[0], "width": hq.shape[1]}
            image = _FUNCTIONS[step["op"]](image, **parameters)
        image = np.ascontiguousarray(image)
        yield count, image


def apply(hq: Image, theta: Theta) -> Image:
    """Degrades one image with a θ.

    `hq` is float32 RGB (H, W, 3) in 0..1 and is not changed. The result has the shape, the dtype and the range of `hq`,
    and its values are on the 1/255 grid. The same θ and image give the same bits for any number of workers and OpenCV
    threads. Raises BadInput if the θ or the image is not valid.
    """
    check_theta(theta)
    check_image(hq)
    check_sizes(hq.shape[0], hq.shape[1], theta)
    return quantise(run_steps(hq, theta["steps"], theta["version"]))


def apply_to_pixels(pixels: Pixels, theta: Theta) -> Pixels:
    """Degrades a uint8 RGB image (H, W, 3) like `apply`, but returns uint8 and saves one conversion."""
    check_theta(theta)
    if pixels.dtype != np.uint8:
        raise BadInput(f"An 8-bit image must be uint8, not {pixels.dtype}: convert it first.")
    hq = to_float(pixels)
    check_image(hq)
    check_sizes(hq.shape[0], hq.shape[1], theta)
    return to_uint8(run_steps(hq, theta["steps"], theta["version"]))
