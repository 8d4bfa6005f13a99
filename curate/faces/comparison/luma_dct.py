"""Stores an aligned face as the low frequencies of its luma. Compares two stored faces to find copies of one picture.

`encode_luma` makes the text that is stored. `compare_tangents` compares many pairs of faces quickly and coarsely.
`register` compares two faces exactly: it moves the second face onto the first face, and correlates the pixels that both
photos contain.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

# The part of the 512 px crop that is stored: from brows to below the chin and from ear to ear (ours).
_TOP, _BOTTOM, _LEFT, _RIGHT = 0.25, 0.9, 0.175, 0.825
SIDE = 48  # Width and height (ours) of the stored part of a face, in pixels.
# Number of frequencies that are stored for each direction (ours). 16 frequencies separate 1,124 of 1,128 copies from
# all 860 pairs of different photos of one person. 24 frequencies do not separate more copies.
FREQUENCIES = 16
# Number of frequencies for each direction that `compare_tangents` reads (ours). With fewer frequencies, the comparison
# tolerates larger shifts and turns of a face. With more frequencies, the comparison distinguishes more pictures. We
# tried 6, 8, 10, 12 and 16.
_COARSE = 8

# row f of the matrix is the cosine of frequency f at SIDE pixels, float32 (SIDE, SIDE), orthonormal
_COSINES = np.cos(np.pi / (2 * SIDE) * np.outer(np.arange(SIDE), 2 * np.arange(SIDE) + 1)) * np.sqrt(2 / SIDE)
_COSINES[0] /= np.sqrt(2)
_COSINES = _COSINES.astype(np.float32)


def encode_luma(crop: np.ndarray, valid: np.ndarray) -> str:
    """Returns the text that is stored for a crop, RGB uint8 (S, S, 3) in the FFHQ template: 288 bytes as hex.

    `valid` is bool (V, V). A value is True if the pixel of the crop lies inside the photo. All pixels outside the photo
    get the mean luma of the pixels inside the photo. The first 256 bytes are the low frequencies of the luma, as signed
    integers. The sign of an integer is the sign of the frequency. The square of the integer is proportional to the
    strength of the frequency. The mean brightness and the contrast are not stored. The last 32 bytes are a grid of 16 x
    16 bits: a bit is 1 if its whole cell lies inside the photo.
    """
    luma = cv2.resize(cv2.cvtColor(_cut(crop), cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    luma = luma.astype(np.float32)
    share = _cut(valid).astype(np.float32)
    real = cv2.resize(share, (SIDE, SIDE), interpolation=cv2.INTER_AREA) > 0.98
    if real.any():
        luma[~real] = luma[real].mean()
    low = _COSINES[:FREQUENCIES] @ luma @ _COSINES[:FREQUENCIES].T
    low[0, 0] = 0
    # In a face without contrast, all frequencies are rounding errors. The lower limit of 1 turns such rounding errors
    # into 0.
    strongest = max(float(np.abs(low).max()), 1.0)
    integers = np.round(127 * np.sign(low) * np.sqrt(np.abs(low) / strongest)).astype(np.int8)
    grid = cv2.resize(share, (FREQUENCIES, FREQUENCIES), interpolation=cv2.INTER_AREA) > 0.98
    return (integers.tobytes() + np.packbits(grid).tobytes()).hex()


def decode_lumas(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Decodes the texts of `encode_luma`: returns the frequencies of n faces, and which pixels lie inside the photos.

    The frequencies are float32 (n, FREQUENCIES, FREQUENCIES). The pixels are bool (n, SIDE, SIDE).
    """
    stored = np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(len(texts), -1)
    integers = np.ascontiguousarray(stored[:, : FREQUENCIES**2]).view(np.int8).astype(np.float32)
    low = (np.sign(integers) * (integers / 127) ** 2).reshape(-1, FREQUENCIES, FREQUENCIES)
    grid = np.unpackbits(stored[:, FREQUENCIES**2 :], axis=1).reshape(-1, FREQUENCIES, FREQUENCIES).astype(bool)
    return low, grid.repeat(SIDE // FREQUENCIES, 1).repeat(SIDE // FREQUENCIES, 2)


def mirror(frequencies: np.ndarray) -> np.ndarray:
    """Returns the frequencies (..., n, n) of the mirrored pictures.

    Each frequency with an odd number along x changes its sign.
    """
    return frequencies * np.where(np.arange(frequencies.shape[-1]) % 2, -1, 1).astype(np.float32)


def keep_common_pixels(one: np.ndarray, other: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the frequencies of m pairs of faces, computed from the pixels that both photos contain.

    `one` and `other` are frequencies, float32 (m, FREQUENCIES, FREQUENCIES). `real`, bool (m, SIDE, SIDE), is True for
    each pixel that lies inside both photos. In each face, all other pixels get the mean of the pixels inside both
    photos.
    """
    low, kept = _COSINES[:FREQUENCIES], []
    share = real.mean((1, 2), dtype=np.float32).clip(1e-6)
    for frequencies in (one, other):
        pictures = (low.T @ frequencies @ low) * real
        mean = pictures.mean((1, 2)) / share
        changed = low @ (pictures + mean[:, None, None] * ~real) @ low.T
        changed[:, 0, 0] = 0
        kept.append(np.asarray(changed, np.float32))
    return kept[0], kept[1]


def compare_tangents(frequencies: np.ndarray, one: np.ndarray, other: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Returns the difference of the two faces of each pair, float (m,), from 0 to 1.

    A small move of a face changes the difference only a little.

    `frequencies` are float32 (n, FREQUENCIES, FREQUENCIES). `one` and `other`, int (m,), are the rows of the two faces
    of each pair. `mirrored`, bool (m,), is True if the second face of the pair must be mirrored first.

    The difference is the tangent distance (Simard, LeCun and Denker 1993). The first face, and its changes by small
    shifts, turns, scalings and shears, span a linear space. The second face is approximated by a vector of the linear
    space. The difference is 1 minus the share of the second face's squared luma that the approximation explains. The
    difference is also computed with the two faces exchanged, and the smaller difference is returned.
    """
    coarse = frequencies[:, :_COARSE, :_COARSE]
    plain, flipped = (_normalise(part.reshape(len(part), -1)) for part in (coarse, mirror(coarse)))
    # Each face has seven vectors: the face itself, and its changes by six small moves. Let p be the dot products of a
    # vector with the seven vectors. Then p @ weights @ p is the share of the vector that lies in the span of the seven
    # vectors.
    moves = (plain @ _make_move_operators()).reshape(len(plain), 6, -1)
    moves[:, :, 0] = 0  # the mean brightness is not stored
    vectors = np.concatenate([plain[:, None], moves / np.linalg.norm(moves, axis=2, keepdims=True).clip(1e-12)], axis=1)
    weights = np.linalg.inv(vectors @ vectors.transpose(0, 2, 1) + 1e-4 * np.eye(7, dtype=np.float32))
    shares = []
    for a, b in ((one, other), (other, one)):
        turned = np.where(mirrored[:, None], flipped[b], plain[b])
        products = np.matmul(vectors[a], turned[:, :, None])[:, :, 0]
        shares.append(np.einsum("mk,mkl,ml->m", products, weights[a], products))
    return 1 - np.maximum(*shares)


def register(one: np.ndarray, other: np.ndarray, one_real: np.ndarray, other_real: np.ndarray) -> float:
    """Returns the correlation of two faces, from -1 to 1, after the second face was moved onto the first face.

    `one` and `other` are frequencies, float32 (FREQUENCIES, FREQUENCIES). `one_real` and `other_real`, bool (SIDE,
    SIDE), are True for each pixel that lies inside the photo. Only pixels inside both photos are compared. Returns -1
    if the move cannot be found, or if too few pixels remain.
    """
    a, b = (_draw(part) for part in (one, other))
    real = (one_real & other_real & _INNER).astype(np.uint8)
    try:
        start = np.eye(2, 3, dtype=np.float32)
        move = np.asarray(cv2.findTransformECC(a, b, start, cv2.MOTION_AFFINE, _ECC_STOP, real, 3)[1])
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        return -1.0
    if np.abs(move[:, :2] - _SAME).max() > _MOST_TURN or np.abs(move @ _CENTRE - _CENTRE[:2]).max() > _MOST_SHIFT:
        return -1.0
    moved = cv2.warpAffine(b, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    moved_real = cv2.warpAffine(
        (other_real & _EDGE).astype(np.uint8), move, (SIDE, SIDE), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    )
    both = one_real & _INNER & (moved_real > 0)
    if both.sum() < _LEAST_PIXELS:
        return -1.0
    x, y = (part[both] - part[both].mean() for part in (a, moved))
    return float(x @ y / np.sqrt(max(float((x @ x) * (y @ y)), 1e-12)))


_ECC_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 1e-3)  # 10 steps (ours): more steps change no result
_SAME = np.eye(2)
_CENTRE = np.array([(SIDE - 1) / 2, (SIDE - 1) / 2, 1])
# The largest moves between the faces of two copies of one picture (ours). _MOST_TURN limits the change of each entry of
# the matrix: .25 is a scale of 1.25 or a turn of 14 degrees. _MOST_SHIFT is in pixels of the stored part of a face.
_MOST_TURN, _MOST_SHIFT = 0.25, 6.0
_LEAST_PIXELS = SIDE * SIDE // 4  # Two faces that share less than a quarter (ours) of their pixels are not compared.
_EDGE = np.pad(np.ones((SIDE - 2, SIDE - 2), bool), 1)  # False at the border: there, a move mixes the face with black.
_INNER = np.pad(np.ones((SIDE - 6, SIDE - 6), bool), 3)  # True for the pixels that stay inside after a small move.


def _cut(picture: np.ndarray) -> np.ndarray:
    """Returns the stored part of a crop (S, S) or (S, S, 3)."""
    size = len(picture)
    return picture[round(_TOP * size) : round(_BOTTOM * size), round(_LEFT * size) : round(_RIGHT * size)]


def _draw(frequencies: np.ndarray) -> np.ndarray:
    """Returns the luma that belongs to stored frequencies, float32 (SIDE, SIDE)."""
    return np.asarray(_COSINES[:FREQUENCIES].T @ frequencies @ _COSINES[:FREQUENCIES], np.float32)


def _normalise(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


@cache
def _make_move_operators() -> np.ndarray:
    """Returns six matrices side by side, float32 (d, 6 d). Each matrix computes how a small move changes d frequencies.

    The moves are the shifts along y and x, the stretches along y and x, and the two shears. Every small affine move is
    a combination of the six moves.
    """
    low = _COSINES[:_COARSE]
    slope = np.gradient(np.eye(SIDE), axis=0)
    place = np.diag(np.linspace(-1, 1, SIDE))
    shift, stretch, weight = (low @ matrix @ low.T for matrix in (slope, place @ slope, place))
    same = np.eye(_COARSE)
    pairs = ((shift, same), (same, shift), (stretch, same), (same, stretch), (shift, weight), (weight, shift))
    return np.concatenate([np.kron(y, x).T for y, x in pairs], axis=1).astype(np.float32)
