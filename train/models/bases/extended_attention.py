"""Extends the self-attention of a UNet's decoder to the keys and values of the references, like InstantRestore.

First, the UNet without its adapters sees every reference once, without gradients. The self-attention layers of the
decoder keep the keys and values of the references. Stable Diffusion and InstantRestore both have nine self-attention
layers in the decoder. Then the LQ latent passes through the UNet, and the self-attention layers of the decoder attend
to the references and to the LQ latent.

The values of each reference get the mean and the standard deviation of the values of the LQ latent (AdaIN), as with the
option use_adain in InstantRestore's final config. The LQ latent also attends to its own keys. InstantRestore's code
attends to these keys by default, but InstantRestore's final config removes the keys (train_input: false). We keep the
keys of the LQ latent, because an image without references has no other keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F

from train.models.references import place_in_slots

EPSILON = 1e-5  # added to each standard deviation, as in InstantRestore


class Extension:
    """Holds the keys and values of the references in the decoder of `unet`, until `forget` is called.

    A layer with gradient checkpointing reads the keys and values again when gradients are computed. Therefore the
    forward and backward passes of a batch must end before the next batch starts.
    """

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.layers = []
        for name, module in unet.up_blocks.named_modules():
            if name.endswith(".attn1"):
                self.layers.append(_Attention())
                module.set_processor(self.layers[-1])

    def forget(self) -> None:
        """Removes the keys and values of all references."""
        for layer in self.layers:
            layer.references, layer.mask = None, None

    @contextmanager
    def keeping(self, present: torch.Tensor, filled: torch.Tensor) -> Iterator[None]:
        """Makes the layers keep the keys and values of the batch that passes through the UNet inside the context.

        The batch in the context must have all references, in the order of their slots, and nothing for empty slots.
        Inside the context, the adapters of the UNet are off. `present` is (B,K) bool, and `filled` is `Places.filled`.
        """
        adapted = hasattr(self.unet, "peft_config")
        for layer in self.layers:
            layer.keeps = True
        if adapted:
            self.unet.disable_adapters()
        try:
            yield
        finally:
            if adapted:
                self.unet.enable_adapters()
            for layer in self.layers:
                layer.keeps = False
        for layer in self.layers:
            layer.spread(present, filled)


class _Attention:
    """Replaces the attention processor of one layer in diffusers by torch's scaled-dot-product attention."""

    def __init__(self) -> None:
        self.keeps = False
        # Holds the keys of the references, and their values with mean 0 and standard deviation 1.
        self.references: tuple[torch.Tensor, torch.Tensor] | None = None
        self.mask: torch.Tensor | None = None  # (B,1,1,K N) bool; None if every slot has a reference

    def spread(self, present: torch.Tensor, filled: torch.Tensor) -> None:
        """Moves keys and values (n,N,C) of the n references into slots (B,K N,C). Empty slots are zero and masked."""
        assert self.references is not None
        keys, values = self.references
        mean, deviation = _moments(values)
        # The values of the references get mean 0 and standard deviation 1. Later, `__call__` gives the values of the
        # references the statistics of the LQ latent.
        slots = [place_in_slots(rows, present, filled).flatten(1, 2) for rows in (keys, (values - mean) / deviation)]
        places = keys.shape[1]
        self.references = slots[0], slots[1]
        every_slot = len(filled) == present.numel()
        self.mask = None if every_slot else present.repeat_interleave(places, dim=1)[:, None, None]

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the attention output (B,N,C) for hidden_states (B,N,C)."""
        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        # In the pass of the references, keep their keys and values. In the pass of the LQ latent, also attend to the
        # references.
        mask = None
        if self.keeps:
            self.references = key, value
        elif self.references is not None:
            if self.mask is not None:
                mask = F.pad(self.mask, (key.shape[1], 0), value=True)
            mean, deviation = _moments(value)
            key = torch.cat([key, self.references[0].to(key.dtype)], 1)
            value = torch.cat([value, (self.references[1] * deviation + mean).to(value.dtype)], 1)
        query, key, value = (t.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attn.scale)
        out: torch.Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2).to(hidden_states.dtype))
        return out


def _moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and standard deviation of each channel over the N positions of (B,N,C), both (B,1,C) float32."""
    values = values.float()
    return values.mean(1, keepdim=True), values.std(1, keepdim=True, correction=0) + EPSILON
