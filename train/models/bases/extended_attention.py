"""Extends the self-attention of a UNet's decoder to the keys and values of the references, like InstantRestore.

First, the references pass through the UNet, without adapters and without gradients. The self-attention layers of the
decoder keep the keys and values of the references. Then the LQ latent passes through the UNet. In this pass, the same
layers attend to the LQ latent and to the references.

The values of each reference are scaled and shifted to the mean and the standard deviation of the LQ latent's values
(AdaIN), as in InstantRestore's final config (use_adain). In that config, the LQ latent does not attend to its own keys
(train_input: false). In recipe `instant`, the LQ latent attends to its own keys too, because an image without
references has no other keys. InstantRestore's released weights are run with the options of their own config.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F

from train.models.references import place_in_slots

EPSILON = 1e-5  # added to each standard deviation, as in InstantRestore


class Extension:
    """Holds the keys and values of the references in the decoder of `unet`, until `forget` is called.

    With gradient checkpointing, the backward pass reads the keys and values again. The backward pass of a batch must
    therefore end before the next batch starts.

    `reference_unet` is the UNet through which the references pass. If `reference_unet` is None, the references pass
    through `unet`. With `adain`, the values of each reference are scaled and shifted to the statistics of the LQ
    latent's values. With `reads_input`, the LQ latent also attends to its own keys. Without `reads_input`, the LQ
    latent attends to its own keys only if the image has no references.
    """

    def __init__(self, unet: Any, reference_unet: Any = None, *, adain: bool = True, reads_input: bool = True) -> None:
        self.unet = unet
        self.layers = []
        for name, module in unet.up_blocks.named_modules():
            if name.endswith(".attn1"):
                self.layers.append(_Attention(adain, reads_input))
                module.set_processor(self.layers[-1])
                if reference_unet is not None:
                    reference_unet.up_blocks.get_submodule(name).set_processor(self.layers[-1])

    def forget(self) -> None:
        """Removes the keys and values of all references."""
        for layer in self.layers:
            layer.references, layer.mask = None, None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Turns the adapters of the UNet off, and makes the layers keep the keys and values of the next pass.

        Pass one batch of references through the UNet inside this context. `take` returns its keys and values.
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

    def take(self) -> tuple[torch.Tensor, ...]:
        """Returns the kept keys and values of n references, two tensors (n,N,C) for each layer, and calls `forget`."""
        kept = [layer.references for layer in self.layers]
        self.forget()
        return tuple(tensor for pair in kept if pair is not None for tensor in pair)

    def spread(self, keys_and_values: Sequence[torch.Tensor], present: torch.Tensor, filled: torch.Tensor) -> None:
        """Lets each image of the next batch attend to its references.

        `keys_and_values` is the result of `take` for the references of all filled slots, in the order of the slots.
        `present` is (B,K) bool, and `filled` is `Places.filled`.
        """
        for layer, keys, values in zip(self.layers, keys_and_values[::2], keys_and_values[1::2], strict=True):
            layer.spread(keys, values, present, filled)


class _Attention:
    """Replaces diffusers' attention processor of one layer. The new processor attends to the references too."""

    def __init__(self, adain: bool, reads_input: bool) -> None:
        self.adain, self.reads_input, self.keeps = adain, reads_input, False
        # The keys and the values of the references. With `adain`, the values have mean 0 and standard deviation 1.
        self.references: tuple[torch.Tensor, torch.Tensor] | None = None
        self.mask: torch.Tensor | None = None  # (B,1,1,K N) bool; None if every slot has a reference

    def spread(self, keys: torch.Tensor, values: torch.Tensor, present: torch.Tensor, filled: torch.Tensor) -> None:
        """Moves keys and values (n,N,C) of the n references into slots (B,K N,C). Empty slots are zero and masked."""
        if self.adain:
            # Scale the values to mean 0 and standard deviation 1. `__call__` then scales them to the LQ latent's
            # statistics.
            mean, deviation = _moments(values)
            values = (values - mean) / deviation
        slots = [place_in_slots(rows, present, filled).flatten(1, 2) for rows in (keys, values)]
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
        """Returns the output of the attention layer, (B,N,C), for `hidden_states` (B,N,C)."""
        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        # In the pass of the references, keep the keys and values. In the pass of the LQ latent, add the keys and
        # values of the references.
        mask = None
        if self.keeps:
            self.references = key, value
        elif self.references is not None:
            key, value, mask = self._extend(key, value)
        query, key, value = (t.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attn.scale)
        out: torch.Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2).to(hidden_states.dtype))
        return out

    def _extend(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Returns the keys and values (B,M,C) to which the LQ latent attends, and their mask (B,1,1,M) bool or None.

        `key` and `value`, (B,N,C), are the keys and values of the LQ latent.
        """
        assert self.references is not None
        more = [tensor.to(key.dtype) for tensor in self.references]
        if self.adain:
            mean, deviation = _moments(value)
            more[1] = (self.references[1] * deviation + mean).to(value.dtype)
        if self.mask is None and not self.reads_input:
            return more[0], more[1], None
        mask = None
        if self.mask is not None:
            own = torch.ones_like(self.mask[..., :1]) if self.reads_input else ~self.mask.any(-1, keepdim=True)
            mask = torch.cat([own.expand(-1, -1, -1, key.shape[1]), self.mask], -1)
        return torch.cat([key, more[0]], 1), torch.cat([value, more[1]], 1), mask


def _moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and standard deviation of each channel over the N positions of (B,N,C), both (B,1,C) float32."""
    values = values.float()
    return values.mean(1, keepdim=True), values.std(1, keepdim=True, correction=0) + EPSILON
