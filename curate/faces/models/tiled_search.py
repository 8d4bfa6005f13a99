"""Searches large pictures for small faces, in overlapping tiles and at several scales."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np

from curate.faces.interface import Detect, Detection
from curate.faces.models.scrfd import OVERLAP, suppress_overlaps

Tile = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the picture

# The picture is searched at several scales. Each next scale is COARSER times the previous scale (ours), so the search
# at the next scale takes a sixteenth of the time.
COARSER = 0.25
CUT_MARGIN = 2  # a box nearer than CUT_MARGIN pixels (ours) to an inner border of its tile counts as cut


def search_in_tiles(image: np.ndarray, detect: Detect, scale: float, side: int, overlap: int) -> list[Detection]:
    """Returns the faces that `detect` finds in tiles of an image, RGB uint8 (H, W, 3), resized by `scale`.

    A tile has at most `side` x `side` pixels, and neighbouring tiles share at least `overlap` pixels. A large face does
    not fit into a tile. If the resized image does not fit into one tile, `detect` therefore also searches the image at
    a quarter of the scale, then at a sixteenth, and so on. A face that the border of a tile cuts is left out, because
    another tile or a coarser scale contains the whole face. Of several detections of one face, only the best is
    returned. The faces are sorted, and the best score is first. The time is proportional to the pixels of the image.
    """
    found = list[Detection]()
    resized = image
    while True:
        resized = _resize(image, resized, scale)
        height, width = resized.shape[:2]
        factor = np.array([image.shape[1] / width, image.shape[0] / height], np.float32)
        for tile in list_tiles(width, height, side, overlap):
            x0, y0, x1, y1 = tile
            for face in detect(np.ascontiguousarray(resized[y0:y1, x0:x1])):
                box, points = (
                    face.box + np.array([x0, y0, x0, y0], np.float32),
                    face.landmarks5 + np.array([x0, y0], np.float32),
                )
                if not _is_cut(box, tile, width, height):
                    box, points = box * np.tile(factor, 2), points * factor
                    found.append(replace(face, box=box, landmarks5=points))
        if max(height, width) <= side:
            return merge_detections(found)
        scale *= COARSER


def merge_detections(faces: Sequence[Detection]) -> list[Detection]:
    """Returns the faces, best score first.

    Of overlapping detections, only the detection with the best score is returned.
    """
    if not faces:
        return []
    ordered = sorted(faces, key=lambda face: (-face.score, *face.box.tolist()))
    return [ordered[index] for index in suppress_overlaps(np.stack([face.box for face in ordered]), OVERLAP)]


def list_tiles(width: int, height: int, side: int, overlap: int) -> list[Tile]:
    """Returns tiles of at most `side` x `side` pixels that cover a picture of `width` x `height` pixels.

    Neighbouring tiles share at least `overlap` pixels. All tiles have the same size. `overlap` must be less than
    `side`.
    """
    return [(x0, y0, x1, y1) for y0, y1 in _divide(height, side, overlap) for x0, x1 in _divide(width, side, overlap)]


def _divide(length: int, side: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yields the start and the end of each part of a line. Neighbouring parts share at least `overlap` pixels."""
    count = max(1, -(-(length - overlap) // (side - overlap)))
    part = min(length, -(-(length + (count - 1) * overlap) // count))
    for number in range(count):
        start = round(number * (length - part) / max(count - 1, 1))
        yield start, start + part


def _is_cut(box: np.ndarray, tile: Tile, width: int, height: int) -> bool:
    """Returns whether a box reaches a border of its tile that is not a border of the picture."""
    x0, y0, x1, y1 = tile
    left, top, right, bottom = box.tolist()
    return (
        (left < x0 + CUT_MARGIN and x0 > 0)
        or (top < y0 + CUT_MARGIN and y0 > 0)
        or (right > x1 - CUT_MARGIN and x1 < width)
        or (bottom > y1 - CUT_MARGIN and y1 < height)
    )


def _resize(image: np.ndarray, resized: np.ndarray, scale: float) -> np.ndarray:
    """Returns the image, resized by `scale`.

    `resized` is the larger result of the previous scale, or the image itself.
    """
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    if resized is image:
        return image if scale == 1 else cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(resized, (width, height), interpolation=cv2.INTER_AREA)
