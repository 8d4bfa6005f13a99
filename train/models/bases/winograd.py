"""Computes a 3 x 3 convolution with a quarter of the multiplications, by Winograd's algorithm F(4x4, 3x3).

The matrices are from Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308).
"""

from __future__ import annotations

import torch
from torch import nn

TILE, READ = 4, 6  # A tile of 4 x 4 outputs is computed from 6 x 6 inputs.
# The algorithm is used for convolutions with at least this number (ours) of input and output channels. We measured its
# time on one core of an Intel Xeon with AVX-512: 44% of oneDNN's time with 512 channels, 60% with 256, 90% with 128.
FEWEST_CHANNELS = 256
# The algorithm is used for convolutions with at most this number (ours) of output channels. The UNet's layers with 1280
# channels have few pixels, so reading their 36 matrices takes more time than the algorithm saves.
MOST_OUTPUTS = 640
# At most about this number of tiles (ours) are computed at once, so that their values stay in the cache of the
# processor.
TILES_AT_ONCE = 64
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_WEIGHT = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class WinogradConv2d(nn.Module):
    """Computes the convolution `conv` by Winograd's algorithm in float32 on a CPU, and otherwise by `conv` itself.

    The results of the algorithm and of `conv` differ by rounding: by up to 1e-4 for values of about 1 (measured).
    """

    to_input: torch.Tensor
    to_output: torch.Tensor
    transformed: torch.Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        rows = torch.tensor(_WEIGHT, dtype=torch.float64)
        weight = torch.einsum("ai,kcij,bj->abck", rows, conv.weight.detach().double(), rows)
        buffers = {"to_input": _square(_INPUT), "to_output": _square(_OUTPUT), "transformed": weight.flatten(0, 1)}
        for name, value in buffers.items():
            self.register_buffer(name, value.float().contiguous(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (B,K,H,W) for x (B,C,H,W)."""
        suits = x.device.type == "cpu" and x.dtype == self.transformed.dtype == torch.float32
        if not suits or x.shape[2] % TILE or x.shape[3] % TILE or torch.is_autocast_enabled("cpu"):
            convolved: torch.Tensor = self.conv(x)
            return convolved
        images, outputs = x.permute(0, 2, 3, 1), self.transformed.shape[-1]
        count, height, width, _ = images.shape
        result = x.new_empty(count, height // TILE, TILE, width // TILE, TILE, outputs)
        for image, own in zip(images, result, strict=True):
            self._convolve(image, own)
        return result.view(count, height, width, outputs).permute(0, 3, 1, 2)

    def _convolve(self, image: torch.Tensor, result: torch.Tensor) -> None:
        """Writes the convolution of an image (H,W,C) into `result` (H/4,4,W/4,4,K)."""
        (down, _, right, _, outputs), (_, width, channels) = result.shape, image.shape
        padded = image.new_empty(image.shape[0] + 2, width + 2, channels)
        padded[0] = padded[-1] = padded[:, 0] = padded[:, -1] = 0  # faster than F.pad, which fills the whole tensor
        padded[1:-1, 1:-1] = image
        # `tiles` (down, right, 6, 6, C) is a view of `padded` with overlapping tiles.
        row = (width + 2) * channels
        strides = (TILE * row, TILE * channels, row, channels, 1)
        tiles = padded.as_strided((down, right, READ, READ, channels), strides)
        step = max(1, TILES_AT_ONCE // right)
        for first in range(0, down, step):
            some = tiles[first : first + step]
            count = len(some) * right
            # Transform the inputs, multiply each of the 36 positions by its matrix (C,K), and transform the products.
            read = some.permute(2, 3, 0, 1, 4).reshape(READ**2, count * channels)
            products = torch.bmm((self.to_input @ read).view(READ**2, count, channels), self.transformed)
            made = self.to_output @ products.view(READ**2, count * outputs)
            made = made.view(TILE, TILE, len(some), right, outputs).permute(2, 0, 3, 1, 4)
            torch.add(made, 0 if self.conv.bias is None else self.conv.bias, out=result[first : first + step])


def suits_winograd(layer: nn.Module) -> bool:
    """Returns whether `WinogradConv2d` should replace the layer."""
    if type(layer) is not nn.Conv2d:
        return False
    shape = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode
    plain = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
    return (
        plain and min(layer.in_channels, layer.out_channels) >= FEWEST_CHANNELS and layer.out_channels <= MOST_OUTPUTS
    )


def _square(rows: tuple[tuple[int, ...], ...]) -> torch.Tensor:
    """Returns the matrix that transforms both axes of a tile at once. `rows` is the matrix for one axis."""
    matrix = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(matrix, matrix)
