"""Finds pairs of faces with equal pixels: moves one aligned face onto the other face, and compares the pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curate.config import DedupeRules
from curate.faces.comparison.luma_dct import compare_tangents, decode_lumas, keep_common_pixels, mirror, register
from manifests.ledger.records import Face

_PAIRS_AT_ONCE = 2**14  # Number of pairs of faces in one step; limits the memory.
_REAL_BYTES = 32  # The last bytes of a stored luma tell which pixels lie inside the photo (luma_dct.py).


def have_same_pixels(
    faces: Sequence[Face],
    row: np.ndarray,
    other: np.ndarray,
    cosine: np.ndarray,
    bits: np.ndarray,
    mirrored: np.ndarray,
    rules: DedupeRules,
) -> np.ndarray:
    """Returns whether the faces of each pair have equal pixels after one was moved onto the other, bool (m,).

    `row` and `other`, int (m,), are the first and the second face of each pair, as indices of `faces`. `cosine`, float
    (m,), is the cosine of the pair's embeddings. `bits`, int (m,), is the number of bits that differ between the pair's
    hashes. `mirrored`, bool (m,), is True for the pairs whose second face is mirrored. Only pixels inside both photos
    are compared.
    """
    same = np.zeros(len(row), bool)
    real_bits, known = _read_real_bits(faces)
    limit, is_cut = _find_limits(row, other, cosine, bits, real_bits, rules)
    possible = (limit > 0) & (cosine >= rules.min_cosine_same_pixels) & known[row] & known[other]
    for at in np.split(np.flatnonzero(possible), range(_PAIRS_AT_ONCE, int(possible.sum()), _PAIRS_AT_ONCE)):
        if len(at):
            same[at] = _compare_pixels(faces, row[at], other[at], mirrored[at], limit[at], is_cut[at], rules)
    return same


def _read_real_bits(faces: Sequence[Face]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bits that tell which pixels lie inside the photo, uint8 (n, 32).

    Also returns which faces have a stored luma, bool (n,).
    """
    known = np.array([bool(face.luma_dct) for face in faces])
    texts = "".join((face.luma_dct or "0" * 2 * _REAL_BYTES)[-2 * _REAL_BYTES :] for face in faces)
    return np.frombuffer(bytes.fromhex(texts), np.uint8).reshape(len(faces), _REAL_BYTES), known


def _find_limits(
    row: np.ndarray,
    other: np.ndarray,
    cosine: np.ndarray,
    bits: np.ndarray,
    real_bits: np.ndarray,
    rules: DedupeRules,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the largest allowed tangent distance of each pair, float (m,), and whether a face is cut, bool (m,).

    A pair with the limit 0 is not compared. A face of the pair counts as cut if at least the share `min_share_of_cut`
    of the pixels lies inside only one of the two photos.
    """
    above = cosine - rules.min_cosine_to_register
    limit = np.where(above >= 0, rules.max_difference_if_similar + rules.difference_per_cosine * above, 0.0)
    limit = np.maximum(limit, np.where(bits <= rules.max_face_bits_to_register, rules.max_difference, 0.0))
    different = np.bitwise_count(real_bits[row] ^ real_bits[other]).sum(1, dtype=np.int64)
    is_cut = different >= rules.min_share_of_cut * 8 * _REAL_BYTES
    return np.maximum(limit, np.where(is_cut, rules.max_difference_if_cut, 0.0)), is_cut


def _compare_pixels(
    faces: Sequence[Face],
    row: np.ndarray,
    other: np.ndarray,
    mirrored: np.ndarray,
    limit: np.ndarray,
    is_cut: np.ndarray,
    rules: DedupeRules,
) -> np.ndarray:
    """Returns whether the faces of each pair have equal pixels, bool (m,).

    `have_same_pixels` and `_find_limits` explain the arguments.
    """
    used, number = np.unique(np.concatenate([row, other]), return_inverse=True)
    one, two = number[: len(row)], number[len(row) :]
    lumas, real = decode_lumas([str(faces[face].luma_dct) for face in used])

    # Compute the tangent distances, float (m,). If a face is cut, only the pixels inside both photos count.
    differences = compare_tangents(lumas, one, two, mirrored)
    cut = np.flatnonzero(is_cut)
    if len(cut):
        flip = mirrored[cut, None, None]
        second, second_real = lumas[two[cut]], real[two[cut]]
        second = np.where(flip, mirror(second), second)
        second_real = np.where(flip, second_real[:, :, ::-1], second_real)
        pair = keep_common_pixels(lumas[one[cut]], second, real[one[cut]] & second_real)
        first = np.arange(len(cut))
        differences[cut] = compare_tangents(np.concatenate(pair), first, first + len(cut), np.zeros(len(cut), bool))

    same = np.zeros(len(row), bool)
    for at in np.flatnonzero(differences <= limit).tolist():
        luma, luma_real = lumas[two[at]], real[two[at]]
        if mirrored[at]:
            luma, luma_real = mirror(luma), luma_real[:, ::-1]
        same[at] = register(lumas[one[at]], luma, real[one[at]], luma_real) >= rules.min_correlation_same_pixels
    return same
