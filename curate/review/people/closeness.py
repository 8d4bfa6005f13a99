"""Compares people by their embeddings: who is most similar to a person, and which faces of a person differ most."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.sparse import csr_array

from curate.review.session.view import View
from manifests.ledger.ledger import Ledger

_LEAST_FACES = 3  # a person with fewer faces than this (ours) is not searched for faces of another person


def find_closest_people(dataset: Path, view: View, person: str, count: int) -> list[dict[str, Any]]:
    """Returns at most `count` people who are most similar to a person, the most similar person first.

    Each item is the person's row on the page of all people, with the `cosine` of the two mean embeddings. The list is
    empty if the person does not exist now.
    """
    return find_people_like(dataset, view, view.people.members.get(person, ()), count, (person,))


def find_people_like(
    dataset: Path,
    view: View,
    faces: Collection[str],
    count: int,
    without: Collection[str] = (),
    only: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Returns at most `count` people who are most similar to `faces`, the most similar person first.

    Each item is the person's row on the page of all people, with the `cosine` of two mean embeddings: the mean of
    `faces`, and the mean of the person's faces that are not in `faces`. A person whose faces are all in `faces` is left
    out. The people in `without` are left out. If `only` is given, the people outside `only` are left out too. The list
    is empty if none of `faces` has an embedding.
    """
    people, cosines = _compare_with_people(dataset, view, faces)
    allowed = np.array([name not in without and (only is None or name in only) for name in people], bool)
    allowed &= ~np.isnan(cosines)
    best = np.argsort(np.where(allowed, -cosines, np.inf), kind="stable")[: min(count, int(allowed.sum()))]
    return [_describe(view, people[row], float(cosines[row])) for row in best.tolist()]


def find_similar_people(dataset: Path, view: View, face: str, person: str) -> dict[str, Any]:
    """Returns how similar a face is to the other faces of its person, and to the most similar other person.

    Returns a dict. `own` is the cosine of the face and the mean of the person's other faces, or None without other
    faces. `closest` is the row of the most similar other person with its `cosine`, or None.
    """
    people, cosines = _compare_with_people(dataset, view, [face])
    own = next((float(one) for name, one in zip(people, cosines, strict=True) if name == person), np.nan)
    others = np.where([name == person for name in people], np.nan, cosines) if people else cosines
    best = None if np.isnan(others).all() else int(np.nanargmax(others))
    closest = None if best is None else _describe(view, people[best], float(others[best]))
    return {"own": None if np.isnan(own) else own, "closest": closest}


def _compare_with_people(dataset: Path, view: View, faces: Collection[str]) -> tuple[list[str], np.ndarray]:
    """Returns the people, and the cosine of each person's mean embedding with the mean embedding of `faces`.

    The cosines are float64 (people,). The mean embedding of a person leaves out the faces in `faces`. The cosine of a
    person without other faces is NaN. All cosines are NaN if none of `faces` has an embedding.
    """
    face_ids, vectors = read_embeddings(dataset, view)
    people = [name for name in view.people.identities if view.people.members.get(name)]
    chosen, number_of = set(faces), {name: number for number, name in enumerate(people)}
    owner = np.array([number_of.get(view.people.identity_of.get(face, ""), -1) for face in face_ids], np.int64)
    is_chosen = np.array([face in chosen for face in face_ids], bool)
    if not is_chosen.any():
        return people, np.full(len(people), np.nan)
    rows = np.flatnonzero((owner >= 0) & ~is_chosen)
    ones = np.ones(len(rows), np.float32)
    # the sum of each person's embeddings, float32 (people, d), as a product with a sparse matrix of ones
    sums = csr_array((ones, (owner[rows], rows)), (len(people), len(owner))) @ vectors
    mean = vectors[is_chosen].sum(0)
    lengths = np.maximum(np.linalg.norm(sums, axis=1) * np.linalg.norm(mean), 1e-12)
    has_faces = np.bincount(owner[rows], minlength=len(people)) > 0
    return people, np.where(has_faces, (sums @ mean) / lengths, np.nan)


def _describe(view: View, person: str, cosine: float) -> dict[str, Any]:
    return {**view.describe_person(view.people.identities[person]), "cosine": cosine}


def propose_two(dataset: Path, view: View, person: str) -> list[str]:
    """Returns the faces of a person that may show another person: the smaller of two clusters of the embeddings.

    The two clusters start from two faces: the least typical face, and the face that is least similar to the least
    typical face. The list is empty if the person has fewer than three faces, or if one cluster gets no face.
    """
    own = view.people.members.get(person, [])
    if len(own) < _LEAST_FACES:
        return []
    face_ids, vectors = read_embeddings(dataset, view)
    row_of = {face: row for row, face in enumerate(face_ids)}
    own = [face for face in own if face in row_of]
    rows = vectors[[row_of[face] for face in own]].astype(np.float64)
    first = int((rows @ rows.sum(0)).argmin())
    second = int((rows @ rows[first]).argmin())
    _, labels = kmeans2(rows, rows[[first, second]], minit="matrix", missing="warn")
    parts = [[face for face, label in zip(own, labels, strict=True) if label == part] for part in (0, 1)]
    return min(parts, key=lambda part: (len(part), part)) if all(parts) else []


def read_embeddings(dataset: Path, view: View) -> tuple[list[str], np.ndarray]:
    """Returns the ids of the faces in use and their unit embeddings, float32 (n, d). The view keeps the result."""
    if view.embeddings is None:
        with Ledger.open(dataset) as ledger:
            view.embeddings = ledger.read_embeddings()
    return view.embeddings
