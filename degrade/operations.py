"""The exact engine: pure functions on float32 RGB pictures (H, W, 3) in 0..1, and `apply`, which runs the steps of a θ.

The chain is the literature's: blur -> downsample -> noise -> JPEG -> upsample (-> colour). Where it clips and rounds
follows BasicSR's degradations.py and GFPGAN's ffhq_degradation_dataset.py, and is said at each operation:
noise clips to 0..1 and does not round; JPEG rounds to 8 bits because an encoder can do nothing else; the end of the
chain clips and rounds to 8 bits, so what `apply` returns is exactly what a PNG holds.

θ is plain JSON, versioned and complete:

    {"version": 1, "preset": "gfpgan", "steps": [
        {"op": "blur", "kernel": "aniso", "size": 41, "sigma_x": 3.1, "sigma_y": 7.9, "angle": 0.4},
        {"op": "downsample", "factor": 4.2, "interpolation": "bilinear"},
        {"op": "noise", "sigma": 11.0, "gray": false, "seed": 81985529216486},
        {"op": "jpeg", "quality": 73},
        {"op": "upsample", "interpolation": "bilinear"}]}

`preset` is a note and changes nothing. Lengths are pixels of the picture given, angles radians, noise is in 1/255.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from manifests.errors import BadInput

Theta = dict[str, Any]
Step = dict[str, Any]
Image = NDArray[np.float32]
Pixels = NDArray[np.uint8]

VERSION = 1

# --- 8 bits and back ---


def to_uint8(image: Image) -> Pixels:
    """Clip to 0..1 and round to 8 bits, halves to even as torch and OpenCV round (GFPGAN's last line)."""
    return np.clip(np.rint(image * np.float32(255)), 0, 255).astype(np.uint8)


def to_float(pixels: Pixels) -> Image:
    """uint8 to float32 in 0..1."""
    return pixels.astype(np.float32) / np.float32(255)


def shrink(pixels: Pixels, size: int | None) -> Pixels:
    """uint8 RGB (H, W, 3), area-resized so that its longer side is `size`; a smaller picture, or None, stays as it is.

    Frozen sets degrade a 512 px crop after this, and its result is the target to compare a restored face with.
    """
    height, width = pixels.shape[:2]
    if size is None or max(height, width) <= size:
        return pixels
    scale = size / max(height, width)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA), np.uint8)


# --- blur ---


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, angle: float) -> NDArray[np.float64]:
    """A Gaussian cut to `size` x `size` (odd) and normalised to sum 1, float64: BasicSR's random_bivariate_*_Gaussian.

    `angle` in radians turns the x axis towards y, which points down. A sigma below 0.01 counts as 0.01: on a pixel
    grid both are no blur at all.
    """
    x = np.arange(size, dtype=np.float64) - size // 2
    sx, sy = max(sigma_x, 0.01), max(sigma_y, 0.01)
    c, s = math.cos(angle), math.sin(angle)
    along = (c * x[None, :] + s * x[:, None]) / sx
    across = (c * x[:, None] - s * x[None, :]) / sy
    kernel = np.exp(-0.5 * (along * along + across * across))
    return np.asarray(kernel / kernel.sum(), np.float64)


def blur(image: Image, kernel: str, size: int, sigma_x: float, sigma_y: float, angle: float) -> Image:
    """Gaussian blur with a mirrored border (OpenCV's default, as in BasicSR); no clipping.

    `iso` uses sigma_x alone and runs as two 1-D passes, which is the same product; `aniso` is the 2-D kernel.
    """
    if kernel == "iso":
        x = np.arange(size, dtype=np.float64) - size // 2
        line = np.exp(-0.5 * (x / max(sigma_x, 0.01)) ** 2)
        line /= line.sum()
        return np.asarray(cv2.sepFilter2D(image, -1, line, line), np.float32)
    return np.asarray(cv2.filter2D(image, -1, gaussian_kernel(size, sigma_x, sigma_y, angle)), np.float32)


# --- resize ---

_OPENCV = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}
INTERPOLATIONS = (*_OPENCV, "imresize")


def resize(image: Image, height: int, width: int, interpolation: str) -> Image:
    """Resize to (height, width), no clipping.

    bilinear, bicubic and area are OpenCV's, of which area alone does not alias when shrinking; `imresize` is the
    antialiased bicubic of MATLAB that super-resolution papers mean by "bicubic".
    """
    if interpolation != "imresize":
        return np.asarray(cv2.resize(image, (width, height), interpolation=_OPENCV[interpolation]), np.float32)
    return _imresize_rows(_imresize_rows(image, height).transpose(1, 0, 2), width).transpose(1, 0, 2)


def _imresize_rows(image: Image, rows: int) -> Image:
    """One axis of MATLAB's imresize: Keys' cubic, a = -0.5, widened when shrinking; the border is mirrored."""
    count = image.shape[0]
    scale = rows / count
    stretch = min(scale, 1.0)
    centre = (np.arange(rows) + 0.5) / scale - 0.5
    taps = math.ceil(4 / stretch) + 2
    index = np.floor(centre - 2 / stretch).astype(np.int64)[:, None] + np.arange(taps)
    x = np.abs((centre[:, None] - index) * stretch)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weight = np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
    weight = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    index = index % (2 * count)
    index = np.where(index < count, index, 2 * count - 1 - index)
    result = np.zeros((rows, *image.shape[1:]), np.float32)
    for tap in range(taps):  # a matrix product would do, but BLAS sums in another order on another processor
        result += weight[:, tap, None, None] * image[index[:, tap]]
    return result


def downsample(image: Image, factor: float, interpolation: str) -> Image:
    """Resize to int(side // factor), as GFPGAN does, and never below one pixel (ours); no clipping."""
    height, width = image.shape[:2]
    return resize(image, max(1, int(height // factor)), max(1, int(width // factor)), interpolation)


# --- noise ---


def noise(image: Image, sigma: float, gray: bool, seed: int) -> Image:
    """Add Gaussian noise of `sigma`/255 and clip to 0..1 without rounding (BasicSR: clip=True, rounds=False).

    The numbers are numpy's PCG64 seeded with `seed` alone, float32, in the picture's order; `gray` uses one per pixel.
    """
    shape = (*image.shape[:2], 1) if gray else image.shape
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)
    return np.clip(image + drawn * np.float32(sigma / 255), 0, 1)


# --- JPEG ---


def jpeg_bytes(image: Image, quality: int) -> bytes:
    """The JPEG file, baseline 4:2:0, of the picture clipped and rounded to 8 bits.

    OpenCV's encoder takes BGR, so channels are turned around it: YCbCr then weighs red as red. An engine that hands
    RGB to the same encoder swaps the weights of red and blue and gets another picture at the same quality.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(to_uint8(image), cv2.COLOR_RGB2BGR), options)
    if not done:
        raise BadInput(f"A picture of {image.shape[1]} x {image.shape[0]} pixels does not fit into a JPEG.")
    return data.tobytes()


def jpeg(image: Image, quality: int) -> Image:
    """Compress and decompress; the result has 8-bit values."""
    decoded = cv2.imdecode(np.frombuffer(jpeg_bytes(image, quality), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded a line ago
    return to_float(np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8))


# --- colour, as GFPGAN jitters its inputs ---


def shift(image: Image, red: float, green: float, blue: float) -> Image:
    """Add a constant to each channel and clip to 0..1 (GFPGAN color_jitter)."""
    return np.clip(image + np.array([red, green, blue], np.float32), 0, 1)


def gray(image: Image) -> Image:
    """BT.601 luma in all three channels (GFPGAN: cv2.COLOR_BGR2GRAY); no clipping needed."""
    return np.repeat(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)[..., None], 3, axis=2)


def _luma(image: Image) -> Image:
    # torchvision's rgb_to_grayscale, whose 0.2989 differs from OpenCV's 0.299
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return np.float32(0.2989) * red + np.float32(0.587) * green + np.float32(0.114) * blue


def _blend(image: Image, other: Any, factor: float) -> Image:
    return np.clip(np.float32(factor) * image + np.float32(1 - factor) * other, 0, 1)


def brightness(image: Image, factor: float) -> Image:
    """Multiply and clip to 0..1 (torchvision adjust_brightness)."""
    return np.clip(image * np.float32(factor), 0, 1)


def contrast(image: Image, factor: float) -> Image:
    """Blend with the mean luma and clip to 0..1 (torchvision adjust_contrast)."""
    return _blend(image, np.float32(_luma(image).mean(dtype=np.float64)), factor)


def saturation(image: Image, factor: float) -> Image:
    """Blend with the luma and clip to 0..1 (torchvision adjust_saturation)."""
    return _blend(image, _luma(image)[..., None], factor)


def hue(image: Image, factor: float) -> Image:
    """Turn the hue by `factor` of a full circle, -0.5..0.5 (torchvision adjust_hue); the picture is clipped before."""
    hsv = np.asarray(cv2.cvtColor(np.clip(image, 0, 1), cv2.COLOR_RGB2HSV), np.float32)
    hsv[..., 0] = np.mod(hsv[..., 0] + np.float32(360 * factor), np.float32(360))
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)


def quantise(image: Image) -> Image:
    """Clip to 0..1 and round to 8 bits: what writing a file in the middle of a chain does."""
    return to_float(to_uint8(image))


# --- θ ---


@dataclass(frozen=True)
class _Number:
    low: float
    high: float
    whole: bool = False

    def problem(self, value: object) -> str | None:
        kinds = (int,) if self.whole else (int, float)
        # NaN fails the comparison; True is an int to Python and not to us
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.low <= value <= self.high:
            return f"a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g}"
        return None


@dataclass(frozen=True)
class _OneOf:
    choices: tuple[object, ...]

    def problem(self, value: object) -> str | None:
        if any(value is choice or (isinstance(value, str) and value == choice) for choice in self.choices):
            return None
        return " or ".join(str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in self.choices)


_SIGMA, _RESIZE, _SHIFT = _Number(0, 1000), _OneOf(INTERPOLATIONS), _Number(-1, 1)

# op -> (function, its parameters and what they may be); limits are ours, far outside every published range
_OPERATIONS: dict[str, tuple[Callable[..., Image], dict[str, _Number | _OneOf]]] = {
    "blur": (
        blur,
        {
            "kernel": _OneOf(("iso", "aniso")),
            "size": _Number(1, 255, whole=True),
            "sigma_x": _SIGMA,
            "sigma_y": _SIGMA,
            "angle": _Number(-1000, 1000),
        },
    ),
    "downsample": (downsample, {"factor": _Number(0.1, 100_000), "interpolation": _RESIZE}),
    # below 2**53, so that every JSON reader keeps the seed
    "noise": (noise, {"sigma": _SIGMA, "gray": _OneOf((True, False)), "seed": _Number(0, 2**53, whole=True)}),
    "jpeg": (jpeg, {"quality": _Number(1, 100, whole=True)}),
    "upsample": (resize, {"interpolation": _RESIZE}),
    "shift": (shift, {"red": _SHIFT, "green": _SHIFT, "blue": _SHIFT}),
    "gray": (gray, {}),
    "brightness": (brightness, {"factor": _Number(0, 100)}),
    "contrast": (contrast, {"factor": _Number(0, 100)}),
    "saturation": (saturation, {"factor": _Number(0, 100)}),
    "hue": (hue, {"factor": _Number(-0.5, 0.5)}),
    "quantise": (quantise, {}),
}


def check_theta(theta: Any) -> None:
    """Raise BadInput, one sentence, where θ is not complete and valid."""
    if not isinstance(theta, dict):
        raise BadInput("A θ is a JSON object with the keys version and steps.")
    for key in ("version", "steps"):
        if key not in theta:
            raise BadInput(f"This θ has no {key}: it is incomplete and cannot be replayed.")
    version = theta["version"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BadInput(f"The version of this θ is {version!r}; it must be a whole number from 1 to {VERSION}.")
    if version > VERSION:
        raise BadInput(f"This θ has version {version}, and this Likeness knows versions to {VERSION}: update Likeness.")
    if unknown := sorted(set(theta) - {"version", "preset", "steps"}):
        raise BadInput(f"This θ has a key that version {version} does not know: {unknown[0]}.")
    if not isinstance(theta["steps"], list):
        raise BadInput("The steps of a θ are a list.")
    for number, step in enumerate(theta["steps"], 1):
        _check_step(f"Step {number} of this θ", step)


def _check_step(where: str, step: Any) -> None:
    name = step.get("op") if isinstance(step, dict) else None
    if not isinstance(name, str) or name not in _OPERATIONS:
        raise BadInput(f"{where} names no known operation ({', '.join(_OPERATIONS)}).")
    _, fields = _OPERATIONS[name]
    for key, field in fields.items():
        if key not in step:
            raise BadInput(f"{where} ({name}) has no {key}: it is incomplete and cannot be replayed.")
        if problem := field.problem(step[key]):
            raise BadInput(f"{where} ({name}): {key} is {step[key]!r}; it must be {problem}.")
    if unknown := sorted(set(step) - {"op", *fields}):
        raise BadInput(f"{where} ({name}) has a key that nobody knows: {unknown[0]}.")
    if name == "blur" and step["size"] % 2 == 0:
        raise BadInput(f"{where} (blur): size is {step['size']}; it must be odd.")


def check_image(image: Any) -> None:
    """Raise BadInput unless `image` is a float32 RGB array (H, W, 3) in 0..1 with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        shape = getattr(image, "shape", type(image).__name__)
        raise BadInput(f"A picture to degrade is an RGB array of shape (height, width, 3), not {shape}.")
    if image.dtype != np.float32:
        raise BadInput(f"A picture to degrade is float32 in 0..1, not {image.dtype}: divide uint8 by 255 first.")
    if not (image.min() >= 0 and image.max() <= 1):  # NaN fails too
        raise BadInput("A picture to degrade has values from 0 to 1, and this one has others.")


def run_steps(hq: Image, steps: list[Step]) -> Image:
    """Run checked steps without the rounding at the end; float32, the size where the steps leave it."""
    image = np.ascontiguousarray(hq)
    for step in steps:
        function, fields = _OPERATIONS[step["op"]]
        parameters = {key: step[key] for key in fields}
        if step["op"] == "upsample":
            parameters |= {"height": hq.shape[0], "width": hq.shape[1]}
        image = np.ascontiguousarray(function(image, **parameters))
    return image


def apply(hq: Image, theta: Theta) -> Image:
    """Degrade one picture by θ.

    `hq` is float32 RGB (H, W, 3) in 0..1 and is not changed; the result has the same shape, dtype and range, and values
    on the 1/255 grid. The same θ and picture give the same bits whatever the number of workers or OpenCV threads.
    Raises BadInput for a θ or a picture that cannot be used.
    """
    check_theta(theta)
    check_image(hq)
    result = quantise(run_steps(hq, theta["steps"]))
    if result.shape != hq.shape:
        raise BadInput("This θ downsamples and never upsamples, so its result has another size than its input.")
    return result
