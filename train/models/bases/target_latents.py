"""Encodes targets with the frozen VAE of a diffusion base, and keeps the latents.

In every epoch, a target has the same pixels or is mirrored, and the VAE is never trained. So the latent of a target is
computed once and then used again. The latents of LQ images and of augmented references would be different each time, so
they are not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# All latents together take at most this memory on the device (ours). At 512 px, a latent of Stable Diffusion takes 64
# KiB, so the memory is enough for 16,384 latents. Later latents are computed each time.
CAPACITY = 2**30  # bytes


class TargetLatents:
    """Holds the latents of the targets, keyed by the hash of the pixels of a target.

    `encode` returns the latents (n,C,h,w) of images (n,3,S,S). `capacity` is in bytes; with the capacity 0, no latent
    is kept. Each target is encoded alone, not in its batch. So a latent does not depend on the other images of the
    batch, and a resumed run gets the same latents as an uninterrupted run.
    """

    def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor], capacity: int = CAPACITY) -> None:
        self._encode, self._capacity = encode, capacity
        self._latents: dict[tuple[int, ...], torch.Tensor] = {}
        self._bytes = 0

    @torch.no_grad()
    def encode(self, batch: dict[str, Any]) -> torch.Tensor:
        """Returns the latents of `batch["target"]`, (B,C,h,w) float32. A batch without `target_hash` keeps no latent.

        The hashes are on the CPU, so the CPU does not wait for the device.
        """
        targets = batch["target"]
        hashes = batch.get("target_hash")
        latents = []
        for place, target in enumerate(targets.split(1)):
            key = None if hashes is None else tuple(hashes[place].tolist())
            latent = None if key is None else self._latents.get(key)
            if latent is None:
                latent = self._encode(target).float()
                if key is not None and self._bytes + latent.nbytes <= self._capacity:
                    self._latents[key] = latent
                    self._bytes += latent.nbytes
            latents.append(latent)
        return torch.cat(latents)
