"""Tests landmark distances against their formulas and laws, and on a real face from a package."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import pinv

from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face
from curate.faces.interface import FaceModels
from curate.faces.load import load_faces
from manifests.pictures.images import decode
from train.data.landmarks68 import explain_missing, find_68_points
from train.metrics.landmarks import (
    EYES,
    MOUTH,
    affine_change,
    affine_distance,
    find_5_points,
    point_distance,
)

POINTS = arrays(np.float64, (1, 20, 2), elements=st.floats(-40, 40)).map(lambda p: p + 256)
SMALL = st.floats(-0.4, 0.4)


def scattered(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(100, 400, (2, 22, 2))


def test_the_blocks_are_brows_with_eyes_and_the_mouth() -> None:
    assert (len(EYES), EYES[0], EYES[-1]) == (22, 17, 47) and set(range(27, 36)).isdisjoint(EYES)
    assert (len(MOUTH), MOUTH[0], MOUTH[-1]) == (20, 48, 67)


def test_point_distance_is_the_mean_of_the_roots() -> None:
    a, b = scattered(0), scattered(1)
    by_hand = [np.mean([math.dist(p, q) for p, q in zip(x, y, strict=True)]) for x, y in zip(a, b, strict=True)]
    assert point_distance(a, b) == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize("reduction", ["fro", "mean"])
def test_affine_distance_is_the_closed_form(reduction: str) -> None:
    a, b = scattered(0), scattered(1)
    for p, g, found, change in zip(a, b, affine_distance(a, b, reduction), affine_change(a, b), strict=True):
        x = np.hstack([p, np.ones((22, 1))])
        left = x @ (pinv(x) @ g) - g
        rows = np.sqrt((left**2).sum(1))
        assert found == pytest.approx(math.sqrt((left**2).sum()) if reduction == "fro" else rows.mean(), abs=1e-5)
        # The linear part acts around the centre of the target, and the unit of the shift is the side of the crop.
        p, g = (p - g.mean(0)) / 512, (g - g.mean(0)) / 512
        x = np.hstack([p, np.ones((22, 1))])
        matrix = np.linalg.inv(x.T @ x) @ x.T @ g
        assert change == pytest.approx(math.sqrt(((matrix - [[1, 0], [0, 1], [0, 0]]) ** 2).sum()), abs=1e-5)


def spreads_enough(points: np.ndarray) -> bool:
    """Returns whether the points spread by more than 0.0001 px, or not at all, in each direction.

    Only for such points, an affine map does not change the affine distance.
    """
    spread = np.linalg.svd(points[0] - points[0].mean(0), compute_uv=False)
    return all(value > 1e-4 or value < 1e-11 for value in spread)


def nineteen_and(offset: float) -> np.ndarray:
    points = np.full((1, 20, 2), 256.0)
    points[0, -1, 0] += offset
    return points


@given(POINTS, POINTS, SMALL, SMALL, st.floats(-60, 60))
@example(nineteen_and(1e-8), nineteen_and(12), 0.3, 0.0, 0.0)
@example(nineteen_and(1e-8), nineteen_and(12), -0.4, 0.4, 60.0)
@example(nineteen_and(12), nineteen_and(1e-8), 0.3, 0.1, 13.7)
@example(nineteen_and(3e-7), nineteen_and(1e-8), 0.4, 0.4, 59.9)
def test_a_face_that_moved_or_was_stretched_as_a_whole_has_no_affine_distance(
    restored: np.ndarray, target: np.ndarray, a: float, b: float, shift: float
) -> None:
    linear = np.array([[1 + a, b], [b, 1 - a]])
    assert affine_distance(target @ linear + shift, target) == pytest.approx([0], abs=1e-6)
    assert affine_distance(restored, target, "mean")[0] <= affine_distance(restored, target)[0] + 1e-9
    # An affine map of the restored points does not change their distance to the target.
    assume(spreads_enough(restored) or (restored.max() - restored.min() < 4e-8))
    moved = affine_distance(restored @ linear + shift, target)
    assert moved == pytest.approx(affine_distance(restored, target), rel=1e-6, abs=1e-6)


@given(POINTS)
def test_points_that_coincide_in_a_direction_are_not_stretched_in_it(target: np.ndarray) -> None:
    goal = target[0] - target[0].mean(0)
    for offset in (0.0, 1e-9, 1e-8):
        assert affine_distance(nineteen_and(offset), target) == pytest.approx(
            [np.linalg.norm(goal)], rel=1e-6, abs=1e-6
        )
        assert affine_change(nineteen_and(offset), nineteen_and(offset)) == [0.0]
    line = np.stack([np.arange(20.0), 3 * np.arange(20.0)], 1)[None] + 200
    assert affine_change(line, line) == pytest.approx([0], abs=1e-12)
    assert affine_change(line + np.array([30, 40]), line) == pytest.approx([50 / 512], abs=1e-9)


def test_but_its_norm_says_so() -> None:
    target = scattered(0)
    assert affine_change(target, target) == pytest.approx([0, 0], abs=1e-9)
    # The unit of a shift is the side of the crop.
    assert affine_change(target + np.array([30, 40]), target) == pytest.approx([50 / 512] * 2, abs=1e-9)
    centres = target.mean(1, keepdims=True)
    assert affine_change(centres + 2 * (target - centres), target) == pytest.approx([math.sqrt(0.5)] * 2, abs=1e-9)
    grown = [affine_change(target * (1 + part), target)[0] for part in (0, 0.1, 0.2, 0.4)]
    assert grown == sorted(grown)


def test_no_face_is_no_figure_for_this_image_alone() -> None:
    a, b = scattered(0), scattered(1)
    a[0] = math.nan
    for found in (point_distance(a, b), affine_distance(a, b), affine_distance(b, a, "mean"), affine_change(a, b)):
        assert [math.isnan(one) for one in found] == [True, False]


def test_points_on_a_line_have_a_distance() -> None:
    line = np.stack([np.arange(22.0), np.arange(22.0)], 1)[None]
    assert np.isfinite(affine_distance(line, scattered(0)[:1])).all()


# --- a real face ---


@pytest.fixture(scope="module")
def judge() -> FaceModels:
    return load_faces("dlib")


@pytest.fixture(scope="module")
def astronaut(judge: FaceModels) -> np.ndarray:
    from pathlib import Path

    import skimage

    photo = decode(Path(skimage.__file__).parent / "data" / "astronaut.png")
    return align_face(photo, judge.detect(photo)[0].landmarks5, FFHQ_512, FFHQ_SIZE)


def test_five_points_are_in_pixels_of_a_crop_of_512(judge: FaceModels, astronaut: np.ndarray) -> None:
    at_512 = find_5_points(astronaut, judge)
    half = find_5_points(cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA), judge)
    assert np.abs(at_512 - FFHQ_512).max() < 40 and np.abs(at_512 - half).max() < 8
    assert np.isnan(find_5_points(np.zeros_like(astronaut), judge)).all()


def test_68_points_move_with_the_face(astronaut: np.ndarray) -> None:
    assert explain_missing() is None
    points = find_68_points(astronaut)
    assert points.shape == (68, 2)
    # In iBUG's order, these points are the eyes, the nose and the corners of the mouth. They must be near the template.
    corners = [points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]]
    assert np.abs(np.stack(corners) - FFHQ_512).max() < 40
    moved = find_68_points(np.roll(astronaut, (6, 8), (0, 1)))
    assert point_distance(moved[None], points[None])[0] == pytest.approx(10, abs=2)
    for block in (EYES, MOUTH):
        left = affine_distance(moved[None, block], points[None, block], "mean")[0]
        assert left < 2 < point_distance(moved[None, block], points[None, block])[0]
        assert affine_change(moved[None, block], points[None, block])[0] == pytest.approx(10 / 512, abs=0.05)
    small = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    assert point_distance(find_68_points(small)[None], points[None])[0] < 4
