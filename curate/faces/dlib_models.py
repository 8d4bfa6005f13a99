"""dlib's detector, 68 landmarks and 128-d embeddings, all from PyPI: the default where no pack can be downloaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from curate.faces.errors import FaceModelError
from curate.faces.interface import Detection, FaceModels, ModelFile, normalise_rows

DETECTOR_LICENCE = "Boost Software License 1.0 (dlib's built-in HOG detector)"
RECOGNIZER_LICENCE = "CC0 1.0 (dlib_face_recognition_resnet_model_v1)"
LANDMARKS_LICENCE = "trained on iBUG 300-W: the dataset's licence excludes commercial use"

# Where dlib's own 150 px chips (padding .25) put our five landmarks: the mean over 142 web faces, ours. Crops aligned
# to it give embeddings with a cosine of .997 to those of dlib's own chips.
TEMPLATE_150 = np.array([[47.066, 46.189], [100.309, 46.189], [72.687, 76.132], [49.957, 102.520], [97.996, 102.333]])

MIN_SCORE = 0.3  # HOG margin; ours: of dlib's false finds on the sample photos all lie below, one true profile as well
# dlib's documented 0.6 distance is a cosine of .918 at its vectors' mean length of 1.48; pairs of strangers reach .93
# once in a thousand (measured on 142 web faces, ours), and average linkage needs the stricter of the two.
SAME_PERSON = 0.925


def find_model_folder() -> Path:
    """The folder of face_recognition_models, found without importing it: its import needs the removed pkg_resources."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise FaceModelError("dlib's models are not installed: pip install 'likeness[offline]'.")
    return Path(next(iter(spec.submodule_search_locations))) / "models"


@cache
def _dlib() -> Any:
    try:
        import dlib
    except ImportError:
        raise FaceModelError("dlib is not installed: pip install 'likeness[offline]'.") from None
    return dlib


def _compiled() -> Path:
    """The library that holds dlib's code and, inside it, its detector."""
    spec = importlib.util.find_spec("_dlib_pybind11")
    return Path(spec.origin if spec is not None and spec.origin is not None else _dlib().__file__)


@cache
def _predictor() -> Any:
    return _dlib().shape_predictor(str(find_model_folder() / "shape_predictor_68_face_landmarks.dat"))


def find_landmarks68(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """float32 (68, 2) iBUG points of the face in `box` (x0, y0, x1, y1) of RGB uint8 (H, W, 3)."""
    rectangle = _dlib().rectangle(*(round(float(edge)) for edge in box))
    shape = _predictor()(np.ascontiguousarray(image), rectangle)
    return np.array([[point.x, point.y] for point in shape.parts()], np.float32)


def reduce_to_five(points68: np.ndarray) -> np.ndarray:
    """Eye centres, nose tip and mouth corners (5, 2) of 68 iBUG points (68, 2)."""
    return np.stack(
        [points68[36:42].mean(0), points68[42:48].mean(0), points68[30], points68[48], points68[54]]
    ).astype(np.float32)


def list_landmark_files() -> tuple[ModelFile, ...]:
    """The file behind `landmarks68`."""
    return (ModelFile("landmarks", find_model_folder() / "shape_predictor_68_face_landmarks.dat", LANDMARKS_LICENCE),)


def load_dlib() -> FaceModels:
    """dlib's models as FaceModels. Raises FaceModelError where the extra `offline` is not installed."""
    dlib, folder = _dlib(), find_model_folder()
    detector = dlib.get_frontal_face_detector()
    network = folder / "dlib_face_recognition_resnet_model_v1.dat"
    recognizer = dlib.face_recognition_model_v1(str(network))
    _predictor()

    def detect(image: np.ndarray) -> list[Detection]:
        image = np.ascontiguousarray(image)
        # one upsampling doubles the reach to 40 px faces; above 4 megapixels it would cost minutes
        upsample = 1 if image.shape[0] * image.shape[1] <= 4_000_000 else 0
        boxes, scores, _ = detector.run(image, upsample, 0.0)
        found = []
        for rectangle, score in zip(boxes, scores, strict=True):
            edges = (rectangle.left(), rectangle.top(), rectangle.right(), rectangle.bottom())
            box = np.array(edges, np.float32)
            found.append(Detection(box, reduce_to_five(find_landmarks68(image, box)), float(score)))
        return sorted(found, key=lambda face: (-face.score, *face.box.tolist()))

    def embed(crops: np.ndarray) -> np.ndarray:
        described: Callable[[list[np.ndarray]], Any] = recognizer.compute_face_descriptor
        return normalise_rows(np.array(described([np.ascontiguousarray(crop) for crop in crops])))

    return FaceModels(
        spec="dlib",
        detect=detect,
        embed=embed,
        template=TEMPLATE_150,
        size=150,
        dim=128,
        min_score=MIN_SCORE,
        same_person=SAME_PERSON,
        calibrates=False,  # strangers are .83 alike on average, women and men in clumps
        files=(
            ModelFile("detector", _compiled(), DETECTOR_LICENCE),
            *list_landmark_files(),
            ModelFile("recognizer", network, RECOGNIZER_LICENCE),
        ),
    )
