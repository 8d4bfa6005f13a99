"""Tests warping a reference onto the input by landmarks."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.faces.align import FFHQ_512, scale_template
from tests.doubles.training import real_snapshot
from train.data.warp import STRETCH, affine, warp_to
from train.models.config import ModelConfig
from train.restore.references.reference_photos import References, warp_references

HERE = scale_template(FFHQ_512, 512, 128)


@given(
    st.tuples(*[st.floats(-0.15, 0.15)] * 4),
    st.tuples(*[st.floats(-20, 20)] * 2),
)
def test_an_affine_is_found_again(linear: tuple[float, ...], shift: tuple[float, float]) -> None:
    matrix = np.hstack([np.eye(2) + np.reshape(linear, (2, 2)), np.reshape(shift, (2, 1))])
    assert np.allclose(affine(HERE, HERE @ matrix[:, :2].T + matrix[:, 2]), matrix, atol=1e-6)


def test_dots_on_the_landmarks_land_where_they_should() -> None:
    dots = np.zeros((128, 128, 3), np.uint8)
    for x, y in HERE.round().astype(int):
        cv2.circle(dots, (int(x), int(y)), 2, (255, 255, 255), -1)
    matrix = np.array([[1.05, 0.1, -6.0], [-0.08, 0.95, 9.0]])
    to = HERE.round() @ matrix[:, :2].T + matrix[:, 2]
    done = warp_to(dots, HERE.round(), to).astype(np.float64).mean(2)
    ys, xs = np.mgrid[:128, :128]
    for x, y in to:
        near = (np.hypot(xs - x, ys - y) < 6) * done
        assert np.hypot((near * xs).sum() / near.sum() - x, (near * ys).sum() / near.sum() - y) < 0.5


@pytest.mark.shared_data
def test_landmarks_of_real_photos_land_where_the_affine_brings_them(shared_data: Path, tmp_path: Path) -> None:
    taken = real_snapshot(tmp_path, shared_data, people=3, photos=3, size=128)
    ys, xs = np.mgrid[:128, :128]
    for row in range(len(taken.face_ids)):
        photo, points = np.array(taken.crops[row]), taken.landmarks[row].round()
        to = taken.landmarks[(row + 3) % 9]  # the landmarks of another person
        matrix = affine(points, to)
        dotted = photo.copy()
        for x, y in points.astype(int):
            cv2.circle(dotted, (int(x), int(y)), 2, tuple(int(v) for v in 255 - photo[int(y), int(x)]), -1)
        change = np.abs(warp_to(dotted, points, to).astype(float) - warp_to(photo, points, to)).sum(2)
        expected = points @ matrix[:, :2].T + matrix[:, 2]
        # An affine map cannot fit five landmarks exactly, but the warp must not make the distances larger.
        assert np.square(expected - to).sum() <= np.square(points - to).sum()
        for x, y in expected:
            near = (np.hypot(xs - x, ys - y) < 6) * change
            # Only the area of the dot counts, because its brightness varies.
            near = near > near.max() / 4
            assert np.hypot((near * xs).sum() / near.sum() - x, (near * ys).sum() / near.sum() - y) < 0.5


def test_the_same_landmarks_change_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    assert np.abs(warp_to(image, HERE, HERE).astype(int) - image).max() <= 1


@pytest.mark.parametrize(
    "landmarks",
    [
        np.full((5, 2), 3.0),  # All landmarks are in one place.
        np.column_stack([np.arange(5.0), np.arange(5.0)]),  # All landmarks are on one line.
        HERE * [-1, 1] + [127, 0],  # The landmarks are mirrored.
        HERE * 2 * STRETCH,
        np.full((5, 2), np.nan),
    ],
)
def test_where_no_face_would_be_left_it_is_refused_and_restoring_shows_the_reference_as_it_is(
    landmarks: np.ndarray,
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    with pytest.raises(ValueError, match="landmarks"):
        warp_to(image, landmarks, HERE)
    config: ModelConfig = SimpleNamespace(parts=("warped",))  # type: ignore[assignment]
    references = References(np.stack([image, image]), np.zeros((2, 1), np.float32), (landmarks, HERE + 9))
    one, other = warp_references(config, references, HERE).crops
    assert np.array_equal(one, image) and not np.array_equal(other, image)
