"""Finds pairs of people who may be one person, and people whose faces may show two people.

The page suggestions.html shows the suggestions. Suggestions are computed from embeddings, and contradict no decision.
There is therefore no suggestion about a locked person, about two people whom a decision separates, or about two parts
of a person that a decision joins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from manifests.ledger.decisions.decision_log import FaceLocation, read_decisions
from manifests.ledger.decisions.face_finder import FaceFinder
from manifests.ledger.decisions.in_force import select_active
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Face, Identity, Membership
from manifests.report.people_pages import People
from manifests.report.thumbnails import make_thumbnail

ROWS = 50  # Largest number of suggestions of each kind (ours).
PICTURES = 6  # Largest number (ours) of pictures of each person, or of each part of a person.
# Least number of faces in each part of a person (ours). A part of one face is not suggested, because the pages of
# people already show single faces that do not fit.
MIN_GROUP = 2
# A face with a worth below this number (ours, as in the grouping) is not clear: its embedding says too little about the
# person.
_MIN_WORTH = 0.66
_PEOPLE_AT_ONCE = 1024  # Number of people that are compared with all people in one step (less needs less memory).
_STEPS = 20  # Largest number of steps of 2-means (ours). Most people need fewer than five steps.


@dataclass(frozen=True)
class EmbeddedFaces:
    """The faces that belong to people and have an embedding, sorted by face id."""

    face_ids: list[str]
    people: list[str]  # Identity id of each face.
    worth: list[float | None]  # The worth of each face, as in the table `memberships`.
    vectors: np.ndarray  # Embeddings of unit length, float32 (n, d).


@dataclass(frozen=True)
class SplitSuggestion:
    """A person whose faces may show two people.

    `part` are the faces of the smaller part. `rest` are the other faces.
    """

    person: str
    part: list[str]
    rest: list[str]
    between: float  # Mean cosine between a face of `part` and a face of `rest`.
    # The smaller of two means: the mean cosine in `part`, and the mean cosine in `rest`.
    within: float


@dataclass(frozen=True)
class UserDecisions:
    """What the decisions in force say about people."""

    locked: set[str]  # Identity ids of locked people.
    # Pairs of identity ids that a decision separates. Each pair is there in both orders.
    separated: set[tuple[str, str]]
    joined: list[set[str]]  # For each decision that joins faces, the ids of the joined faces.


def read_embedded_faces(ledger: Ledger) -> EmbeddedFaces:
    rows = ledger.query(
        """SELECT face_id, identity_id, worth FROM memberships JOIN faces USING (face_id)
           WHERE shard IS NOT NULL ORDER BY face_id"""
    )
    face_ids, vectors = ledger.read_embeddings(rows["face_id"].to_list())
    return EmbeddedFaces(face_ids, rows["identity_id"].to_list(), rows["worth"].to_list(), vectors)


def read_user_decisions(ledger: Ledger) -> UserDecisions:
    person_of = {row.face_id: row.identity_id for row in ledger.read_rows(Membership)}
    separated: set[tuple[str, str]] = set()
    joined: list[set[str]] = []
    for kind, parts in _read_parts(ledger):
        if kind in ("split", "move"):
            taken, rest = ({person_of[face] for face in part if face in person_of} for part in (parts[0], parts[-1]))
            separated |= {
                pair for one in taken for other in rest if one != other for pair in ((one, other), (other, one))
            }
        if kind == "apart":
            owners = [{person_of[face] for face in part if face in person_of} for part in parts]
            separated |= {
                (one, other)
                for first, second in permutations(owners, 2)
                for one in first
                for other in second
                if one != other
            }
        if kind in ("merge", "move"):
            joined.append(set().union(*(parts if kind == "merge" else parts[:2])))
    return UserDecisions({row.identity_id for row in ledger.read_rows(Identity) if row.locked}, separated, joined)


def find_merges(faces: EmbeddedFaces, decisions: UserDecisions) -> list[tuple[float, str, str]]:
    """Returns pairs of people who look alike. A pair has the mean cosine of its faces, and the two identity ids.

    Each person is paired only with the most similar other person. The pair with the highest mean cosine comes first. A
    person without a clear face is left out, because faces that are not clear are similar even if they show strangers.
    """
    names = sorted(set(faces.people))
    number = {name: place for place, name in enumerate(names)}
    if len(names) < 2:
        return []
    row_of = np.array([number[person] for person in faces.people])
    means = np.zeros((len(names), faces.vectors.shape[1]), np.float32)
    np.add.at(means, row_of, faces.vectors)
    means /= np.maximum(np.bincount(row_of, minlength=len(names)), 1)[:, None]
    clear = {person for person, worth in zip(faces.people, faces.worth, strict=True) if _is_clear(worth)}
    clear -= decisions.locked
    left_out = np.array([name not in clear for name in names])
    separated: dict[int, list[int]] = defaultdict(list)
    for one, other in decisions.separated:
        if one in number and other in number:
            separated[number[one]].append(number[other])
    pairs: dict[tuple[int, int], float] = {}
    for start in range(0, len(names), _PEOPLE_AT_ONCE):
        cosines = (means[start : start + _PEOPLE_AT_ONCE] @ means.T).round(6)
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -2
        cosines[:, left_out] = cosines[left_out[start : start + len(cosines)]] = -2
        for place, row in enumerate(cosines, start):
            row[separated[place]] = -2
            if row.max() > -2:
                first, second = sorted((place, int(row.argmax())))
                pairs[first, second] = float(row.max())
    best = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:ROWS]
    return [(cosine, names[one], names[two]) for (one, two), cosine in best]


def find_splits(faces: EmbeddedFaces, decisions: UserDecisions, threshold: float) -> list[SplitSuggestion]:
    """Returns the people whose faces may show two people. The person whose two parts are least alike comes first.

    Only clear faces are divided into parts. A person is returned if the mean cosine between the parts is below
    `threshold`, the cosine at which the grouping joins two single faces. Locked people, and people with fewer than 2 *
    MIN_GROUP clear faces, are left out. Faces that are not clear belong to `rest`.

    We tested the function on web photos (benchmarks/split_suggestions.py). The function returned none of 65 people
    whose faces all have one label. In 550 tests, we put faces of two of these people together: 4 and 2, 10 and 3, or 10
    and 10 faces. The function returned the mixed person in all 550 tests.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, person in enumerate(faces.people):
        if person not in decisions.locked:
            rows_of[person].append(row)
    found = []
    for person, rows in sorted(rows_of.items()):
        clear = [row for row in rows if _is_clear(faces.worth[row])]
        if len(clear) < 2 * MIN_GROUP:
            continue
        divided = divide_faces(faces.vectors[clear])
        if divided is None or divided[1] >= threshold:
            continue
        chosen = {clear[place] for place in np.flatnonzero(divided[0]).tolist()}
        part = [faces.face_ids[row] for row in rows if row in chosen]
        rest = [faces.face_ids[row] for row in rows if row not in chosen]
        if not any(same & set(part) and same & set(rest) for same in decisions.joined):
            found.append(SplitSuggestion(person, part, rest, *divided[1:]))
    return sorted(found, key=lambda one: (one.between, one.person))[:ROWS]


def divide_faces(vectors: np.ndarray) -> tuple[np.ndarray, float, float] | None:
    """Divides a person's faces, whose unit embeddings are `vectors`, float32 (n, d), into two parts.

    First, the faces are divided along the direction in which they differ most. Then each face moves to the part whose
    mean is nearer, until no face moves (2-means). Returns a bool array (n,) that is true for the smaller part, and the
    numbers `between` and `within` of a SplitSuggestion. Returns None if the smaller part has fewer than MIN_GROUP
    faces.
    """
    centred = vectors - vectors.mean(0)
    _, directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    part = _move_faces(vectors, centred @ directions[:, -1] > 0)
    part = part if 2 * part.sum() < len(part) or (2 * part.sum() == len(part) and part[0]) else ~part
    if part.sum() < MIN_GROUP:
        return None
    inside, outside = vectors[part], vectors[~part]
    between = float(inside.mean(0) @ outside.mean(0))
    return part, between, min(_measure_within(inside), _measure_within(outside))


def _move_faces(vectors: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Does 2-means.

    `first`, a bool array (n,), says in which part each face is at the start. Returns the parts at the end in the same
    form.
    """
    for _ in range(_STEPS):
        if first.all() or not first.any():
            break
        means = np.stack([vectors[~first].mean(0), vectors[first].mean(0)])
        nearer = (vectors @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(1) == 1
        if (nearer == first).all():
            break
        first = nearer
    return first


def describe_suggestions(ledger: Ledger, people: People) -> dict[str, list[dict[str, Any]]]:
    """Returns the content of the page: lists of suggestions, under the keys `splits` and `merges`."""
    faces, decisions = read_embedded_faces(ledger), read_user_decisions(ledger)
    threshold = ledger.read_detail("group").get("threshold", -1.0)
    shown = {row["identity_id"]: {**row, "id": people.short_id[row["identity_id"]]} for row in people.rows}

    def draw(face_ids: Sequence[str]) -> list[dict[str, str]]:
        return [
            {"id": people.short_id[face], "image": make_thumbnail(crop_path(ledger.dataset, face), 96)}
            for face in face_ids[:PICTURES]
        ]

    splits = [
        {
            "person": shown[one.person],
            "between": one.between,
            "within": one.within,
            "part": len(one.part),
            "rest": len(one.rest),
            "part_images": draw(one.part),
            "rest_images": draw(one.rest),
            "ids": [people.short_id[face] for face in one.part],
        }
        for one in find_splits(faces, decisions, threshold)
    ]
    face_ids: dict[str, list[str]] = defaultdict(list)
    for face, person in zip(faces.face_ids, faces.people, strict=True):
        face_ids[person].append(face)
    merges = [
        {
            "cosine": cosine,
            "one": shown[one],
            "other": shown[other],
            "one_images": draw(face_ids[one]),
            "other_images": draw(face_ids[other]),
        }
        for cosine, one, other in find_merges(faces, decisions)
    ]
    return {"splits": splits, "merges": merges}


def _is_clear(worth: float | None) -> bool:
    return worth is None or worth >= _MIN_WORTH


def _measure_within(vectors: np.ndarray) -> float:
    """Returns the mean cosine over all pairs of different faces.

    `vectors` are unit embeddings (n, d), with n at least 2.
    """
    n, total = len(vectors), float(np.square(vectors.sum(0)).sum())
    return (total - n) / (n * (n - 1))


def _read_parts(ledger: Ledger) -> list[tuple[str, list[set[str]]]]:
    """Returns, for each decision in force, its kind and the current face ids of its parts."""
    finder = FaceFinder(ledger.read_rows(Face))

    def find_faces(part: tuple[FaceLocation, ...]) -> set[str]:
        return {face.representative for location in part if (face := finder.find(location)[0]) is not None}

    return [
        (decision.kind, [find_faces(part) for part in decision.parts])
        for decision in select_active(read_decisions(ledger))
    ]
