"""Self-attention of a UNet's decoder extended to the references' keys and values, as InstantRestore does it.

The UNet as it came, without its adapters, sees every reference once, without gradients; its decoder's self-attention
layers (nine in Stable Diffusion, as there) keep their keys and values, and attend to them beside their own when the LQ
latent passes. The values of each reference get mean and deviation of the input's (AdaIN, use_adain in their final
config). Their own keys stay, as by default there; the final config leaves them out (train_input: false), which an image
without references could not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F

from train.models.references import place_in_slots

EPSILON = 1e-5  # added to a deviation, as there


class Extension:
    """The references as the decoder of `unet` sees them. What is kept stays until `forget`, since a checkpointed layer
    looks again when gradients are computed: forward and backward of one batch come before the next."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.layers = []
        for name, module in unet.up_blocks.named_modules():
            if name.endswith(".attn1"):
                self.layers.append(_Attention())
                module.set_processor(self.layers[-1])

    def forget(self) -> None:
        """No references."""
        for layer in self.layers:
            layer.kept, layer.mask = None, None

    @contextmanager
    def keeping(self, present: torch.Tensor, filled: torch.Tensor) -> Iterator[None]:
        """Inside the context the references that exist pass through the UNet, as one batch in the order of the slots.

        `present` (B,K) bool; `filled` as in `Places`.
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
    """diffusers' processor of one attention layer, with torch's scaled-dot-product attention."""

    def __init__(self) -> None:
        self.keeps = False
        self.kept: tuple[torch.Tensor, torch.Tensor] | None = None  # keys, and values of mean 0 and deviation 1
        self.mask: torch.Tensor | None = None  # (B,1,1,K N) bool; None where every slot shows a reference

    def spread(self, present: torch.Tensor, filled: torch.Tensor) -> None:
        """(n,N,C) of the references that exist -> (B,K N,C), zero and masked in empty slots."""
        assert self.kept is not None
        keys, values = self.kept
        mean, deviation = _moments(values)
        slots = [place_in_slots(kept, present, filled).flatten(1, 2) for kept in (keys, (values - mean) / deviation)]
        places = keys.shape[1]
        self.kept = slots[0], slots[1]
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
        """hidden_states (B,N,C) -> the same."""
        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        mask = None
        if self.keeps:
            self.kept = key, value
        elif self.kept is not None:
            if self.mask is not None:
                mask = F.pad(self.mask, (key.shape[1], 0), value=True)
            mean, deviation = _moments(value)
            key = torch.cat([key, self.kept[0].to(key.dtype)], 1)
            value = torch.cat([value, (self.kept[1] * deviation + mean).to(value.dtype)], 1)
        query, key, value = (t.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for t in (query, key, value))
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attn.scale)
        out: torch.Tensor = attn.to_out[0](seen.transpose(1, 2).flatten(2).to(hidden_states.dtype))
        return out


def _moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,N,C) -> mean and deviation of each channel over the N places, (B,1,C) float32."""
    values = values.float()
    return values.mean(1, keepdim=True), values.std(1, keepdim=True, correction=0) + EPSILON
