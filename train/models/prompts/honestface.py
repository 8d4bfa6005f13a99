"""Defines HonestFace's identity embedder, as the pipeline figure of its authors shows it.

The figure shows two branches. A face identity encoder computes the tokens p_F from the references. A facial feature
extractor computes the tokens p_I from the references and the LQ face. These tokens and p_I are fused with p_L, the
prompt of OSDFace's embedder, into one prompt. We have not seen the networks of the branches. All networks, all numbers
and the fusion in this file are therefore ours.
"""

from __future__ import annotations

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import nn
from torch.nn import functional as F

from train.models.config import PROMPT_PARTS, ModelConfig
from train.models.references import ImageEncoder, place_in_slots, set_tokens, zeroed

TOKENS = 4  # The number of tokens in p_F (ours).
GRID = 8  # The tokens p_I are on a grid of GRID x GRID cells on the face (ours).


class FaceIdentityEncoder(nn.Module):
    """Computes p_F: a small network turns the embedding of each reference into tokens, which are averaged.

    An image without references gets the learned tokens `nobody`.
    """

    def __init__(self, embedding_dim: int, prompt_dim: int) -> None:
        super().__init__()
        self.scale = embedding_dim**0.5  # gives the numbers of a unit embedding a mean square of 1
        self.layers = nn.Sequential(
            nn.Linear(embedding_dim, prompt_dim), nn.GELU(), nn.Linear(prompt_dim, TOKENS * prompt_dim)
        )
        self.norm = nn.LayerNorm(prompt_dim)
        self.nobody = nn.Parameter(torch.randn(TOKENS, prompt_dim))

    def forward(self, embeddings: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Returns p_F (B,TOKENS,D) for unit embeddings (B,K,d) and `present` (B,K) bool."""
        tokens = self.layers(embeddings * self.scale).unflatten(-1, (TOKENS, -1))
        mask = present.view(*present.shape, 1, 1)
        mean = (tokens * mask).sum(1) / present.sum(1).clamp(min=1).view(-1, 1, 1)
        known = self.norm(mean)
        return torch.where(present.any(1).view(-1, 1, 1), known, self.nobody.to(known.dtype))


class FacialFeatureExtractor(nn.Module):
    """Computes p_I: each cell of the LQ face attends to the LQ face and to all references at once."""

    def __init__(self, channels: tuple[int, ...], factor: int, prompt_dim: int) -> None:
        super().__init__()
        width = channels[-1]
        self.encoder = ImageEncoder(channels, factor)
        # Two learned vectors: the first is added to the keys of the LQ face, the second to the keys of the references.
        self.kinds = nn.Parameter(torch.zeros(2, width))
        self.norm = nn.LayerNorm(width)
        self.block = _block(width, 32, asks=True)
        self.last = nn.Sequential(nn.Linear(width, prompt_dim), nn.LayerNorm(prompt_dim))

    def forward(
        self,
        lq: torch.Tensor,
        references: torch.Tensor,
        present: torch.Tensor,
        filled: torch.Tensor,
        encoded: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns p_I (B,GRID^2,D).

        `lq` is (B,3,S,S) and `references` is (B,K,3,S,S), both in 0..1. `present` is (B,K) bool. `filled` is
        `Places.filled`. `encoded` has the coarsest maps (n,C,h,h) of the n references, in the order of `filled`. If
        `encoded` is None, the maps are computed."""
        # Compute the coarsest map of the LQ face, (B,C,h,h), and the tokens of the references, (B,K h h,C).
        own = self.encoder(lq)[-1]
        if encoded is None:
            maps = self.encoder.encode_set(references, present, filled)[-1]
        else:
            maps = place_in_slots(encoded, present, filled)
        theirs, mask = set_tokens(maps, present)
        cells = F.adaptive_avg_pool2d(own, GRID)
        # Normalise the features before the position codes are added. Otherwise the codes would be much larger than the
        # features, and the network would learn more slowly.
        place = _places(own)
        ours = self.norm(own.flatten(2).transpose(1, 2)) + place + self.kinds[0]
        theirs = self.norm(theirs) + place.repeat(present.shape[1], 1) + self.kinds[1]
        # The queries are the cells (B,GRID^2,C). The keys are all positions of the LQ face and of the references.
        asking = self.norm(cells.flatten(2).transpose(1, 2)) + _places(cells)
        keys = torch.cat([ours, theirs], 1)
        full_mask = torch.cat([mask.new_ones(ours.shape[:2]), mask], 1)
        return self.last(self.block(asking, encoder_hidden_states=keys, encoder_attention_mask=full_mask[:, None]))


class IdentityEmbedder(nn.Module):
    """Fuses p_F, p_I and p_L into one prompt. Before training, the prompt is p_F, p_I and p_L, one after the other.

    Part `identity` makes p_F, part `features` makes p_I, and part `vre` makes p_L. The prompt has only the tokens of
    the recipe's parts. The length of the prompt does not depend on the number of references, and the prompt does not
    depend on the order of the references.
    """

    def __init__(self, config: ModelConfig, prompt_dim: int) -> None:
        super().__init__()
        self.identity, self.features = None, None
        if "identity" in config.parts:
            self.identity = FaceIdentityEncoder(config.embedding_dim, prompt_dim)
        if "features" in config.parts:
            self.features = FacialFeatureExtractor(config.reference_channels, config.latent_factor, prompt_dim)
        # One learned vector for each part, which is added to the tokens of this part.
        self.kinds = nn.Parameter(torch.zeros(len(PROMPT_PARTS & set(config.parts)), prompt_dim))
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
        encoded: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the prompt (B, TOKENS + GRID^2 + N, D). Without one of the three parts, the prompt is shorter.

        `lq` is (B,3,S,S) and `references` is (B,K,3,S,S), both in 0..1. `present` is (B,K) bool. `filled` is
        `Places.filled`. `embeddings` is (B,K,d), each of length 1. `seen` is p_L (B,N,D), or None without part `vre`.
        `encoded` is as in FacialFeatureExtractor.
        """
        branches = []
        if self.identity is not None:
            branches.append(self.identity(embeddings, present))
        if self.features is not None:
            branches.append(self.features(lq, references, present, filled, encoded))
        if seen is not None:
            branches.append(seen)
        branch_tokens = [tokens + kind for tokens, kind in zip(branches, self.kinds, strict=True)]
        return self.fuse(torch.cat(branch_tokens, 1))


def _block(width: int, head: int, asks: bool) -> BasicTransformerBlock:
    heads = max(1, width // head)
    return BasicTransformerBlock(width, heads, width // heads, cross_attention_dim=width if asks else None)


def _places(maps: torch.Tensor) -> torch.Tensor:
    """Returns sine and cosine codes (h h, C) of the positions in maps (B,C,h,h).

    The codes have the same scale for every h.
    """
    codes = get_2d_sincos_pos_embed(maps.shape[1], maps.shape[-1], base_size=GRID, device=maps.device)
    return codes.to(maps.dtype)
