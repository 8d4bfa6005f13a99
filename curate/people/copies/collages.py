"""Finds photos that show one person twice, for example photo-booth strips, collages, mirrors, posters and screens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from curate.config import DedupeRules
from curate.people.clustering.components import IN_MEMORY
from curate.people.clustering.faces_of_one_photo import group_rows_by_photo
from curate.people.clustering.repeated_faces import REPEATED, raise_threshold
from manifests.ledger.records import Face
from manifests.runtime.text import format_count
from manifests.runtime.workspace import Workspace

# A face looks like a person if it is more similar to the person than a quarter (ours) of the person's own faces. In
# eight of 836 web photos, a face looks like the person of another face in the photo. Six of the eight photos are
# collages or posters. Two of the eight photos show blurred spectators. The grouping had joined blurred faces of several
# people, and the spectators look like this group. At least four other collages among the 836 photos are not found. With
# a fifth instead of a quarter, the face of a woman would look like her sister.
_QUANTILE = 0.25
_EXAMPLES = 3  # largest number of file names in a notice
_PICTURES_AT_ONCE = 512  # Number of pictures in one step; limits the memory.


def find_repeated_frames(faces: Sequence[Face], vectors: np.ndarray, rules: DedupeRules) -> np.ndarray:
    """Returns pairs of faces in one photo that are copies of one picture, as rows of `faces`, int64 (m, 2).

    The aligned faces of a pair have similar hashes and similar embeddings. The faces of two people in one photo are
    never so similar. `vectors` are the unit embeddings of `faces`, float32 (n, d).
    """
    pairs = []
    for rows in group_rows_by_photo([face.photo_id for face in faces]):
        bits = np.array([np.frombuffer(bytes.fromhex(faces[row].phash), np.uint8) for row in rows])
        different = np.bitwise_count(bits[:, None] ^ bits[None]).sum(2)
        same = (different <= rules.max_face_bits) & (vectors[rows] @ vectors[rows].T >= rules.min_cosine_same_face)
        first, second = np.nonzero(np.triu(same, 1))
        pairs.append(np.stack([rows[first], rows[second]], axis=1))
    return np.concatenate([np.zeros((0, 2), np.int64), *pairs])


def find_repeating_photos(faces: Sequence[Face], vectors: np.ndarray, same_person: float) -> set[str]:
    """Returns the ids of the photos in which two faces have a cosine of `same_person` or more, and so possibly show one
    person.

    `vectors` are the unit embeddings of `faces`, float32 (n, d).
    """
    photos = set()
    for rows in group_rows_by_photo([face.photo_id for face in faces]):
        if np.triu(vectors[rows] @ vectors[rows].T >= same_person, 1).any():
            photos.add(faces[rows[0]].photo_id)
    return photos


def find_collages(
    vectors: np.ndarray,
    labels: np.ndarray,
    pictures: Sequence[str],
    threshold: float,
    workspace: Workspace = IN_MEMORY,
) -> dict[str, int]:
    """Returns the pictures that look like collages. The result maps each such picture to the number of its faces that
    look like the person of another face of the picture.

    A picture looks like a collage if it contains faces of two groups, and a face of one group also looks like the
    person of the other group. This person must have two or more faces in other pictures. A picture also looks like a
    collage if two of its faces of different groups are as similar as the two faces of a repeated person
    (repeated_faces.py). `vectors` are unit rows, float32 (n, d). `labels` (n,) are the groups of the faces, and
    `pictures` (n,) are the pictures of the faces. Two faces with a cosine of `threshold` or more count as one person.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(labels.tolist()):
        members[label].append(row)
    people: dict[int, tuple[np.ndarray, float]] = {}  # label -> result of `_describe_person`
    found: dict[str, int] = {}
    for number, rows in enumerate(group_rows_by_photo(pictures)):
        if number % _PICTURES_AT_ONCE == 0:
            people.clear()
        workspace.trim()
        very_similar = vectors[rows] @ vectors[rows].T >= raise_threshold(threshold, REPEATED)
        very_similar &= labels[rows][:, None] != labels[rows][None, :]
        repeated = set(rows[np.triu(very_similar, 1).any(axis=0)].tolist())
        for label in np.unique(labels[rows]).tolist():
            strangers, own = rows[labels[rows] != label], rows[labels[rows] == label]
            if len(strangers) == 0 or len(members[label]) < len(own) + 2:
                continue
            if label not in people:
                people[label] = _describe_person(workspace.read_rows(vectors, np.array(members[label])))
            total, least = people[label]
            elsewhere = total - vectors[own].sum(0)
            cosines = vectors[strangers] @ elsewhere / max(float(np.linalg.norm(elsewhere)), 1e-12)
            repeated.update(strangers[cosines >= max(least, threshold)].tolist())
        if repeated:
            found[pictures[rows[0]]] = len(repeated)
    return found


def _describe_person(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the sum of a person's embeddings (d,), and the cosine that three quarters of the person's faces reach.

    The cosine is the cosine of a face and the sum of the person's other faces. `vectors` are unit rows, float32 (n, d).
    """
    total = vectors.sum(0)
    others = total - vectors
    cosines = np.einsum("nd,nd->n", vectors, others) / np.maximum(np.linalg.norm(others, axis=1), 1e-12)
    return total, float(np.quantile(cosines, _QUANTILE))


def describe_collages(names: Sequence[str], faces: int, allowed: bool) -> list[str]:
    """Returns a notice about the pictures that look like collages, or an empty list.

    `names` are the file names of the pictures. `faces` is the number of faces that look like the person of another face
    in the same picture. `allowed` says whether --collages is given.
    """
    if not names:
        return []
    examples = ", ".join(sorted(names)[:_EXAMPLES])
    more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    verb = "looks like a collage" if len(names) == 1 else "look like collages"
    effect = (
        "With --collages, two faces of such a picture can be one person."
        if allowed
        else f"With --collages, {format_count(faces, 'face')} could join the person of another face in the picture."
    )
    return [f"{format_count(len(names), 'picture')} {verb}: {examples}{more}. {effect}"]


def describe_repeated_faces(names: Sequence[str]) -> list[str]:
    """Returns a notice about the pictures in which two faces count as one person, or an empty list.

    `names` are the file names of the pictures.
    """
    if not names:
        return []
    examples = ", ".join(sorted(names)[:_EXAMPLES])
    more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return [
        f"{format_count(len(names), 'picture')} seem{'s' if len(names) == 1 else ''} to show one person twice: "
        f"{examples}{more}. The two faces count as one person. If the faces are twins, separate one of the faces with "
        "`likeness decide DATASET split FACE`."
    ]
