"""Computes the latent of base `tiny` by space-to-depth, which loses no information.

One position of a latent holds a square of f x f pixels, where f is the latent factor. Inside the square, the values are
ordered by small squares of `inner` x `inner` pixels. The order is: the row and the column of the small square, the
colour, the row and the column inside the small square. With `inner` = f, this is the order of torch's
`pixel_unshuffle`. With a smaller `inner`, the values of a small square are neighbours in memory, so `open_squares` is
fast.

All latents have the memory format channels_last, so the next convolution need not convert the format.
"""

from __future__ import annotations

import torch


def encode(image: torch.Tensor, factor: int, inner: int) -> torch.Tensor:
    """Returns the latent (B, 3 factor^2, S/factor, S/factor) in -1..1 of an image (B,3,S,S) in 0..1.

    `inner` divides `factor`.
    """
    return space_to_depth(image * 2 - 1, factor, inner)


def decode(latent: torch.Tensor, factor: int, inner: int) -> torch.Tensor:
    """Returns the image of a latent, with values that are not clamped. `decode` is the exact inverse of `encode`."""
    return (depth_to_space(latent, factor, inner) + 1) / 2


def space_to_depth(image: torch.Tensor, factor: int, inner: int) -> torch.Tensor:
    """Returns the values of an image (B,C,H,W) as (B, C factor^2, H/factor, W/factor), in the order of a latent."""
    b, c, height, width = image.shape
    h, w, n = height // factor, width // factor, factor // inner
    squares = image.reshape(b, c, h, n, inner, w, n, inner).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return squares.reshape(b, h, w, c * factor**2).permute(0, 3, 1, 2)


def depth_to_space(latent: torch.Tensor, factor: int, inner: int) -> torch.Tensor:
    """Returns the image (B,C,H,W) of `space_to_depth`. `depth_to_space` is the exact inverse of `space_to_depth`."""
    b, depth, h, w = latent.shape
    c, n = depth // factor**2, factor // inner
    squares = latent.permute(0, 2, 3, 1).reshape(b, h, w, n, n, c, inner, inner).permute(0, 5, 1, 3, 6, 2, 4, 7)
    return squares.reshape(b, c, h * factor, w * factor)


def open_squares(latent: torch.Tensor, factor: int, inner: int) -> torch.Tensor:
    """Returns the small squares of a latent as positions: (B, C inner^2, S/inner, S/inner).

    The values are those of `pixel_unshuffle` with the factor `inner`. The order of the values in a latent makes this
    permutation fast. On a CPU in bf16, it takes a tenth of the time that a permutation from the order of
    `pixel_unshuffle` takes (measured).
    """
    b, depth, h, w = latent.shape
    n = factor // inner
    squares = latent.permute(0, 2, 3, 1).reshape(b, h, w, n, n, depth // n**2).permute(0, 1, 3, 2, 4, 5)
    return squares.reshape(b, h * n, w * n, depth // n**2).permute(0, 3, 1, 2)


def close_squares(squares: torch.Tensor, factor: int, inner: int) -> torch.Tensor:
    """Returns the latent of small squares. `close_squares` is the exact inverse of `open_squares`."""
    b, depth, height, width = squares.shape
    n = factor // inner
    h, w = height // n, width // n
    latent = squares.permute(0, 2, 3, 1).reshape(b, h, n, w, n, depth).permute(0, 1, 3, 2, 4, 5)
    return latent.reshape(b, h, w, n * n * depth).permute(0, 3, 1, 2)


def to_autocast(values: torch.Tensor) -> torch.Tensor:
    """Returns the values in the number type of autocast, or `values` without autocast.

    A convolution under autocast would convert its input in any case. A conversion before a permutation is faster.
    """
    device = values.device.type
    return values.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else values
