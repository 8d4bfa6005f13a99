"""A VQ autoencoder in the layout of OSDFace's visual representation embedder (lq_embed/vqvae.py), names and all.

Under its prefix `vqvae_LQ.`, the tensors of a published state dict are those of `VQ(config, decodes=False)` by name and
shape. The decoder was not seen by us; it mirrors the encoder, as in VQGAN, with one block more a level (ours).
"""

from __future__ import annotations

from math import gcd

import torch
from torch import nn
from torch.nn import functional as F

from train.models.config import VreConfig

BLOCKS = 2  # residual blocks a level
ATTENTION = 16  # pixels: the resolution at which attention acts
GROUPS = 32  # of every group norm; fewer where they do not divide the width (ours)
BETA = 0.25  # weight of the commitment


class VQ(nn.Module):
    """Image -> a grid of vectors, size / 2^(levels - 1) on a side, each next to a code -> image."""

    def __init__(self, config: VreConfig, decodes: bool = True) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.dim, config.dim, 1)
        self.quantize = Quantizer(config.codes, config.dim)
        self.decoder = Decoder(config) if decodes else None

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """(B,3,S,S) normalised, -1..1 by rights -> vectors before quantising, (B,dim,s,s)."""
        return self.quant_conv(self.encoder(image))

    def decode(self, vectors: torch.Tensor) -> torch.Tensor:
        """(B,dim,s,s) -> image (B,3,S,S), around -1..1, not clamped."""
        assert self.decoder is not None
        return self.decoder(vectors)


class Quantizer(nn.Module):
    """A codebook. Its search runs in float32, whatever precision the encoder ran in."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, dim)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def nearest(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """vectors (B,dim,h,w) -> the nearest code of each position (B, h w) int64, its squared distance (B, h w)."""
        with torch.autocast(vectors.device.type, enabled=False):
            z, codes = vectors.float().flatten(2).transpose(1, 2), self.embedding.weight.float()
            distances = z.square().sum(2, keepdim=True) + codes.square().sum(1) - 2 * (z @ codes.t())
        distance, code = distances.min(2)
        return code, distance

    def replaced(self, vectors: torch.Tensor) -> torch.Tensor:
        """vectors (B,dim,h,w) -> the nearest code of each in its place, float32; a gradient reaches the codebook."""
        with torch.no_grad():
            code, _ = self.nearest(vectors)
        return self.embedding(code).float().transpose(1, 2).reshape(vectors.shape)

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """vectors (B,dim,h,w) -> their codes in their place, and the loss of codebook and commitment.

        What comes back has the codes' values and hands its gradient to `vectors` unchanged (straight-through); the
        codebook learns from the loss alone, mean (z_q - sg z)^2 + BETA mean (z - sg z_q)^2 (van den Oord 2017, Eq. 3).
        """
        vectors, found = vectors.float(), self.replaced(vectors)
        loss = F.mse_loss(found, vectors.detach()) + BETA * F.mse_loss(vectors, found.detach())
        return vectors + (found - vectors).detach(), loss


class Encoder(nn.Module):
    """(B,3,S,S) -> (B,dim,s,s)."""

    def __init__(self, config: VreConfig) -> None:
        super().__init__()
        widths = [config.channels * times for times in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        width, size = config.channels, config.size
        for number, wider in enumerate(widths):
            smaller = Downsample(wider) if number < len(widths) - 1 else None
            self.down.append(Level(width, wider, BLOCKS, size, downsample=smaller))
            width, size = wider, size // 2
        self.mid = Middle(width)
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, config.dim, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        h = self.conv_in(image)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """(B,dim,s,s) -> (B,3,S,S)."""

    def __init__(self, config: VreConfig) -> None:
        super().__init__()
        widths = [config.channels * times for times in config.multipliers]
        width, size = widths[-1], config.size // 2 ** (len(widths) - 1)
        self.conv_in = nn.Conv2d(config.dim, width, 3, padding=1)
        self.mid = Middle(width)
        self.up = nn.ModuleList()  # coarsest first
        for number, narrower in reversed(list(enumerate(widths))):
            larger = Upsample(narrower) if number else None
            self.up.append(Level(width, narrower, BLOCKS + 1, size, upsample=larger))
            width, size = narrower, size * 2
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        h = self.mid(self.conv_in(vectors))
        for level in self.up:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where that is 16 px, and the way to the next."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        blocks: int,
        size: int,
        downsample: nn.Module | None = None,
        upsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(Resnet(outputs if number else inputs, outputs) for number in range(blocks))
        self.attn = nn.ModuleList(Attention(outputs) for _ in range(blocks if size == ATTENTION else 0))
        self.downsample, self.upsample = downsample or nn.Identity(), upsample or nn.Identity()

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        for number, block in enumerate(self.block):
            h = block(h)
            if len(self.attn):
                h = self.attn[number](h)
        return self.upsample(self.downsample(h))


class Middle(nn.Module):
    """The coarsest resolution once more."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            Resnet(channels, channels),
            Attention(channels),
            Resnet(channels, channels),
        )

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.block_2(self.attn_1(self.block_1(h)))


class Resnet(nn.Module):
    """A residual block without a timestep."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Self-attention of a map, one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.norm2 = _norm(channels).requires_grad_(False)  # in the published layout; only cross-attention reads it
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(seen)


class Downsample(nn.Module):
    """Half the resolution, by a strided convolution that is padded at the right and at the bottom alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the resolution, nearest pixel, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(GROUPS, channels), channels, eps=1e-6)
