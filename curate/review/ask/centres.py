"""Compares people by their centres. The centre of a person is the direction of the mean embedding of the person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

_NEAREST = 16  # Each person is compared with the 16 people (ours) whose centres are nearest.
_PEOPLE_AT_ONCE = 1024  # Number of people that are compared with all people in one step (less needs less memory).


class Centres:
    """The centres of the people of a dataset. Each person has a slot, which is the person's row in the arrays.

    Attributes: `people` has the id of the person of each slot. `sizes` has the number of faces of each slot, int64. The
    size is 0 if the person does not exist now.
    """

    def __init__(
        self, vectors: np.ndarray, face_ids: Sequence[str], photo_of: Mapping[str, str], expected: int
    ) -> None:
        """`vectors` are the unit embeddings of the faces, float32 (n, d). `photo_of` maps a face to its photo.

        `expected` is the probable number of people. The arrays grow if there are more people.
        """
        self._vectors = vectors
        faces_in = Counter(photo_of.values())  # photo -> number of its faces
        self._photo_of = [
            photo_of[face] if face in photo_of and faces_in[photo_of[face]] > 1 else None for face in face_ids
        ]
        self._photos: dict[str, Counter[str]] = {}  # person -> (photo with several faces -> the person's faces in it)
        self.people: list[str] = []
        self._slot: dict[str, int] = {}
        self._centres = np.zeros((max(2 * expected, 16), vectors.shape[1]), np.float32)
        self.sizes = np.zeros(len(self._centres), np.int64)
        self._norms = np.ones(len(self._centres), np.float32)  # the length of the sum of each person's embeddings

    def set(self, person: str, rows: Sequence[int]) -> None:
        """Sets the faces of a person. `rows` are the rows of the faces in the embeddings."""
        slot = self._slot.setdefault(person, len(self.people))
        if slot == len(self.people):
            self.people.append(person)
        if slot >= len(self._centres):
            self._centres = np.concatenate([self._centres, np.zeros_like(self._centres)])
            self.sizes = np.concatenate([self.sizes, np.zeros_like(self.sizes)])
            self._norms = np.concatenate([self._norms, np.ones_like(self._norms)])
        total = self._vectors[rows].sum(0)
        self._norms[slot] = max(float(np.linalg.norm(total)), 1e-12)
        self._centres[slot] = total / self._norms[slot]
        photos = (self._photo_of[row] for row in rows)
        self._photos[person] = Counter(photo for photo in photos if photo is not None)
        self.sizes[slot] = len(rows)

    def compare(self, person: str) -> tuple[int, np.ndarray]:
        """Returns the slot of a person, and the cosines of the person's centre to all centres, float32 (people,)."""
        slot = self._slot[person]
        return slot, self._centres[: len(self.people)] @ self._centres[slot]

    def compare_all(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the result of `compare` for every person."""
        centres = self._centres[: len(self.people)]
        for start in range(0, len(centres), _PEOPLE_AT_ONCE):
            yield from enumerate(centres[start : start + _PEOPLE_AT_ONCE] @ centres.T, start)

    def find_nearest(self, slot: int, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the slots of the nearest other people, int64 (m,), and the cosines to these people, float32 (m,).

        `slot` and `cosines` are a result of `compare`. As in the grouping, the cosine of two faces of one photo is
        reduced by 1. The cosine of two centres is therefore less if the two people have faces in one photo.
        """
        cosines = np.where(self.sizes[: len(self.people)] > 0, cosines, -2.0)
        cosines[slot] = -2.0
        near = np.argpartition(-cosines, min(_NEAREST, len(cosines) - 1))[:_NEAREST]
        near = near[cosines[near] > -1.5]
        if not self._photos[self.people[slot]]:  # no face of the person shares its photo with another face
            return near, cosines[near]
        shared = np.array([self._count_shared_photos(slot, other) for other in near.tolist()])
        return near, (cosines[near] - shared / (self._norms[near] * self._norms[slot])).astype(np.float32)

    def _count_shared_photos(self, slot: int, other: int) -> int:
        """Counts the pairs of a face of one person and a face of the other person that are in the same photo."""
        one, two = sorted((self._photos[self.people[place]] for place in (slot, other)), key=len)
        return sum(number * two[photo] for photo, number in one.items())
