"""HonestFace's identity embedder: what it is made of was published as a figure, what is inside was not.

Published (the paper's pipeline figure): two branches, a face identity encoder that sees the references alone (p_F) and
a facial feature extractor that sees references and LQ (p_I), fused with the prompt of OSDFace's embedder (p_L) into one
prompt. Every network, number and the fusion below is ours.
"""

from __future__ import annotations

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import nn
from torch.nn import functional as F

from train.models.config import ModelConfig
from train.models.references import ImageEncoder, set_tokens, zeroed

TOKENS = 4  # of p_F (ours)
GRID = 8  # p_I has a token for every cell of a GRID x GRID division of the face (ours)


class FaceIdentityEncoder(nn.Module):
    """Recognizer embeddings -> p_F: a small network on each reference, the mean over the set; a learned nobody."""

    def __init__(self, embedding_dim: int, prompt_dim: int) -> None:
        super().__init__()
        self.scale = embedding_dim**0.5  # unit rows to numbers of unit variance
        self.layers = nn.Sequential(
            nn.Linear(embedding_dim, prompt_dim), nn.GELU(), nn.Linear(prompt_dim, TOKENS * prompt_dim)
        )
        self.norm = nn.LayerNorm(prompt_dim)
        self.nobody = nn.Parameter(torch.randn(TOKENS, prompt_dim))

    def forward(self, embeddings: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """embeddings (B,K,d) unit rows, present (B,K) bool -> (B,TOKENS,D)."""
        tokens = self.layers(embeddings * self.scale).unflatten(-1, (TOKENS, -1))
        mask = present.view(*present.shape, 1, 1)
        mean = (tokens * mask).sum(1) / present.sum(1).clamp(min=1).view(-1, 1, 1)
        known = self.norm(mean)
        return torch.where(present.any(1).view(-1, 1, 1), known, self.nobody.to(known.dtype))


class FacialFeatureExtractor(nn.Module):
    """LQ and references through one encoder -> p_I: cells of the LQ face ask the LQ and every reference at once."""

    def __init__(self, channels: tuple[int, ...], factor: int, prompt_dim: int) -> None:
        super().__init__()
        width = channels[-1]
        self.encoder = ImageEncoder(channels, factor)
        self.kinds = nn.Parameter(torch.zeros(2, width))  # of a key: LQ, reference
        self.norm = nn.LayerNorm(width)
        self.block = _block(width, 32, asks=True)
        self.last = nn.Sequential(nn.Linear(width, prompt_dim), nn.LayerNorm(prompt_dim))

    def forward(
        self, lq: torch.Tensor, references: torch.Tensor, present: torch.Tensor, filled: torch.Tensor
    ) -> torch.Tensor:
        """lq (B,3,S,S), references (B,K,3,S,S) in 0..1, present (B,K) bool, filled of `Places` -> (B,GRID^2,D)."""
        own = self.encoder(lq)[-1]
        theirs, mask = set_tokens(self.encoder.encode_set(references, present, filled)[-1], present)
        cells = F.adaptive_avg_pool2d(own, GRID)
        # features of unit variance before they meet their places: otherwise the places drown them, and it learns slower
        place = _places(own)
        ours = self.norm(own.flatten(2).transpose(1, 2)) + place + self.kinds[0]
        theirs = self.norm(theirs) + place.repeat(present.shape[1], 1) + self.kinds[1]
        asking = self.norm(cells.flatten(2).transpose(1, 2)) + _places(cells)
        keys = torch.cat([ours, theirs], 1)
        seen = torch.cat([mask.new_ones(ours.shape[:2]), mask], 1)
        return self.last(self.block(asking, encoder_hidden_states=keys, encoder_attention_mask=seen[:, None]))


class IdentityEmbedder(nn.Module):
    """References, LQ and p_L -> the fused prompt. As new it is p_F, p_I and p_L side by side, untouched.

    Its length does not depend on the number of references, and no token on their order.
    """

    def __init__(self, config: ModelConfig, prompt_dim: int) -> None:
        super().__init__()
        self.identity = FaceIdentityEncoder(config.embedding_dim, prompt_dim)
        self.features = FacialFeatureExtractor(config.reference_channels, config.latent_factor, prompt_dim)
        self.kinds = nn.Parameter(torch.zeros(3 if "vre" in config.parts else 2, prompt_dim))  # p_F, p_I, p_L
        self.fuse = _block(prompt_dim, 64, asks=False)
        zeroed(self.fuse.attn1.to_out[0])
        zeroed(self.fuse.ff.net[-1])

    def forward(
        self,
        lq: torch.Tensor,
        references: torch.Tensor,
        present: torch.Tensor,
        filled: torch.Tensor,
        embeddings: torch.Tensor,
        seen: torch.Tensor | None,
    ) -> torch.Tensor:
        """lq (B,3,S,S), references (B,K,3,S,S) in 0..1, present (B,K) bool, filled of `Places`, embeddings (B,K,d) unit
        rows, seen: p_L (B,N,D) where the recipe has the part `vre` -> prompt (B, TOKENS + GRID^2 + N, D)."""
        branches = [self.identity(embeddings, present), self.features(lq, references, present, filled)]
        if seen is not None:
            branches.append(seen)
        told = [tokens + kind for tokens, kind in zip(branches, self.kinds, strict=True)]
        return self.fuse(torch.cat(told, 1))


def _block(width: int, head: int, asks: bool) -> BasicTransformerBlock:
    heads = max(1, width // head)
    return BasicTransformerBlock(width, heads, width // heads, cross_attention_dim=width if asks else None)


def _places(maps: torch.Tensor) -> torch.Tensor:
    """Where in the face a cell lies, the same at any resolution: maps (B,C,h,h) -> (h h, C)."""
    found = get_2d_sincos_pos_embed(maps.shape[1], maps.shape[-1], base_size=GRID, device=maps.device)
    return found.to(maps.dtype)
