"""Encodes targets with the frozen VAE of a diffusion base, and keeps the latents.

In every epoch, a target has the same pixels or the mirrored pixels, and the VAE is never trained. The latents of both
can therefore be used again. LQ images and augmented references have other pixels each time, so their latents are not
kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# The kept latents take at most this number of bytes (ours) on the device: 16,384 latents of Stable Diffusion at 512 px.
# Further latents are computed each time.
CAPACITY = 2**30


class TargetLatents:
    """Holds latents of targets. The key of a latent is a hash of the target's pixels.

    `encode` maps images (n,3,S,S) to latents (n,C,h,w). `capacity` is in bytes, and 0 means that no latent is kept.
    Each target is encoded alone, so that its latent does not depend on the other images of its batch. A resumed run
    thus gets the same latents as an uninterrupted run.
    """

    def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor], capacity: int = CAPACITY) -> None:
        self._encode, self._capacity = encode, capacity
        self._latents: dict[tuple[int, ...], torch.Tensor] = {}
        self._bytes = 0

    @torch.no_grad()
    def encode(self, batch: dict[str, Any]) -> torch.Tensor:
        """Returns the latents of `batch["target"]`, (B,C,h,w) float32. Without `batch["target_hash"]`, no latent is
        kept.

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
