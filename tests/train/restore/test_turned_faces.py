"""Faces in photos that lie on their side or upside down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from curate.faces.align import FFHQ_512
from curate.faces.interface import Detection, FaceDetector
from curate.faces.load import load_faces
from manifests.pictures.images import decode
from train.restore.turned_faces import find_face_in_box, find_faces_at_any_turn

FACE = np.kron(np.array([[1, 2], [3, 4]]), np.ones((40, 40))).astype(np.uint8) * 60


def make_detector(upside_down_score: float) -> FaceDetector:
    """Finds the square FACE: at .9 upright, and at `upside_down_score` upside down, with upright landmarks."""

    def detect(image: np.ndarray) -> list[Detection]:
        ys, xs = image[..., 0].nonzero()
        box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)
        side = box[2] - box[0]
        landmarks = ((FFHQ_512 + 0.5) * side / 512 - 0.5 + box[:2]).astype(np.float32)
        quarters = {60: 0.9, 240: upside_down_score}
        score = quarters.get(int(image[ys.min(), xs.min(), 0]), 0.0)
        return [Detection(box, landmarks, score)]

    return FaceDetector(detect, 0.5)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("upside_down_score", [0.0, 0.7])
def test_a_face_is_found_upright_at_any_turn(turns: int, upside_down_score: float) -> None:
    photo = np.zeros((120, 200, 3), np.uint8)
    photo[20:100, 30:110] = FACE[..., None]
    (expected,) = make_detector(0.0).detect(photo)
    width, height = 200, 120
    points = expected.landmarks5
    for _ in range(turns):  # np.rot90 brings the pixel (x, y) to (y, width - 1 - x)
        points = np.stack([points[:, 1], width - 1 - points[:, 0]], 1)
        width, height = height, width
    turned = np.ascontiguousarray(np.rot90(photo, turns))
    (face,) = find_faces_at_any_turn(turned, make_detector(upside_down_score))
    assert np.allclose(face.landmarks5, points, atol=1e-4) and face.score == 0.9
    ys, xs = turned[..., 0].nonzero()
    assert face.box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    in_box = find_face_in_box(turned, (xs.min() + 5, ys.min() + 2, xs.max(), ys.max()), make_detector(0.0))
    assert in_box is not None and np.allclose(in_box.landmarks5, points, atol=1e-4)


def test_a_sure_face_is_searched_once_and_a_box_outside_has_no_face() -> None:
    calls, detector = list[int](), make_detector(0.0)

    def detect(image: np.ndarray) -> list[Detection]:
        calls.append(1)
        return detector.detect(image)

    photo = np.zeros((120, 200, 3), np.uint8)
    photo[20:100, 30:110] = FACE[..., None]
    assert len(find_faces_at_any_turn(photo, FaceDetector(detect, 0.5))) == 1 and len(calls) == 1
    assert find_face_in_box(photo, (500, 0, 600, 90), FaceDetector(detect, 0.5)) is None


@pytest.mark.shared_data
def test_real_faces_are_found_at_every_turn(shared_data: Path) -> None:
    models = load_faces(f"insightface:{shared_data / 'weights' / 'insightface_small'}")
    for path in sorted((shared_data / "lq_with_references" / "asffnet_obama" / "refs").iterdir())[:2]:
        photo = decode(path)
        (upright, *_) = find_faces_at_any_turn(photo, models)
        for turns in (1, 2, 3):
            turned = np.ascontiguousarray(np.rot90(photo, turns))
            (face, *_) = find_faces_at_any_turn(turned, models)
            eyes, upright_eyes = (f.landmarks5[1] - f.landmarks5[0] for f in (face, upright))
            angle = np.degrees(np.arctan2(eyes[1], eyes[0]) - np.arctan2(upright_eyes[1], upright_eyes[0]))
            assert abs((angle + 90 * turns + 180) % 360 - 180) < 10
