"""Makes a restorer on a diffusion base faster on a CPU. The results of the restorer change only by rounding.

benchmarks/osdface_speed.py measures the time and the change of the results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn import functional as F

from train.models.bases.diffusion import DiffusionBase
from train.models.bases.joined_upsampling import join_upsampling
from train.models.bases.winograd import WinogradConv2d, suits_winograd


@torch.no_grad()
def speed_up(model: Any, bfloat16: bool = False) -> None:
    """Replaces layers of a restorer on a diffusion base by layers that compute the same function faster on a CPU.

    `bfloat16` is True if the restorer will be called under torch's autocast to bfloat16. Do not train or save the
    restorer afterwards, because its adapters may then be merged into the weights of the UNet.

    - The adapters are merged into the UNet. With part `extended`, they are not merged, because the UNet is needed with
      and without them. The layers of the UNet are then not replaced.
    - In the VAE and the UNet, an upsampling and the convolution after it are computed together
      (train/models/bases/joined_upsampling.py).
    - The residual blocks of the VAE reuse the memory of their maps.
    - In float32, the other 3 x 3 convolutions with many channels are computed by Winograd's algorithm.
    - In bfloat16, the weights of the UNet and the VAE are converted once. Autocast would convert the weights in each
      call.
    - The VAE and the embedder get the memory format channels_last. The UNet gets this format only in bfloat16,
      because in float32 the format makes the UNet slower.
    """
    base = model.base
    networks: list[Any] = [network for network in base.modules() if isinstance(network, AutoencoderKL)]
    if isinstance(base, DiffusionBase) and base.extension is None:
        if model.config.lora_rank:
            base.unet.fuse_lora()
            base.unet.unload_lora()
        networks.append(base.unet)
    for network in networks:
        join_upsampling(network)
        if not bfloat16:
            _replace_layers(network, suits_winograd, WinogradConv2d)
        _replace_layers(network, _is_plain, PlainBlock)
    for network in (base.vae, model.vre, base.unet if bfloat16 else None):
        if network is not None:
            network.to(memory_format=torch.channels_last)
    if bfloat16:
        for network in (base.unet, base.vae):
            # The method of diffusers would print a warning that does not apply under autocast.
            nn.Module.to(network, torch.bfloat16)


def _replace_layers(network: nn.Module, suits: Callable[[Any], bool], make: Callable[[Any], nn.Module]) -> None:
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if suits(layer):
                setattr(parent, name, make(layer))


class PlainBlock(nn.Module):
    """Computes a residual block of diffusers' VAE without gradients, and reuses the memory of its maps."""

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = block.norm1, block.conv1, block.norm2, block.conv2
        self.conv_shortcut: nn.Module | None = block.conv_shortcut

    def forward(self, x: torch.Tensor, temb: None = None) -> torch.Tensor:
        """Returns (B,K,H,W) for x (B,C,H,W). `temb` is diffusers' embedding of the timestep, None in a VAE."""
        hidden = self.conv1(F.silu(self.norm1(x), inplace=True))
        hidden = self.conv2(F.silu(self.norm2(hidden), inplace=True))
        x = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return hidden.add_(x) if hidden.dtype == x.dtype else hidden + x


def _is_plain(layer: nn.Module) -> bool:
    """Returns whether a layer is a residual block that PlainBlock can replace: it uses no timestep and does not
    resample."""
    if not isinstance(layer, ResnetBlock2D):
        return False
    others = (layer.time_emb_proj, layer.upsample, layer.downsample)
    is_silu = isinstance(layer.nonlinearity, nn.SiLU)
    return is_silu and layer.output_scale_factor == 1 and all(part is None for part in others)
