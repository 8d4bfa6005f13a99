"""Tests the measures of a face before and after its restoration."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.faces.align import FFHQ_512, scale_template
from degrade.operations.pixels import shrink
from manifests.pictures.images import decode
from tests.doubles.pictures.textures import make_texture
from train.data.face_measures import (
    InputFace,
    describe_crop,
    describe_face,
    estimate_resolution,
    measure_agreement,
    measure_detail,
    measure_fineness,
    measure_sharpness_ratio,
)

SIZE = 128


def as_input(crop: np.ndarray) -> InputFace:
    return describe_crop(crop, crop)


@given(frequency=st.integers(18, 30), amplitude=st.integers(5, 60), vertical=st.booleans())
def test_a_wave_in_the_band_has_its_own_standard_deviation(frequency: int, amplitude: int, vertical: bool) -> None:
    wave = 128 + amplitude * np.sin(2 * np.pi * frequency * np.arange(SIZE) / SIZE)
    plane = np.broadcast_to(np.rint(wave)[:, None], (SIZE, SIZE))
    crop = np.repeat((plane if vertical else plane.T).astype(np.uint8)[..., None], 3, 2)
    inside = measure_detail(crop, SIZE / 8, SIZE / 4, 0.0, SIZE)
    outside = measure_detail(crop, SIZE / 4 + 4, SIZE / 2, 0.0, SIZE)
    assert inside == pytest.approx(amplitude / np.sqrt(2), rel=0.15)
    assert outside < 0.1 * inside


def test_noise_is_no_detail_and_does_not_make_a_face_sharp() -> None:
    rng, flat = np.random.default_rng(0), np.full((SIZE, SIZE, 3), 128.0)
    noisy = np.clip(flat + rng.normal(0, 20, (SIZE, SIZE, 1)), 0, 255).astype(np.uint8)
    raw = measure_detail(noisy, SIZE / 8, SIZE / 4, 0.0, SIZE)
    assert measure_detail(noisy, SIZE / 8, SIZE / 4, 20.0, SIZE) < raw / 2
    soft = cv2.GaussianBlur(make_texture(), (0, 0), 2)
    grainy = np.clip(soft + rng.normal(0, 15, soft.shape[:2])[..., None], 0, 255).astype(np.uint8)
    # Removing noise alone must not lower the measured sharpness.
    assert measure_sharpness_ratio(as_input(grainy), soft) > 0.8
    assert measure_sharpness_ratio(as_input(grainy), cv2.GaussianBlur(soft, (0, 0), 3)) < 0.6


def test_a_blurred_result_is_less_sharp_and_a_copy_is_as_sharp() -> None:
    crop = make_texture()
    assert measure_sharpness_ratio(as_input(crop), crop) == pytest.approx(1, abs=0.01)
    assert measure_sharpness_ratio(as_input(crop), cv2.GaussianBlur(crop, (0, 0), 1.5)) < 0.7
    flat = np.full_like(crop, 90)
    assert measure_sharpness_ratio(as_input(flat), flat) == 1


@pytest.mark.parametrize("own_size", [40, 70, 128, 300])
def test_a_noisy_face_of_any_size_is_as_sharp_as_itself(own_size: int) -> None:
    rng = np.random.default_rng(1)
    photo = cv2.resize(make_texture(), (own_size, own_size), interpolation=cv2.INTER_AREA).astype(float)
    photo = np.clip(photo + rng.normal(0, 25, photo.shape), 0, 255).astype(np.uint8)
    face = describe_crop(photo, cv2.resize(photo, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))
    assert measure_sharpness_ratio(face, face.crop) == 1


@pytest.mark.parametrize(
    ("contrast", "noise", "own_size"), [(0.4, 20, 70), (0.4, 20, 90), (1.0, 30, 70), (0.25, 10, 90)]
)
def test_the_truth_of_a_small_noisy_face_is_not_less_sharp(contrast: float, noise: float, own_size: int) -> None:
    truth = np.clip(128 + contrast * (make_texture().astype(float) - 128), 0, 255).astype(np.uint8)
    photo = cv2.resize(truth, (own_size, own_size), interpolation=cv2.INTER_AREA)
    noisy = np.clip(photo + np.random.default_rng(3).normal(0, noise, photo.shape), 0, 255).astype(np.uint8)
    face = describe_crop(noisy, cv2.resize(noisy, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))
    assert measure_sharpness_ratio(face, truth) >= 0.95


def test_noise_that_a_restoration_adds_is_no_sharpness() -> None:
    crop = make_texture()
    noisy = np.clip(crop + np.random.default_rng(2).normal(0, 30, crop.shape), 0, 255).astype(np.uint8)
    raw = measure_detail(noisy, SIZE / 8, SIZE / 4, 0.0, SIZE) / measure_detail(crop, SIZE / 8, SIZE / 4, 0.0, SIZE)
    assert measure_sharpness_ratio(as_input(crop), noisy) < min(1.02, 0.9 * raw)


def test_the_resolution_falls_with_the_blur() -> None:
    crop = make_texture()
    sides = [
        estimate_resolution(as_input(crop if sigma == 0 else cv2.GaussianBlur(crop, (0, 0), sigma)))
        for sigma in (0, 1.5, 4)
    ]
    assert sides[0] > sides[1] > sides[2] >= SIZE // 16
    assert sides[0] >= SIZE // 2


def test_a_result_that_only_adds_detail_agrees_and_another_picture_does_not() -> None:
    truth = make_texture()
    blurred = cv2.GaussianBlur(truth, (0, 0), 3)
    assert measure_agreement(as_input(truth), truth) > 60
    assert measure_agreement(as_input(blurred), truth) > 30
    assert measure_agreement(as_input(blurred), make_texture(1)) < 20


def test_a_face_has_its_own_size_and_noise() -> None:
    photo = np.zeros((400, 500, 3), np.uint8)
    photo[50:350, 100:400] = cv2.resize(make_texture(), (300, 300))
    landmarks5 = scale_template(FFHQ_512, 512, 300) + np.array([100, 50])
    crop = np.zeros((SIZE, SIZE, 3), np.uint8)
    face = describe_face(photo, landmarks5, crop)
    assert face.crop is crop
    assert face.own_size == pytest.approx(300) and face.noise < 2
    # A face outside the photo has no pixels to measure, so its noise is 0.
    assert describe_face(photo, landmarks5 + 2000, crop).noise == 0


def test_published_references_are_fine_and_published_lq_faces_are_not(shared_data: Path) -> None:
    folder = shared_data / "lq_with_references" / "asffnet_obama"
    for path, sharp in (("refs/o1.png", True), ("refs/o3.png", True), ("lq/i1.png", False), ("lq/i5.png", False)):
        image = decode(folder / path)
        fineness = measure_fineness(describe_crop(image, shrink(image, 256)))
        assert (fineness > 0.3) == sharp, (path, fineness)
