"""Compares people by their embeddings: who is most similar to a person, and which faces of a person differ most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.sparse import csr_array

from curate.review.session.view import View
from manifests.ledger.ledger import Ledger

_LEAST_FACES = 3  # a person with fewer faces is not divided into two proposed people (ours)


def find_closest_people(dataset: Path, view: View, person: str, count: int) -> list[dict[str, Any]]:
    """Returns the rows of the people who are most similar to a person, the most similar person first.

    `cosine` in a row is the cosine of the mean embeddings. The list is empty if there is no such person.
    """
    if not view.people.members.get(person):
        return []
    face_ids, vectors = read_embeddings(dataset, view)
    people = [name for name in view.people.identities if view.people.members.get(name)]
    number_of = {name: number for number, name in enumerate(people)}
    owner = np.array([number_of.get(view.people.identity_of.get(face, ""), -1) for face in face_ids])
    rows = np.flatnonzero(owner >= 0)
    ones = np.ones(len(rows), np.float32)
    # the sum of each person's embeddings, float32 (people, d), as a product with a sparse matrix of ones
    means = csr_array((ones, (owner[rows], rows)), (len(people), len(owner))) @ vectors
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    cosines = means @ means[number_of[person]]
    cosines[number_of[person]] = -2.0
    best = np.argsort(-cosines, kind="stable")[: min(count, len(people) - 1)]
    return [
        {**view.describe_person(view.people.identities[people[row]]), "cosine": float(cosines[row])}
        for row in best.tolist()
    ]


def propose_two(dataset: Path, view: View, person: str) -> list[str]:
    """Returns those faces of a person that possibly show another person: the smaller of two clusters of the embeddings.

    The two clusters start from two faces: the least typical face, and the face that is least similar to the least
    typical face. The list is empty if the person has fewer than three faces.
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
