"""Computes two losses of ReFine.

The spatial minimum loss is small if each location of the restored face resembles the target or a reference.

The cycle loss degrades the restored face again and compares the result with the input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from degrade.engines.differentiable import apply
from degrade.theta import Theta
from train.losses.perceptual import Lpips


def spatial_min_loss(
    lpips: Lpips,
    restored: torch.Tensor,
    target: torch.Tensor,
    references: torch.Tensor,
    usable_rows: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Returns the mean of min(d(restored, target), d(restored, reference)) over all locations.

    Here d is the LPIPS distance at a location.

    `restored` and `target` are (B,3,S,S). `references` are (B,K,3,S,S), warped to the input. K can be 0. `usable_rows`
    has one int64 tensor (n,) for each of the K slots. The tensor has the indices of the samples whose reference in this
    slot shows the person of the target. ReFine has only one reference. With several references, the minimum is over all
    of them (ours).
    """
    size = (restored.shape[-2], restored.shape[-1])
    ours = lpips(restored)
    with torch.no_grad():
        truth = lpips(target)
    least = lpips.distance_map(ours, truth, size)
    for slot, samples in enumerate(usable_rows):
        if not len(samples):
            continue
        with torch.no_grad():
            theirs = lpips(references[samples, slot])
        apart = lpips.distance_map([layer[samples] for layer in ours], theirs, size)
        least = least.index_copy(0, samples, torch.minimum(least[samples], apart))
    return least.mean()


def cycle_loss(
    lpips: Lpips, restored: torch.Tensor, lq: torch.Tensor, thetas: Sequence[Theta], device_noise: bool = False
) -> torch.Tensor:
    """Degrades the restored image by the θ of the input, and returns the mean LPIPS between the degraded image and the
    input.

    `restored`, (B,3,S,S), is clamped to 0..1 first. `lq` is (B,3,S,S) in 0..1. `device_noise` is True if the noise of
    `lq` was drawn on the device. The restored image gets the same noise as `lq`. The loss is NaN if `restored` contains
    NaN or infinity.
    """
    if not restored.isfinite().all():
        return restored.mean() * torch.nan
    with torch.no_grad():
        truth = lpips(lq)
    degraded = apply(restored.clamp(0, 1), list(thetas), device_noise)
    return lpips.distance(lpips(degraded), truth).mean()
