"""Compares some faces with all faces, and tells which pairs are near neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COSINES_AT_ONCE = 2**26  # Number of cosines in one step; limits the memory to 256 MB.


@dataclass(frozen=True)
class Pairs:
    """Pairs of faces. Each array has one entry for each pair."""

    first: np.ndarray  # Number of the first face, int (m,).
    second: np.ndarray  # Number of the second face, int (m,).
    cosines: np.ndarray  # Cosine of the two faces, float32 (m,).
    is_near: np.ndarray  # Whether the second face is known to be among the nearest faces of the first face, bool (m,).


def compare_with_all(vectors: np.ndarray, order: np.ndarray, rows: np.ndarray, k: int, least: float) -> Pairs:
    """Returns the pairs of a face in `rows` and any other face whose cosine is `least` or more.

    `vectors` are unit rows, float32 (n, d), and `rows`, int (r,), are row numbers of `vectors`. The numbers in the
    result are positions in `order`, int (n,), which contains each row number one time. A pair is near if the second
    face is one of the `k` nearest faces of the first face. Cosines are rounded to 1e-6, as in `find_neighbours`.
    """
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    nothing = np.zeros(0, np.int64)
    found: list[tuple[np.ndarray, ...]] = [(nothing, nothing, nothing.astype(np.float32), nothing.astype(bool))]
    step = max(1, COSINES_AT_ONCE // len(vectors))
    for begin in range(0, len(rows), step):
        part = rows[begin : begin + step]
        cosines = vectors[part] @ vectors.T
        cosines[np.arange(len(part)), part] = -1.0
        row, other = np.nonzero(cosines >= least - 1e-6)
        cosine = cosines[row, other].round(6)
        nearest_first = np.lexsort((-cosine, row))
        row, other, cosine = row[nearest_first], other[nearest_first], cosine[nearest_first]
        count = np.bincount(row, minlength=len(part))
        rank = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        enough = cosine >= least
        found.append((place[part[row]][enough], place[other][enough], cosine[enough], (rank < k)[enough]))
    return Pairs(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def are_neighbours(vectors: np.ndarray, one: np.ndarray, other: np.ndarray, k: int) -> np.ndarray:
    """Returns whether one face of each pair is among the `k` nearest faces of the other face, bool (m,).

    `one` and `other`, int (m,), are row numbers of `vectors`, float32 (n, d).
    """
    near = np.zeros(len(one), bool)
    step = max(1, COSINES_AT_ONCE // len(vectors))
    for face, neighbour in ((one, other), (other, one)):
        for begin in range(0, len(one), step):
            part = slice(begin, begin + step)
            cosines = (vectors[face[part]] @ vectors.T).round(6)
            cosines[np.arange(len(cosines)), face[part]] = -1.0
            own = cosines[np.arange(len(cosines)), neighbour[part]]
            near[part] |= (cosines > own[:, None]).sum(axis=1) < k
    return near
