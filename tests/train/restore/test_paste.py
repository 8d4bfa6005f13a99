"""Pasting a restored crop back into its photo."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.faces.align import warp
from train.restore.paste import make_soft_mask, paste


def similarity(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    turn = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.hstack([linear, [[x], [y]]])


def smooth_photo(height: int = 200, width: int = 240) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = [127 + 100 * np.sin(x / 37), 127 + 100 * np.cos(y / 29), 127 + 60 * np.sin((x + y) / 41)]
    return np.stack(planes, axis=2).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(0.4, 3.0), degrees=st.floats(-40, 40), x=st.floats(-60, 20), y=st.floats(-60, 20)
)  # fmt: skip
def test_what_was_cut_out_unchanged_comes_back_unchanged(scale: float, degrees: float, x: float, y: float) -> None:
    photo, to_crop = smooth_photo(), similarity(scale, degrees, x, y)
    crop = warp(photo, to_crop, 96)
    again = paste(photo, crop, to_crop)
    assert np.abs(again.astype(int) - photo).max() <= 8
    assert np.abs(again.astype(int) - photo).mean() < 0.7


def test_pixels_outside_the_crop_keep_their_bytes_and_the_photo_is_not_touched() -> None:
    photo = smooth_photo()
    before = photo.copy()
    result = paste(photo, np.zeros((64, 64, 3), np.uint8), similarity(1.0, 0.0, -50, -40))
    assert (photo == before).all()
    changed = np.argwhere((result != photo).any(axis=2))
    assert changed.min(0)[0] >= 40 and changed.min(0)[1] >= 50
    assert changed.max(0)[0] < 104 and changed.max(0)[1] < 114
    assert (result[72, 82] == 0).all()  # the middle of the crop is all restored


def test_a_crop_that_lies_outside_the_photo_changes_nothing() -> None:
    photo = smooth_photo()
    assert (paste(photo, np.zeros((64, 64, 3), np.uint8), similarity(1.0, 0.0, 5000, 5000)) == photo).all()


def test_the_mask_is_soft_and_whole() -> None:
    mask = make_soft_mask(100)
    assert mask[50, 50] == 1 and mask[0, 50] < 0.01 and mask.min() >= 0
    assert np.abs(np.diff(mask, axis=0)).max() < 0.2
