"""Tests which targets are cleaned and which results are accepted. Each bound alone can reject a result."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles.training import picture
from train.iterate.acceptance import (
    REASONS,
    Bounds,
    CropMeasures,
    compute_min_identity,
    find_defect,
    find_rejection,
    measure_change,
    measure_crop,
)

BOUNDS = Bounds()
SOFT = CropMeasures(sharpness=0.2, noise=0.5, blockiness=1.0)
BETTER = replace(SOFT, sharpness=0.3)


@pytest.mark.parametrize(
    ("measures", "what"),
    [
        ((0.5, 1.0, 1.0), None),
        ((0.5, None, 1.0), None),
        ((0.25, 9.0, 9.0), "soft"),
        ((0.5, 5.7, 9.0), "noisy"),
        ((0.5, 5.6, 1.2), None),
        ((0.5, None, 1.21), "blocky"),
    ],
)
def test_targets_are_chosen_by_the_measures_that_curation_recorded(measures, what) -> None:  # type: ignore[no-untyped-def]
    assert find_defect(*measures, BOUNDS) == what


def test_what_is_sharper_and_otherwise_the_same_is_kept() -> None:
    assert find_rejection(SOFT, SOFT, BETTER, 0.9, 1.0, 0.7, BOUNDS) is None


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("not_a_number", {"cleaned": replace(BETTER, noise=float("nan"))}),
        ("not_a_number", {"identity": float("nan")}),
        ("identity_fell", {"identity": 0.69}),
        ("content_changed", {"change": BOUNDS.change + 0.1}),
        ("new_noise", {"cleaned": replace(BETTER, noise=BOUNDS.clean_noise + 0.1)}),
        ("new_blocks", {"cleaned": replace(BETTER, blockiness=BOUNDS.clean_blockiness + 0.1)}),
        ("not_sharper", {"cleaned": replace(BETTER, sharpness=SOFT.sharpness * 1.04)}),
        ("not_sharper", {"best": BETTER}),
    ],
)
def test_each_bound_refuses_alone(reason: str, told: dict) -> None:  # type: ignore[type-arg]
    offered = {"original": SOFT, "best": SOFT, "cleaned": BETTER, "identity": 0.9, "change": 1.0, "min_identity": 0.7}
    assert find_rejection(**{**offered, **told, "bounds": BOUNDS}) == reason and reason in REASONS


def test_a_share_above_the_original_is_asked_and_any_rise_above_the_version_before() -> None:
    a_little = replace(BETTER, sharpness=BETTER.sharpness * 1.001)
    assert find_rejection(SOFT, BETTER, a_little, 0.9, 1.0, 0.7, BOUNDS) is None
    assert find_rejection(BETTER, BETTER, a_little, 0.9, 1.0, 0.7, BOUNDS) == "not_sharper"


def test_only_valid_pixels_are_measured() -> None:
    face, valid = picture(1, 1, 128), np.zeros((128, 128), bool)
    valid[8:40, 24:] = True
    other = np.where(valid[:, :, None], face, picture(2, 1, 128))
    assert measure_change(face, other, BOUNDS, valid) == 0 < measure_change(face, other, BOUNDS)
    assert measure_change(face, 255 - face, BOUNDS, np.ones_like(valid)) == measure_change(face, 255 - face, BOUNDS)
    noisy = np.clip(face + np.random.default_rng(0).normal(0, 20, face.shape), 0, 255)
    padded = np.where(valid[:, :, None], noisy, 128).astype(np.uint8)
    assert measure_crop(padded, valid).noise > 10 > 1 > measure_crop(padded).noise
    # without any pixel from the photo, the noise is 0
    assert measure_crop(padded, np.zeros_like(valid)).noise == 0


def test_noise_and_blocks_that_were_there_are_not_new() -> None:
    bad = CropMeasures(0.2, 8.0, 1.5)
    assert find_rejection(bad, bad, replace(bad, sharpness=0.3), 0.9, 1.0, 0.7, BOUNDS) is None
    assert find_rejection(bad, bad, replace(bad, sharpness=0.3, noise=8.1), 0.9, 1.0, 0.7, BOUNDS) == "new_noise"


@given(st.tuples(*[st.floats(0, 2) for _ in range(8)]))
def test_nothing_is_kept_that_is_not_sharper_and_as_like(numbers: tuple[float, ...]) -> None:
    before, after = CropMeasures(*numbers[:3]), CropMeasures(*numbers[3:6])
    if find_rejection(before, before, after, numbers[6], numbers[7], 0.7, BOUNDS) is None:
        assert after.sharpness >= before.sharpness and numbers[6] >= 0.7 and numbers[7] <= BOUNDS.change
        assert after.noise <= max(before.noise, BOUNDS.clean_noise)
        assert after.blockiness <= max(before.blockiness, BOUNDS.clean_blockiness)


def test_the_least_identity_lies_between_the_same_person_and_the_same_picture() -> None:
    assert compute_min_identity(0.35, BOUNDS) == pytest.approx(0.675) and compute_min_identity(0.925, BOUNDS) > 0.925
    assert compute_min_identity(0.35, replace(BOUNDS, identity=1.0)) == 1.0


def test_detail_is_no_change_of_content_and_another_picture_is() -> None:
    face = picture(1, 1, 128)
    grain = np.random.default_rng(0).normal(0, 12, face.shape)
    grainy = np.clip(face + grain, 0, 255).astype(np.uint8)
    moved = np.roll(face, 12, axis=1)
    assert measure_change(face, face, BOUNDS) == 0
    assert measure_change(face, grainy, BOUNDS) < BOUNDS.change < measure_change(face, moved, BOUNDS)
    assert measure_change(face, picture(2, 1, 128), BOUNDS) > BOUNDS.change
    # At a larger size, the same images have about the same change.
    large = [cv2.resize(one, (512, 512), interpolation=cv2.INTER_CUBIC) for one in (face, moved)]
    assert measure_change(*large, BOUNDS) == pytest.approx(measure_change(face, moved, BOUNDS), rel=0.1)


def test_figures_see_what_they_are_named_for() -> None:
    rng = np.random.default_rng(0)
    face = np.clip(picture(1, 1, 128) + rng.normal(0, 4, (128, 128, 3)), 0, 255).astype(np.uint8)
    soft, noisy = cv2.GaussianBlur(face, (0, 0), 2), np.clip(face + rng.normal(0, 15, face.shape), 0, 255)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 5])[1], cv2.IMREAD_COLOR)
    clean = measure_crop(face)
    assert measure_crop(soft).sharpness < clean.sharpness
    assert measure_crop(noisy.astype(np.uint8)).noise > clean.noise + 5
    assert measure_crop(jpeg).blockiness > clean.blockiness + 0.3
