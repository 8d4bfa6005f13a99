"""Divides a restorer into parts, each of which becomes one ONNX file.

train/restore/restorers/exported/manifest.py explains the values that the parts read and write. The references of a
person are encoded once. The other parts run for each batch of faces. The VAE and the UNet of a diffusion model are
parts of their own, so that no ONNX file has all weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional as F

from manifests.errors import BadInput
from train.models.bases.unet import ExtendedAttention
from train.models.io import Conditions
from train.models.references import pool
from train.models.restorer import Restorer
from train.restore.restorers.exported.manifest import REFERENCES, SLOT_VALUES

# The names of the dynamic dimensions in the ONNX files.
FACES, SLOTS = "faces", "references"
# The dynamic dimensions of the pictures and embeddings of one person. For other values, see `Graph.find_dimensions`.
_PERSON_DIMENSIONS = {"pictures": {0: SLOTS}, "embeddings": {0: SLOTS}}


@dataclass(frozen=True)
class Graph:
    """Holds a part of a restorer as a module. The module maps tensors to tensors, in the order of `inputs` and
    `outputs`."""

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def find_dimensions(self, value: str) -> dict[int, str]:
        """Returns the names of the dynamic dimensions of a value, by the number of the dimension."""
        if value in _PERSON_DIMENSIONS:
            return _PERSON_DIMENSIONS[value]
        slots = {1: SLOTS} if value in SLOT_VALUES else {}
        return slots if self.name == REFERENCES else {0: FACES, **slots}


def explain_unsupported(model: Restorer) -> str | None:
    """Returns why a restorer cannot be exported, as the end of a sentence, or None if it can be exported."""
    config, parts = model.config, set(model.config.parts)
    if config.denoise:
        return "it is a denoiser, and only torch draws its noise"
    if config.stylegan is not None:
        return "its base is ReFine's generator"
    if "extended" in parts and config.base != "tiny":
        return "its diffusion model keeps the references in its attention layers"
    if parts & {"identity", "features"}:
        return "it has HonestFace's identity embedder"
    if model.identity_encoder is not None:
        return "it has an identity encoder of its own"
    return None


def divide(model: Restorer) -> list[Graph]:
    """Returns the parts of a restorer in the order in which they run.

    The LoRA adapters of a diffusion model are merged into its weights, so do not train or save `model` afterwards.
    Raises BadInput if the restorer cannot be exported.
    """
    reason = explain_unsupported(model)
    if reason is not None:
        raise BadInput(
            f"This restorer cannot be exported, because {reason}: export a restorer of the recipe tiny, osdface or "
            "refine-unet."
        )
    graphs, conditions, inputs = list[Graph](), list[str](), tuple[str, ...]()
    if model.references is not None or model.embedding is not None:
        inputs = ("present",)
        if model.references is not None:
            inputs = ("pictures", *inputs)
            if model.references.nothing is not None:
                conditions += [f"map_{scale}" for scale in range(len(model.references.nothing))]
            if model.references.tokens_at is not None:
                conditions.append("tokens")
        if model.embedding is not None:
            inputs = ("embeddings", *inputs)
            conditions.append("identity")
        graphs.append(Graph(REFERENCES, _EncodeReferences(model, inputs), inputs, tuple(conditions)))
    if model.vre is not None:
        graphs.append(Graph("prompt", model.vre, ("lq",), ("prompt",)))
        conditions.append("prompt")
    read = (*conditions, *(["present"] if "tokens" in conditions else []))
    if model.config.base == "tiny":
        inputs = ("lq", *read)
        return [*graphs, Graph("network", _RestoreOnTiny(model, inputs), inputs, ("image",))]
    for module in model.base.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    inputs = ("z", *read)
    return [
        *graphs,
        Graph("encoder", _Call(model.base, model.base.encode), ("lq",), ("z",)),
        Graph("unet", _Predict(model, model.base, inputs), inputs, ("clean",)),
        Graph("decoder", _Call(model.base, lambda clean: model.base.decode(clean).clamp(0, 1)), ("clean",), ("image",)),
    ]


class _EncodeReferences(nn.Module):
    """Encodes the references of one person into the conditions of a face."""

    def __init__(self, model: Restorer, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.references, self.embedding, self.inputs = model.references, model.embedding, inputs

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = dict(zip(self.inputs, tensors, strict=True))
        present, written = values["present"], list[torch.Tensor]()
        if self.references is not None:
            # An empty slot also has a picture, but `pool` and the attention ignore this picture.
            sets = [one[None] for one in self.references.encoder(values["pictures"])]
            if self.references.nothing is not None:
                written += [pool(one, present, n) for one, n in zip(sets, self.references.nothing, strict=True)]
            if self.references.tokens_at is not None:
                written.append(sets[self.references.tokens_at].flatten(3).transpose(2, 3))
        if self.embedding is not None:
            written.append(self.embedding(values["embeddings"][None], present))
        return tuple(written)


class _Predict(nn.Module):
    """Computes the clean latent from the LQ latent and the conditions."""

    def __init__(self, model: Restorer, base: Any, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.base, self.timestep, self.inputs = base, model.config.timestep, inputs

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        values = dict(zip(self.inputs, tensors, strict=True))
        z = values["z"]
        present = values.get("present", torch.zeros(1, 0, dtype=torch.bool))
        conditions = Conditions(
            present=present,
            filled=present.new_zeros(0, dtype=torch.long),
            groups=(),
            prompt=values.get("prompt"),
            maps=[value for name, value in values.items() if name.startswith("map_")],
            identity=values.get("identity"),
            tokens=values.get("tokens"),
        )
        clean: torch.Tensor = self.base.predict(z, conditions, self.timestep)
        return clean


class _RestoreOnTiny(nn.Module):
    """Restores faces on base tiny."""

    def __init__(self, model: Restorer, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.base = copy.deepcopy(model.base)  # a copy, because its attention is replaced
        if self.base.unet.attend is not None:
            self.base.unet.attend = _MaskedAttention(self.base.unet.attend)
        self.predict = _Predict(model, self.base, ("z", *inputs[1:]))

    def forward(self, lq: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        image: torch.Tensor = self.base.decode(self.predict(self.base.encode(lq), *conditions))
        return image.clamp(0, 1)


class _MaskedAttention(nn.Module):
    """Computes ExtendedAttention with a mask in place of groups, because the number of groups depends on the values."""

    def __init__(self, layer: ExtendedAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, h: torch.Tensor, seen: Conditions) -> torch.Tensor:
        """Returns (B,C,h,w) for a map h (B,C,h,w)."""
        assert seen.tokens is not None
        # The keys are the positions of the map, and then all positions of all slots, (B,h w + K N,C). The mask is False
        # for the positions of empty slots.
        own, attention = self.layer.norm(h).flatten(2).transpose(1, 2), self.layer.attention
        keys = torch.cat([own, self.layer.enter(seen.tokens.flatten(1, 2))], 1)
        filled = seen.present[:, :, None].expand(-1, -1, seen.tokens.shape[2]).flatten(1)
        mask = torch.cat([torch.ones_like(own[..., 0], dtype=torch.bool), filled], 1)[:, None, None]
        query, key, value = (
            tensor.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for tensor in (attention.to_q(own), attention.to_k(keys), attention.to_v(keys))
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attention.scale)
        out = attention.to_out[0](attended.transpose(1, 2).flatten(2))
        return h + out.transpose(1, 2).reshape(h.shape)


class _Call(nn.Module):
    """Makes a module of a function that uses the weights of `owner`."""

    def __init__(self, owner: nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.owner, self.function = owner, function

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.function(tensor)
