"""Finds faces of all sizes with SCRFD: the sides of its inputs, its scores, and its tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from curate.faces.interface import Detect, Detection, DetectSmall
from curate.faces.scrfd import Candidates, Scrfd
from curate.faces.tiled_search import merge_detections, search_in_tiles

# Sides of the detector's two square inputs, in pixels (insightface's defaults). The small input finds faces that fill
# the picture.
DETECTOR_INPUTS = (128, 640)
MIN_SCORE = 0.5  # insightface's default det_thresh
# The turn of a face with a score below SURE_SCORE is checked (ours). In our tuning photos, det_500m gives 60% of the
# upright faces a score of .81 or more. All 456 faces that det_500m sees in turned photos have a score below .81.
SURE_SCORE = 0.81
# Least distance between the eyes in the detector's input, in pixels, at which a face is found (ours). A face with this
# distance has a box about 14 pixels wide. If the second look confirms faint faces, det_500m finds 96% of the faces with
# this distance on textured grounds, for the people in our tuning photos.
EYES_IN_INPUT = 6.6
# If a photo needs an input of at most LARGER_INPUT times the usual side, the detector gets a larger input instead of
# the usual input (ours). In the larger input, the eyes are EYES_IN_LARGER_INPUT pixels apart, and faint faces are also
# returned (ours). In our tuning photos of 2 megapixels, a distance of 5.7 finds 85% of 199 faces with a box 35 pixels
# wide. Distances of 6.0 and 6.6 find 91% of these faces.
LARGER_INPUT, EYES_IN_LARGER_INPUT = 1.5, 6.0
# Larger photos are also seen in tiles, in which the eyes are EYES_IN_TILE pixels apart (ours). In 30 tuning photos of
# 12 and 24 megapixels, distances of 6.6 and 7.0 find 93.7% and 94.1% of the faces with 16 pixels or more between the
# eyes.
# A distance of 6.7 takes 8% less time than 7.0.
EYES_IN_TILE = 6.7
# Greatest side of a tile, in pixels of the detector's input (ours). Tiles of 640 and 1024 pixels find as many faces,
# and take more time, because they overlap more.
TILE = 2048
# At larger scales, the detector also returns faint faces with at least this score (ours). `find_faces` confirms a faint
# face by a second look, or leaves it out. In the photos of 12 to 42 megapixels, a least score of .5 finds about 87% of
# the faces with a box 35 pixels wide, .3 finds 92%, and .2 finds 94%. Lower scores give many more faint faces on
# textured grounds.
FAINT_SCORE = 0.25
# Neighbouring tiles share this many pixels of the input (ours). A face that does not fit into the overlap is found at
# the coarser scale, where its box has 24 pixels or more.
TILE_OVERLAP = 96


def make_detect(detector: Scrfd) -> Detect:
    """Returns the function that looks once at a photo. See `FaceModels.detect`."""

    def detect(image: np.ndarray) -> list[Detection]:
        if max(image.shape[:2]) > DETECTOR_INPUTS[0] * min(image.shape[:2]):
            return []  # the photo is so thin that its short side would have no pixel in the smaller input
        return _list_detections(detector.detect(image))

    return detect


def make_detect_small(detector: Scrfd) -> DetectSmall:
    """Returns the function that also looks for small faces. See `FaceModels.detect_small`."""
    usual = detector.input_side
    detect = make_detect(detector)
    faint = replace(detector, threshold=FAINT_SCORE)

    def detect_small(image: np.ndarray, eyes: float) -> list[Detection]:
        # `side` is the longer side of an input in which the eyes are EYES_IN_INPUT pixels apart.
        side = max(image.shape[:2]) * EYES_IN_INPUT / eyes
        if side <= usual:
            return detect(image)
        if detector.is_free and side <= LARGER_INPUT * usual:
            larger = max(usual, math.ceil(max(image.shape[:2]) * EYES_IN_LARGER_INPUT / eyes))
            return make_detect(replace(faint, sizes=(*DETECTOR_INPUTS[:-1], larger)))(image)

        def detect_in_tile(tile: np.ndarray) -> list[Detection]:
            return _list_detections(faint.detect_unscaled(tile))

        tile_side = TILE if detector.is_free else usual
        return merge_detections(
            [*detect(image), *search_in_tiles(image, detect_in_tile, EYES_IN_TILE / eyes, tile_side, TILE_OVERLAP)]
        )

    return detect_small


def make_detect_in_crop(detector: Scrfd) -> Detect:
    """Returns the function that looks at an aligned crop. See `FaceModels.detect_in_crop`."""
    return lambda crop: _list_detections(detector.detect_unscaled(crop))


def make_measure_reach(detector: Scrfd) -> Callable[[int, int], float]:
    """Returns the function that tells how small the faces are that `detect` finds. See `FaceModels.measure_reach`."""
    return lambda width, height: EYES_IN_INPUT * max(width, height) / detector.input_side


def _list_detections(candidates: Candidates) -> list[Detection]:
    detections = [Detection(box, points, float(score)) for box, points, score in zip(*candidates, strict=True)]
    return sorted(detections, key=lambda face: (-face.score, *face.box.tolist()))
