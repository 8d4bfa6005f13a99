"""Draws the random choices for a sample before any pixel is read.

The choices depend only on the seed, the epoch and the face id of the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from degrade.sampling import Preset, make_generator
from degrade.theta import Theta
from train.data.snapshot import Snapshot
from train.recipes import Recipe

MAX_SEED = 2**31  # each seed for the augmentation of a reference is below this number
FIRST_STEP_SHARE = 0.5  # the share of images that train the first step; every restoration has the first step (ours)


@dataclass(frozen=True)
class Sample:
    """Holds the random choices for one sample: its target, its references, its flip and its step."""

    target: int  # the row of the target in the snapshot
    references: tuple[int, ...]  # the rows of the references in the snapshot
    flip: bool  # True if target and references are mirrored together, so that an asymmetric face stays consistent
    right: bool = True  # False if the references show another person
    seeds: tuple[int, ...] = ()  # one seed for each reference; empty if references are not augmented
    step: int = 0  # the number of the step that learns from the sample


def draw_sample(snapshot: Snapshot, targets: np.ndarray, recipe: Recipe, seed: int, index: int) -> Sample:
    """Returns the random choices for sample number `index`. `index` is the number of samples before this sample.

    The targets of an epoch come in a random order. A random generator that depends on the target and the epoch draws
    all choices except the target. The references are drawn uniformly from the target's references in the table `pairs`,
    which curation writes. In a share of the samples (`recipe.wrong_share`), the references show one other person of the
    same split. The number of references is drawn before the person, so this number does not reveal a wrong person.
    """
    epoch, place = divmod(index, len(targets))
    target = int(targets[_order_targets(seed, epoch, len(targets))[place]])
    rng = make_generator(seed, "train", "sample", epoch, snapshot.face_ids[target])
    possible = snapshot.references[target]
    count = min(int(rng.choice(np.asarray(recipe.reference_counts))), len(possible))
    flip, wrong = bool(rng.integers(2)), bool(rng.uniform() < recipe.wrong_share)
    if strangers := _strangers(snapshot, target, count) if wrong and count else ():
        possible = snapshot.people[snapshot.splits[target]][strangers[int(rng.integers(len(strangers)))]]
    references = tuple(int(row) for row in rng.choice(possible, count, replace=False))
    seeds = tuple(int(s) for s in rng.integers(MAX_SEED, size=len(references))) if recipe.augment == "each" else ()
    # The step is drawn last and only if the recipe has several steps, so the number of steps changes no other choice.
    step = int(rng.integers(1, recipe.steps)) if recipe.steps > 1 and rng.uniform() >= FIRST_STEP_SHARE else 0
    return Sample(target, references, flip, not strangers, seeds, step)


def draw_theta(preset: Preset, seed: int, epoch: int, face_id: str) -> Theta:
    """Draws and returns θ, the parameters of the degradation of a target in an epoch."""
    return preset.sample(make_generator(seed, "train", "degrade", epoch, face_id))


def draw_preset_name(recipe: Recipe, seed: int, epoch: int, face_id: str) -> str:
    """Returns the name of the preset that degrades the target in this epoch: one of the mixture, or `recipe.preset`."""
    if not recipe.mixture:
        return recipe.preset
    draw = make_generator(seed, "train", "mixture", epoch, face_id).uniform()
    for name, share in recipe.mixture.items():
        if draw < share:
            return name
        draw -= share
    return recipe.preset


def draw_gray(recipe: Recipe, seed: int, epoch: int, face_id: str) -> bool:
    """Returns whether the target and its input are gray in this epoch."""
    return recipe.gray_share > 0 and bool(
        make_generator(seed, "train", "gray", epoch, face_id).uniform() < recipe.gray_share
    )


@lru_cache(maxsize=4)
def _order_targets(seed: int, epoch: int, count: int) -> np.ndarray:
    return make_generator(seed, "train", "epoch", epoch).permutation(count)


def _strangers(snapshot: Snapshot, target: int, count: int) -> tuple[str, ...]:
    """Returns the other people in the split of the target who have at least `count` photos."""
    own, people = snapshot.identity_ids[target], snapshot.people[snapshot.splits[target]]
    return tuple(person for person, rows in people.items() if person != own and len(rows) >= count)
