"""Tests that the measures of faces rise and fall as expected, and that similar pictures have similar hashes."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.faces import measure
from curate.faces.align import FFHQ_512, FFHQ_SIZE
from curate.faces.measure import (
    _HEAD,
    _PITCH_OF_FFHQ,
    compute_luma,
    estimate_pose,
    hash_picture,
    measure_blockiness,
    measure_exposure,
    measure_eye_distance,
)
from curate.faces.measure import measure_sharpness as sharp
from tests.doubles.curation import face


def turned(yaw: float, pitch: float) -> np.ndarray:
    """Returns the landmarks of the rigid head after a turn by `yaw` and then by `pitch`, in degrees."""
    y, p = np.radians([yaw, pitch])
    shake = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    return (_HEAD @ (nod @ shake).T)[:, :2] * 2 + 100


def test_the_mean_face_looks_ahead():
    assert np.abs(estimate_pose(FFHQ_512)).max() < 1


@pytest.mark.parametrize("side", [1, -1])
def test_yaw_is_positive_when_the_nose_points_to_the_images_right(side):
    landmarks = FFHQ_512.copy()
    landmarks[2, 0] += side * 40
    yaw, pitch, roll = estimate_pose(landmarks)
    assert yaw * side > 10 and abs(pitch) < 8 and abs(roll) < 5


@pytest.mark.parametrize("side", [1, -1])
def test_pitch_is_positive_when_the_nose_points_down(side):
    landmarks = FFHQ_512.copy()
    landmarks[2, 1] += side * 30
    yaw, pitch, _ = estimate_pose(landmarks)
    assert pitch * side > 8 and abs(yaw) < 3


@pytest.mark.parametrize("angle", [20, -20])
def test_roll_is_clockwise(angle):
    radians = np.radians(angle)
    # this matrix turns clockwise, because the y axis points down
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    yaw, pitch, roll = estimate_pose(FFHQ_512 @ turn.T)
    assert roll == pytest.approx(angle, abs=1.5) and abs(yaw) < 2 and abs(pitch) < 4


@given(st.floats(-60, 60), st.floats(-30, 30))
def test_a_rigid_head_says_where_its_nose_points(yaw, pitch):
    found = estimate_pose(turned(yaw, pitch))
    assert np.allclose(found[:2], (yaw, pitch - _PITCH_OF_FFHQ), atol=1e-3)


@given(st.floats(0.05, 20), st.floats(-1e4, 1e4))
def test_pose_does_not_depend_on_size_and_place(scale, shift):
    landmarks = turned(25, -10)
    assert np.allclose(estimate_pose(landmarks * scale + shift), estimate_pose(landmarks), atol=1e-3)


def test_inter_ocular_is_a_distance():
    assert measure_eye_distance(np.array([[1, 1], [4, 5], [0, 0], [0, 0], [0, 0]], np.float32)) == 5.0


def crop(seed: int = 0) -> np.ndarray:
    return face(0, seed, FFHQ_SIZE)


def test_blur_lowers_sharpness_and_light_does_not():
    clear = crop()
    soft = [cv2.GaussianBlur(clear, (0, 0), sigma) for sigma in (1, 2, 4, 8)]
    values = [sharp(one) for one in (clear, *soft)]
    assert values == sorted(values, reverse=True)
    assert sharp(clear) == pytest.approx(sharp(cv2.resize(clear, (256, 256), interpolation=cv2.INTER_AREA)), rel=0.02)
    dim = (clear // 2 + 40).astype(np.uint8)
    assert sharp(dim) == pytest.approx(sharp(clear), rel=0.06)
    assert sharp(np.full((512, 512, 3), 128, np.uint8)) == 0.0


def test_jpegs_grid_shows_in_blockiness():
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8), (200, 200))
    rough = cv2.imdecode(cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 5])[1], cv2.IMREAD_COLOR)
    assert measure_blockiness(compute_luma(rough)) > 1.5 > 1.2 > measure_blockiness(compute_luma(smooth))
    assert (
        measure_blockiness(np.zeros((23, 100), np.float32)) == 1.0 == measure_blockiness(np.zeros((64, 64), np.float32))
    )


def noisy(gray: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """Returns the picture with noise, rounded to whole levels from 0 to 255, as in a file."""
    more = gray + np.random.default_rng(seed).normal(0, sigma, gray.shape)
    return np.clip(more, 0, 255).round().astype(np.float32)


@given(st.integers(1, 30), st.integers(0, 1000))
def test_noise_on_a_smooth_slope_is_found(sigma, seed):
    slope = np.add.outer(np.linspace(80, 120, 96), np.linspace(-20, 40, 96)).astype(np.float32)
    assert measure.measure_noise(noisy(slope, sigma, seed)) == pytest.approx(sigma, rel=0.08, abs=0.25)


def test_what_is_flat_or_too_small_has_no_noise_and_edges_add_none():
    edges = np.kron(np.random.default_rng(0).integers(60, 200, (8, 8)), np.ones((16, 16))).astype(np.float32)
    assert measure.measure_noise(np.full((64, 64), 90, np.float32)) == 0.0 == measure.measure_noise(edges)
    assert (
        measure.measure_noise(np.zeros((0, 0), np.float32))
        == 0.0
        == measure.measure_noise(noisy(np.zeros((7, 99)), 20))
    )
    assert measure.measure_noise(noisy(edges, 6)) == pytest.approx(6, rel=0.1)


def test_blur_and_enlarging_take_noise_out():
    grainy = noisy(np.full((128, 128), 120, np.float32), 12)
    assert (
        measure.measure_noise(cv2.GaussianBlur(grainy, (0, 0), 1))
        < 3
        > measure.measure_noise(cv2.resize(grainy, None, fx=2, fy=2))
    )


@pytest.mark.shared_data
def test_known_noise_is_found_on_real_faces_and_ranks(shared_data):
    """Tests the estimate of noise on web photos, which are shrunk to half size to remove their own noise.

    Without added noise, the median of the estimates must be below 3. With added noise, the median must be within 2 of
    the added noise.
    """
    found = []
    for path in sorted((shared_data / "photos").glob("*/*.jpg"))[::25]:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        # In web portraits, the face is usually in this area.
        middle = image[height // 6 : height // 2, width // 3 : 2 * width // 3]
        gray = compute_luma(cv2.resize(middle, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        if min(gray.shape) >= 48:
            found.append([measure.measure_noise(noisy(gray, sigma)) for sigma in (0, 5, 10, 20)])
    values = np.array(found)
    assert len(values) > 8 and (np.diff(values, axis=1) > 0).all()
    assert np.abs(np.median(values[:, 1:], 0) - (5, 10, 20)).max() < 2 and np.median(values[:, 0]) < 3


def test_exposure_is_the_inner_faces_luma():
    image = np.zeros((512, 512, 3), np.uint8)
    measure.crop_inner_face(image)[:] = 255
    assert measure_exposure(image) == 1.0 and measure_exposure(255 - image) == 0.0


def bits(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


@pytest.mark.parametrize(("which", "side", "few"), [(0, 8, 6), (1, 16, 54)])
def test_a_hash_moves_little_when_a_picture_is_saved_again_and_much_when_it_is_another(which, side, few):
    one, other = crop(1), crop(2)
    again = cv2.imdecode(cv2.imencode(".jpg", one, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    half = cv2.resize(one, (256, 256), interpolation=cv2.INTER_AREA)
    own = hash_picture(one)[which]
    assert len(own) == side * side // 4
    assert max(bits(own, hash_picture(again)[which]), bits(own, hash_picture(half)[which])) <= few
    assert bits(own, hash_picture(other)[which]) > side * side // 4


def test_a_hash_of_one_pixel_and_of_a_line():
    for shape in ((1, 1, 3), (1, 900, 3)):
        assert [len(text) for text in hash_picture(np.zeros(shape, np.uint8))] == [16, 64]


def test_clipped_and_dark_are_shares_of_the_square_around_the_face():
    image = np.full((100, 100, 3), 128, np.uint8)
    # The measures read the square around the face, which reaches from 30 to 70 px along both axes.
    points = np.array([[40, 40], [60, 40], [50, 50], [42, 60], [58, 60]], np.float32)
    assert measure.measure_dark(image, points) == measure.measure_clipped(image, points) == 0
    image[:50] = 16
    image[60:, :, 1] = 254
    assert measure.measure_dark(image, points) == pytest.approx(0.5, abs=0.03)
    assert measure.measure_clipped(image, points) == pytest.approx(0.25, abs=0.03)
    image[60:66, :, 1] = 128
    assert measure.measure_clipped(image, points) == 0.1  # Exactly .1, because 1 - .9 would be another float.
    image[:50, :, 2] = 17  # The pixels are not dark any more, because one channel shows structure.
    assert measure.measure_dark(image, points) == 0
    assert measure.measure_dark(image, points + 500) == measure.measure_clipped(image, points + 500) == 0
