"""Runs JPEG in torch with the arithmetic of libjpeg and a straight-through gradient for every rounding.

The forward pass computes the same integers as libjpeg-turbo does for a baseline 4:2:0 file. The decoder uses libjpeg's
slow integer DCT and "fancy" upsampling. The arithmetic is that of libjpeg's files jccolor.c, jcsample.c, jfdctint.c,
jcdctmgr.c, jidctint.c, jdsample.c and jdcolor.c. Entropy coding is left out, because it is lossless. The backward pass
treats every rounding and saturation as the identity. The gradient is therefore the gradient of a linear transform, and
does not depend on the quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifests.pictures.jpeg_tables import LUMA_50


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(smooth: Tensor, exact: Tensor) -> Tensor:
        return exact

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def straight_through(smooth: Tensor, exact: Tensor) -> Tensor:
    """Returns the values of `exact` with the gradient of `smooth`.

    `exact` and `smooth` have the same shape and dtype.
    """
    result: Tensor = _StraightThrough.apply(smooth, exact.detach())
    return result


def send(values: Any, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Returns numbers or a numpy array as a tensor on the device of `like`, by default with the dtype of `like`.

    On a GPU, `like.new_tensor` would make the CPU wait for all earlier work of the GPU.
    """
    return torch.tensor(values, dtype=dtype or like.dtype).to(like.device, non_blocking=True)


def to_levels(image: Tensor) -> Tensor:
    """Maps 0..1 to whole numbers 0..255, like `pixels.to_uint8`, with a straight-through gradient."""
    scaled = image * 255
    return straight_through(scaled, scaled.detach().round().clamp(0, 255))


def from_levels(levels: Tensor) -> Tensor:
    """Maps 0..255 to 0..1."""
    # The divisor 255 is a tensor. If the divisor were a Python number, CUDA would multiply by a rounded 1/255.
    return levels / levels.new_full((), 255)


# --- tables ---

# The chroma table is the table K.2 of ITU-T T.81.
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def quantisation_tables(quality: int) -> NDArray[np.float64]:
    """Returns the luma and chroma tables of a quality 1..100, as in jpeg_set_quality.

    The result has the shape (2, 8, 8) and contains whole numbers 1..255.
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((np.stack([LUMA_50, _CHROMA]) * scale + 50) // 100, 1, 255).astype(np.float64)


def _integer_dct() -> NDArray[np.float64]:
    """Returns the 8 x 8 matrix of jfdctint.c with 13 bits of fraction.

    Row k is 8192 sqrt(8) times the k-th basis vector of the DCT. The matrix differs from a rounded cosine matrix,
    because jfdctint.c rounds its constants before it adds them. The inverse DCT of jidctint.c uses the transposed
    matrix.
    """
    eye = np.eye(8)
    total, rest = eye[:4] + eye[:3:-1], eye[:4] - eye[:3:-1]
    t10, t13, t11, t12 = total[0] + total[3], total[0] - total[3], total[1] + total[2], total[1] - total[2]
    z1 = (t12 + t13) * 4433
    even = [(t10 + t11) * 8192, z1 + t13 * 6270, (t10 - t11) * 8192, z1 - t12 * 15137]
    t7, t6, t5, t4 = rest
    z5 = (t4 + t6 + t5 + t7) * 9633
    z1, z2 = (t4 + t7) * -7373, (t5 + t6) * -20995
    z3, z4 = (t4 + t6) * -16069 + z5, (t5 + t7) * -3196 + z5
    odd = [t7 * 12299 + z1 + z4, t6 * 25172 + z2 + z3, t5 * 16819 + z2 + z4, t4 * 2446 + z1 + z3]
    return np.stack([row for pair in zip(even, odd, strict=True) for row in pair])


_DCT = _integer_dct()


# --- the transform ---


def jpeg(image: Tensor, qualities: Sequence[int], rounding: bool = True) -> Tensor:
    """Compresses and decompresses RGB images in 0..1, (N, 3, H, W) float32 or float64, each with its quality 1..100.

    The result has the shape and the dtype of the input, and its values are on the 1/255 grid. If the values of the
    image are on the 1/255 grid, the result equals the decoded JPEG file bit for bit. `rounding=False` leaves out every
    rounding and saturation. The gradient of the JPEG is the same with and without rounding.
    """
    height, width = image.shape[-2:]
    tables = send(np.stack([quantisation_tables(quality) for quality in qualities]), image, torch.float64)
    luma, chroma = _to_ycc(to_levels(image) if rounding else image * 255, rounding)
    luma = _code_and_decode(luma, tables[:, :1], rounding)
    chroma = _code_and_decode(_halve(chroma, rounding), tables[:, 1:], rounding)
    return from_levels(_to_rgb(luma, _double(chroma, height, width, rounding), rounding))


def _floor(smooth: Tensor, offset: float | Tensor, rounding: bool) -> Tensor:
    """Returns floor(smooth + offset), which is how an integer shift rounds. Without rounding, returns `smooth`."""
    return straight_through(smooth, torch.floor(smooth.detach() + offset)) if rounding else smooth


def _saturate(smooth: Tensor, rounding: bool) -> Tensor:
    return straight_through(smooth, smooth.detach().clamp(0, 255)) if rounding else smooth


def _to_ycc(levels: Tensor, rounding: bool) -> tuple[Tensor, Tensor]:
    """Converts RGB to full-range BT.601 YCbCr in 16-bit fixed point. All sums are below 2**24, so float32 is exact."""
    red, green, blue = levels.unbind(1)
    luma = (19595 * red + 38470 * green + 7471 * blue) / 65536
    cb = (-11059 * red - 21709 * green + 32768 * blue) / 65536 + 128
    cr = (32768 * red - 27439 * green - 5329 * blue) / 65536 + 128
    chroma = torch.stack([cb, cr], dim=1)
    return _floor(luma[:, None], 0.5, rounding), _floor(chroma, 32767 / 65536, rounding)


def _to_rgb(luma: Tensor, chroma: Tensor, rounding: bool) -> Tensor:
    cb, cr = (chroma - 128).unbind(1)
    red = _floor(91881 * cr / 65536, 0.5, rounding)
    green = _floor((-22554 * cb - 46802 * cr) / 65536, 0.5, rounding)
    blue = _floor(116130 * cb / 65536, 0.5, rounding)
    return _saturate(luma + torch.stack([red, green, blue], dim=1), rounding)


def _halve(chroma: Tensor, rounding: bool) -> Tensor:
    """Returns the means of 2 x 2 pixels, as h2v2_downsample does.

    Along a row, halves are rounded down and up alternately. At the right, pixels are repeated up to a whole block
    before the means are computed. At the bottom, pixels are repeated only up to an even number of rows. Then
    `_code_and_decode` repeats the last row of means until the rows fill a whole block.
    """
    height, width = chroma.shape[-2:]
    chroma = _extend(chroma, height + height % 2, width + -width % 16)
    mean = (chroma[..., ::2, ::2] + chroma[..., ::2, 1::2] + chroma[..., 1::2, ::2] + chroma[..., 1::2, 1::2]) / 4
    return _floor(mean, send([0.25, 0.5], mean).repeat(mean.shape[-1] // 2), rounding)


def _double(chroma: Tensor, height: int, width: int, rounding: bool) -> Tensor:
    """Doubles both axes with 3/4 of the nearer neighbour and 1/4 of the further neighbour (h2v2_fancy_upsample)."""
    chroma = chroma[..., : (height + 1) // 2, : (width + 1) // 2]
    if chroma.shape[-1] <= 2:  # libjpeg-turbo repeats pixels if there are at most two columns
        return chroma.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)[..., :height, :width]
    mean = _interleave(_interleave(chroma, -2), -1) / 16
    offset = send([8 / 16, 7 / 16], mean).repeat(mean.shape[-1] // 2)
    return _floor(mean, offset, rounding)[..., :height, :width]


def _interleave(x: Tensor, axis: int) -> Tensor:
    """Doubles one axis: each value x becomes the two values 3 x + (value before) and 3 x + (value after)."""
    count = x.shape[axis]
    before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, count - 1)], dim=axis)
    after = torch.cat([x.narrow(axis, 1, count - 1), x.narrow(axis, count - 1, 1)], dim=axis)
    pairs = torch.stack([3 * x + before, 3 * x + after], dim=x.ndim + axis + 1)
    return pairs.flatten(x.ndim + axis, x.ndim + axis + 1)


def _extend(x: Tensor, height: int, width: int) -> Tensor:
    """Repeats the last row and the last column up to the size (height, width)."""
    bottom, right = height - x.shape[-2], width - x.shape[-1]
    return torch.nn.functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def _code_and_decode(planes: Tensor, tables: Tensor, rounding: bool) -> Tensor:
    """Runs DCT, quantisation and their inverses on (N, P, H, W) levels with (N, 1, 8, 8) tables. Returns levels.

    The computation is in float64, which represents the sums of the integer DCT exactly. In float32, the computation
    would not be exact.
    """
    height, width = planes.shape[-2:]
    planes = _extend(planes, height + -height % 8, width + -width % 8)
    dct = send(_DCT, planes, torch.float64)
    steps = tables.tile(1, 1, planes.shape[-2] // 8, planes.shape[-1] // 8)
    # The DCT runs along the rows and then along the columns. The inverse DCT runs along the columns first.
    lines = _floor(_along_columns(dct, (planes.double() - 128).mT) / 2**11, 0.5, rounding)
    coefficients = _floor(_along_columns(dct, lines.mT) / 2**15, 0.5, rounding)
    coefficients = _quantise(coefficients, 8 * steps, rounding) * steps
    lines = _floor(_along_columns(dct.T, coefficients) / 2**11, 0.5, rounding)
    levels = _floor(_along_columns(dct.T, lines.mT) / 2**18, 0.5, rounding).mT + 128
    return _saturate(levels.to(planes.dtype), rounding)[..., :height, :width]


def _along_columns(matrix: Tensor, planes: Tensor) -> Tensor:
    """Multiplies the (8, 8) matrix with each block of 8 rows of `planes`, (N, P, H, W)."""
    return (matrix @ planes.unflatten(-2, (-1, 8))).flatten(-3, -2)


def _quantise(coefficients: Tensor, steps: Tensor, rounding: bool) -> Tensor:
    smooth = coefficients / steps
    if not rounding:
        return smooth
    exact = coefficients.detach()  # the next line rounds halves away from zero
    return straight_through(smooth, torch.floor((exact.abs() + steps / 2) / steps) * exact.sign())
