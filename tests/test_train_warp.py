"""A reference laid over the input by landmarks."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.faces.align import FFHQ_512, template_at
from train.warp import STRETCH, affine, warp_to

HERE = template_at(FFHQ_512, 512, 128)


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


def test_the_same_landmarks_change_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    assert np.abs(warp_to(image, HERE, HERE).astype(int) - image).max() <= 1


@pytest.mark.parametrize(
    "landmarks",
    [
        np.full((5, 2), 3.0),  # in one place
        np.column_stack([np.arange(5.0), np.arange(5.0)]),  # on a line
        HERE * [-1, 1] + [127, 0],  # mirrored
        HERE * 2 * STRETCH,
        np.full((5, 2), np.nan),
    ],
)
def test_where_no_face_would_be_left_the_reference_stays_as_it_is(landmarks: np.ndarray) -> None:
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    with pytest.raises(ValueError, match="landmarks"):
        affine(landmarks, HERE)
    assert np.array_equal(warp_to(image, landmarks, HERE), image)
