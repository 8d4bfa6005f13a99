"""Loads dlib's models: a detector, 68 landmarks, and embeddings of 128 numbers. Packages on PyPI contain the models."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from curate.faces.errors import FaceModelError
from curate.faces.interface import Detection, FaceModels, ModelFile, normalise_rows
from curate.faces.models.tiled_search import search_in_tiles

DETECTOR_LICENCE = "Boost Software License 1.0 (dlib's built-in HOG detector)"
RECOGNIZER_LICENCE = "CC0 1.0 (dlib_face_recognition_resnet_model_v1)"
LANDMARKS_LICENCE = "trained on iBUG 300-W: the dataset's licence excludes commercial use"

# The mean positions of the five landmarks in dlib's own 150 px crops (padding .25), which we measured on 142 web faces.
# For each face, we compared the embedding of a crop that is aligned to TEMPLATE_150 with the embedding of dlib's own
# crop. The cosine of the two embeddings is .997.
TEMPLATE_150 = np.array([[47.066, 46.189], [100.309, 46.189], [72.687, 76.132], [49.957, 102.520], [97.996, 102.333]])

# dlib's detector finds faces with a box of 80 px or more. If the photo is enlarged to twice its size, the detector also
# finds faces of 40 px, whose eyes are EYES pixels apart. A photo with more than MAX_ENLARGED pixels (ours) is divided
# into tiles, and the tiles are enlarged, because the whole enlarged photo would need much memory.
EYES = 16
MAX_ENLARGED = 4_000_000
# Neighbouring tiles share a strip of TILE_OVERLAP pixels (ours). A face that does not fit into the strip is found at
# the next coarser scale, where its box is 40 px wide or more.
TILE_OVERLAP = 200

# Detections with a score below MIN_SCORE (ours) are ignored. On our sample photos, all false detections have a score
# below MIN_SCORE. One real face, in profile, also has a score below MIN_SCORE.
MIN_SCORE = 0.3
# The documentation of dlib says that two faces with a distance of less than 0.6 are one person. dlib's embeddings have
# a mean length of 1.48, so a distance of 0.6 corresponds to a cosine of .918. We measured 142 web faces: .1% of the
# pairs of faces of different people have a cosine of .93 or more. The threshold of the average linkage must therefore
# be near .93.
SAME_PERSON = 0.925


def find_model_folder() -> Path:
    """Returns the folder of the model files in the package face_recognition_models.

    The package is not imported, because its import needs pkg_resources, which new versions of setuptools do not
    contain. Raises FaceModelError if the package is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise FaceModelError("dlib's models are not installed. Run pip install 'likeness[offline]'.")
    return Path(next(iter(spec.submodule_search_locations))) / "models"


@cache
def _import_dlib() -> Any:
    try:
        import dlib
    except ImportError:
        raise FaceModelError("dlib is not installed. Run pip install 'likeness[offline]'.") from None
    return dlib


def _find_library() -> Path:
    """Returns the path of dlib's compiled library. The library contains the detector, so there is no detector file."""
    spec = importlib.util.find_spec("_dlib_pybind11")
    return Path(spec.origin if spec is not None and spec.origin is not None else _import_dlib().__file__)


@cache
def _load_predictor() -> Any:
    return _import_dlib().shape_predictor(str(find_model_folder() / "shape_predictor_68_face_landmarks.dat"))


def find_landmarks68(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Returns the 68 iBUG points, float32 (68, 2), of the face in `box` (x0, y0, x1, y1) of RGB uint8 (H, W, 3)."""
    rectangle = _import_dlib().rectangle(*(round(float(edge)) for edge in box))
    shape = _load_predictor()(np.ascontiguousarray(image), rectangle)
    return np.array([[point.x, point.y] for point in shape.parts()], np.float32)


def reduce_to_five(points68: np.ndarray) -> np.ndarray:
    """Returns the eye centres, nose tip and mouth corners, float32 (5, 2), of 68 iBUG points (68, 2)."""
    return np.stack(
        [points68[36:42].mean(0), points68[42:48].mean(0), points68[30], points68[48], points68[54]]
    ).astype(np.float32)


def list_landmark_files() -> tuple[ModelFile, ...]:
    """Returns the model file that `find_landmarks68` uses."""
    return (ModelFile("landmarks", find_model_folder() / "shape_predictor_68_face_landmarks.dat", LANDMARKS_LICENCE),)


def load_dlib() -> FaceModels:
    """Returns dlib's models. Raises FaceModelError if the extra `offline` is not installed."""
    dlib, folder = _import_dlib(), find_model_folder()
    detector = dlib.get_frontal_face_detector()
    network = folder / "dlib_face_recognition_resnet_model_v1.dat"
    recognizer = dlib.face_recognition_model_v1(str(network))
    _load_predictor()  # This raises an error now if the predictor's file is missing.
    one_at_a_time = Lock()  # Two threads must not run one network of dlib, which keeps the outputs of its layers.

    def detect(image: np.ndarray) -> list[Detection]:
        image = np.ascontiguousarray(image)
        upsample = 1 if image.shape[0] * image.shape[1] <= MAX_ENLARGED else 0
        with one_at_a_time:
            boxes, scores, _ = detector.run(image, upsample, 0.0)
        detections = []
        for rectangle, score in zip(boxes, scores, strict=True):
            edges = (rectangle.left(), rectangle.top(), rectangle.right(), rectangle.bottom())
            box = np.array(edges, np.float32)
            detections.append(Detection(box, reduce_to_five(find_landmarks68(image, box)), float(score)))
        return sorted(detections, key=lambda face: (-face.score, *face.box.tolist()))

    def detect_small(image: np.ndarray, eyes: float) -> list[Detection]:
        if eyes >= EYES and image.shape[0] * image.shape[1] <= MAX_ENLARGED:
            return detect(image)
        return search_in_tiles(image, detect, EYES / eyes, int(MAX_ENLARGED**0.5), TILE_OVERLAP)

    def embed(crops: np.ndarray) -> np.ndarray:
        describe: Callable[[list[np.ndarray]], Any] = recognizer.compute_face_descriptor
        with one_at_a_time:
            return normalise_rows(np.array(describe([np.ascontiguousarray(crop) for crop in crops])))

    return FaceModels(
        spec="dlib",
        detect=detect,
        embed=embed,
        template=TEMPLATE_150,
        size=150,
        dim=128,
        min_score=MIN_SCORE,
        same_person=SAME_PERSON,
        detect_small=detect_small,
        measure_reach=lambda width, height: EYES if width * height <= MAX_ENLARGED else 2 * EYES,
        # The length of dlib's embedding says nothing about a face. We measured 60 web faces: the embeddings of blurred
        # and noisy faces are as long as the embeddings of clear faces. dlib therefore has no `embed_raw`.
        strangers_near_zero=False,  # The mean cosine of two different people is .83, but differs between women and men.
        files=(
            ModelFile("detector", _find_library(), DETECTOR_LICENCE),
            *list_landmark_files(),
            ModelFile("recognizer", network, RECOGNIZER_LICENCE),
        ),
    )
