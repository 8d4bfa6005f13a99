"""Defines a VQ autoencoder with the layout and the names of OSDFace's embedder (lq_embed/vqvae.py).

The tensors of `VQ(config, decodes=False)` have the names and shapes of OSDFace's released tensors, without their prefix
`vqvae_LQ.`. We have not seen OSDFace's decoder. Our decoder has the levels of the encoder in reverse order, with one
more block at each level, as in VQGAN (ours).
"""

from __future__ import annotations

from math import gcd

import torch
from torch import nn
from torch.nn import functional as F

from train.models.config import VreConfig

BLOCKS = 2  # The number of residual blocks at each level of the encoder.
ATTENTION = 16  # A level has attention if its resolution is this number of pixels.
GROUPS = 32  # The number of groups (ours) in a group norm; fewer if 32 does not divide the number of channels.
BETA = 0.25  # The weight of the commitment loss.


class VQ(nn.Module):
    """Encodes an image to a grid of vectors, quantises the vectors to codes, and decodes codes to an image.

    The grid has size / 2^(levels - 1) vectors on each side.
    """

    def __init__(self, config: VreConfig, decodes: bool = True) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.dim, config.dim, 1)
        self.quantize = Quantizer(config.codes, config.dim)
        self.decoder = Decoder(config) if decodes else None

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the vectors (B,dim,s,s) before quantising. `image` is (B,3,S,S), usually in -1..1."""
        return self.quant_conv(self.encoder(image))

    def decode(self, vectors: torch.Tensor) -> torch.Tensor:
        """Returns the image (B,3,S,S) of vectors (B,dim,s,s). The values of the image are about -1 to 1, and are not
        clamped."""
        assert self.decoder is not None
        return self.decoder(vectors)


class Quantizer(nn.Module):
    """Holds a codebook and finds the nearest codes. The search runs in float32, even if the encoder ran in bf16."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, dim)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def nearest(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Finds the nearest code of each of the vectors (B,dim,h,w).

        Returns the index of the code, (B, h w) int64, and the squared distance to the code, (B, h w) float32.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            z, codes = vectors.float().flatten(2).transpose(1, 2), self.embedding.weight.float()
            distances = z.square().sum(2, keepdim=True) + codes.square().sum(1) - 2 * (z @ codes.t())
        distance, code = distances.min(2)
        return code, distance

    def replace(self, vectors: torch.Tensor) -> torch.Tensor:
        """Returns the nearest code of each of the vectors (B,dim,h,w), float32. Gradients reach only the codebook."""
        with torch.no_grad():
            code, _ = self.nearest(vectors)
        return self.embedding(code).float().transpose(1, 2).reshape(vectors.shape)

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the nearest code of each vector, (B,dim,h,w), and the codebook and commitment loss, a scalar.

        The gradient of the returned codes goes to `vectors` unchanged (straight-through), so the codebook learns only
        from the loss. The loss is mean (z_q - sg z)^2 + BETA mean (z - sg z_q)^2 (van den Oord 2017, Eq. 3). Here z are
        the vectors, z_q are the codes, and sg stops the gradient.
        """
        vectors, codes = vectors.float(), self.replace(vectors)
        loss = F.mse_loss(codes, vectors.detach()) + BETA * F.mse_loss(vectors, codes.detach())
        return vectors + (codes - vectors).detach(), loss


class Encoder(nn.Module):
    """Encodes images (B,3,S,S) to vectors (B,dim,s,s)."""

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
    """Decodes vectors (B,dim,s,s) to images (B,3,S,S)."""

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
    """Applies residual blocks at one resolution, and then changes the resolution for the next level.

    At a resolution of ATTENTION px, there is an attention layer after each residual block.
    """

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
    """Applies two residual blocks, with attention between them, at the coarsest resolution."""

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
    """Adds the output of two convolutions to the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Lets a feature map attend to itself, with one attention head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.norm2 = _norm(channels).requires_grad_(False)  # never used, but its tensors are in OSDFace's file
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(attended)


class Downsample(nn.Module):
    """Halves the resolution with a strided convolution. The input is padded only at the right and at the bottom."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the resolution by repeating pixels, then applies a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(GROUPS, channels), channels, eps=1e-6)
