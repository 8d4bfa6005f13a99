"""Tests that each reference is augmented on its own, and that only the seed determines the result."""

import cv2
import numpy as np
import pytest

from curate.faces.align import FFHQ_512, scale_template
from manifests.errors import BadInput
from train.data import augment
from train.data.augment import augment_reference

HERE = scale_template(FFHQ_512, 512, 128).astype(np.float32)


def dotted() -> np.ndarray:
    image = np.full((128, 128, 3), 60, np.uint8)
    for x, y in HERE.round().astype(int):
        cv2.circle(image, (int(x), int(y)), 3, (250, 250, 250), -1)
    return image


def test_the_same_seed_gives_the_same_bytes_whatever_came_before() -> None:
    image = dotted()
    one = augment_reference(image, HERE, 7)
    augment_reference(image, HERE, 8)
    np.random.seed(3)  # noqa: NPY002 (nobody else's randomness counts)
    again = augment_reference(image, HERE, 7)
    assert np.array_equal(one[0], again[0]) and np.array_equal(one[1], again[1])
    assert not np.array_equal(one[0], augment_reference(image, HERE, 8)[0])
    assert np.array_equal(image, dotted())


def test_landmarks_go_where_their_pixels_go_and_not_far() -> None:
    ys, xs = np.mgrid[:128, :128]
    for seed in range(20):
        image, points = augment_reference(dotted(), HERE.round(), seed)
        light = image.astype(float).mean(2)
        light = np.clip(light - (light.min() + light.max()) / 2, 0, None)
        for x, y in points:
            near = (np.hypot(xs - x, ys - y) < 7) * light
            assert np.hypot((near * xs).sum() / near.sum() - x, (near * ys).sum() / near.sum() - y) < 1
        assert 0.1 < np.abs(points - HERE.round()).max() < 40


def test_without_albumentations_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    augment._transform.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "albumentations", None)
    with pytest.raises(BadInput, match=r"pip install 'likeness\[albumentations\]'"):
        augment.check_albumentations()
