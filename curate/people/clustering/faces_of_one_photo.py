"""Finds the photos with several faces, and makes sure that two faces of one photo are in two groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_matrix

from curate.people.clustering.components import IN_MEMORY, sum_rows
from manifests.runtime.workspace import Workspace


def count_faces_in_photos(photos: np.ndarray | None, labels: np.ndarray) -> csr_matrix | None:
    """Returns the number of faces of each group in each photo with several faces, float32 (groups, photos).

    Returns None if no photo has several faces.
    """
    if photos is None:
        return None
    several = np.flatnonzero(np.bincount(photos)[photos] > 1)
    if len(several) == 0:
        return None
    column = np.unique(photos[several], return_inverse=True)[1]
    shape = (int(labels.max()) + 1, int(column.max()) + 1)
    return csr_matrix((np.ones(len(several), np.float32), (labels[several], column)), shape=shape)


def number_photos(photo_ids: Sequence[object]) -> np.ndarray:
    """Returns a number for each photo id, int64 (n,). Numbers start at 0, and are in the order of the ids as text.

    np.unique would need several times the memory, because it stores each id with the length of the longest id.
    """
    numbers = {name: number for number, name in enumerate(sorted({str(photo) for photo in photo_ids}))}
    return np.fromiter((numbers[str(photo)] for photo in photo_ids), np.int64, len(photo_ids))


def group_rows_by_photo(photos: np.ndarray | Sequence[str]) -> Iterator[np.ndarray]:
    """Yields the rows of each photo with two rows or more, int64 (k,), in the order of the photos.

    `photos` (n,) are the numbers or the ids of the photos of n faces.
    """
    number = photos if isinstance(photos, np.ndarray) else number_photos(photos)
    order = np.flatnonzero(np.bincount(number)[number] > 1) if len(number) else np.zeros(0, np.int64)
    order = order[np.argsort(number[order], kind="stable")]
    for rows in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        if len(rows):
            yield rows


def separate_faces_of_one_photo(
    embeddings: np.ndarray,
    order: np.ndarray,
    photos: np.ndarray,
    labels: np.ndarray,
    block: np.ndarray,
    workspace: Workspace = IN_MEMORY,
) -> np.ndarray:
    """Returns the labels after separating faces of one photo that are in one group.

    If a group has several faces of one photo, the face that is most similar to the group stays. Faces that must-links
    join form a block, and a block stays or leaves as a whole. Of two blocks with faces of one photo, the larger block
    stays. Each block that leaves becomes a new group.
    """
    # Find the groups with two faces of one photo. After the sorting, the rows of two faces of one group and one photo
    # are adjacent.
    sorted_rows = np.lexsort((photos, labels))
    is_repeated = (np.diff(labels[sorted_rows]) == 0) & (np.diff(photos[sorted_rows]) == 0)
    crowded_groups = np.unique(labels[sorted_rows[1:][is_repeated]])
    if len(crowded_groups) == 0:
        return labels

    # The similarity of a face and its group is the dot product of the face with the sum of the group, float32 (rows,).
    labels = labels.copy()
    rows = np.flatnonzero(np.isin(labels, crowded_groups))
    place = np.searchsorted(crowded_groups, labels[rows])
    vectors = workspace.read_rows(embeddings, order[rows])
    likeness = np.einsum("nd,nd->n", vectors, sum_rows(vectors, np.arange(len(rows)), place)[place])
    rows_of: dict[int, list[int]] = {}
    best: dict[int, float] = {}
    for row, member, value in zip(rows.tolist(), block[rows].tolist(), likeness.tolist(), strict=True):
        rows_of.setdefault(member, []).append(row)
        best[member] = max(best.get(member, -np.inf), value)

    # Go through the blocks in order of precedence. If an earlier block of the group has a face in the same photo, the
    # block becomes a new group.
    used_places: set[tuple[int, int]] = set()  # (group, photo)
    new_label = int(labels.max()) + 1
    for member in sorted(rows_of, key=lambda member: (-len(rows_of[member]), -best[member], rows_of[member][0])):
        places = {(int(labels[row]), int(photos[row])) for row in rows_of[member]}
        if places & used_places:
            labels[rows_of[member]], new_label = new_label, new_label + 1
        else:
            used_places |= places
    return labels
