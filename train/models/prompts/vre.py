"""Defines OSDFace's visual representation embedder (VRE), which makes the prompt from an LQ face."""

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
    """Makes a prompt from an LQ face. Only the projection is trained, and the encoder and the codebook are frozen.

    The encoder and the codebook have random weights until `load_dictionary` is called.
    """

    def __init__(self, config: VreConfig, prompt_dim: int) -> None:
        super().__init__()
        self.config = config
        self.dictionary = VQ(config, decodes=False).requires_grad_(False)
        self.projection = Projection(config.dim, prompt_dim)

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        """Returns the prompt (B, tokens, prompt_dim) for `lq` (B,3,S,S) in 0..1 of any size S."""
        # Find the distinct codes that are nearest to the vectors of each face: `rows` (B,tokens,dim). If a face has
        # fewer distinct codes than `tokens`, its last rows are zero.
        with torch.no_grad():
            vectors = self.dictionary.encode(self._seen(lq))
            code, distance = self.dictionary.quantize.nearest(vectors)
            chosen, there = distinct(code, distance, self.config.codes, self.config.tokens)
            rows = self.dictionary.quantize.embedding(chosen) * there.unsqueeze(-1)
        return self.projection(rows)

    def load_dictionary(self, folder: Path) -> None:
        """Loads the encoder and the codebook from a run of recipe `vre`, or from one of its checkpoints.

        Raises BadInput if `folder` has no dictionary, or a dictionary of another shape.
        """
        theirs, tensors = read_lq_dictionary(folder)
        # `tokens` and `doubly_normalised` are not compared, because a dictionary works with all their values.
        shape = replace(theirs, tokens=self.config.tokens, doubly_normalised=self.config.doubly_normalised)
        if shape != self.config:
            raise BadInput(
                f"The dictionary of {folder} has the shape {_shape(shape)}, but this recipe needs the shape "
                f"{_shape(self.config)}: train recipe vre on the same base."
            )
        self.dictionary.load_state_dict(tensors)

    def _seen(self, lq: torch.Tensor) -> torch.Tensor:
        size = (self.config.size, self.config.size)
        if self.config.doubly_normalised:
            lq = lq * 2 - 1
        return F.interpolate(lq, size=size, mode="bilinear", align_corners=False) * 2 - 1


class Projection(nn.Module):
    """Maps each code to a token by two layers, each with a SiLU after it.

    The widths are dim, dim / 2 and prompt_dim: 512, 256 and 1024 in OSDFace's embedding_change_weights.
    """

    def __init__(self, dim: int, prompt_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(dim, dim // 2, 1)
        self.conv2 = nn.Conv1d(dim // 2, prompt_dim, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns tokens (B,N,prompt_dim) for codes (B,N,dim)."""
        return F.silu(self.conv2(F.silu(self.conv1(rows.transpose(1, 2))))).transpose(1, 2)


def distinct(code: torch.Tensor, distance: torch.Tensor, codes: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the `tokens` nearest distinct codes of each image, sorted by distance, and a mask.

    `code` (B,P) int64 has the nearest code of each of P positions, and `distance` (B,P) has the distance to this code.
    `codes` is the size of the codebook. If two distances are equal, the code of the earlier position comes first. The
    returned codes are (B,tokens) int64. The mask, (B,tokens) bool, is False at the end of a row if the image has fewer
    than `tokens` distinct codes. OSDFace selects the same codes in a loop (lq_embed/vqvae.py).
    """
    # Sort the positions by distance. `first` (B,codes) is the rank of the best position of each code.
    b, positions = code.shape
    order = distance.argsort(dim=1, stable=True)
    rank = torch.arange(positions, device=code.device).expand(b, -1)
    first = torch.full((b, codes), positions, dtype=rank.dtype, device=code.device)
    first = first.scatter_reduce(1, code.gather(1, order), rank, "amin")
    # Sort the codes by `first`. A code that no position has gets the rank `positions`, so it comes last.
    ranks, chosen = first.sort(dim=1, stable=True)
    missing = max(tokens - codes, 0)
    return F.pad(chosen, (0, missing))[:, :tokens], F.pad(ranks < positions, (0, missing))[:, :tokens]


def _shape(config: VreConfig) -> str:
    levels = "-".join(map(str, config.multipliers))
    return f"{config.size} px, {config.channels} channels times {levels}, {config.codes} codes of {config.dim}"


def read_lq_dictionary(folder: Path) -> tuple[VreConfig, dict[str, torch.Tensor]]:
    """Returns the shape of the LQ dictionary in a run of recipe `vre`, and its tensors, which fit
    `VQ(shape, decodes=False)`.

    Raises BadInput if `folder` has no dictionary.
    """
    config, _, tensors = read_dictionary(Path(folder))
    inside = {name.removeprefix("lq."): tensor for name, tensor in tensors.items() if name.startswith("lq.")}
    return config.vre, {name: tensor for name, tensor in inside.items() if not name.startswith("decoder.")}


def read_dictionary(folder: Path) -> tuple[ModelConfig, dict[str, Any], dict[str, torch.Tensor]]:
    """Returns the config, the facts and the tensors of a run of recipe `vre`. Raises BadInput if they cannot be read,
    or if the run has another recipe."""
    folder = find_newest_checkpoint(folder)
    try:
        facts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config, trained_as = ModelConfig.from_json(facts.pop("model")), facts.get("recipe")
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:  # a broken file can raise many kinds of errors
        raise unreadable(folder, error) from error
    if trained_as != RECIPE:
        raise BadInput(f"{folder} was trained by recipe {trained_as}: give a run of recipe {RECIPE}.")
    return config, facts, tensors


def unreadable(folder: Path, error: Exception) -> BadInput:
    """Returns the error for a folder whose dictionary cannot be read."""
    return BadInput(
        f"{folder} contains no dictionary that this version can load ({' '.join(str(error).split())}): give the folder "
        f"of another run of recipe {RECIPE}."
    )
