"""Finds faces of all sizes with SCRFD.

Defines the sizes of the detector's inputs, the limits of its scores, and its tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from curate.faces.interface import Detect, Detection, DetectMany, DetectSmall
from curate.faces.models.scrfd import Candidates, Scrfd
from curate.faces.models.tiled_search import merge_detections, search_in_tiles

# Sides of the detector's two square inputs, in pixels (insightface's defaults). The small input finds faces that fill
# the picture.
DETECTOR_INPUTS = (128, 640)
MIN_SCORE = 0.5  # The value is insightface's default det_thresh.
# If the score of a face is below SURE_SCORE (ours), a second look checks whether the face is upright. In our tuning
# photos, det_500m gives 60% of the upright faces a score of .81 or more. All 456 faces that det_500m finds in photos
# turned by 90, 180 or 270 degrees have a score below .81.
SURE_SCORE = 0.81
# The smallest distance (ours) between the eyes at which the detector finds a face, in pixels of the detector's input.
# The box of a face with 6.6 pixels between the eyes is about 14 pixels wide. If the second look confirms faint faces,
# det_500m finds 96% of the faces with 6.6 pixels between the eyes. We measured the 96% with the people in our tuning
# photos, on textured backgrounds.
EYES_IN_INPUT = 6.6
# A photo needs an input in which the smallest faces to be found have EYES_IN_INPUT pixels between the eyes. If the side
# of this input is more than the usual side, but at most LARGER_INPUT times (ours) the usual side, the detector searches
# the whole photo in a larger input. The side of the larger input is chosen so that the smallest faces to be found have
# EYES_IN_LARGER_INPUT pixels (ours) between the eyes. Our tuning photos of 2 megapixels show 199 faces with a box 35
# pixels wide. The detector finds 85% of the 199 faces if their eyes are 5.7 pixels apart in the input, and 91% if their
# eyes are 6.0 or 6.6 pixels apart.
LARGER_INPUT, EYES_IN_LARGER_INPUT = 1.5, 6.0
# If a photo is too large for the larger input, the detector searches the whole photo, and then tiles of the photo. The
# photo is resized before it is divided into tiles, so that the smallest faces to be found have EYES_IN_TILE pixels
# (ours) between the eyes. We compared values of EYES_IN_TILE on 30 tuning photos of 12 and 24 megapixels. Of the faces
# with 16 pixels or more between the eyes, the detector finds 93.7% with the value 6.6, and 94.1% with the value 7.0. A
# search with the value 6.7 takes 8% less time than a search with the value 7.0.
EYES_IN_TILE = 6.7
# The largest side of a tile (ours), in pixels of the detector's input. With tiles of 640 or 1024 pixels, the detector
# finds as many faces as with tiles of 2048 pixels. The search with smaller tiles takes more time, because smaller tiles
# overlap more.
TILE = 2048
# In a larger input and in tiles, the detector also returns faint faces: faces with a score from FAINT_SCORE to
# MIN_SCORE (ours). `find_faces` keeps a faint face if a second look confirms the face. In our photos of 12 to 42
# megapixels, about 87% of the faces with a box 35 pixels wide are found with a limit of .5, 92% with a limit of .3, and
# 94% with a limit of .2. With lower limits, the detector returns many more false faint faces on textured backgrounds.
FAINT_SCORE = 0.25
# Neighbouring tiles share a strip of TILE_OVERLAP pixels (ours) of the input. A face that does not fit into the strip
# is found at the next coarser scale, where its box is 24 pixels wide or more.
TILE_OVERLAP = 96


def make_detect(detector: Scrfd) -> Detect:
    """Returns the function that searches the whole photo, without tiles. See `FaceModels.detect`."""

    def detect(image: np.ndarray) -> list[Detection]:
        return [] if _is_thin(image) else _list_detections(detector.detect(image))

    return detect


def make_detect_small(detector: Scrfd) -> DetectSmall:
    """Returns the function that looks for faces of all sizes, including small faces. See `FaceModels.detect_small`."""
    return lambda image, eyes: _detect_small(detector, image, eyes, None)


def make_detect_many(detector: Scrfd) -> DetectMany:
    """Returns the function that searches several photos at once. See `FaceModels.detect_many`."""

    def detect_many(images: Sequence[np.ndarray], eyes: float) -> list[list[Detection]]:
        together = [
            index
            for index, image in enumerate(images)
            if not _is_thin(image) and _choose_larger_input(detector, image, eyes) is None
        ]
        candidates = detector.detect_many([images[index] for index in together])
        whole = dict(zip(together, map(_list_detections, candidates), strict=True))
        return [_detect_small(detector, image, eyes, whole.get(index)) for index, image in enumerate(images)]

    return detect_many


def _detect_small(detector: Scrfd, image: np.ndarray, eyes: float, whole: list[Detection] | None) -> list[Detection]:
    """Returns the faces of a photo, including faces with eyes that are `eyes` photo pixels apart.

    `whole` are the faces that the search of the whole photo found, or None if the photo was not searched yet.
    """
    faint = replace(detector, threshold=FAINT_SCORE)
    if (larger := _choose_larger_input(detector, image, eyes)) is not None:
        return make_detect(replace(faint, sizes=(*DETECTOR_INPUTS[:-1], larger)))(image)
    whole = make_detect(detector)(image) if whole is None else whole
    if _find_side(image, eyes) <= detector.input_side:
        return whole

    def detect_in_tile(tile: np.ndarray) -> list[Detection]:
        return _list_detections(faint.detect_unscaled(tile))

    tile_side = TILE if detector.is_free else detector.input_side
    return merge_detections(
        [*whole, *search_in_tiles(image, detect_in_tile, EYES_IN_TILE / eyes, tile_side, TILE_OVERLAP)]
    )


def make_detect_in_crop(detector: Scrfd) -> Detect:
    """Returns the function that finds faces in an aligned crop. See `FaceModels.detect_in_crop`."""
    return lambda crop: _list_detections(detector.detect_unscaled(crop))


def make_measure_reach(detector: Scrfd) -> Callable[[int, int], float]:
    """Returns the function that computes the size of the smallest faces that `detect` finds.

    See `FaceModels.measure_reach`.
    """
    return lambda width, height: EYES_IN_INPUT * max(width, height) / detector.input_side


def _is_thin(image: np.ndarray) -> bool:
    """Returns whether the short side of a photo would be less than one pixel in the smaller input."""
    return max(image.shape[:2]) > DETECTOR_INPUTS[0] * min(image.shape[:2])


def _find_side(image: np.ndarray, eyes: float) -> float:
    """Returns the longer side of the input in which a distance of `eyes` photo pixels becomes EYES_IN_INPUT pixels."""
    return max(image.shape[:2]) * EYES_IN_INPUT / eyes


def _choose_larger_input(detector: Scrfd, image: np.ndarray, eyes: float) -> int | None:
    """Returns the longer side of the larger input for a photo, or None if the photo needs no larger input or needs
    tiles.
    """
    usual = detector.input_side
    if not (detector.is_free and usual < _find_side(image, eyes) <= LARGER_INPUT * usual):
        return None
    return max(usual, math.ceil(max(image.shape[:2]) * EYES_IN_LARGER_INPUT / eyes))


def _list_detections(candidates: Candidates) -> list[Detection]:
    detections = [Detection(box, points, float(score)) for box, points, score in zip(*candidates, strict=True)]
    return sorted(detections, key=lambda face: (-face.score, *face.box.tolist()))
