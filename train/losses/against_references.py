"""ReFine's two losses for the case that target and reference disagree: the nearer one counts, and the input decides."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from degrade.engines.differentiable import apply
from degrade.theta import Theta
from train.losses.perceptual import Lpips


def spatial_min_loss(
    lpips: Lpips, restored: torch.Tensor, target: torch.Tensor, references: torch.Tensor, usable: torch.Tensor
) -> torch.Tensor:
    """The mean over locations of min(d(restored, target), d(restored, reference)), d being LPIPS at that location.

    restored and target (B,3,S,S); references (B,K,3,S,S), warped to the input; usable (B,K) bool, False where a slot is
    empty or shows another person. K may be 0; over several references it is the least of all (ours: ReFine has one).
    """
    size = (restored.shape[-2], restored.shape[-1])
    ours = lpips(restored)
    with torch.no_grad():
        truth = lpips(target)
    least = lpips.distance_map(ours, truth, size)
    for slot in range(usable.shape[1]):
        shown = usable[:, slot].nonzero()[:, 0]
        if not len(shown):
            continue
        with torch.no_grad():
            theirs = lpips(references[shown, slot])
        apart = lpips.distance_map([layer[shown] for layer in ours], theirs, size)
        least = least.index_copy(0, shown, torch.minimum(least[shown], apart))
    return least.mean()


def cycle_loss(lpips: Lpips, restored: torch.Tensor, lq: torch.Tensor, thetas: Sequence[Theta]) -> torch.Tensor:
    """LPIPS of the restored image, degraded by the θ that made the input, to the input; the mean over the batch.

    restored (B,3,S,S) is clamped to 0..1 first, lq (B,3,S,S) in 0..1. Where restored is not finite, so is the loss.
    """
    if not restored.isfinite().all():
        return restored.mean() * torch.nan
    with torch.no_grad():
        truth = lpips(lq)
    return lpips.distance(lpips(apply(restored.clamp(0, 1), list(thetas))), truth).mean()
