"""People -> reference pairs: for every target its usable references of the same person, ordered by a policy.

| policy | the first reference is |
|---|---|
| random | the smallest by a hash of (target, reference): no policy is less biased, so this is the default |
| nearest | the most alike by cosine |
| window | as random, of those whose distance 1 - cosine lies in the split's window |
| affine-nearest | the one whose landmarks fit the target's best after an affine map, as ASFFNet picks its reference |
| diverse | the one nearest to the person's mean; each next the farthest from all before it (greedy k-center) |
| hard-pose | the one whose yaw and pitch differ most from the target's |

Training draws uniformly from the references that a target keeps, so beyond the cap the order decides what it sees.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from curate.config import CurateConfig, PairRules
from curate.imports.listed_faces import find_listed_faces, make_listed_pairs
from curate.people.near_duplicates import find_pictures
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import NEAR_DUPLICATE, Face, ListEntry, Pair, Photo, Split
from manifests.runtime.files import sha256_bytes

TOO_FEW_PHOTOS = "too_few_photos"
TOO_FEW_REFERENCES = "too_few_references"

# degrees of yaw or pitch that count in `diverse` as much as two embeddings a chord of 1 (a cosine of .5) apart (ours)
_DEGREES_A_UNIT = 45.0
# the points of 68 and their weights that ASFFNet512's main_test.py compares: brows and eyes, mouth
_ASFFNET: tuple[tuple[float, tuple[int, ...]], ...] = (
    (1.01, (*range(17, 27), *range(36, 48))),
    (1.49, tuple(range(48, 68))),
)
_ALL_FIVE = ((1.0, tuple(range(5))),)
_AT_ONCE = 1 << 20  # target-reference pairs looked at in one step: bounds memory, changes no result
_INDEX_BITS = 24
_NONE = np.iinfo(np.int64).max


def pair_faces(ledger: Ledger, config: CurateConfig) -> list[str]:
    """Targets with their references, and how many faces are no target for which reason. Answers what is to be told of
    references that imported lists name and that cannot be had."""
    faces = [face for face in ledger.read_rows(Face) if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    picture_of = find_pictures(faces, photos, config.dedupe.max_photo_bits)
    face_ids, vectors = ledger.read_embeddings()
    embedded = {face.face_id: face for face in faces}
    shown = [embedded[face_id] for face_id in face_ids]
    splits, given = ledger.read_rows(Split), ledger.read_rows(ListEntry)
    rows, left_out = make_pairs(splits, shown, vectors, config.pairs, picture_of, find_listed_faces(given, faces))
    listed, unpaired, lost = make_listed_pairs(given, splits, faces, vectors, picture_of)
    detail = {**asdict(config.pairs), "left_out": {**left_out, **unpaired}, "references_lost": dict(lost)}
    every = sorted([*rows, *listed], key=lambda row: row.target)
    ledger.record("pair", "all", config.pairs, every, replace=(Pair,), detail=detail)
    if not lost:
        return []
    why = ", ".join(f"{n} {reason}" for reason, n in sorted(lost.items(), key=lambda one: (-one[1], one[0])))
    return [f"{sum(lost.values())} references that lists name are left out: {why}."]


@dataclass(frozen=True)
class _Looks:
    """What the policies look at, rows aligned with `faces`."""

    faces: Sequence[Face]
    vectors: np.ndarray  # float32 (n, d) unit rows
    picture: np.ndarray  # (n,) numbers of the whole pictures that the faces lie in

    @cached_property
    def ids(self) -> np.ndarray:
        return np.array([face.face_id for face in self.faces], object)

    @cached_property
    def hashed(self) -> np.ndarray:
        """uint64 (n,) from the face ids."""
        return np.array([int(sha256_bytes(face.face_id.encode())[:16], 16) for face in self.faces], np.uint64)

    @cached_property
    def pose(self) -> np.ndarray:
        """Yaw and pitch, degrees, float32 (n, 2)."""
        return np.array([(face.yaw, face.pitch) for face in self.faces], np.float32).reshape(-1, 2)

    def landmarks(self, rows: np.ndarray) -> np.ndarray | None:
        """The 68 points of these faces, float64 (len(rows), 68, 2), or None where one of them has none."""
        found = [self.faces[row].landmarks68 for row in rows]
        if any(points is None for points in found):
            return None
        return np.array(found, np.float64).reshape(len(rows), 68, 2)

    def landmarks5(self, rows: np.ndarray) -> np.ndarray:
        return np.array([self.faces[row].landmarks5 for row in rows], np.float64).reshape(len(rows), 5, 2)


def make_pairs(
    splits: Sequence[Split],
    faces: Sequence[Face],
    vectors: np.ndarray,
    rules: PairRules,
    picture_of: Mapping[str, str] | None = None,
    no_targets: Container[str] = (),
) -> tuple[list[Pair], dict[str, int]]:
    """One row for every face in a split that has enough references, ordered by target, and how many faces have none by
    reason: too_few_photos (of the person) or too_few_references.

    `faces` hold all that are in splits, `vectors` their unit embeddings (n, d) in the same order; `picture_of` maps a
    photo to the picture that it is a copy of, where it is one. References show the same person in another picture;
    near-duplicates are never among them. Under --split-by photos the references of val and test come from train, as
    they would when a personal restorer is used. Rows that were set aside take no part; faces in `no_targets` are
    references alone, and not counted. The order of the input changes nothing.
    """
    pictures = [(picture_of or {}).get(face.photo_id, face.photo_id) for face in faces]
    looks = _Looks(faces, vectors, np.unique(pictures, return_inverse=True)[1] if pictures else np.zeros(0, np.int64))
    number = {face.face_id: i for i, face in enumerate(faces)}
    people: dict[str, list[Split]] = defaultdict(list)
    for row in sorted(splits, key=lambda row: row.face_id):
        if row.status == "ok" and faces[number[row.face_id]].duplicate_of is None:
            people[row.identity_id].append(row)
    made: list[Pair] = []
    left_out: Counter[str] = Counter()
    for person in sorted(people):
        rows = people[person]
        if len(rows) < rules.min_photos or len({pictures[number[row.face_id]] for row in rows}) < rules.min_photos:
            left_out[TOO_FEW_PHOTOS] += sum(row.face_id not in no_targets for row in rows)
            continue
        sides: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            sides[row.split].append(number[row.face_id])
        for split, members in sides.items():
            targets = [at for at in members if faces[at].face_id not in no_targets]
            seen = np.array(sides.get("train" if rows[0].policy == "photos" else split, []), np.int64)
            before = len(made)
            made += _of_person(looks, np.array(targets, np.int64), seen, split, rules) if len(seen) and targets else ()
            left_out[TOO_FEW_REFERENCES] += len(targets) - (len(made) - before)
    return sorted(made, key=lambda row: row.target), dict(+left_out)


def _of_person(looks: _Looks, targets: np.ndarray, seen: np.ndarray, split: str, rules: PairRules) -> Iterator[Pair]:
    """The pairs of one person's targets; rows of `looks`, both ordered by face id."""
    most, ids, vectors, low_high = rules.max_references, looks.ids[seen], looks.vectors[seen], rules.window(split)
    numbered = np.arange(len(seen), dtype=np.int64)
    step = max(1, _AT_ONCE // len(seen))
    for begin in range(0, len(targets), step):
        some = targets[begin : begin + step]
        usable = looks.picture[some][:, None] != looks.picture[seen]
        cosine = np.round(looks.vectors[some] @ vectors.T, 6)
        if rules.name == "window":
            away = np.round(1 - cosine, 6)
            usable &= (away >= low_high[0]) & (away <= low_high[1])
        # unique keys, rank above number: what is chosen among equals depends on no sorting algorithm
        key = np.where(usable, _ranks(looks, some, seen, cosine, usable, rules) << _INDEX_BITS | numbered, _NONE)
        if len(seen) > most:
            key = np.partition(key, most - 1, axis=1)[:, :most]
        key.sort(axis=1)
        pick = np.minimum(key & ((1 << _INDEX_BITS) - 1), len(seen) - 1)
        alike = np.take_along_axis(cosine, pick, 1).tolist()
        found = (key < _NONE).sum(1).tolist()
        for target, refs, cosines, count in zip(looks.ids[some], ids[pick].tolist(), alike, found, strict=True):
            if count >= rules.min_references:
                yield Pair(target, tuple(refs[:count]), tuple(cosines[:count]), rules.policy, split)


def _ranks(
    looks: _Looks, targets: np.ndarray, seen: np.ndarray, cosine: np.ndarray, usable: np.ndarray, rules: PairRules
) -> np.ndarray:
    """int64 (targets, seen), 0 to below 2^38, smallest first; of what is not usable anything."""
    match rules.name:
        case "nearest":
            return np.round(1e6 * (2 - cosine.astype(np.float64))).astype(np.int64)
        case "affine-nearest":
            return np.round(1e9 * _landmark_distance(looks, targets, seen)).astype(np.int64)
        case "diverse":
            return _covering(looks, seen, usable, rules.max_references)
        case "hard-pose":
            apart = np.linalg.norm(looks.pose[targets][:, None] - looks.pose[seen], axis=2)
            return np.round(1e3 * (1000 - apart.astype(np.float64))).astype(np.int64)
        case _:
            return (_mixed(_mixed(looks.hashed[targets])[:, None] ^ looks.hashed[seen]) >> np.uint64(27)).astype(
                np.int64
            )


def _mixed(value: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele, Lea and Flood 2014), uint64 -> uint64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _landmark_distance(looks: _Looks, targets: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """float64 (targets, seen): what an affine map of the reference's landmarks leaves of the target's, over the size of
    the target's face; with the points and weights of ASFFNet where all have 68, else of all five points."""
    goal, points, parts = looks.landmarks(targets), looks.landmarks(seen), _ASFFNET
    if goal is None or points is None:
        goal, points, parts = looks.landmarks5(targets), looks.landmarks5(seen), _ALL_FIVE
    scale = np.linalg.norm(goal - goal.mean(1, keepdims=True), axis=(1, 2), keepdims=True)
    goal = goal / np.maximum(scale, 1e-12)
    total = np.zeros((len(targets), len(seen)))
    for weight, part in parts:
        g, p = goal[:, part], points[:, part]
        g, p = g - g.mean(1, keepdims=True), p - p.mean(1, keepdims=True)
        basis, size, _ = np.linalg.svd(p, full_matrices=False)
        basis = basis * (size > 1e-9 * size[:, :1])[:, None]  # points on a line span one direction
        shown = g.transpose(0, 2, 1).reshape(-1, len(part)) @ basis.transpose(1, 0, 2).reshape(len(part), -1)
        kept = (shown**2).reshape(len(targets), 2, len(seen), 2).sum((1, 3))
        total += weight * np.sqrt(np.clip((g**2).sum((1, 2))[:, None] - kept, 0, None))
    return total


def _covering(looks: _Looks, seen: np.ndarray, usable: np.ndarray, most: int) -> np.ndarray:
    """Ranks by farthest-first traversal; targets that may see all of the person's traversal share it."""
    places = np.concatenate([looks.vectors[seen], looks.pose[seen] / _DEGREES_A_UNIT], axis=1)
    ranks = np.full(usable.shape, 1 << 37, np.int64)
    common = _farthest_first(places, np.ones((1, len(seen)), bool), most)[0]
    shared = usable[:, common].all(1)
    ranks[np.ix_(shared, common)] = np.arange(len(common))
    own = np.flatnonzero(~shared)
    picks = _farthest_first(places, usable[own], most)
    for place, pick in enumerate(picks.T):
        there = pick >= 0
        ranks[own[there], pick[there]] = place
    return ranks


def _farthest_first(places: np.ndarray, usable: np.ndarray, most: int) -> np.ndarray:
    """Rows of `places` (c, d), at most `most` for every row of `usable` (t, c): the one nearest to the mean, then ever
    the one farthest from those before it (Gonzalez 1985: a covering radius at most twice the best); -1 where none is
    left."""
    every, square = np.arange(len(usable)), (places**2).sum(1)
    usable = usable.copy()
    worth = -np.round(((places - places.mean(0)) ** 2).sum(1), 5)[None]
    near = np.full(usable.shape, np.inf, np.float32)
    picks = np.full((len(usable), min(most, len(places))), -1, np.int64)
    for place in range(picks.shape[1]):
        pick = np.where(usable, worth, -np.inf).argmax(1)
        picks[:, place] = np.where(usable[every, pick], pick, -1)
        usable[every, pick] = False
        away = square[pick][:, None] + square - 2 * (places[pick] @ places.T)
        near = worth = np.minimum(near, np.round(away, 5))
    return picks
