"""Tests the search for small faces in large photos, and for faces that lie on their side or upside down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from curate.demo import find_packaged_file
from curate.detection.measure_faces import measure_face
from curate.faces.align import FFHQ_512, OUTSIDE
from curate.faces.find_faces import find_face_in_box, find_faces, find_usable_faces
from curate.faces.interface import Detection, FaceDetector
from curate.faces.load import load_faces
from curate.faces.measure import estimate_pose, measure_eye_distance
from curate.faces.models.dlib_models import reduce_to_five
from curate.faces.models.tiled_search import list_tiles, search_in_tiles
from curate.faces.second_look import CROP, fits, look_again
from manifests.pictures.images import decode
from tests.doubles.faces.face_models import EITHER

FACE = np.kron(np.array([[1, 2], [3, 4]]), np.ones((40, 40))).astype(np.uint8) * 60


def make_detector(upside_down_score: float, shift: float = 0.0) -> FaceDetector:
    """Returns a detector that finds the square FACE with a score of .9 and with upright landmarks.

    If the photo is upside down, the score is `upside_down_score`. In photos, the landmarks are up to 2 x `shift` pixels
    wrong. In crops, the landmarks of an upside-down face are 4 pixels wrong, so the detector finds other landmarks than
    in the photo.
    """

    def detect(image: np.ndarray) -> list[Detection]:
        gray = image[..., 0].astype(int)
        ys, xs = ((gray > 30) & (abs(gray - OUTSIDE[0]) > 5)).nonzero()
        if len(ys) < 400:
            return []
        box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)
        side = box[2] - box[0]
        is_crop = image.shape == (CROP, CROP, 3)
        quarter = round(gray[int(box[1] + side / 4), int(box[0] + side / 4)] / 60)
        wrong = 4.0 * (quarter == 4) if is_crop else np.arange(10).reshape(5, 2) % 3 * shift
        landmarks = ((FFHQ_512 + 0.5) * side / 512 - 0.5 + box[:2] + wrong).astype(np.float32)
        score = {1: 0.9, 4: upside_down_score}.get(quarter, 0.0)
        return [Detection(box, landmarks, score)] if score else []

    return FaceDetector(detect, 0.5, sure_score=0.75)


def make_photo() -> np.ndarray:
    photo = np.zeros((120, 200, 3), np.uint8)
    photo[20:100, 30:110] = FACE[..., None]
    return photo


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("upside_down_score", [0.0, 0.7])
def test_a_face_is_found_upright_at_any_turn(turns: int, upside_down_score: float) -> None:
    photo, (width, height) = make_photo(), (200, 120)
    (expected,) = make_detector(0.0).detect(photo)
    points = expected.landmarks5
    for _ in range(turns):  # np.rot90 moves the pixel (x, y) to (y, width - 1 - x)
        points = np.stack([points[:, 1], width - 1 - points[:, 0]], 1)
        width, height = height, width
    turned = np.ascontiguousarray(np.rot90(photo, turns))
    (face,) = find_faces(turned, make_detector(upside_down_score))
    assert np.allclose(face.landmarks5, points, atol=1e-4) and face.score == 0.9 and fits(face)
    assert face.turn == (360 - 90 * turns) % 360  # np.rot90 turns the photo counterclockwise, and `turn` is clockwise
    ys, xs = turned[..., 0].nonzero()
    assert face.box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    in_box = find_face_in_box(turned, (xs.min() + 5, ys.min() + 2, xs.max(), ys.max()), make_detector(0.0))
    assert in_box is not None and np.allclose(in_box.landmarks5, points, atol=1e-4)


def test_a_sure_face_is_searched_once_and_a_box_outside_has_no_face() -> None:
    calls, detector = list[int](), make_detector(0.0)

    def detect(image: np.ndarray) -> list[Detection]:
        calls.append(1)
        return detector.detect(image)

    counted = replace(detector, detect=detect)
    assert len(find_faces(make_photo(), counted)) == 1 and len(calls) == 1
    assert find_face_in_box(make_photo(), (500, 0, 600, 90), counted) is None


def test_a_face_that_the_second_look_does_not_see_is_set_aside() -> None:
    (exact,) = find_faces(make_photo(), replace(make_detector(0.0), sure_score=1.0))
    assert exact.landmark_error is not None and exact.landmark_error < 0.02 and fits(exact)
    blind = replace(make_detector(0.0), sure_score=1.0, detect_in_crop=lambda crop: [])
    (unseen,) = find_faces(make_photo(), blind)
    assert unseen.landmark_error == np.inf and not fits(unseen)


@pytest.mark.parametrize("size", [(100, 50), (1000, 400), (1001, 999), (64, 5000)])
def test_tiles_cover_the_picture_and_every_small_face_is_whole_in_one_tile(size: tuple[int, int]) -> None:
    tiles = list_tiles(*size, 300, 40)
    seen = np.zeros(size[::-1], bool)
    for x0, y0, x1, y1 in tiles:
        assert 0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1] and x1 - x0 <= 300 and y1 - y0 <= 300
        seen[y0:y1, x0:x1] = True
    assert seen.all()
    for x, y in np.random.default_rng(0).integers(0, [size[0] - 40, max(size[1] - 40, 1)], (50, 2)).tolist():
        assert any(x0 <= x and y0 <= y and x + 40 <= x1 and min(y + 40, size[1]) <= y1 for x0, y0, x1, y1 in tiles)


def test_large_and_small_faces_are_found_once_in_tiles() -> None:
    """Tests squares of 24 to 700 px that lie on the borders of tiles.

    A detector that saw only one tile would find only a part of each square.
    """
    image = np.zeros((1500, 2000, 3), np.uint8)
    corners = {(290, 290): 24, (10, 1450): 40, (1000, 100): 700, (565, 600): 60}
    for (x, y), side in corners.items():
        image[y : y + side, x : x + side] = 200

    def detect(tile: np.ndarray) -> list[Detection]:
        _, _, stats, _ = cv2.connectedComponentsWithStats((tile[..., 0] > 100).astype(np.uint8))
        boxes = [np.array([x, y, x + w, y + h], np.float32) for x, y, w, h, _ in stats[1:].tolist()]
        return [Detection(box, np.tile(box[:2], (5, 1)), 0.9) for box in boxes if max(box[2:] - box[:2]) >= 6]

    found = search_in_tiles(image, detect, 0.5, 300, 40)
    boxes = sorted([round(edge) for edge in face.box.tolist()] for face in found)
    expected = sorted([x, y, x + side, y + side] for (x, y), side in corners.items())
    assert np.abs(np.array(boxes) - expected).max() <= 10 and len(boxes) == len(expected)


@pytest.mark.parametrize("spec", EITHER)
def test_real_faces_are_found_upright_at_every_turn(spec: str) -> None:
    models, photo = load_faces(spec), decode(find_packaged_file("skimage", "data/astronaut.png"))[:320, 60:380]
    for turns in range(4):
        (face,) = find_usable_faces(np.ascontiguousarray(np.rot90(photo, turns)), models)
        assert face.turn == (360 - 90 * turns) % 360 and fits(face)
        wrong = replace(face, landmarks5=face.landmarks5 + np.float32(0.4 * measure_eye_distance(face.landmarks5)))
        corrected = look_again(np.ascontiguousarray(np.rot90(photo, turns)), wrong, models)
        assert np.abs(corrected.landmarks5 - face.landmarks5).max() < 0.25 * measure_eye_distance(face.landmarks5)
        assert abs((estimate_pose(face.landmarks5)[2] + 90 * turns + 180) % 360 - 180) < 20
        if spec == "dlib":
            row, _ = measure_face(np.ascontiguousarray(np.rot90(photo, turns)), "photo", face, "dlib") or (None, None)
            assert row is not None and row.landmarks68 is not None and row.turn == face.turn
            points = reduce_to_five(np.array(row.landmarks68).reshape(68, 2))
            assert np.abs(points - face.landmarks5).max() < 0.2 * row.inter_ocular_px


@pytest.mark.shared_data
def test_small_faces_are_found_in_photos_of_all_sizes(shared_data: Path) -> None:
    models = load_faces(f"insightface:{shared_data / 'weights' / 'insightface_small'}")
    crowd = decode(find_packaged_file("insightface", "data/images/t1.jpg"))
    expected = len(models.detect(crowd))
    # At this size, the boxes of the faces are 34 to 42 px wide.
    small = cv2.resize(crowd, None, fx=0.36, fy=0.36, interpolation=cv2.INTER_AREA)
    for width, height in ((1600, 1200), (2000, 1500), (6000, 4000), (9000, 700)):
        photo = np.full((height, width, 3), 90, np.uint8)
        y, x = height // 3, width // 2
        photo[y : y + small.shape[0], x : x + small.shape[1]] = small
        assert len([face for face in find_faces(photo, models, 12) if fits(face)]) == expected
    assert models.detect_small is not None
    assert [face.score for face in models.detect_small(crowd, 40)] == [face.score for face in models.detect(crowd)]
