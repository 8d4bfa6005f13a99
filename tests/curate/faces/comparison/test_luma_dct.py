"""Tests that a moved or mirrored copy of a face counts as the same picture, and that another face does not."""

import cv2
import numpy as np
import pytest

from curate.faces.comparison.luma_dct import SIDE, compare_tangents, decode_lumas, encode_luma, mirror, register
from curate.faces.comparison.turned_hashes import VARIANTS, count_different_bits, turn_boxes, turn_hashes, unpack_hashes
from curate.faces.measure import hash_picture

ALL = np.ones((128, 128), bool)
REAL = np.ones((SIDE, SIDE), bool)


def picture(seed: int, size: int = 256) -> np.ndarray:
    """Returns a smooth random picture with coarse and fine structure, uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.normal(size=(n, n)), (size, size), interpolation=cv2.INTER_CUBIC) for n in (4, 8, 14)]
    gray = np.sum(layers, axis=0)
    return np.repeat((128 + 40 * gray).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def move(image: np.ndarray, degrees: float, scale: float, x: float, y: float) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((len(image) / 2,) * 2, degrees, scale) + np.array([[0, 0, x], [0, 0, y]])
    return cv2.warpAffine(image, matrix, image.shape[:2], borderMode=cv2.BORDER_REPLICATE)


def luma(image: np.ndarray, valid: np.ndarray = ALL) -> np.ndarray:
    return decode_lumas([encode_luma(image, valid)])[0][0]


def difference(one: np.ndarray, other: np.ndarray, mirrored: bool = False) -> float:
    pair = np.stack([one, other])
    return float(compare_tangents(pair, np.array([0]), np.array([1]), np.array([mirrored]))[0])


@pytest.mark.parametrize("seed", range(4))
def test_a_moved_darkened_face_is_the_same_and_another_face_is_not(seed):
    face = picture(seed)
    moved = (move(face, 4, 1.05, 4, -3) * 0.6 + 20).astype(np.uint8)
    one, other, stranger = luma(face), luma(moved), luma(picture(seed + 100))
    assert register(one, other, REAL, REAL) > 0.97 > 0.85 > register(one, stranger, REAL, REAL)
    assert difference(one, other) < 0.1 < 0.5 < difference(one, stranger)
    assert difference(one, luma(move(face, 0, 1.01, 1, 0))) < difference(one, other)


def test_a_mirrored_face_is_the_same_if_it_is_compared_mirrored():
    face = luma(picture(1))
    flipped = luma(np.ascontiguousarray(picture(1)[:, ::-1]))
    assert np.abs(mirror(flipped) - face).max() < 0.03
    assert difference(face, flipped, mirrored=True) < 0.01 < 0.3 < difference(face, flipped)


def test_padding_does_not_count():
    pad, valid = np.full((256, 256, 3), 130, np.uint8), ALL.copy()
    valid[:, :43] = False
    padded = [
        np.where(cv2.resize(valid.astype(np.uint8), (256, 256))[..., None] > 0, picture(seed), pad) for seed in (1, 2)
    ]
    real = decode_lumas([encode_luma(pad, valid)])[1][0]
    assert real.mean() == pytest.approx(0.75, abs=0.04) and not real[:, 0].any()
    assert register(luma(padded[0], valid), luma(picture(1)), real, REAL) > 0.97
    assert register(luma(padded[0], valid), luma(padded[1], valid), real, real) < 0.85
    nothing = np.zeros((SIDE, SIDE), bool)
    assert register(luma(picture(1)), luma(picture(1)), nothing, REAL) == -1


def test_a_plain_face_has_a_text_and_is_like_no_other():
    plain = luma(np.full((64, 64, 3), 9, np.uint8))
    assert not plain.any() and register(plain, luma(picture(1)), REAL, REAL) < 0.6
    assert difference(plain, luma(picture(1))) > 0.9


@pytest.mark.parametrize(("which", "side"), [(0, 8), (1, 16)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_hash_of_a_turned_picture_follows_from_the_hash_of_the_picture(variant, which, side):
    def turned(image):
        image = image.transpose(1, 0, 2) if variant & 4 else image
        return np.ascontiguousarray(image[:: -1 if variant & 2 else 1, :: -1 if variant & 1 else 1])

    pictures = [picture(seed) for seed in range(5)]
    plain = unpack_hashes([hash_picture(image)[which] for image in pictures])
    truth = unpack_hashes([hash_picture(turned(image))[which] for image in pictures])
    assert count_different_bits(turn_hashes(plain, variant), truth).max() <= side * side / 8
    mark = np.zeros((100, 200), np.uint8)
    mark[10:30, 20:80] = 1
    y, x = np.nonzero(turned(mark[..., None])[..., 0])
    height, width = (200, 100) if variant & 4 else (100, 200)
    box = turn_boxes(np.array([[0.1, 0.1, 0.4, 0.3]]), variant)[0] * ([width, height] * 2)
    np.testing.assert_allclose(box, [x.min(), y.min(), x.max() + 1, y.max() + 1])
