"""Runs a θ with BasicSR's degradations.py, the code that published papers used (`--engine basicsr`).

    lq = apply(hq, θ)        the same shapes, dtypes and ranges as `degrade.operations.apply.apply`

The tests compare the exact engine with BasicSR's code. Users can run BasicSR's code to degrade images as published
papers did. BasicSR's functions make the kernels, the noise and the JPEG. Blur, resizing and colour use the same calls
of OpenCV and torchvision as GFPGAN's ffhq_degradation_dataset.py. In BasicSR, a function `random_*` draws numbers, and
then calls a deterministic function with these numbers. basicsr_reference.py calls the deterministic function directly,
with the numbers of θ. Images are BGR inside basicsr_reference.py, as in BasicSR. The `motion` kernel is ours.

BasicSR 1.4.2 needs two repairs. First, BasicSR imports `torchvision.transforms.functional_tensor`, which torchvision
0.17 removed. basicsr_reference.py registers a replacement for `functional_tensor`. Second, BasicSR passes its JPEG
quality to OpenCV as a float if the quality is a float. OpenCV 5 accepts only a whole number, so basicsr_reference.py
passes an int.

The next random numbers are in a global variable, so a process can degrade only one image at a time.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from degrade.operations.apply import check_image, check_sizes
from degrade.operations.kernels import make_kernel
from degrade.operations.pixels import Image, quiet_opencv, to_uint8
from degrade.operations.resize import downsampled_size
from degrade.theta import Step, Theta, check_theta
from manifests.errors import BadInput

# The smallest sigma of a kernel in pixels, as in degrade.operations.kernels. At sigma 0, BasicSR would invert a
# singular matrix.
_SMALLEST_SIGMA = 0.01
_OPENCV = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}


class _Numbers:
    """Replaces numpy.random inside BasicSR. Each method returns `ready`, and then sets `ready` to None."""

    ready: NDArray[Any] | None = None

    def randn(self, *shape: int) -> NDArray[Any]:
        return self._take(shape)

    def poisson(self, expected: NDArray[Any]) -> NDArray[Any]:
        return self._take(expected.shape)

    def _take(self, shape: tuple[int, ...]) -> NDArray[Any]:
        numbers, self.ready = self.ready, None
        assert numbers is not None and numbers.shape == shape
        return numbers


_numbers = _Numbers()


@cache
def load_basicsr() -> Any:
    """Returns the repaired module basicsr.data.degradations. Raises BadInput if basicsr is not installed."""
    name = "torchvision.transforms.functional_tensor"
    try:
        import torchvision.transforms.functional as functional

        replacement = types.ModuleType(name)
        replacement.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
        sys.modules.setdefault(name, replacement)
        with np.errstate():  # np.errstate restores numpy's error handling, which basicsr changes
            from basicsr.data import degradations
    except ImportError as error:
        raise BadInput(
            f"--engine basicsr needs the package basicsr ({error}). Run `pip install --no-deps basicsr==1.4.2` with "
            "Python 3.11 or 3.12."
        ) from None
    numpy = types.ModuleType("numpy")
    numpy.__dict__.update(np.__dict__, random=_numbers)
    degradations.np = numpy
    return degradations


def apply(hq: Image, theta: Theta) -> Image:
    """Degrades one image with a θ and BasicSR's code.

    The arguments and the result are as in `degrade.operations.apply.apply`. Raises BadInput if the θ or the image is
    not valid, or if basicsr is not installed. Also raises BadInput if `imresize` cannot reach the size of the result
    with one scale for both sides.
    """
    check_theta(theta)
    check_image(hq)
    check_sizes(hq.shape[0], hq.shape[1], theta)
    image = run_steps(hq, theta["steps"])
    return _quantise(image)  # GFPGAN's dataset class also rounds to 8 bits at the end


def run_steps(hq: Image, steps: list[Step]) -> Image:
    """Runs steps, which must be valid, on an RGB image. Returns an RGB image that is not rounded to 8 bits."""
    load_basicsr()
    image = np.ascontiguousarray(hq[..., ::-1])
    for step in steps:
        parameters = {key: value for key, value in step.items() if key != "op"}
        if step["op"] == "upsample":
            parameters |= {"height": hq.shape[0], "width": hq.shape[1]}
        with np.errstate(divide="ignore", invalid="ignore"):
            image = _OPERATIONS[step["op"]](image, **parameters)
    return np.ascontiguousarray(image[..., ::-1], np.float32)


def make_step_kernel(step: Step) -> NDArray[np.float64]:
    """Returns the kernel (size, size) of a valid blur step. BasicSR computes every kernel except `motion`."""
    basicsr, name, size = load_basicsr(), step["kernel"], step["size"]
    if name == "motion":
        return make_kernel(step)
    with np.errstate(divide="ignore", invalid="ignore"):
        if name == "sinc":
            return np.asarray(basicsr.circular_lowpass_kernel(step["cutoff"], size), np.float64)
        isotropic = not name.endswith("aniso")
        sigmas = max(step["sigma_x"], _SMALLEST_SIGMA), max(step["sigma_y"], _SMALLEST_SIGMA)
        shape = (size, *sigmas, step["angle"])
        if name in ("iso", "aniso"):
            return np.asarray(basicsr.bivariate_Gaussian(*shape, isotropic=isotropic), np.float64)
        function = basicsr.bivariate_plateau if "plateau" in name else basicsr.bivariate_generalized_Gaussian
        return np.asarray(function(*shape, step["beta"], isotropic=isotropic), np.float64)


def _blur(image: Image, **step: Any) -> Image:
    return np.asarray(cv2.filter2D(image, -1, make_step_kernel(step)), np.float32)


def _resize(image: Image, height: int, width: int, interpolation: str) -> Image:
    if interpolation == "pool":
        import torch

        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
        pooled = torch.nn.functional.interpolate(planes, size=(height, width), mode="area")[0].numpy()
        return np.ascontiguousarray(pooled.transpose(1, 2, 0))
    if interpolation != "imresize":
        return np.asarray(cv2.resize(image, (width, height), interpolation=_OPENCV[interpolation]), np.float32)
    from basicsr.utils.matlab_functions import imresize

    rows, columns = image.shape[:2]
    scale = height / rows
    if (math.ceil(rows * scale), math.ceil(columns * scale)) != (height, width):
        raise BadInput(
            f"basicsr's imresize has one scale for both sides and cannot resize {columns} x {rows} to "
            f"{width} x {height}: leave --engine out, or use images whose sides are multiples of the factor."
        )
    return np.asarray(imresize(image, scale), np.float32)


def _downsample(image: Image, factor: float, interpolation: str) -> Image:
    return _resize(image, *downsampled_size(image.shape[0], image.shape[1], factor), interpolation)


def _noise(image: Image, sigma: float, gray: bool, seed: int) -> Image:
    shape = image.shape[:2] if gray else image.shape
    numbers = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)
    _numbers.ready = numbers if gray else numbers[..., ::-1]  # θ gives the numbers in the order RGB
    return np.asarray(
        load_basicsr().add_gaussian_noise(image, sigma, clip=True, rounds=False, gray_noise=gray), np.float32
    )


def _poisson(image: Image, scale: float, gray: bool, seed: int) -> Image:
    source = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.float32) if gray else image[..., ::-1]
    pixels = to_uint8(np.ascontiguousarray(source))
    levels = 2.0 ** math.ceil(math.log2(len(np.unique(pixels))))
    numbers = np.random.Generator(np.random.PCG64(seed)).poisson(pixels * (levels / 255))
    _numbers.ready = numbers if gray else numbers[..., ::-1]
    return np.asarray(
        load_basicsr().add_poisson_noise(image, scale, clip=True, rounds=False, gray_noise=gray), np.float32
    )


def _jpeg(image: Image, quality: int) -> Image:
    with quiet_opencv():  # OpenCV 5 would warn about the rounding of floats to 8 bits
        return np.asarray(load_basicsr().add_jpg_compression(image, int(quality)), np.float32)


def jpeg_bytes(image: Image, quality: int) -> bytes:
    """Returns the JPEG file that BasicSR's add_jpg_compression makes of a float32 RGB image (H, W, 3)."""
    bgr = np.clip(image[..., ::-1], 0, 1)
    return bytes(cv2.imencode(".jpg", bgr * 255.0, [int(cv2.IMWRITE_JPEG_QUALITY), int(quality)])[1])


# --- colour changes of GFPGAN's data set ---


def _shift(image: Image, red: float, green: float, blue: float) -> Image:
    return np.clip(image + np.array([blue, green, red], np.float32), 0, 1)


def _gray(image: Image) -> Image:
    return np.tile(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.float32)[:, :, None], [1, 1, 3])


def _make_adjuster(name: str) -> Callable[..., Image]:
    def adjust(image: Image, factor: float) -> Image:
        import torch
        import torchvision.transforms.functional as functional

        rgb = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))
        if name == "hue":
            rgb = rgb.clamp(0, 1)  # clip, because torchvision's adjust_hue needs values in 0..1
        adjusted = getattr(functional, f"adjust_{name}")(rgb, factor).numpy()
        return np.ascontiguousarray(adjusted.transpose(1, 2, 0)[..., ::-1])

    return adjust


def _quantise(image: Image) -> Image:
    return np.asarray(np.clip((image * 255.0).round(), 0, 255) / np.float32(255), np.float32)


_OPERATIONS: dict[str, Callable[..., Image]] = {
    "blur": _blur,
    "downsample": _downsample,
    "noise": _noise,
    "poisson": _poisson,
    "jpeg": _jpeg,
    "upsample": _resize,
    "shift": _shift,
    "gray": _gray,
    "brightness": _make_adjuster("brightness"),
    "contrast": _make_adjuster("contrast"),
    "saturation": _make_adjuster("saturation"),
    "hue": _make_adjuster("hue"),
    "quantise": _quantise,
}
