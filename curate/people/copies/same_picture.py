"""Finds pairs of faces from copies of one picture.

A copy may be saved again, resized, cropped, framed, turned or mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np

from curate.config import DedupeRules
from curate.faces.comparison.turned_hashes import (
    MIRRORED,
    PLAIN,
    VARIANTS,
    count_different_bits,
    measure_overlaps,
    turn_boxes,
    turn_hashes,
    unpack_hashes,
)
from curate.people.clustering.neighbours import find_neighbours
from curate.people.copies.companions import find_companions
from curate.people.copies.compare_with_all import Pairs, are_neighbours, compare_with_all
from curate.people.copies.same_pixels import have_same_pixels
from manifests.ledger.records import Face, Photo

_NEIGHBOURS = 32  # Number of nearest faces with which each face is compared.
_PHOTOS_AT_ONCE = 64  # Number of photos in one step; limits the memory.
_PAIRS_AT_ONCE = 2**14  # Number of pairs of faces in one step; limits the memory.


def find_copies(
    faces: Sequence[Face],
    photos: Sequence[Photo],
    vectors: np.ndarray,
    rules: DedupeRules,
    searched: np.ndarray | None = None,
) -> np.ndarray:
    """Returns pairs of faces that come from copies of one picture, as row numbers of `faces`, int64 (m, 2).

    `photos` and `vectors`, float32 (n, d), are the photos and the unit embeddings of the faces. Plain and mirrored
    copies of whole photos are always found. In collections of more than `neighbours.EXACT` faces, turned or cropped
    copies may be missed.

    If `searched`, int (k,), is given, only the pairs with a face in these rows are returned. The faces `searched` are
    compared with all faces, even in a large collection. `searched` must contain either all faces of a photo or no face
    of the photo.
    """
    # The candidates are pairs of near neighbours: the faces `row` and `other`, int (m,). Each pair occurs one time. Two
    # equal faces in one photo come from a collage or a mirror, and are not candidates.
    least = min(rules.min_cosine_same_photo, rules.min_cosine_same_face, rules.min_cosine_same_pixels)
    order = np.argsort([face.face_id for face in faces])
    if searched is None:
        near = find_neighbours(vectors, order, _NEIGHBOURS, least)
        place, column = np.nonzero((near.rows >= 0) & (near.cosines >= least))
        pairs = Pairs(place, near.rows[place, column], near.cosines[place, column], np.ones(len(place), bool))
    else:
        pairs = compare_with_all(vectors, order, searched, _NEIGHBOURS, least)
    keys = np.sort(np.stack([pairs.first, pairs.second], axis=1), axis=1) @ np.array([len(faces), 1])
    keys, first, number = np.unique(keys, return_index=True, return_inverse=True)
    is_near = np.zeros(len(keys), bool)
    np.logical_or.at(is_near, number, pairs.is_near)
    row, other = (order[part] for part in np.divmod(keys, len(faces)))
    cosine = pairs.cosines[first]
    photo_number = np.unique([face.photo_id for face in faces], return_inverse=True)[1]
    different = photo_number[row] != photo_number[other]
    row, other, cosine, is_near = row[different], other[different], cosine[different], is_near[different]

    same = _are_copies(faces, photos, row, other, cosine, rules)
    # A pair also counts if only its second face has the other face among its _NEIGHBOURS nearest faces.
    far = np.flatnonzero(same & ~is_near)
    same[far] = are_neighbours(vectors, row[far], other[far], _NEIGHBOURS)
    # If a person has many photos, a copy of poor quality may not be among the _NEIGHBOURS nearest faces. The search for
    # copies therefore also compares the hashes of the photos.
    by_photo = _find_copies_by_photo(faces, photos, vectors, rules, searched)
    copies = np.concatenate([np.stack([row[same], other[same]], axis=1), by_photo]).astype(np.int64)
    return np.concatenate([copies, find_companions(faces, vectors, copies, rules)])


def _are_copies(
    faces: Sequence[Face],
    photos: Sequence[Photo],
    row: np.ndarray,
    other: np.ndarray,
    cosine: np.ndarray,
    rules: DedupeRules,
) -> np.ndarray:
    """Returns whether the faces of each pair come from copies of one picture, bool (m,)."""
    same = _are_same_photo(faces, photos, row, other, cosine, rules)
    # The aligned faces are upright, so they are compared plain and mirrored, and not turned.
    hashes = unpack_hashes([face.phash for face in faces])
    plain, mirrored = (
        count_different_bits(hashes[row], turn_hashes(hashes, variant)[other]) for variant in (PLAIN, MIRRORED)
    )
    same_face = (plain <= rules.max_face_bits) | (mirrored <= rules.max_mirrored_face_bits)
    same |= (cosine >= rules.min_cosine_same_face) & same_face
    # If the landmarks of two copies differ by some pixels, the hashes of the aligned faces differ in many bits. The
    # remaining pairs are therefore compared by their pixels.
    at = np.flatnonzero(~same)
    bits = np.minimum(plain, mirrored)
    same[at] = have_same_pixels(faces, row[at], other[at], cosine[at], bits[at], (mirrored < plain)[at], rules)
    return same


def _are_same_photo(
    faces: Sequence[Face],
    photos: Sequence[Photo],
    row: np.ndarray,
    other: np.ndarray,
    cosine: np.ndarray,
    rules: DedupeRules,
) -> np.ndarray:
    """Returns whether each pair is one face in two copies of a whole photo, plain, turned or mirrored, bool (m,).

    The faces of a pair are one face if the hashes of the photos are similar, the boxes overlap, and the embeddings are
    similar.
    """
    bits, boxes = unpack_hashes([photo.phash for photo in photos]), _scale_boxes(faces, photos)
    same = np.zeros(len(row), bool)
    for variant in VARIANTS:
        near = count_different_bits(bits[row], turn_hashes(bits, variant)[other]) <= rules.max_photo_bits
        at = np.flatnonzero(near & (cosine >= rules.min_cosine_same_photo))
        overlap = measure_overlaps(boxes[row[at]], turn_boxes(boxes[other[at]], variant))
        same[at] |= overlap >= rules.min_overlap_same_photo
    return same


def _find_copies_by_photo(
    faces: Sequence[Face],
    photos: Sequence[Photo],
    vectors: np.ndarray,
    rules: DedupeRules,
    searched: np.ndarray | None,
) -> np.ndarray:
    """Returns pairs of rows that are one face in two copies of one photo, plain or mirrored, int64 (m, 2).

    If `searched` is given, at least one of the two photos contains faces of `searched`. Two rows form a pair if three
    conditions hold: the hashes of the photos differ in at most `max_photo_bits` bits, the boxes overlap enough, and the
    cosine is `min_cosine_same_photo` or more.
    """
    # For each distinct photo, find its first row, its hash as uint8 (photos, 8), and the rows of its faces as a slice
    # of `order`.
    _, first, of = np.unique([photo.photo_id for photo in photos], return_index=True, return_inverse=True)
    bits = unpack_hashes([photos[row].phash for row in first])
    index = faiss.IndexBinaryFlat(bits.shape[1] * 8)
    index.add(bits)
    order, count = np.argsort(of, kind="stable"), np.bincount(of)
    start = np.cumsum(count) - count
    boxes = _scale_boxes(faces, photos)
    is_searched = np.ones(len(bits), bool) if searched is None else np.isin(np.arange(len(bits)), of[searched])
    queries = np.flatnonzero(is_searched)

    pairs = [np.zeros((0, 2), np.int64)]
    for variant in (PLAIN, MIRRORED):
        turned_bits, turned_boxes = turn_hashes(bits, variant), turn_boxes(boxes, variant)
        for begin in range(0, len(queries), _PHOTOS_AT_ONCE):
            # Find the pairs of photos a and b whose hashes differ in at most max_photo_bits bits. The radius is
            # max_photo_bits + 1, because range_search returns only distances below the radius. If both photos are
            # queries, a < b, so that the pair occurs one time.
            part = queries[begin : begin + _PHOTOS_AT_ONCE]
            limits, _, b = index.range_search(np.ascontiguousarray(turned_bits[part]), rules.max_photo_bits + 1)
            hits = limits[1:].astype(np.int64) - limits[:-1].astype(np.int64)
            a = np.repeat(part, hits)
            once = (a < b) | ~is_searched[b]
            a, b = a[once], b[once]

            # Combine every face of photo a with every face of photo b. `pair` is the number of the pair of photos, and
            # `nth` counts the combinations inside the pair.
            total = count[a] * count[b]
            pair = np.repeat(np.arange(len(a)), total)
            nth = np.arange(len(pair)) - np.repeat(np.cumsum(total) - total, total)
            row, other = order[start[a[pair]] + nth // count[b[pair]]], order[start[b[pair]] + nth % count[b[pair]]]
            same_place = measure_overlaps(turned_boxes[row], boxes[other]) >= rules.min_overlap_same_photo
            row, other = row[same_place], other[same_place]
            for at in range(0, len(row), _PAIRS_AT_ONCE):
                r, o = row[at : at + _PAIRS_AT_ONCE], other[at : at + _PAIRS_AT_ONCE]
                same = np.einsum("nd,nd->n", vectors[r], vectors[o]) >= rules.min_cosine_same_photo
                pairs.append(np.stack([r[same], o[same]], axis=1))
    return np.concatenate(pairs)


def _scale_boxes(faces: Sequence[Face], photos: Sequence[Photo]) -> np.ndarray:
    """Returns the boxes as shares of the width and height of their photo, float64 (n, 4)."""
    sides = np.array([(photo.width, photo.height) * 2 for photo in photos], np.float64)
    return np.array([face.box for face in faces], np.float64) / sides
