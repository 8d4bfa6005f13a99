"""Contains the torch engine, which runs the same θ as the exact engine on batches of torch tensors, on CPU or GPU.

    lq = apply(hq, thetas)        hq and lq: (B, 3, H, W) float RGB in 0..1; thetas: one θ for each image

Blur and resizing are the same linear maps as in `degrade.operations`. Gaussian noise has the same numbers as in the
exact engine, and colour has the same formulas. `degrade.engines.differentiable_jpeg` computes JPEG. If a step of the
exact engine rounds to 8 bits, the same step of the torch engine rounds and clips, but the gradient passes unchanged
(straight-through). Noise and colour clip without rounding. A clipped value has the gradient 0.

Every random number of Poisson noise depends on all pixels of the image before the noise. A JPEG magnifies a difference
in the last bit of its input. Therefore, if a θ has Poisson noise or more than one JPEG, the exact engine also runs the
first steps of this θ, on the CPU. Before and after Poisson noise, and before every JPEG except the last, the image of
the exact engine replaces the image of the torch engine. The gradient passes unchanged. The expected value of a noisy
image is the image without noise, so the gradient treats the noise as a constant.

With `device_noise`, the device of the images draws the numbers of all noise (`degrade.engines.device_noise`), and the
exact engine does not run. Training on a GPU degrades its inputs in this way.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor

from degrade.engines.device_noise import add_noise, add_poisson
from degrade.engines.differentiable_jpeg import from_levels, jpeg, send, straight_through, to_levels
from degrade.operations.apply import check_sizes, iterate_steps
from degrade.operations.blur import make_fast_kernel, mirror_indices
from degrade.operations.kernels import make_kernel
from degrade.operations.pixels import Image
from degrade.operations.resize import downsampled_size, resize_matrix
from degrade.theta import Step, Theta, check_theta
from manifests.errors import BadInput


def apply(hq: Tensor, thetas: Sequence[Theta], device_noise: bool = False) -> Tensor:
    """Degrades each image of a batch with its own θ.

    `hq` is a floating-point RGB tensor (B, 3, H, W) in 0..1 on any device and is not changed. For a float64 tensor, the
    computation and the result are in float64. For all other types, the computation and the result are in float32, even
    under autocast, because bfloat16 cannot represent steps of 1/255. The result has the shape of `hq`, values on the
    1/255 grid, and a gradient with respect to `hq`. Raises BadInput if the batch or a θ is not valid.

    If `device_noise` is True, the device of `hq` draws the noise numbers. The noise then has the same distribution as
    in the exact engine, but other numbers.
    """
    return degrade(_check_batch(hq, thetas), thetas, device_noise)


def degrade(hq: Tensor, thetas: Sequence[Theta], device_noise: bool = False) -> Tensor:
    """Degrades a batch like `apply`, but does not check the batch. The check would make the CPU wait for the device.

    `hq` is float32 or float64. Raises BadInput if a θ is not valid.
    """
    for theta in thetas:
        check_theta(theta)
        check_sizes(hq.shape[2], hq.shape[3], theta)
    with torch.autocast(hq.device.type, enabled=False):
        return quantise(torch.stack(run_steps(hq, thetas, device_noise)))


def _check_batch(hq: Any, thetas: Any) -> Tensor:
    if not isinstance(hq, Tensor) or hq.ndim != 4 or hq.shape[1] != 3 or hq.numel() == 0:
        shape = tuple(hq.shape) if isinstance(hq, Tensor) else type(hq).__name__
        raise BadInput(f"A batch to degrade must be an RGB tensor of shape (batch, 3, height, width), not {shape}.")
    if not hq.is_floating_point():
        raise BadInput(f"A batch to degrade must be floating-point in 0..1, not {hq.dtype}: divide uint8 by 255 first.")
    count = len(thetas) if isinstance(thetas, list | tuple) else type(thetas).__name__
    if count != len(hq):
        raise BadInput(f"A batch of {len(hq)} images needs a list of {len(hq)} θ, one for each image, not {count}.")
    low, high = hq.detach().aminmax()
    if not (low >= 0 and high <= 1):  # NaN fails too
        raise BadInput(
            f"A batch to degrade must have values from 0 to 1, but this batch has {low:g} to {high:g}: clamp it first."
        )
    return hq if hq.dtype == torch.float64 else hq.float()


def run_steps(hq: Tensor, thetas: Sequence[Theta], device_noise: bool = False) -> list[Tensor]:
    """Runs the steps of each image. Returns one tensor (3, H', W') per image, which is not rounded to 8 bits.

    The first steps of all images run first, then the second steps, and so on. Images of equal size run as one batch if
    their steps are of the same kind.
    """
    images = list(hq.unbind(0))
    # `exact` has a dict for each image of the batch. The dict maps a number of finished steps to the image of the exact
    # engine after these steps.
    exact = [{} if device_noise else _run_exact_engine(image, theta) for image, theta in zip(hq, thetas, strict=True)]
    for position in range(max(len(theta["steps"]) for theta in thetas)):
        groups: dict[tuple[object, ...], list[tuple[int, Step]]] = defaultdict(list)
        for sample, theta in enumerate(thetas):
            if position < len(theta["steps"]):
                if (replacement := exact[sample].get(position)) is not None:
                    images[sample] = straight_through(images[sample], _to_torch(replacement, images[sample]))
                step = _resolve_step(theta, position, images[sample], hq[sample], exact[sample])
                groups[step["op"], images[sample].shape, step.get("size"), step.get("interpolation")].append(
                    (sample, step)
                )
        for (name, *_), members in groups.items():
            samples, steps = zip(*members, strict=True)
            operation = _ON_DEVICE.get(str(name)) if device_noise else None
            results = (operation or _OPERATIONS[str(name)])(torch.stack([images[sample] for sample in samples]), steps)
            for sample, image in zip(samples, results.unbind(0), strict=True):
                images[sample] = image
    return images


def _run_exact_engine(hq: Tensor, theta: Theta) -> dict[int, Image]:
    """Returns the exact engine's images before and after every Poisson step and before every JPEG except the last.

    The images are keyed by the number of finished steps. The result is empty if θ has no Poisson noise and at
    most one JPEG.
    """
    steps = theta["steps"]
    needed = {place for n, step in enumerate(steps) if step["op"] == "poisson" for place in (n, n + 1)}
    needed.update([n for n, step in enumerate(steps) if step["op"] == "jpeg"][:-1])
    if not needed:
        return {}
    image = np.ascontiguousarray(hq.detach().float().permute(1, 2, 0).cpu().numpy())
    run = iterate_steps(image, steps[: max(needed)], theta["version"])
    return {count: after for count, after in itertools.chain([(0, image)], run) if count in needed}


def _resolve_step(theta: Theta, position: int, image: Tensor, hq: Tensor, exact: dict[int, Image]) -> Step:
    """Returns a step of θ in the form that this engine computes.

    A blur step gets its kernel, a resize step gets the new size, and a Poisson step gets the images before and after
    the noise. The other steps stay as they are.
    """
    steps, version = theta["steps"], theta["version"]
    step, (height, width) = steps[position], image.shape[-2:]
    match step["op"]:
        case "blur" if version > 1:  # `fast_blur` of the exact engine uses the same kernel
            following = steps[position + 1 : position + 2]
            next_step = following[0] if following and following[0]["op"] == "downsample" else None
            return {"op": "blur", "kernel": make_fast_kernel(step, height, width, next_step)}
        case "blur":
            return {"op": "blur", "kernel": make_kernel(step)}
        case "downsample":
            size = downsampled_size(height, width, step["factor"])
            return {"op": "resize", "size": size, "interpolation": step["interpolation"]}
        case "upsample":
            return {"op": "resize", "size": tuple(hq.shape[-2:]), "interpolation": step["interpolation"]}
        case "poisson" if exact:
            return {"op": "poisson", "before": exact[position], "after": exact[position + 1]}
    return dict(step)


# --- blur ---


def _blur(images: Tensor, steps: Sequence[Step]) -> Tensor:
    """Correlates each image with its own kernel by FFT. The border of the image is mirrored without repeating the edge.

    An FFT costs less than a convolution with a kernel of 41 x 41 pixels, and no setting of torch runs an FFT in TF32.
    """
    height, width = images.shape[-2:]
    size = max(len(step["kernel"]) for step in steps)
    kernels = [np.pad(step["kernel"], (size - len(step["kernel"])) // 2) for step in steps]
    images = _mirror_border(images, size // 2)
    shape = [next_fast_len(length + size - 1, real=True) for length in (height, width)]
    weights = torch.fft.rfft2(send(np.stack(kernels), images)[:, None], s=shape)
    return torch.fft.irfft2(torch.fft.rfft2(images, s=shape) * weights.conj(), s=shape)[..., :height, :width]


def _mirror_border(images: Tensor, border: int) -> Tensor:
    """Adds a mirrored border (OpenCV's BORDER_REFLECT_101). The border can be wider than the image."""
    if border < min(images.shape[-2:]):
        return torch.nn.functional.pad(images, (border, border, border, border), mode="reflect")
    for axis in (-2, -1):
        place = np.arange(-border, images.shape[axis] + border)
        index = torch.from_numpy(mirror_indices(place, images.shape[axis])).to(images.device, non_blocking=True)
        images = images.index_select(axis, index)
    return images


# --- resize ---


def _resize(images: Tensor, steps: Sequence[Step]) -> Tensor:
    """Resizes images by a product with the weights of `resize_matrix` on each axis."""
    (height, width), interpolation = steps[0]["size"], steps[0]["interpolation"]
    # If torch may compute float32 products in TF32 or bfloat16, the products are computed in float64, because the error
    # of TF32 would change 8-bit values.
    plain = images.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    precise = images if plain else images.double()
    enlarges = height > images.shape[-2] or width > images.shape[-1]
    rows = send(resize_matrix(images.shape[-2], height, interpolation, enlarges=enlarges), precise)
    columns = send(resize_matrix(images.shape[-1], width, interpolation, enlarges=enlarges), precise)
    return (rows @ precise @ columns.T).to(images.dtype)


# --- noise ---


def _noise(images: Tensor, steps: Sequence[Step]) -> Tensor:
    height, width = images.shape[-2:]
    noise = []
    for step in steps:
        numbers = np.random.Generator(np.random.PCG64(step["seed"])).standard_normal(
            (height, width, 1 if step["gray"] else 3), dtype=np.float32
        )
        numbers *= np.float32(step["sigma"] / 255)
        noise.append(torch.from_numpy(numbers).to(images).permute(2, 0, 1).expand(3, -1, -1))
    return (images + torch.stack(noise)).clamp(0, 1)


def _poisson(images: Tensor, steps: Sequence[Step]) -> Tensor:
    """Returns the noisy images that the exact engine computed. A clipped value has the gradient 0."""
    results = []
    for image, step in zip(images, steps, strict=True):
        before, after = step["before"], step["after"]
        # If a value is exactly 0 before and after the noise, or exactly 1 before and after, the value counts as not
        # clipped.
        clipped = ((after <= 0) | (after >= 1)) & (after != before)
        noisy = _to_torch(after, image)
        results.append(straight_through(torch.where(_to_torch(clipped, image).bool(), noisy, image), noisy))
    return torch.stack(results)


def _to_torch(image: NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(like)


# --- colour, with the formulas of degrade.operations.colour on tensors with the channels first ---


def _broadcast(values: Sequence[float], images: Tensor) -> Tensor:
    return send(values, images)[:, None, None, None]


def _blend(images: Tensor, other: Tensor, steps: Sequence[Step]) -> Tensor:
    factor = _broadcast([step["factor"] for step in steps], images)
    rest = _broadcast([1 - step["factor"] for step in steps], images)
    return (factor * images + rest * other).clamp(0, 1)


def _luma(images: Tensor, red: float = 0.2989) -> Tensor:
    """Returns the luma. `red` is the weight of the red channel: 0.2989 in torchvision, and 0.299 in OpenCV."""
    return (red * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2])[:, None]


def _shift(images: Tensor, steps: Sequence[Step]) -> Tensor:
    return (images + send([[s["red"], s["green"], s["blue"]] for s in steps], images)[..., None, None]).clamp(0, 1)


def _gray(images: Tensor, steps: Sequence[Step]) -> Tensor:
    return _luma(images, red=0.299).expand_as(images)


def _brightness(images: Tensor, steps: Sequence[Step]) -> Tensor:
    return (images * _broadcast([s["factor"] for s in steps], images)).clamp(0, 1)


def _contrast(images: Tensor, steps: Sequence[Step]) -> Tensor:
    return _blend(images, _luma(images).mean((-2, -1), keepdim=True, dtype=torch.float64).to(images.dtype), steps)


def _saturation(images: Tensor, steps: Sequence[Step]) -> Tensor:
    return _blend(images, _luma(images), steps)


def _hue(images: Tensor, steps: Sequence[Step]) -> Tensor:
    """Rotates the hue in HSV. A gray pixel has no hue and does not change."""
    red, green, blue = images.clamp(0, 1).unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = torch.where(chroma > 0, chroma, 1)
    low = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(value == red, (green - blue) / divisor, low)
    hue = hue + 6 * _broadcast([s["factor"] for s in steps], images)[:, 0]
    distances = [torch.remainder(hue + sixths, 6) for sixths in (5, 3, 1)]  # red, green, blue
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in distances], dim=1)


def _jpeg(images: Tensor, steps: Sequence[Step]) -> Tensor:
    return jpeg(images, [step["quality"] for step in steps])


def quantise(images: Tensor) -> Tensor:
    """Clips to 0..1 and rounds to 8 bits, with a straight-through gradient."""
    return from_levels(to_levels(images))


# The function of each operation gets N images of equal size, (N, 3, H, W), and their N steps.
_OPERATIONS: dict[str, Callable[[Tensor, Sequence[Step]], Tensor]] = {
    "blur": _blur,
    "resize": _resize,
    "noise": _noise,
    "poisson": _poisson,
    "jpeg": _jpeg,
    "shift": _shift,
    "gray": _gray,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
    "quantise": lambda images, steps: quantise(images),
}
# The functions that replace functions of _OPERATIONS if the device draws the noise.
_ON_DEVICE = {"noise": add_noise, "poisson": add_poisson}
