"""Defines ReFine's generator, which restores an LQ face with one warped reference, or with several."""

from __future__ import annotations

import torch
from torch import nn

from train.models.bases.stylegan.decoder import Decoder
from train.models.bases.stylegan.encoder import Encoder
from train.models.config import StyleganConfig


class Generator(nn.Module):
    """Joins the encoder and the decoder."""

    def __init__(self, shape: StyleganConfig) -> None:
        super().__init__()
        self.shape = shape
        self.decoder = Decoder(shape)
        self.encoder = Encoder(shape)

    def forward(self, images: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        """Returns restored images (B,3,S,S), in -1..1 but not clamped.

        `images` (B,3+3K,S,S) in -1..1 has the LQ image and then the K warped references. `identity` (B,I) is the mean
        of the unit embeddings of the references before the warp, or a learned vector if there is no reference.
        """
        styles, maps = self.encoder(images, identity)
        return self.decoder(styles, maps)
