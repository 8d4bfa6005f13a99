"""Finds more copied faces in two photos that are known to contain copies of one face."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from curate.config import DedupeRules
from curate.faces.align import MIRRORED_LANDMARKS, fit_similarity, transform_points
from curate.faces.comparison.turned_hashes import measure_overlaps
from manifests.ledger.records import Face


def find_companions(faces: Sequence[Face], vectors: np.ndarray, pairs: np.ndarray, rules: DedupeRules) -> np.ndarray:
    """Returns pairs of faces that must be copies because other faces of their two photos are copies, int64 (m, 2).

    `pairs`, int64 (n, 2), are known copies, as row numbers of `faces`. `vectors` are the unit embeddings of `faces`.
    The landmarks of two known copies give the similarity that maps the first photo to the second photo. A plain and a
    mirrored similarity are tried, and the similarity that fits more faces is used. Two faces are copies if the
    similarity maps the box of the first face onto the box of the second face, and their cosine is
    `min_cosine_same_photo` or more. The function also finds a copy whose pixels differ, for example because of a frame
    beside the face.
    """
    in_photo: dict[str, list[int]] = defaultdict(list)
    for number, face in enumerate(faces):
        in_photo[face.photo_id].append(number)
    # ids of two photos -> the known copies: a face of the first photo and a face of the second photo
    links: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for one, other in sorted(
        {tuple(sorted(pair, key=lambda number: faces[number].photo_id)) for pair in pairs.tolist()}
    ):
        links[faces[one].photo_id, faces[other].photo_id].append((one, other))
    found: list[tuple[int, int]] = []
    for (photo, other_photo), known in sorted(links.items()):
        first, second = in_photo[photo], in_photo[other_photo]
        if len(known) >= min(len(first), len(second)):
            continue
        # The known pair with the largest face maps one photo to the other, because the largest face has the most exact
        # landmarks. All other faces of one photo are compared with all other faces of the other photo.
        one, other = max(known, key=lambda pair: (faces[pair[0]].inter_ocular_px, pair))
        every = np.array([(i, j) for i in first for j in second if i != one and j != other])
        near = np.einsum("nd,nd->n", vectors[every[:, 0]], vectors[every[:, 1]]) >= rules.min_cosine_same_photo
        i, j = every[near].T
        target = np.array([faces[number].box for number in j], np.float64).reshape(-1, 4)
        matches = [
            measure_overlaps(boxes, target) >= rules.min_overlap_same_photo
            for boxes in _map_boxes(faces, one, other, i)
        ]
        same = max(matches, key=np.count_nonzero, default=np.zeros(len(i), bool))
        found += set(zip(i[same].tolist(), j[same].tolist(), strict=True)) - set(known)
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def _map_boxes(faces: Sequence[Face], one: int, other: int, numbers: np.ndarray) -> list[np.ndarray]:
    """Returns the boxes of the faces `numbers`, mapped from the photo of face `one` to the photo of face `other`.

    Returns two arrays (n, 4): the boxes for a plain copy and the boxes for a mirrored copy. Returns an empty list if
    the landmarks of face `one` coincide.
    """
    boxes = np.array([faces[number].box for number in numbers], np.float64).reshape(-1, 4)
    source, target = (np.array(faces[number].landmarks5, np.float64).reshape(5, 2) for number in (one, other))
    mapped = []
    for flip, order in ((1, slice(None)), (-1, MIRRORED_LANDMARKS)):
        try:
            matrix = fit_similarity(source[order] * [flip, 1], target)
        except ValueError:
            continue
        corners = [
            transform_points(boxes[:, columns] * [flip, 1], matrix) for columns in ([0, 1], [2, 3], [0, 3], [2, 1])
        ]
        mapped.append(np.concatenate([np.min(corners, axis=0), np.max(corners, axis=0)], axis=1))
    return mapped
