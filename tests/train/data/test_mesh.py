"""Tests the warp of a reference by a mesh of landmarks."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial import ConvexHull, Delaunay

import train.data.landmarks68
import train.data.mesh
from curate.faces.align import FFHQ_512, scale_template
from curate.faces.load import load_faces
from curate.faces.models.dlib_models import reduce_to_five
from manifests.errors import BadInput
from tests.doubles.faces.face_models import offline
from tests.doubles.faces.mesh_points import mean_face
from tests.doubles.training import real_snapshot
from train.data.landmarks import find_landmarks
from train.data.landmarks68 import find_68_points
from train.data.mesh import add_forehead, check_landmark_model, find_mesh_points, find_warp_points, warp_by_mesh

SIZE = 128
HERE = (add_forehead(mean_face()) + 0.5) / 4 - 0.5


def bend(points: np.ndarray) -> np.ndarray:
    """Returns the points after a bend that is not an affine map, like a change of expression and pose."""
    x, y = points.T
    return np.stack([x + 4 * np.sin(y / 20), y + 3 * np.cos(x / 25)], 1)


def find_hull(points: np.ndarray) -> np.ndarray:
    """Returns which pixels lie inside the convex hull of the points, bool (SIZE, SIZE)."""
    hull = ConvexHull(points)
    ys, xs = np.mgrid[:SIZE, :SIZE]
    return (np.stack([xs, ys], -1) @ hull.equations[:, :2].T + hull.equations[:, 2] <= 0).all(-1)


def test_an_affine_move_of_all_points_is_an_affine_warp_with_black_around_the_face() -> None:
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8), (SIZE, SIZE))
    matrix = np.array([[1.05, 0.1, -6.0], [-0.08, 0.95, 9.0]])
    to = HERE @ matrix[:, :2].T + matrix[:, 2]
    done, expected = warp_by_mesh(smooth, HERE, to), cv2.warpAffine(smooth, matrix, (SIZE, SIZE))
    hull = find_hull(to)
    assert done.dtype == np.uint8 and 0.2 < hull.mean() < 0.8
    assert np.abs(done.astype(int) - expected)[hull].max() <= 2 and not done[~hull].any()


def test_every_point_lands_where_it_should_and_in_between_the_warp_is_affine_in_each_triangle() -> None:
    to = bend(HERE)
    # The first two channels of this image are the coordinates of its pixels, so the warped image shows where each pixel
    # comes from.
    ys, xs = np.mgrid[:SIZE, :SIZE]
    coordinates = np.stack([2 * xs, 2 * ys, np.full_like(xs, 255)], -1).astype(np.uint8)
    done = warp_by_mesh(coordinates, HERE, to)
    mesh, hull = Delaunay(to), find_hull(to)
    for row, triangle in enumerate(mesh.simplices):
        matrix = cv2.getAffineTransform(to[triangle].astype(np.float32), HERE[triangle].astype(np.float32))
        inside = (mesh.find_simplex(np.stack([xs, ys], -1).reshape(-1, 2)) == row).reshape(SIZE, SIZE) & hull
        place = np.stack([xs, ys], -1)[inside] @ matrix[:, :2].T + matrix[:, 2]
        assert np.abs(done[inside][:, :2] / 2 - place).max(initial=0) < 1
    for (x, y), source in zip(to.round().astype(int), HERE, strict=True):
        if hull[y, x]:
            assert np.abs(done[y, x, :2] / 2 - source).max() < 1.5


def test_the_warp_is_scikit_images_piecewise_affine_warp() -> None:
    transform = pytest.importorskip("skimage.transform")
    to = bend(HERE)
    smooth = cv2.resize(np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8), (SIZE, SIZE))
    theirs = transform.warp(smooth, _estimate(transform, to), order=1, preserve_range=True)
    difference = np.abs(warp_by_mesh(smooth, HERE, to) - theirs)[cv2.erode(find_hull(to).astype(np.uint8), None) > 0]
    assert np.quantile(difference, 0.99) <= 1.5


def _estimate(transform, to):
    kind = transform.PiecewiseAffineTransform
    if hasattr(kind, "from_estimate"):
        return kind.from_estimate(to, HERE)
    found = kind()
    found.estimate(to, HERE)
    return found


def test_the_forehead_is_half_as_high_above_the_ears_as_the_chin_is_below() -> None:
    points = add_forehead(mean_face())
    assert points.shape == (83, 2) and np.array_equal(points[:68], mean_face())
    ears, chin, top = points[0, 1], points[8, 1], points[68 + 7, 1]
    assert np.isclose(ears - top, (chin - ears) / 2) and np.isclose(points[68 + 7, 0], points[8, 0])
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    # the forehead of a turned face is turned too
    assert np.allclose(add_forehead(mean_face() @ turn.T), points @ turn.T)


def test_points_count_only_if_two_models_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    crop, found = np.zeros((SIZE, SIZE, 3), np.uint8), mean_face()
    monkeypatch.setattr(train.data.mesh, "find_68_points", lambda image: found)
    five = scale_template(FFHQ_512, 512, SIZE)
    points = find_mesh_points(crop, five)
    assert points is not None and np.allclose(points, HERE)
    eyes = np.linalg.norm(five[1] - five[0])
    assert find_mesh_points(crop, five + np.array([0.14 * eyes, 0])) is not None
    assert find_mesh_points(crop, five + np.array([0.16 * eyes, 0])) is None
    assert find_mesh_points(crop, five * np.nan) is None and find_mesh_points(crop, None) is None
    # A restorer without a mesh warps the references to the five landmarks.
    assert find_warp_points(("warped",), crop, five) is five and find_warp_points(("warped",), crop, None) is None
    assert find_warp_points(("mesh",), crop, five) is not None


def test_without_dlib_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput) as caught:
        check_landmark_model("This restorer")
    text = str(caught.value)
    assert text.startswith("This restorer warps references") and "pip install 'likeness[offline]'" in text
    assert "--no-index --find-links" in text and "\n" not in text


@offline
@pytest.mark.shared_data
def test_references_of_real_people_fit_the_input_better_than_with_an_affine_map(
    shared_data: Path, tmp_path: Path
) -> None:
    from train.data.warp import warp_to

    taken = real_snapshot(tmp_path, shared_data, people=3, photos=3, size=256)
    models = load_faces(f"insightface:{shared_data / 'weights' / 'insightface_small'}")
    apart = []
    for row in range(9):
        target, reference = np.array(taken.crops[row]), np.array(taken.crops[(row + 1) % 9])
        five, own = find_landmarks(target, models), find_landmarks(reference, models)
        to, points = find_mesh_points(target, five), find_mesh_points(reference, own)
        if to is None or points is None:
            continue
        warped = warp_by_mesh(reference, points, to)
        assert not warped[:8].any() and not warped[:, :8].any()  # the warped reference is black around the face
        expected = find_68_points(target)
        rest = [find_68_points(image) for image in (warped, warp_to(reference, own, five))]
        assert np.abs(reduce_to_five(rest[0]) - reduce_to_five(expected)).mean() < 12
        apart.append([np.linalg.norm(each - expected, axis=1).mean() for each in rest])
    assert len(apart) >= 5
    by_mesh, by_affine = np.mean(apart, 0)
    assert by_mesh < 0.8 * by_affine
