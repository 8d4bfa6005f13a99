"""Orders the references of a target by a policy (`--pairs`).

| policy | the first reference of a target |
|---|---|
| random | the reference with the smallest hash of target and reference (the default policy, with the least bias) |
| nearest | the reference with the highest cosine to the target |
| window | as random, but only references whose distance (1 - cosine) lies in the window of the split |
| affine-nearest | the reference whose landmarks fit the target landmarks best after an affine map, as in ASFFNet |
| diverse | the face nearest to the person's mean; each next reference is farthest from all earlier references |
| hard-pose | the reference whose yaw and pitch differ most from the yaw and pitch of the target |
| same-age | as random, but only references that were taken at most two years before or after the target |
| across-ages | as random, but only references that were taken at least five years before or after the target |

A target keeps only the first references of the order, and training draws uniformly from these references. The policy of
a dataset therefore decides which references are used in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np

from curate.config import PairRules
from manifests.ledger.records import Face, Photo
from manifests.runtime.files import sha256_bytes

# In the policy `diverse`, a difference of _DEGREES_A_UNIT degrees (ours) in yaw or pitch counts as much as a distance
# of 1 between two unit embeddings. Two embeddings at a distance of 1 have a cosine of .5.
_DEGREES_A_UNIT = 45.0
# Weights of the 68 landmarks, as in main_test.py of ASFFNet512. The first tuple has the brows and eyes, and the second
# tuple has the mouth.
_ASFFNET_PARTS: tuple[tuple[float, tuple[int, ...]], ...] = (
    (1.01, (*range(17, 27), *range(36, 48))),
    (1.49, tuple(range(48, 68))),
)
_FIVE_POINTS = ((1.0, tuple(range(5))),)
_BEHIND_ALL = 1 << 37  # the rank of the references that the policy `diverse` does not pick; larger than other ranks


@dataclass(frozen=True)
class FaceTable:
    """The properties of faces that the policies compare. Row i of every array belongs to `faces[i]`."""

    faces: Sequence[Face]
    vectors: np.ndarray  # Unit embeddings, float32 (n, d).
    picture: np.ndarray  # The number of each face's picture, int (n,). Copies of a photo have the same number.
    photos: Mapping[str, Photo]  # Photo id -> photo. If the photo of a face is missing here, the face has no date.

    @cached_property
    def ids(self) -> np.ndarray:
        """Returns the face ids, object (n,)."""
        return np.array([face.face_id for face in self.faces], object)

    @cached_property
    def hashes(self) -> np.ndarray:
        """Returns the hashes of the face ids, uint64 (n,)."""
        return np.array([int(sha256_bytes(face.face_id.encode())[:16], 16) for face in self.faces], np.uint64)

    @cached_property
    def pose(self) -> np.ndarray:
        """Returns yaw and pitch in degrees, float32 (n, 2)."""
        return np.array([(face.yaw, face.pitch) for face in self.faces], np.float32).reshape(-1, 2)

    @cached_property
    def days(self) -> np.ndarray:
        """Returns the days from 1970 to each photo, by the clock of the camera and in UTC, float64 (n, 2).

        An element is NaN if the date is missing or doubtful. The days in UTC are also NaN if the time zone is not
        known.
        """
        return np.array([find_days(self.photos.get(face.photo_id)) for face in self.faces], np.float64).reshape(-1, 2)

    def measure_gaps(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Returns the days between the photos of two faces, float64. The result is NaN if one of the dates is missing.

        `rows` and `others` are arrays of row numbers that numpy broadcasts.
        """
        local, utc = (np.abs(self.days[rows, clock] - self.days[others, clock]) for clock in (0, 1))
        return np.where(np.isnan(utc), local, utc)

    def get_landmarks68(self, rows: np.ndarray) -> np.ndarray | None:
        """Returns the 68 landmarks of the faces in `rows`, float64 (len(rows), 68, 2), or None if a face has no 68
        landmarks.
        """
        points = [self.faces[row].landmarks68 for row in rows]
        if any(one is None for one in points):
            return None
        return np.array(points, np.float64).reshape(len(rows), 68, 2)

    def get_landmarks5(self, rows: np.ndarray) -> np.ndarray:
        """Returns the 5 landmarks of the faces in `rows`, float64 (len(rows), 5, 2)."""
        return np.array([self.faces[row].landmarks5 for row in rows], np.float64).reshape(len(rows), 5, 2)


def find_days(photo: Photo | None) -> tuple[float, float]:
    """Returns when a photo was taken, in days since 1970: by the clock of the camera, and in UTC.

    A number is NaN if it is unknown.
    """
    if photo is None or photo.taken is None or photo.taken_doubt is not None:
        return math.nan, math.nan
    local = (photo.taken - datetime(1970, 1, 1)).total_seconds() / 86400
    return local, math.nan if photo.taken_offset is None else local - photo.taken_offset / 1440


def round_gaps(gaps: np.ndarray) -> tuple[int | None, ...]:
    """Rounds gaps in days, float (n,), to whole days. A gap of NaN becomes None."""
    return tuple(None if math.isnan(gap) else round(gap) for gap in gaps.tolist())


def rank_references(
    table: FaceTable,
    targets: np.ndarray,
    candidates: np.ndarray,
    cosine: np.ndarray,
    usable: np.ndarray,
    rules: PairRules,
) -> np.ndarray:
    """Returns a rank for each target and candidate, int64 (targets, candidates), at least 0 and below 2^38.

    The candidate with the smallest rank becomes the first reference. `targets` and `candidates` are row numbers of
    `table`. `cosine` and `usable` are (targets, candidates). Ignore the rank of a candidate that is not usable.
    """
    match rules.name:
        case "nearest":
            return np.round(1e6 * (2 - cosine.astype(np.float64))).astype(np.int64)
        case "affine-nearest":
            return np.round(1e9 * _measure_landmark_distance(table, targets, candidates)).astype(np.int64)
        case "diverse":
            return _rank_by_coverage(table, candidates, usable, rules.max_references)
        case "hard-pose":
            apart = np.linalg.norm(table.pose[targets][:, None] - table.pose[candidates], axis=2)
            return np.round(1e3 * (1000 - apart.astype(np.float64))).astype(np.int64)
        case _:
            mixed = _mix_bits(_mix_bits(table.hashes[targets])[:, None] ^ table.hashes[candidates])
            return (mixed >> np.uint64(27)).astype(np.int64)


def _mix_bits(value: np.ndarray) -> np.ndarray:
    """Applies the finalizer of splitmix64 (Steele, Lea and Flood 2014), uint64 -> uint64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _measure_landmark_distance(table: FaceTable, targets: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Returns the distance between the landmarks of two faces after the best affine map, float64 (targets, candidates).

    The map moves the landmarks of the candidate onto the landmarks of the target. The remaining distance is divided by
    the size of the target's face. If all faces have 68 landmarks, the points and weights of ASFFNet are used. If a face
    has only five landmarks, the five landmarks of all faces are used, with equal weights.
    """
    goal, points, parts = table.get_landmarks68(targets), table.get_landmarks68(candidates), _ASFFNET_PARTS
    if goal is None or points is None:
        goal, points, parts = table.get_landmarks5(targets), table.get_landmarks5(candidates), _FIVE_POINTS
    scale = np.linalg.norm(goal - goal.mean(1, keepdims=True), axis=(1, 2), keepdims=True)
    goal = goal / np.maximum(scale, 1e-12)
    total = np.zeros((len(targets), len(candidates)))
    for weight, part in parts:
        g, p = goal[:, part], points[:, part]
        g, p = g - g.mean(1, keepdims=True), p - p.mean(1, keepdims=True)
        # An affine map of centred points can produce every linear combination of their x and y columns. Let S be the
        # span of the x and y columns. The squared distance after the best map is |goal|^2 minus |projection of the goal
        # onto S|^2.
        basis, size, _ = np.linalg.svd(p, full_matrices=False)  # (candidates, points, 2) and (candidates, 2).
        basis = basis * (size > 1e-9 * size[:, :1])[:, None]  # Points on a line span only one direction.
        projection = g.transpose(0, 2, 1).reshape(-1, len(part)) @ basis.transpose(1, 0, 2).reshape(len(part), -1)
        reached = (projection**2).reshape(len(targets), 2, len(candidates), 2).sum((1, 3))
        total += weight * np.sqrt(np.clip((g**2).sum((1, 2))[:, None] - reached, 0, None))
    return total


def _rank_by_coverage(table: FaceTable, candidates: np.ndarray, usable: np.ndarray, max_references: int) -> np.ndarray:
    """Returns ranks by farthest-first traversal, int64 (targets, candidates).

    In the traversal, a face is a point: its embedding together with its pose. One traversal over all candidates is
    computed first. If a target can use all faces that this traversal picked, it gets the ranks of this traversal. For
    every other target, a traversal of its own is computed.
    """
    places = np.concatenate([table.vectors[candidates], table.pose[candidates] / _DEGREES_A_UNIT], axis=1)
    ranks = np.full(usable.shape, _BEHIND_ALL, np.int64)
    common = _traverse_farthest_first(places, np.ones((1, len(candidates)), bool), max_references)[0]
    sharing = usable[:, common].all(1)
    ranks[np.ix_(sharing, common)] = np.arange(len(common))
    others = np.flatnonzero(~sharing)
    picks = _traverse_farthest_first(places, usable[others], max_references)
    for rank, pick in enumerate(picks.T):
        exists = pick >= 0
        ranks[others[exists], pick[exists]] = rank
    return ranks


def _traverse_farthest_first(places: np.ndarray, usable: np.ndarray, max_picks: int) -> np.ndarray:
    """Returns the picks of a farthest-first traversal, int64 (targets, picks). A pick is -1 if no usable point is left.

    `places` are the points, (candidates, d), and `usable` is (targets, candidates). The first pick is the point nearest
    to the mean. Each next pick is the point that is farthest from all earlier picks. The largest distance of a point to
    its nearest pick is at most twice the best possible distance (Gonzalez 1985).
    """
    targets, square = np.arange(len(usable)), (places**2).sum(1)
    usable = usable.copy()
    # The next pick has the largest `worth`. For the first pick, `worth` is the negative squared distance to the mean.
    # For later picks, `worth` is the squared distance to the nearest earlier pick.
    worth = -np.round(((places - places.mean(0)) ** 2).sum(1), 5)[None]
    distance = np.full(usable.shape, np.inf, np.float32)
    picks = np.full((len(usable), min(max_picks, len(places))), -1, np.int64)
    for number in range(picks.shape[1]):
        pick = np.where(usable, worth, -np.inf).argmax(1)
        picks[:, number] = np.where(usable[targets, pick], pick, -1)
        usable[targets, pick] = False
        squared = square[pick][:, None] + square - 2 * (places[pick] @ places.T)
        distance = worth = np.minimum(distance, np.round(squared, 5))
    return picks
