"""What is decided for a sample before any pixel is touched: by (seed, epoch, face of the target) alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from degrade.sampling import Preset, make_generator
from degrade.theta import Theta
from train.data.snapshot import Snapshot
from train.recipes import Recipe

MAX_SEED = 2**31  # of one reference's augmentation
# defects as targets have them, where a recipe wants its restorer to mend those as well (ours): the presets of the
# literature hardly ever draw one, and a restorer that has seen ruins alone makes a good face worse
MILD = Preset("mild", blur=(0.1, 1.5), down=(1, 2), noise=(0, 4), jpeg=(60, 100), resize="bilinear")
FIRST = 0.5  # share of the images that train the first step, from which every restoration begins (ours)


@dataclass(frozen=True)
class Sample:
    """One target with what it is shown."""

    target: int  # row
    references: tuple[int, ...]  # rows, as many as were drawn
    flip: bool  # target and references together, so that a lopsided face stays consistent
    right: bool = True  # False: the references show another person
    seeds: tuple[int, ...] = ()  # of each reference's augmentation; none: they are shown as they are
    step: int = 0  # which of the recipe's steps learns from it


def draw_sample(snapshot: Snapshot, targets: np.ndarray, recipe: Recipe, seed: int, index: int) -> Sample:
    """Sample number `index` (images seen so far): the target by its epoch's permutation, the rest by its own draw.

    References come from the target's row of the pairs table, which curation ordered and cut by its policy, in equal
    shares; where the recipe wants wrong ones now and then, as many from one other person of the same split, whom the
    number of references must not give away.
    """
    epoch, place = divmod(index, len(targets))
    target = int(targets[_order(seed, epoch, len(targets))[place]])
    rng = make_generator(seed, "train", "sample", epoch, snapshot.face_ids[target])
    known = snapshot.references[target]
    count = min(int(rng.choice(np.asarray(recipe.reference_counts))), len(known))
    flip, wrong = bool(rng.integers(2)), bool(rng.uniform() < recipe.wrong_share)
    if strangers := _strangers(snapshot, target, count) if wrong and count else ():
        known = snapshot.people[snapshot.splits[target]][strangers[int(rng.integers(len(strangers)))]]
    chosen = tuple(int(row) for row in rng.choice(known, count, replace=False))
    seeds = tuple(int(s) for s in rng.integers(MAX_SEED, size=len(chosen))) if recipe.augment == "each" else ()
    # drawn last, and only where there is a choice: a recipe of one step draws what it always drew
    step = int(rng.integers(1, recipe.steps)) if recipe.steps > 1 and rng.uniform() >= FIRST else 0
    return Sample(target, chosen, flip, not strangers, seeds, step)


def draw_theta(preset: Preset, seed: int, epoch: int, face_id: str) -> Theta:
    """The θ of a target in an epoch."""
    return preset.sample(make_generator(seed, "train", "degrade", epoch, face_id))


def drawn_mildly(recipe: Recipe, seed: int, epoch: int, face_id: str) -> bool:
    """Whether a target is degraded by MILD in an epoch."""
    return recipe.mild_share > 0 and bool(
        make_generator(seed, "train", "mild", epoch, face_id).uniform() < recipe.mild_share
    )


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return make_generator(seed, "train", "epoch", epoch).permutation(count)


def _strangers(snapshot: Snapshot, target: int, count: int) -> tuple[str, ...]:
    """The other people of a target's split who have `count` photos."""
    own, people = snapshot.identity_ids[target], snapshot.people[snapshot.splits[target]]
    return tuple(person for person, rows in people.items() if person != own and len(rows) >= count)
