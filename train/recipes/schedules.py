"""Computes the values of a recipe that change during a run. These values depend on the number of images seen."""

from __future__ import annotations

from train.recipes.recipes import Recipe

COOLDOWN_SHARE = 0.15  # The cooldown is at most this share (ours) of a run, so that a short run is not all cooldown.
DROP = 0.1  # ReFine multiplies the learning rate by this factor, see Recipe.drop_every.


def compute_rate(recipe: Recipe, images: int, end: int) -> float:
    """Returns the learning rate after `images` images of a run that ends after `end` images.

    The rate rises linearly during the warm-up. After `decay_from` images, it is multiplied by sqrt(decay_from /
    images). After every `drop_every` images, it is multiplied by DROP. Over the last `cooldown` images, at most
    COOLDOWN_SHARE of the run, the rate falls linearly to zero.
    """
    warm = min(1.0, (images + recipe.batch) / max(recipe.warmup, 1))
    cooldown = min(recipe.cooldown, COOLDOWN_SHARE * end)
    cold = min(1.0, (end - images) / cooldown) if cooldown else 1.0
    decay = min(1.0, (recipe.decay_from / max(images, 1)) ** 0.5) if recipe.decay_from else 1.0
    drops = images // recipe.drop_every if recipe.drop_every else 0
    return recipe.rate * warm * decay * DROP**drops * cold


def find_loss_weights(recipe: Recipe, images: int) -> dict[str, float]:
    """Returns the weight of each loss of the recipe after `images` images."""
    if images < recipe.late_from:
        return recipe.losses
    return {name: weight * recipe.late_factors.get(name, 1.0) for name, weight in recipe.losses.items()}


def compute_ema_decay(recipe: Recipe, images: int) -> float:
    """Returns the factor in 0..1 by which the averaged weights are multiplied at each step.

    The half-life of the average is `ema` images, but never more than 5% of `images`, the number of images seen (edm2).
    """
    half_life = min(recipe.ema, max(images, 1) * 0.05)
    return float(0.5 ** (recipe.batch / half_life))
