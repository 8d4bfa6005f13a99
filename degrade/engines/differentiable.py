"""The torch twin of the exact engine: the same θ, batched, on CPU or GPU, differentiable in the picture.

    lq = apply(hq, thetas)        (B, 3, H, W) float RGB 0..1 in and out, one θ a sample

Blur and resizing are the same linear maps as in `degrade.operations`, Gaussian noise the same numbers, colour the same
formulas; JPEG is `degrade.engines.differentiable_jpeg`. Where the exact engine rounds to 8 bits, rounding and the
clipping that goes with it are straight-through: the values are rounded, the gradient is passed on. Where it clips
without rounding (noise, colour) the gradient is the clip's own, 0 where a value is cut off.

Poisson noise is a draw whose every number depends on all pixels before it, and a JPEG magnifies the last bit of the
one before it. So a θ with Poisson noise or with two JPEGs runs in the exact engine too, on the CPU, up to there, and
its picture takes the place of the twin's, straight-through. The expectation of Poisson noise is the picture, so the
gradient takes what it adds for a constant.
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

from degrade.engines.differentiable_jpeg import from_levels, jpeg, straight_through, to_levels
from degrade.operations.apply import check_sizes, iterate_steps
from degrade.operations.blur import fast_kernel, mirror_indices
from degrade.operations.kernels import make_kernel
from degrade.operations.pixels import Image
from degrade.operations.resize import downsampled_size, resize_matrix
from degrade.theta import Step, Theta, check_theta
from manifests.errors import BadInput


def apply(hq: Tensor, thetas: Sequence[Theta]) -> Tensor:
    """Degrade a batch, each sample by its own θ.

    `hq` is a floating-point RGB tensor (B, 3, H, W) in 0..1 on any device and is not changed. float64 is computed in
    float64; float32, float16 and bfloat16, and whatever autocast says, in float32 (the result too: bfloat16 cannot
    hold 1/255 steps). The result has the shape of `hq`, values on the 1/255 grid as the exact engine's, and a gradient
    with respect to `hq`. Raises BadInput for a batch, or a θ, that cannot be used.
    """
    hq = _checked(hq, thetas)
    with torch.autocast(hq.device.type, enabled=False):
        images = run_steps(hq, thetas)
        return quantise(torch.stack(images))


def _checked(hq: Any, thetas: Any) -> Tensor:
    if not isinstance(hq, Tensor) or hq.ndim != 4 or hq.shape[1] != 3 or hq.numel() == 0:
        shape = tuple(hq.shape) if isinstance(hq, Tensor) else type(hq).__name__
        raise BadInput(f"A batch to degrade is an RGB tensor of shape (batch, 3, height, width), not {shape}.")
    if not hq.is_floating_point():
        raise BadInput(f"A batch to degrade is floating-point in 0..1, not {hq.dtype}: divide uint8 by 255 first.")
    given = len(thetas) if isinstance(thetas, list | tuple) else type(thetas).__name__
    if given != len(hq):
        raise BadInput(f"A batch of {len(hq)} needs a list of {len(hq)} θ, one a sample, not {given}.")
    for theta in thetas:
        check_theta(theta)
        check_sizes(hq.shape[2], hq.shape[3], theta)
    low, high = hq.detach().aminmax()
    if not (low >= 0 and high <= 1):  # NaN fails too
        raise BadInput("A batch to degrade has values from 0 to 1, and this one has others: clamp it first.")
    return hq if hq.dtype == torch.float64 else hq.float()


def run_steps(hq: Tensor, thetas: Sequence[Theta]) -> list[Tensor]:
    """Run the steps of each sample's checked θ without the rounding at the end; (3, H', W') each, as they leave it.

    Samples whose next step is of one kind and which are of one size at that point take it together.
    """
    images = list(hq.unbind(0))
    exact = [_exact_pictures(image, theta) for image, theta in zip(hq, thetas, strict=True)]
    for position in range(max(len(theta["steps"]) for theta in thetas)):
        together: dict[tuple[object, ...], list[tuple[int, Step]]] = defaultdict(list)
        for sample, theta in enumerate(thetas):
            if position < len(theta["steps"]):
                if (picture := exact[sample].get(position)) is not None:
                    images[sample] = straight_through(images[sample], _to_torch(picture, images[sample]))
                step = _resolved(theta, position, images[sample], hq[sample], exact[sample])
                together[step["op"], images[sample].shape, step.get("size"), step.get("interpolation")].append(
                    (sample, step)
                )
        for (name, *_), members in together.items():
            samples, steps = zip(*members, strict=True)
            done = _OPERATIONS[str(name)](torch.stack([images[sample] for sample in samples]), steps)
            for sample, image in zip(samples, done.unbind(0), strict=True):
                images[sample] = image
    return images


def _exact_pictures(hq: Tensor, theta: Theta) -> dict[int, Image]:
    """The exact engine's own picture before and after every Poisson step and before every JPEG but the last, keyed by
    how many steps are done; empty for a θ that has none of them."""
    steps = theta["steps"]
    wanted = {place for n, step in enumerate(steps) if step["op"] == "poisson" for place in (n, n + 1)}
    wanted.update([n for n, step in enumerate(steps) if step["op"] == "jpeg"][:-1])
    if not wanted:
        return {}
    image = np.ascontiguousarray(hq.detach().float().permute(1, 2, 0).cpu().numpy())
    run = iterate_steps(image, steps[: max(wanted)], theta["version"])
    return {at: picture for at, picture in itertools.chain([(0, image)], run) if at in wanted}


def _resolved(theta: Theta, position: int, image: Tensor, hq: Tensor, exact: dict[int, Image]) -> Step:
    """A step with all that it takes from its place in the chain: the kernel, the size of the result, the noise."""
    steps, version = theta["steps"], theta["version"]
    step, (height, width) = steps[position], image.shape[-2:]
    match step["op"]:
        case "blur" if version > 1:  # what the exact engine runs as one, with its kernel
            then = next((after for after in steps[position + 1 : position + 2] if after["op"] == "downsample"), None)
            return {"op": "blur", "kernel": fast_kernel(step, height, width, then)}
        case "blur":
            return {"op": "blur", "kernel": make_kernel(step)}
        case "downsample":
            size = downsampled_size(height, width, step["factor"])
            return {"op": "resize", "size": size, "interpolation": step["interpolation"]}
        case "upsample":
            return {"op": "resize", "size": tuple(hq.shape[-2:]), "interpolation": step["interpolation"]}
        case "poisson":
            return {"op": "poisson", "before": exact[position], "after": exact[position + 1]}
    return dict(step)


# --- blur ---


def _blur(images: Tensor, steps: Sequence[Step]) -> Tensor:
    """Correlation with each sample's kernel by FFT, the border mirrored without its last pixel.

    A transform costs less than the passes of a kernel of 41 pixels, and no setting makes TF32 of it.
    """
    height, width = images.shape[-2:]
    size = max(len(step["kernel"]) for step in steps)
    kernels = [np.pad(step["kernel"], (size - len(step["kernel"])) // 2) for step in steps]
    images = _bordered(images, size // 2)
    shape = [next_fast_len(length + size - 1, real=True) for length in (height, width)]
    weights = torch.fft.rfft2(images.new_tensor(np.stack(kernels))[:, None], s=shape)
    return torch.fft.irfft2(torch.fft.rfft2(images, s=shape) * weights.conj(), s=shape)[..., :height, :width]


def _bordered(images: Tensor, border: int) -> Tensor:
    """OpenCV's BORDER_REFLECT_101, which mirrors again and again where a picture is narrower than its border."""
    if border < min(images.shape[-2:]):
        return torch.nn.functional.pad(images, (border, border, border, border), mode="reflect")
    for axis in (-2, -1):
        place = np.arange(-border, images.shape[axis] + border)
        index = torch.from_numpy(mirror_indices(place, images.shape[axis])).to(images.device)
        images = images.index_select(axis, index)
    return images


# --- resize ---


def _resize(images: Tensor, steps: Sequence[Step]) -> Tensor:
    """Two products with the 1-D weights of OpenCV or imresize."""
    (height, width), interpolation = steps[0]["size"], steps[0]["interpolation"]
    # a setting may turn float32 products into TF32 or bfloat16 ones, which 1/255 would show
    plain = images.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    precise = images if plain else images.double()
    rows = precise.new_tensor(resize_matrix(images.shape[-2], height, interpolation))
    columns = precise.new_tensor(resize_matrix(images.shape[-1], width, interpolation))
    return (rows @ precise @ columns.T).to(images.dtype)


# --- noise ---


def _noise(images: Tensor, steps: Sequence[Step]) -> Tensor:
    height, width = images.shape[-2:]
    drawn = []
    for step in steps:
        numbers = np.random.Generator(np.random.PCG64(step["seed"])).standard_normal(
            (height, width, 1 if step["gray"] else 3), dtype=np.float32
        )
        numbers *= np.float32(step["sigma"] / 255)
        drawn.append(torch.from_numpy(numbers).to(images).permute(2, 0, 1).expand(3, -1, -1))
    return (images + torch.stack(drawn)).clamp(0, 1)


def _poisson(images: Tensor, steps: Sequence[Step]) -> Tensor:
    """The exact engine's noisy picture; what it clipped takes no gradient."""
    results = []
    for image, step in zip(images, steps, strict=True):
        before, after = step["before"], step["after"]
        cut = ((after <= 0) | (after >= 1)) & (after != before)  # where it added nothing, it clipped nothing
        noisy = _to_torch(after, image)
        results.append(straight_through(torch.where(_to_torch(cut, image).bool(), noisy, image), noisy))
    return torch.stack(results)


def _to_torch(image: NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(like)


# --- colour: the formulas of degrade.operations.apply, channels first ---


def _each(values: Sequence[float], images: Tensor) -> Tensor:
    return images.new_tensor(values)[:, None, None, None]


def _blend(images: Tensor, other: Tensor, steps: Sequence[Step]) -> Tensor:
    factor = _each([step["factor"] for step in steps], images)
    rest = _each([1 - step["factor"] for step in steps], images)
    return (factor * images + rest * other).clamp(0, 1)


def _luma(images: Tensor, red: float = 0.2989) -> Tensor:
    """torchvision's by default; OpenCV's has 0.299 red."""
    return (red * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2])[:, None]


def _shift(images: Tensor, steps: Sequence[Step]) -> Tensor:
    return (images + images.new_tensor([[s["red"], s["green"], s["blue"]] for s in steps])[..., None, None]).clamp(0, 1)


def _gray(images: Tensor, steps: Sequence[Step]) -> Tensor:
    return _luma(images, red=0.299).expand_as(images)


def _brightness(images: Tensor, steps: Sequence[Step]) -> Tensor:
    return (images * _each([s["factor"] for s in steps], images)).clamp(0, 1)


def _contrast(images: Tensor, steps: Sequence[Step]) -> Tensor:
    return _blend(images, _luma(images).mean((-2, -1), keepdim=True, dtype=torch.float64).to(images.dtype), steps)


def _saturation(images: Tensor, steps: Sequence[Step]) -> Tensor:
    return _blend(images, _luma(images), steps)


def _hue(images: Tensor, steps: Sequence[Step]) -> Tensor:
    """To HSV, turned, and back, the hue in sixths of the circle; a gray pixel has none and keeps its gradient."""
    red, green, blue = images.clamp(0, 1).unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = torch.where(chroma > 0, chroma, 1)
    low = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(value == red, (green - blue) / divisor, low)
    hue = hue + 6 * _each([s["factor"] for s in steps], images)[:, 0]
    away = [torch.remainder(hue + sixths, 6) for sixths in (5, 3, 1)]  # red, green, blue
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in away], dim=1)


def _jpeg(images: Tensor, steps: Sequence[Step]) -> Tensor:
    return jpeg(images, [step["quality"] for step in steps])


def quantise(images: Tensor) -> Tensor:
    """Clip to 0..1 and round to 8 bits, straight-through."""
    return from_levels(to_levels(images))


# op -> function of (N, 3, H, W) pictures of one size and their N steps
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
