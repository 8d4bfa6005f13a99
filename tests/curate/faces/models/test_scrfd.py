"""Tests that the detector and the recognizer give the results of insightface, with doubles and with a real pack."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from curate.demo import find_packaged_file
from curate.faces.load import load_faces
from curate.faces.models.scrfd import Scrfd, suppress_overlaps
from manifests.pictures.images import decode
from tests.places import SHARED

PACK = SHARED / "weights" / "insightface_small"
shared = pytest.mark.skipif(not PACK.is_dir(), reason=f"{PACK} is not there")


class OneFace:
    """Acts as a detector network that has nine outputs and finds one face.

    The face is found at row 3 and column 5 of the grid with stride 8. The box of the face reaches 16 px to each side of
    this place.
    """

    def __init__(self, shape: list) -> None:
        self.shape, self.seen = shape, []

    def get_inputs(self) -> list:
        return [SimpleNamespace(name="picture", shape=self.shape)]

    def get_outputs(self) -> list:
        return [None] * 9

    def run(self, _, feed: dict) -> list:
        (_, _, height, width) = feed["picture"].shape
        self.seen.append((height, width))
        places = [2 * (height // stride) * (width // stride) for stride in (8, 16, 32)]
        scores = [np.zeros((n, 1), np.float32) for n in places]
        scores[0][2 * (3 * (width // 8) + 5)] = 0.9
        boxes = [np.full((n, 4), 2, np.float32) for n in places]
        points = [np.zeros((n, 10), np.float32) for n in places]
        return [*scores, *boxes, *points]


def test_an_anchor_becomes_a_box_in_the_photos_pixels():
    network = OneFace([1, 3, "?", "?"])
    boxes, points, scores = Scrfd(network, (640,), 0.5).detect(np.zeros((640, 1280, 3), np.uint8))
    assert boxes.tolist() == [[48, 16, 112, 80]] and scores.tolist() == [pytest.approx(0.9)]
    assert points.shape == (1, 5, 2) and np.all(points == [80, 48]) and boxes.dtype == points.dtype == np.float32


@pytest.mark.parametrize(
    ("photo", "shape", "seen"),
    [
        ((300, 300), [1, 3, "?", "?"], (640, 640)),
        ((480, 640), [1, 3, "?", "?"], (544, 640)),  # the height is 480 plus the margin, rounded up to whole strides
        ((900, 600), [1, 3, "?", "?"], (640, 512)),
        ((480, 640), [1, 3, 640, 640], (640, 640)),  # a network with a fixed size gets pictures of this size
    ],
)
def test_black_beside_the_picture_is_left_out_but_for_a_margin(photo, shape, seen):
    network = OneFace(shape)
    Scrfd(network, (640,), 0.5).detect(np.zeros((*photo, 3), np.uint8))
    assert network.seen == [seen]


def test_the_better_of_two_overlapping_boxes_is_kept():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 40]], np.float32)
    assert suppress_overlaps(boxes, 0.4).tolist() == [0, 2] and suppress_overlaps(boxes[:0], 0.4).tolist() == []


@shared
@pytest.mark.shared_data
def test_a_pack_finds_and_embeds_what_insightface_does():
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(name=str(PACK), allowed_modules=["detection", "recognition"])
    app.prepare(0)
    models = load_faces(f"insightface:{PACK}")
    for picture in (
        find_packaged_file("insightface", "data/images/t1.jpg"),
        find_packaged_file("skimage", "data/astronaut.png"),
    ):
        image = decode(picture)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = app.get(np.ascontiguousarray(image[:, :, ::-1]))
        found = models.detect(image)
        assert len(found) == len(theirs) > 0
        for other in theirs:
            near = min(found, key=lambda face: np.abs(face.box - other.bbox).sum())
            eyes = np.hypot(*(other.kps[1] - other.kps[0]))
            assert np.abs(near.box - other.bbox).max() < 0.05 * eyes
            assert np.abs(near.landmarks5 - other.kps).max() < 0.05 * eyes
            assert near.score == pytest.approx(float(other.det_score), abs=0.02)
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (9, 112, 112, 3), np.uint8)
    theirs = app.models["recognition"].get_feat([np.ascontiguousarray(crop[:, :, ::-1]) for crop in crops])
    mine = models.embed(crops)
    assert np.allclose(mine, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-5)
    # The bits of an embedding do not depend on its batch, so a lost embedding can be made again in any batch.
    assert all(
        np.array_equal(mine[at : at + n], models.embed(crops[at : at + n])) for at, n in ((0, 1), (2, 3), (4, 5))
    )
