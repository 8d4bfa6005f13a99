"""Tests pasting a restored crop into its photo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, invert_affine, scale_template, transform_points
from manifests.pictures.images import Picture
from manifests.pictures.original_samples import Original
from train.restore.pasting.own_samples import change_samples
from train.restore.pasting.paste import Patch, blend_patches, is_gray, make_face_mask, make_patch

SIZE = 64


def landmarks(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    """Returns landmarks of a face in the photo. A pixel of the photo is `scale` pixels of the crop."""
    turn = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    to_crop = np.hstack([linear, (SIZE / 2 - linear @ np.array([x, y]))[:, None]])
    return transform_points(scale_template(FFHQ_512, FFHQ_SIZE, SIZE), invert_affine(to_crop))


def smooth_photo(height: int = 200, width: int = 240) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = [127 + 100 * np.sin(x / 37), 127 + 100 * np.cos(y / 29), 127 + 60 * np.sin((x + y) / 41)]
    return np.stack(planes, axis=2).astype(np.uint8)


def cut(photo: np.ndarray, points: np.ndarray) -> np.ndarray:
    return align_face(photo, points, scale_template(FFHQ_512, FFHQ_SIZE, SIZE), SIZE)


def apply(photo: np.ndarray, patches: list[Patch]) -> np.ndarray:
    """Returns the photo with the patches pasted in. The photo is treated as an 8-bit file without a profile."""
    original = Original(photo, "RGB", "PNG", 8, 1, None, None, None)
    changed = change_samples(Picture(photo, original=original), patches)
    return photo if changed is None else changed[0].samples


def paste(photo: np.ndarray, restored: np.ndarray, points: np.ndarray) -> np.ndarray:
    patch = make_patch(photo, cut(photo, points), restored, points)
    return photo if patch is None else apply(photo, [patch])


PLACES = {
    "scale": st.floats(0.3, 3.0),
    "degrees": st.floats(-180, 180),
    "x": st.floats(-60, 300),
    "y": st.floats(-60, 260),
}


@settings(max_examples=40)
@given(seed=st.integers(0, 99), **PLACES)
def test_a_network_without_a_change_leaves_every_pixel_of_the_photo(
    seed: int, scale: float, degrees: float, x: float, y: float
) -> None:
    photo = np.random.default_rng(seed).integers(0, 256, (200, 240, 3), np.uint8)
    points = landmarks(scale, degrees, x, y)
    crop = cut(photo, points)
    patch = make_patch(photo, crop, crop.astype(np.float32), points)
    assert patch is None or np.array_equal(apply(photo, [patch]), photo)


@settings(max_examples=30)
@given(colour=st.tuples(*[st.integers(-40, 40)] * 3), **PLACES)
def test_another_colour_or_brightness_of_the_whole_face_is_no_change(
    colour: tuple[int, int, int], scale: float, degrees: float, x: float, y: float
) -> None:
    photo, points = smooth_photo(), landmarks(scale, degrees, x, y)
    restored = cut(photo, points) + np.array(colour, np.float32)
    assert np.abs(paste(photo, restored, points).astype(int) - photo).max() <= 1


@settings(max_examples=30)
@given(**PLACES)
def test_only_the_face_changes(scale: float, degrees: float, x: float, y: float) -> None:
    photo, points = smooth_photo(), landmarks(scale, degrees, x, y)
    texture = np.random.default_rng(0).normal(0, 40, (SIZE, SIZE, 3)).astype(np.float32)
    changed = np.argwhere((paste(photo, cut(photo, points) + texture, points) != photo).any(axis=2))
    centre, radius = points.mean(0), 0.5 * SIZE / scale
    assert (np.linalg.norm(changed[:, ::-1] - centre, axis=1) <= radius + 2).all()


def test_detail_above_the_networks_size_is_carried_over() -> None:
    """Tests a photo with stripes of one pixel, in which the crop is too small to show the stripes.

    The double of the network adds a coarse pattern. The result must have the stripes and the pattern.
    """
    photo = np.full((400, 400, 3), 120, np.uint8)
    photo[:, ::2] = 140
    points = landmarks(0.25, 0, 200, 200)
    crop = cut(photo, points)
    assert np.ptp(crop) <= 10
    restored = crop.astype(np.float32)
    restored[28:36, 28:36] += 50
    result = paste(photo, restored, points)
    middle = result[195:205, 196:204, 0].astype(int)
    assert (np.abs(middle[:, 1::2] - middle[:, ::2]) >= 18).all() and middle.min() > 140


def test_a_gray_photo_stays_gray() -> None:
    photo = np.repeat(smooth_photo()[..., :1], 3, axis=2)
    points = landmarks(0.8, 10, 120, 100)
    restored = np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE, 3)).astype(np.float32)
    result = paste(photo, restored, points)
    assert is_gray(photo) and not np.array_equal(result, photo) and np.ptp(result, axis=2).max() == 0
    assert not is_gray(smooth_photo())


def test_a_patch_holds_the_rows_and_columns_of_the_face_alone() -> None:
    """Tests the size of a patch, because a photo can have a hundred patches in memory."""
    photo, points = smooth_photo(), landmarks(0.5, 20, 120, 100)
    patch = make_patch(photo, cut(photo, points), np.zeros((SIZE, SIZE, 3), np.float32), points)
    assert patch is not None
    weight = patch.weight
    assert weight[0].any() and weight[-1].any() and weight[:, 0].any() and weight[:, -1].any()
    assert patch.change.shape[:2] == weight.shape and patch.change.base is None and weight.base is None
    assert weight.size < 0.7 * (SIZE / 0.5) ** 2


def test_faces_that_overlap_change_no_pixel_by_more_than_one_face_does() -> None:
    ones = np.ones((10, 10), np.float32)
    patches = [Patch(place, 0, np.full((10, 10, 3), 8, np.float32), ones) for place in (0, 4)]
    photo = np.full((12, 20, 3), 100, np.uint8)
    result = apply(photo, patches)
    assert (result[:10, :14] == 108).all() and (result[10:] == 100).all() and (result[:, 14:] == 100).all()
    assert blend_patches(patches)[0].weight[0].tolist() == [1] * 4 + [0.5] * 6


def test_the_mask_is_soft_and_follows_the_landmarks() -> None:
    template = scale_template(FFHQ_512, FFHQ_SIZE, 100)
    mask = make_face_mask(template, 100)
    assert mask.min() >= 0 and np.abs(np.diff(mask, axis=0)).max() < 0.2 and (mask[[0, -1]] == 0).all()
    assert all(mask[round(y), round(x)] == 1 for x, y in template)
    narrow = make_face_mask((template - 50) * [0.8, 1] + 50, 100)
    assert (narrow > 0).any(0).sum() < (mask > 0).any(0).sum()
    # the landmarks of a face in profile are as narrow as these
    flat = make_face_mask((template - 50) * [0.01, 1] + 50, 100)
    assert (flat > 0).any(0).sum() > 20


def test_a_face_that_is_not_finite_is_refused() -> None:
    restored = np.zeros((SIZE, SIZE, 3), np.float32)
    restored[3, 4, 1] = np.nan
    points = landmarks(1, 0, 100, 100)
    with pytest.raises(ValueError, match="NaN or infinity"):
        make_patch(smooth_photo(), cut(smooth_photo(), points), restored, points)
