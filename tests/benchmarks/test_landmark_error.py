"""Tests the benchmark that measures the error of landmarks on degraded faces."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

import train.data.mesh
from tests.doubles import curation as doubles
from tests.doubles.faces.mesh_points import mean_face
from tests.places import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
import landmark_error
from landmark_error import STRENGTHS, CleanFace, Found, find_on_lq, measure_strengths, read_clean_faces, summarise

MODELS = doubles.models("double")


@pytest.fixture
def finding(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Returns a function that replaces dlib. On crops below 512 px, all points are wrong by this number of pixels."""

    def miss(pixels: float) -> None:
        def find(image: np.ndarray) -> np.ndarray:
            return mean_face() + np.array([pixels if len(image) < 512 else 0, 0])

        monkeypatch.setattr(landmark_error, "find_68_points", find)
        monkeypatch.setattr(train.data.mesh, "find_68_points", find)

    return miss


def test_the_error_is_a_share_of_the_distance_between_the_eyes(finding: Callable[[float], None], tmp_path) -> None:
    finding(10)
    paths = [doubles.save(tmp_path / "photos" / name, doubles.photo([5], 0, 600)) for name in ("a.png", "b.png")]
    paths += [doubles.save(tmp_path / "photos" / "small.png", doubles.photo([5], 0))]
    paths += [doubles.save(tmp_path / "photos" / "none.png", np.zeros((90, 90, 3), np.uint8))]
    faces, left_out = read_clean_faces(paths, MODELS, 256, 9)
    assert len(faces) == 2 and left_out == {"unreadable": 0, "no_face": 1, "small": 1, "no_landmarks": 0}
    (face, _), eyes = faces, 318.90277 - 192.98138
    assert face.eyes == pytest.approx(eyes, abs=0.01)
    small = face.crop[::2, ::2]
    found = find_on_lq(face, small, mean_face() + np.array([0, 20]), MODELS)
    assert found.agrees and found.error == pytest.approx(10 / eyes, abs=1e-4)
    assert found.mean_face_error == pytest.approx(20 / eyes, abs=1e-4) and found.five_error < 0.05
    finding(40)
    assert not find_on_lq(face, small, mean_face(), MODELS).agrees
    assert find_on_lq(face, np.zeros_like(small), mean_face(), MODELS).five_error is None
    assert len(read_clean_faces(paths, MODELS, 256, 1)[0]) == 1


def test_every_strength_has_its_failures_and_its_errors() -> None:
    found = [Found(True, 0.02, 0.1, 0.01), Found(True, 0.04, 0.01, 0.03), Found(False, 0.3, 0.1, None)]
    figures = summarise([*found, Found(False, 0.05, 0.1, 0.2)])
    assert figures["failures"] == 0.5 and figures["no_face"] == 0.25
    assert (figures["median"], figures["median_of_all"], figures["median_of_five"]) == (0.03, 0.045, 0.03)
    assert figures["better"] == [0.5, 0.5] and figures["median_of_mean_face"] == 0.1
    assert summarise(found[2:])["median"] is None and summarise(found[:1])["better"] == [1.0, None]


def test_the_strengths_are_clean_mild_refine_codeformer_and_severe(finding: Callable[[float], None]) -> None:
    finding(0)
    face = CleanFace("a/b.png", doubles.face(5, 0, 512), mean_face(), np.zeros((5, 2)))
    table = measure_strengths([face], MODELS, 64)
    assert list(table) == list(STRENGTHS) == ["clean", "mild", "refine", "codeformer", "severe"]
    assert table["clean"]["median_of_all"] == 0
