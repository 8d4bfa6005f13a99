"""Computes the latent of base `tiny` by space-to-depth, which loses no information.

A position of a latent has the 3 f^2 values of a square of f x f pixels, where f is the latent factor. The square is
divided into small squares of `inner` x `inner` pixels. The values are sorted by the row and the column of their small
square, then by colour, then by their row and column inside the small square. With `inner` = f, the values have the
order of torch's `pixel_unshuffle`. With a smaller `inner`, the values of a small square are neighbours in memory, so
`open_squares` is fast.

All latents have the memory format channels_last, so that the next convolution does not have to convert them.
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
    """Returns the values of an image (B,C,H,W) in the order of a latent, (B, C factor^2, H/factor, W/factor)."""
    b, c, height, width = image.shape
    h, w, n = height // factor, width // factor, factor // inner
    squares = image.reshape(b, c, h, n, inner, w, n, inner).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return squares.reshape(b, h, w, c * factor**2).permute(0, 3, 1, 2)


def depth_to_space(latent: torch.Tensor, factor: int, inner: int) -> torch.Tensor:
    """Returns the image (B,C,H,W) from the result of `space_to_depth`. The function is the exact inverse."""
    b, depth, h, w = latent.shape
    c, n = depth // factor**2, factor // inner
    squares = latent.permute(0, 2, 3, 1).reshape(b, h, w, n, n, c, inner, inner).permute(0, 5, 1, 3, 6, 2, 4, 7)
    return squares.reshape(b, c, h * factor, w * factor)


def open_squares(latent: torch.Tensor, factor: int, inner: int) -> torch.Tensor:
    """Returns a latent with a position for each small square: (B, C inner^2, S/inner, S/inner).

    The result is `pixel_unshuffle` of the image with the factor `inner`. If the latent had the order of
    `pixel_unshuffle`, this permutation would take ten times as long on a CPU in bf16 (measured).
    """
    b, depth, h, w = latent.shape
    n = factor // inner
    squares = latent.permute(0, 2, 3, 1).reshape(b, h, w, n, n, depth // n**2).permute(0, 1, 3, 2, 4, 5)
    return squares.reshape(b, h * n, w * n, depth // n**2).permute(0, 3, 1, 2)


def close_squares(squares: torch.Tensor, factor: int, inner: int) -> torch.Tensor:
    """Returns the latent from the result of `open_squares`. The function is the exact inverse."""
    b, depth, height, width = squares.shape
    n = factor // inner
    h, w = height // n, width // n
    latent = squares.permute(0, 2, 3, 1).reshape(b, h, n, w, n, depth).permute(0, 1, 3, 2, 4, 5)
    return latent.reshape(b, h, w, n * n * depth).permute(0, 3, 1, 2)


def to_autocast(values: torch.Tensor) -> torch.Tensor:
    """Under autocast, returns `values` in the number type of autocast. Otherwise returns `values` unchanged.

    The convolution after a permutation would convert its input anyway. Converting before the permutation is faster.
    """
    device = values.device.type
    return values.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else values
