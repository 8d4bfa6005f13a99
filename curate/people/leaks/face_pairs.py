"""Compares pairs of faces to find leaks: by perceptual hashes, by their boxes in the photo, and by embeddings.

The number of a face is its index in the list of faces that FacePairs gets. The functions get n pairs of faces as two
int arrays (n,) of face numbers: `i` has the first faces, and `j` has the second faces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from curate.faces.comparison.turned_hashes import (
    MIRRORED,
    PLAIN,
    count_different_bits,
    measure_overlaps,
    turn_boxes,
    turn_hashes,
    unpack_hashes,
)
from curate.people.leaks.dataset_faces import Rules
from curate.people.leaks.face_line import FaceLine

DIGITS = 6  # cosines are rounded, because their last bits depend on the number of threads

_ROWS, _COLUMNS = 1024, 16384  # one step compares _ROWS faces with _COLUMNS faces; the cosines take 64 MB
PAIRS_PER_BATCH = 1 << 16


@dataclass(frozen=True)
class SimilarFaces:
    """Pairs of similar faces. Each array has one entry for each pair."""

    i: np.ndarray  # Number of the first face.
    j: np.ndarray  # Number of the second face.
    cosines: np.ndarray
    is_copy: np.ndarray  # Whether the two faces are near-duplicates.
    is_alike: np.ndarray  # Whether the cosine reaches the threshold for one person. Some strangers also reach it.
    is_person: np.ndarray  # Whether the cosine reaches the threshold, and other photos confirm the person.


class FacePairs:
    """Stores the hashes, the boxes and the embeddings of faces as arrays, and compares pairs of faces."""

    def __init__(self, faces: Sequence[FaceLine], rows: np.ndarray, vectors: np.ndarray, rules: Rules) -> None:
        """Stores the faces as arrays. Row i of `vectors`, float32 (m, d), is the unit embedding of the face with number
        `rows[i]`."""
        self.rules, self.vectors = rules, vectors
        self.split = np.array([face.split for face in faces])
        # the row of each face in `vectors`, or -1 for a face without an embedding
        self.row = np.full(len(faces), -1, np.int64)
        self.row[rows] = np.arange(len(rows))
        # The hashes and boxes of the faces: first unchanged, then mirrored.
        photo_hashes = unpack_hashes([face.photo_phash for face in faces]).reshape(-1, 8)
        face_hashes = unpack_hashes([face.phash for face in faces]).reshape(-1, 32)
        place = np.array([face.place for face in faces], np.float64).reshape(-1, 4)
        self.photo_bits = [turn_hashes(photo_hashes, variant).view(np.uint64)[:, 0] for variant in (PLAIN, MIRRORED)]
        self.face_bits = [turn_hashes(face_hashes, variant) for variant in (PLAIN, MIRRORED)]
        self.place = [turn_boxes(place, variant) for variant in (PLAIN, MIRRORED)]
        # A side means the faces of one person in one split. Each row of `vectors` belongs to a side. Each side has a
        # size and a mean vector.
        names = [f"{faces[row].split} {faces[row].person}" for row in rows]
        _, self.side, self.side_size = np.unique(names, return_inverse=True, return_counts=True)
        self.side_mean = np.zeros((len(self.side_size), vectors.shape[1]), np.float32)
        np.add.at(self.side_mean, self.side, vectors)
        self.side_mean /= np.maximum(self.side_size, 1)[:, None]

    def compute_cosines(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Returns the cosine of each pair, float (n,). The cosine is NaN if a face of the pair has no embedding."""
        a, b = self.row[i], self.row[j]
        both = (a >= 0) & (b >= 0)
        cosines = np.full(len(i), np.nan)
        cosines[both] = np.einsum("nd,nd->n", self.vectors[a[both]], self.vectors[b[both]])
        return cosines.round(DIGITS)

    def compute_person_cosines(self, i: np.ndarray, j: np.ndarray, both: bool = False) -> np.ndarray:
        """Returns how strongly other photos confirm that the faces of a pair show one person, float (n,).

        A side means the faces of one person in one split. The value is the higher of two means, or the lower of the
        two if `both` is True. The first mean is the mean cosine of the first face to the side of the second face. The
        second mean is the mean cosine of the second face to the side of the first face. If only one of the two sides
        has a single face, the mean cosine to the single face does not count, because a single face confirms nothing.
        """
        a, b = self.row[i], self.row[j]
        means = []
        for face, other in ((a, b), (b, a)):
            mean = np.einsum("nd,nd->n", self.vectors[face], self.side_mean[self.side[other]]).round(DIGITS)
            both_single = (self.side_size[self.side[face]] == 1) & (self.side_size[self.side[other]] == 1)
            means.append(np.where((self.side_size[self.side[other]] > 1) | both_single, mean, np.nan))
        return np.asarray(np.fmin(*means) if both else np.fmax(*means))

    def are_same_face(self, i: np.ndarray, j: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """Returns whether the faces of each pair are near-duplicates by their cosine and by their hashes, bool (n,)."""
        return (cosines >= self.rules.min_cosine_same_face) & self.have_similar_hashes(i, j)

    def have_similar_hashes(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Returns whether the aligned faces of each pair have similar hashes, plain or mirrored, bool (n,)."""
        limits = (self.rules.max_face_bits, self.rules.max_mirrored_face_bits)
        plain, mirrored = (
            count_different_bits(self.face_bits[PLAIN][i], hashes[j]) <= limit
            for hashes, limit in zip(self.face_bits, limits, strict=True)
        )
        return np.asarray(plain | mirrored)

    def are_in_same_photo(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Returns whether the faces of each pair are one face in two copies of a photo, bool (n,)."""
        same = np.zeros(len(i), bool)
        for variant in (PLAIN, MIRRORED):
            near = np.flatnonzero(self._have_similar_photos(i, j, variant))
            same[near] |= self._are_at_same_place(i[near], j[near], variant)
        return same

    def _have_similar_photos(self, i: np.ndarray, j: np.ndarray, variant: int) -> np.ndarray:
        """Returns whether the photos of each pair have similar hashes.

        `variant` tells whether the second photo is mirrored.
        """
        different = np.bitwise_count(self.photo_bits[PLAIN][i] ^ self.photo_bits[variant][j])
        return np.asarray(different <= self.rules.max_photo_bits)

    def _are_at_same_place(self, i: np.ndarray, j: np.ndarray, variant: int) -> np.ndarray:
        """Returns whether the boxes of each pair overlap enough and the cosine is not too low.

        Without a cosine, only the boxes count.
        """
        a, b = self.place[PLAIN][i], self.place[variant][j]
        overlap = measure_overlaps(a, b)
        different = self.compute_cosines(i, j) < self.rules.min_cosine_same_photo  # False if the cosine is NaN
        return (overlap >= self.rules.min_overlap_same_photo) & ~different

    def find_photo_copies(self, one: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields pairs of a face in `one` and a face in `other`, if both are the same face in two copies of a photo."""
        for i, j in _split_into_blocks(one, other):
            near = [self._have_similar_photos(i[:, None], j, variant) for variant in (PLAIN, MIRRORED)]
            a, b = np.nonzero(near[PLAIN] | near[MIRRORED])
            a, b = i[a], j[b]
            same = self.are_in_same_photo(a, b)
            yield a[same], b[same]

    def find_similar_faces(
        self, one: np.ndarray, other: np.ndarray, people: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields pairs of a face in `one` and a face in `other`, if their cosine is high enough for near-duplicates.

        If `people` is true, pairs whose cosine is high enough for one person are also yielded. Each item that is
        yielded consists of three arrays: the first faces of the pairs, the second faces of the pairs, and the cosines.
        """
        rules = self.rules
        least = min(rules.same_person, rules.min_cosine_same_face) if people else rules.min_cosine_same_face
        for i, j in _split_into_blocks(one[self.row[one] >= 0], other[self.row[other] >= 0]):
            a, b = np.nonzero(self.vectors[self.row[i]] @ self.vectors[self.row[j]].T >= least - 10.0**-DIGITS)
            a, b = i[a], j[b]
            for start in range(0, len(a), PAIRS_PER_BATCH):
                i_, j_ = a[start : start + PAIRS_PER_BATCH], b[start : start + PAIRS_PER_BATCH]
                yield i_, j_, self.compute_cosines(i_, j_)

    def judge_similar_faces(
        self, one: np.ndarray, other: np.ndarray, people: bool, both: bool = False
    ) -> Iterator[SimilarFaces]:
        """Yields the pairs of `find_similar_faces`, and says which pairs show one picture or one person.

        `both` is as in `compute_person_cosines`.
        """
        for i, j, cosines in self.find_similar_faces(one, other, people):
            alike = np.zeros(len(i), bool)
            if people:
                alike = cosines >= self.rules.same_person
            confirmed = alike.copy()
            confirmed[alike] = self.compute_person_cosines(i[alike], j[alike], both) >= self.rules.same_person
            yield SimilarFaces(i, j, cosines, self.are_same_face(i, j, cosines), alike, confirmed)


def _split_into_blocks(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i in range(0, len(one), _ROWS):
        for j in range(0, len(other), _COLUMNS):
            yield one[i : i + _ROWS], other[j : j + _COLUMNS]
