"""Makes a restorer on a diffusion base faster on a CPU. The restorer computes the same function, except for rounding.

benchmarks/osdface_speed.py measures the time and the difference.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.upsampling import Upsample2D
from torch import nn

from train.models.bases.diffusion import DiffusionBase
from train.models.bases.winograd import WinogradConv2d, suits_winograd


@torch.no_grad()
def speed_up(model: Any, bfloat16: bool = False) -> None:
    """Replaces layers of a restorer on a diffusion base by layers that compute the same function faster on a CPU.

    `bfloat16` is True if the restorer will be called under torch's autocast to bfloat16. Do not train or save the
    restorer afterwards: its adapters are merged into the weights of the UNet.

    - The adapters are merged, except with part `extended`, which needs the UNet with and without its adapters.
    - In the VAE and the UNet, an upsampling and the convolution after it become one transposed convolution, which needs
      4/9 of the multiplications.
    - In float32, the other 3 x 3 convolutions with many channels are computed by Winograd's algorithm.
    - The UNet of part `extended` keeps its layers, because its adapters are not merged.
    - In bfloat16, the weights of the UNet and the VAE are converted once, because autocast converts them in each call.
    - The VAE and the embedder get the memory format channels_last, in bfloat16 also the UNet. In float32, the UNet is
      faster without this format.
    """
    base = model.base
    networks: list[Any] = [network for network in base.modules() if isinstance(network, AutoencoderKL)]
    if isinstance(base, DiffusionBase) and base.extension is None:
        if model.config.lora_rank:
            base.unet.fuse_lora()
            base.unet.unload_lora()
        networks.append(base.unet)
    for network in networks:
        upsampling: list[Any] = [layer for layer in network.modules() if _can_join(layer)]
        for layer in upsampling:
            layer.conv, layer.use_conv_transpose = _join_upsampling(layer.conv), True
        for parent in list(network.modules()):
            for name, layer in list(parent.named_children()):
                if not bfloat16 and suits_winograd(layer):
                    setattr(parent, name, WinogradConv2d(layer))
    for network in (base.vae, model.vre, base.unet if bfloat16 else None):
        if network is not None:
            network.to(memory_format=torch.channels_last)
    if bfloat16:
        for network in (base.unet, base.vae):
            nn.Module.to(network, torch.bfloat16)  # diffusers' own method warns, although autocast keeps this safe


def _can_join(layer: Any) -> bool:
    """Returns whether a layer doubles the resolution and then applies a 3 x 3 convolution."""
    if not isinstance(layer, Upsample2D):
        return False
    conv: Any = getattr(layer, "conv", None)
    plain = type(conv) is nn.Conv2d and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    return bool(plain and layer.interpolate and layer.norm is None and not layer.use_conv_transpose)


def _join_upsampling(conv: nn.Conv2d) -> nn.ConvTranspose2d:
    """Returns the transposed convolution that doubles the resolution by repeating pixels, and then applies `conv`.

    The kernel of the transposed convolution is the full convolution of the flipped kernel with a square of 2 x 2 ones.
    """
    joined = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 4, stride=2, padding=1, bias=conv.bias is not None)
    flipped = conv.weight.double().transpose(0, 1).flip(2, 3)
    kernel = flipped.new_zeros(*flipped.shape[:2], 4, 4)
    for row in (0, 1):
        for column in (0, 1):
            kernel[:, :, row : row + 3, column : column + 3] += flipped
    joined.weight.copy_(kernel)
    if conv.bias is not None and joined.bias is not None:
        joined.bias.copy_(conv.bias)
    return joined.to(conv.weight.dtype)
