"""OSDFace's visual representation embedder: the codes that an LQ face lies nearest to, as the UNet's prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from manifests.errors import BadInput
from train.models.checkpoint_files import CONFIG, WEIGHTS, find_newest_checkpoint
from train.models.config import ModelConfig, VreConfig
from train.models.prompts.vq import VQ

RECIPE = "vre"  # the recipe that trains the dictionaries


class Vre(nn.Module):
    """LQ face -> prompt. Encoder and codebook are frozen and random until they are loaded; the projection trains."""

    def __init__(self, config: VreConfig, prompt_dim: int) -> None:
        super().__init__()
        self.config = config
        self.dictionary = VQ(config, decodes=False).requires_grad_(False)
        self.projection = Projection(config.dim, prompt_dim)

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        """lq (B,3,S,S) in 0..1 at any size -> prompt (B, tokens, prompt_dim)."""
        with torch.no_grad():
            vectors = self.dictionary.encode(self._seen(lq))
            code, distance = self.dictionary.quantize.nearest(vectors)
            chosen, there = distinct(code, distance, self.config.codes, self.config.tokens)
            rows = self.dictionary.quantize.embedding(chosen) * there.unsqueeze(-1)
        return self.projection(rows)

    def load_dictionary(self, folder: Path) -> None:
        """Take encoder and codebook from a run of recipe `vre`, or one of its checkpoints.

        Raises BadInput where that is something else, or of another shape.
        """
        theirs, tensors = read_lq_dictionary(folder)
        # neither the number of tokens nor what the input is normalised to is in the dictionary
        shape = replace(theirs, tokens=self.config.tokens, doubly_normalised=self.config.doubly_normalised)
        if shape != self.config:
            raise BadInput(
                f"The dictionary of {folder} has another shape ({_shape(shape)}) than this recipe needs "
                f"({_shape(self.config)}): train recipe vre on the same base."
            )
        self.dictionary.load_state_dict(tensors)

    def _seen(self, lq: torch.Tensor) -> torch.Tensor:
        size = (self.config.size, self.config.size)
        if self.config.doubly_normalised:
            lq = lq * 2 - 1
        return F.interpolate(lq, size=size, mode="bilinear", align_corners=False) * 2 - 1


class Projection(nn.Module):
    """code dim -> half of it -> prompt_dim, SiLU after both: 512, 256, 1024 in OSDFace's embedding_change_weights."""

    def __init__(self, dim: int, prompt_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(dim, dim // 2, 1)
        self.conv2 = nn.Conv1d(dim // 2, prompt_dim, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(B,N,dim) -> (B,N,prompt_dim)."""
        return F.silu(self.conv2(F.silu(self.conv1(rows.transpose(1, 2))))).transpose(1, 2)


def distinct(code: torch.Tensor, distance: torch.Tensor, codes: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `tokens` distinct codes nearest to any position, nearest first; of equal distances the earlier position's.

    code (B,P) int64 below `codes`, distance (B,P) -> codes (B,tokens) int64, and (B,tokens) bool: False where an image
    has fewer, all of these at the end. OSDFace's selection (lq_embed/vqvae.py), without its loop.
    """
    b, positions = code.shape
    order = distance.argsort(dim=1, stable=True)
    rank = torch.arange(positions, device=code.device).expand(b, -1)
    first = torch.full((b, codes), positions, dtype=rank.dtype, device=code.device)
    first = first.scatter_reduce(1, code.gather(1, order), rank, "amin")
    found, chosen = first.sort(dim=1, stable=True)
    missing = max(tokens - codes, 0)
    return F.pad(chosen, (0, missing))[:, :tokens], F.pad(found < positions, (0, missing))[:, :tokens]


def _shape(config: VreConfig) -> str:
    levels = "-".join(map(str, config.multipliers))
    return f"{config.size} px, {config.channels} channels times {levels}, {config.codes} codes of {config.dim}"


def read_lq_dictionary(folder: Path) -> tuple[VreConfig, dict[str, torch.Tensor]]:
    """Shape, and tensors of `VQ(config, decodes=False)`, of the LQ dictionary in a run of recipe `vre`.

    Raises BadInput where `folder` is something else.
    """
    config, _, tensors = read_dictionary(Path(folder))
    inside = {name.removeprefix("lq."): tensor for name, tensor in tensors.items() if name.startswith("lq.")}
    return config.vre, {name: tensor for name, tensor in inside.items() if not name.startswith("decoder.")}


def read_dictionary(folder: Path) -> tuple[ModelConfig, dict[str, Any], dict[str, torch.Tensor]]:
    folder = find_newest_checkpoint(folder)
    try:
        facts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config, trained_as = ModelConfig.from_json(facts.pop("model")), facts.get("recipe")
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:  # whatever is wrong with the files, the answer is the same
        raise unreadable(folder, error) from error
    if trained_as != RECIPE:
        raise BadInput(f"{folder} was trained by recipe {trained_as}: name a run of recipe {RECIPE}.")
    return config, facts, tensors


def unreadable(folder: Path, error: Exception) -> BadInput:
    return BadInput(f"{folder} holds no dictionary that this version can load ({' '.join(str(error).split())}).")
