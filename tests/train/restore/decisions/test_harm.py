"""Tests the decision whether a restored face is worse than the face in the photo."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.doubles.pictures.textures import make_texture
from train.data.face_measures import describe_crop
from train.restore.decisions.harm import (
    DISAGREES,
    LESS_ALIKE,
    LESS_SHARP,
    LIMITS,
    OTHER_FACE,
    HarmMeasures,
    find_harm,
    is_already_sharp,
    measure_harm,
)

GOOD = HarmMeasures(fineness=0.1, sharpness_ratio=1.2, agreement=35.0, identity_before=0.4, identity_after=0.5)
ALONE = replace(GOOD, identity_before=None, identity_after=0.8)


@pytest.mark.parametrize("measures", [GOOD, ALONE, replace(GOOD, identity_after=0.4)])
def test_a_result_within_all_limits_does_no_harm(measures: HarmMeasures) -> None:
    assert find_harm(measures, 0.3, LIMITS) is None


@pytest.mark.parametrize(
    ("measures", "reason", "words"),
    [
        (replace(GOOD, identity_after=0.39), LESS_ALIKE, "cosine 0.390, before 0.400"),
        (replace(ALONE, identity_after=0.29), OTHER_FACE, "cosine 0.29, at least 0.30 needed"),
        (replace(GOOD, sharpness_ratio=0.94), LESS_SHARP, "94% of the sharpness"),
        (replace(GOOD, agreement=20.0), DISAGREES, "PSNR 20.0 dB"),
    ],
)
def test_each_limit_keeps_the_face_and_says_the_numbers(measures: HarmMeasures, reason: str, words: str) -> None:
    harm = find_harm(measures, 0.3, LIMITS)
    assert harm is not None and harm[0] == reason and words in harm[1]


def test_the_measures_compare_with_the_references_or_else_with_the_input() -> None:
    crop, (one, other) = make_texture(), np.eye(2, dtype=np.float32)
    face = describe_crop(crop, crop)
    measures = measure_harm(face, crop, (one, other), np.stack([other, one, other]))
    assert (measures.identity_before, measures.identity_after) == (0.333, 0.667)
    measures = measure_harm(face, crop, (one, other), np.zeros((0, 2), np.float32))
    assert (measures.identity_before, measures.identity_after) == (None, 0)
    assert measures.sharpness_ratio == pytest.approx(1, abs=0.01)


def test_only_a_sharp_face_with_enough_pixels_is_already_sharp() -> None:
    sharp = make_texture()
    assert is_already_sharp(describe_crop(sharp, sharp), LIMITS)
    soft = cv2.GaussianBlur(sharp, (0, 0), 2)
    assert not is_already_sharp(describe_crop(soft, soft), LIMITS)
    small = cv2.resize(sharp, (100, 100), interpolation=cv2.INTER_AREA)
    assert not is_already_sharp(describe_crop(small, cv2.resize(small, (128, 128))), LIMITS)
