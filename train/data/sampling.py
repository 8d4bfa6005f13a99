"""Draws the random choices for a sample before any pixel is read.

The choices depend only on the seed, the recipe, the snapshot, and the number of the sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from degrade.sampling import Preset, make_generator
from degrade.theta import Theta
from train.data.snapshot import Snapshot
from train.recipes.model_configs import find_encoder_shape
from train.recipes.recipes import Recipe
from train.recipes.training_presets import CLEAN, MILD

MAX_SEED = 2**31  # Each seed for the augmentation of a reference is below this number.
# If less than this share (ours) of the targets has fine detail, no target is repeated. Without this rule, the model
# would see a few faces too often.
FINE_SHARE = 0.1


@dataclass(frozen=True)
class Sample:
    """Holds the random choices for one sample: its target, its references and its flip."""

    target: int  # The row of the target in the snapshot.
    references: tuple[int, ...]  # The rows of the references in the snapshot.
    flip: bool  # True mirrors the target and all references, so that an asymmetric face looks the same in all images.
    right: bool = True  # False if the references show another person.
    seeds: tuple[int, ...] = ()  # One seed for each reference; empty if references are not augmented.
    turn: int = 0  # See `find_turn`.
    # For each reference, whether the identity encoder sees this reference mirrored (ReFine); empty if IR-SE50 is not
    # used.
    mirrors: tuple[bool, ...] = ()


def repeat_fine_targets(snapshot: Snapshot, split: str, recipe: Recipe) -> tuple[np.ndarray, int]:
    """Returns the rows of the targets of an epoch, and the smallest resolution of a target with fine detail.

    The rows are int32 and sorted. The smallest resolution is in pixels, as in `Snapshot.resolution`.

    A target is fine if it loses detail when it is shrunk to less than half of its side (`Snapshot.resolution`). In an
    epoch, a fine target has `recipe.fine_repeats` rows, and every other target has one row. If less than FINE_SHARE of
    the targets are fine, or if the recipe repeats no target, each target has one row and counts as fine.
    """
    targets = snapshot.targets(split)
    if split == "train" and recipe.fine_repeats > 1:
        fine_from = snapshot.size // 2
        is_fine = snapshot.resolution[targets] >= fine_from
        if np.count_nonzero(is_fine) >= FINE_SHARE * len(targets):
            return np.repeat(targets, np.where(is_fine, recipe.fine_repeats, 1)), fine_from
    return targets, 0


def find_turn(targets: np.ndarray, seed: int, index: int) -> tuple[int, int]:
    """Returns the target of sample number `index`, and its turn, which counts the earlier samples of this target.

    `targets` has the sorted rows of the targets of an epoch. A row may be repeated. No two samples of a run have the
    same target and the same turn. Without repeated rows, the turn is the epoch.
    """
    epoch, place = divmod(index, len(targets))
    at = int(_order_targets(seed, epoch, len(targets))[place])
    first, end = (int(np.searchsorted(targets, targets[at], side)) for side in ("left", "right"))
    return int(targets[at]), epoch * (end - first) + at - first


def draw_sample(snapshot: Snapshot, targets: np.ndarray, recipe: Recipe, seed: int, index: int) -> Sample:
    """Returns the random choices for sample number `index`. `index` is the number of samples before this sample.

    The targets of an epoch come in a random order. A random generator that depends on the target and its turn draws all
    choices except the target. The references are drawn uniformly from the target's references in the table `pairs` of
    the ledger. In a share of the samples (`recipe.wrong_share`), the references show one other person of the same
    split. The number of references is drawn before the person. So the number of references does not tell the model
    whether the references show another person.
    """
    target, turn = find_turn(targets, seed, index)
    rng = make_generator(seed, "train", "sample", turn, snapshot.face_ids[target])
    possible, right = snapshot.references[target], True
    count = min(int(rng.choice(np.asarray(recipe.reference_counts))), len(possible))
    flip, wrong = bool(rng.integers(2)), bool(rng.uniform() < recipe.wrong_share)
    if wrong and count and (rows := _draw_stranger(snapshot, target, count, rng)) is not None:
        possible, right = rows, False
    references = tuple(int(row) for row in rng.choice(possible, count, replace=False))
    seeds = tuple(int(s) for s in rng.integers(MAX_SEED, size=len(references))) if recipe.augment == "each" else ()
    # `mirrors` is drawn last, and only if the recipe needs it. So this draw changes no other choice.
    mirrors: tuple[bool, ...] = ()
    if find_encoder_shape(recipe) is not None:
        mirrors = tuple(bool(coin) for coin in rng.integers(2, size=len(references)))
    return Sample(target, references, flip, right, seeds, turn, mirrors)


def draw_theta(preset: Preset, seed: int, turn: int, face_id: str) -> Theta:
    """Draws and returns θ, the parameters with which the target `face_id` is degraded in the turn `turn`."""
    return preset.sample(make_generator(seed, "train", "degrade", turn, face_id))


def draw_preset_name(recipe: Recipe, seed: int, turn: int, face_id: str, is_fine: bool) -> str:
    """Returns the name of the preset that degrades the target in this turn: a name in `recipe.mixture`, or
    `recipe.preset`.

    `is_fine` says whether the target has fine detail. A target without fine detail never gets a clean or mild input
    (ours). From a soft target with a clean input, a model would learn that a soft face needs no change.
    """
    if not recipe.mixture:
        return recipe.preset
    draw = make_generator(seed, "train", "mixture", turn, face_id).uniform()
    for name, share in recipe.mixture.items():
        if draw < share:
            return name if is_fine or name not in (CLEAN.name, MILD.name) else recipe.preset
        draw -= share
    return recipe.preset


def draw_gray(recipe: Recipe, seed: int, turn: int, face_id: str) -> bool:
    """Returns whether the target and its input are gray in this turn."""
    return recipe.gray_share > 0 and bool(
        make_generator(seed, "train", "gray", turn, face_id).uniform() < recipe.gray_share
    )


def draw_identity_map(recipe: Recipe, seed: int, turn: int, face_id: str) -> np.ndarray:
    """Returns the random map of the recognizer's crop in this turn (ours), an affine matrix, float32 (2,3).

    The matrix maps a point of the moved crop to a point of the plain crop. The corners of both crops are (-1,-1) and
    (1,1). With J = `recipe.identity_jitter`, the crop moves by at most J of its side in x and in y. The crop turns by
    at most 2 J radians, and its scale is from exp(-J) to exp(J). Half of the crops are mirrored.
    """
    most = recipe.identity_jitter
    rng = make_generator(seed, "train", "identity", turn, face_id)
    shift, turned, scale = (
        rng.uniform(-2 * most, 2 * most, 2),
        rng.uniform(-2 * most, 2 * most),
        rng.uniform(-most, most),
    )
    mirror = 1 - 2 * int(rng.integers(2))
    cosine, sine = np.exp(scale) * np.cos(turned), np.exp(scale) * np.sin(turned)
    return np.array([[mirror * cosine, -sine, shift[0]], [mirror * sine, cosine, shift[1]]], np.float32)


@lru_cache(maxsize=2)  # A batch can contain samples of two epochs.
def _order_targets(seed: int, epoch: int, count: int) -> np.ndarray:
    """Returns the order of the targets in an epoch, int32 (count,), which takes half the memory of int64."""
    return make_generator(seed, "train", "epoch", epoch).permutation(count).astype(np.int32)


def _draw_stranger(snapshot: Snapshot, target: int, count: int, rng: np.random.Generator) -> np.ndarray | None:
    """Returns the rows of a random person in the split of the target. The person is not the person of the target.

    Every person with at least `count` photos in the split has the same chance. Returns None if there is no such person.
    The code has no loop over the people, so the time hardly depends on the number of people.
    """
    people = snapshot.people[snapshot.splits[target]]
    places = people.list_people(count)
    # Find the person of the target among these people. `place` is the index of the person in `places`, or the index at
    # which the person would be inserted.
    own = int(np.searchsorted(people.numbers, snapshot.person_numbers[target]))
    place = int(np.searchsorted(places, own))
    has_own = place < len(places) and places[place] == own
    if len(places) == int(has_own):
        return None
    choice = int(rng.integers(len(places) - int(has_own)))
    if has_own and choice >= place:
        choice += 1
    return people.get_rows(int(places[choice]))
