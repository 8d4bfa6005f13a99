"""Tests that the mask of valid pixels is the same from a crop's place in its photo and from the ledger's landmarks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curate.faces.align import FFHQ_512, find_valid_pixels
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Photo
from tests.doubles.frozen.lq_sets import toy_face
from train.benchmark.crop_geometry import CropGeometry, read_geometries


@pytest.mark.parametrize("shift", [(-60.3, 11.7), (0.0, 0.0), (301.1, -420.9)])
def test_it_gives_the_mask_of_the_landmarks(tmp_path: Path, shift: tuple[float, float]) -> None:
    points = (FFHQ_512 * 1.37 + shift).astype(np.float32)
    face = replace(toy_face(1), landmarks5=tuple(float(value) for value in points.ravel()))
    with Ledger.open(tmp_path / "d", write=True) as ledger:
        ledger.record("double", "all", {}, [face, Photo(face.photo_id, 613, 487, "0")])
        geometry = read_geometries(ledger, [face.face_id])[face.face_id]
    assert geometry.photo_size == (613, 487)
    expected = find_valid_pixels(points, 613, 487, 128)
    assert 0 < expected.mean() < 0.9 and (geometry.find_valid(128) != expected).mean() < 0.001
    geometry.check()


@pytest.mark.parametrize(
    ("landmarks", "photo_size"),
    [
        ((0.1,) * 10, (64, 64)),
        ((0.1, 0.2) * 4, (64, 64)),
        ((float("nan"), *np.linspace(0, 1, 9)), (64, 64)),
        (tuple(np.linspace(0, 1, 10)), (64.0, 64)),
        (tuple(np.linspace(0, 1, 10)), (64, 0)),
        (tuple(np.linspace(0, 1, 10)), (64,)),
    ],
)
def test_what_is_no_geometry_is_refused(landmarks: tuple[float, ...], photo_size: tuple[int, int]) -> None:
    with pytest.raises((ValueError, TypeError)):
        CropGeometry(landmarks, photo_size).check()
