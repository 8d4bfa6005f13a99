"""Runs the face detector SCRFD (Guo et al. 2021) with onnxruntime, faster than insightface's model_zoo/scrfd.py.

The results are equal to the results of insightface, except for small differences (see MARGIN). Three changes save time.
Only anchors above the threshold are decoded. Images stay in RGB, so that no colour channels are swapped. Most of the
black area in the detector's square input is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

# Width of the black area beside the picture in the detector's input, in pixels (ours). On 418 web photos, we compared
# detections in the reduced input with detections in the whole square input. With a margin of 64, the detector finds the
# same 516 faces as with the whole square. The boxes have a mean IoU of .9998 with the boxes of the whole square, and
# the scores differ by at most .013. Without a margin, the mean IoU with the boxes of the whole square is .90.
MARGIN = 64
STRIDE = 32  # If the strides are not known, the sides of the input are multiples of STRIDE pixels.
OVERLAP = 0.4  # Of two boxes with an IoU above .4, only the better box remains (insightface's nms_thresh).
# The network's input is (level - 127.5) / 128 for a level from 0 to 255 (insightface's mean and std). A float32 holds
# all of these numbers exactly.
_SCALE, _SHIFT = np.float32(1 / 128), np.float32(-127.5 / 128)
# number of the network's outputs -> (strides, anchors at each grid point, whether the network returns landmarks), from
# insightface's _init_vars
_LAYOUTS = {
    6: ((8, 16, 32), 2, False),
    9: ((8, 16, 32), 2, True),
    10: ((8, 16, 32, 64, 128), 1, False),
    15: ((8, 16, 32, 64, 128), 1, True),
}

Candidates = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Scrfd:
    """An SCRFD detector.

    For each number n in `sizes`, the detector resizes the photo to fit into a square of n x n pixels. The detector then
    merges the detections of all squares.
    """

    session: Any  # Network, or onnxruntime.InferenceSession.
    sizes: Sequence[int]  # Sides of squares, in pixels.
    threshold: float  # Detections with a lower score are left out.

    @property
    def layout(self) -> tuple[tuple[int, ...], int, bool] | None:
        """Returns the strides, the number of anchors at each grid point, and whether the network returns landmarks.

        Returns None if the network is not SCRFD.
        """
        return _LAYOUTS.get(len(self.session.get_outputs()))

    @property
    def is_free(self) -> bool:
        """Returns whether the network accepts inputs of any size."""
        return all(free for *_, free in self._list_squares())

    @property
    def input_side(self) -> int:
        """Returns the longer side of the largest input, in pixels."""
        return max(max(width, height) for width, height, _ in self._list_squares())

    def detect(self, image: np.ndarray) -> Candidates:
        """Returns boxes (n, 4), landmarks (n, 5, 2) and scores (n,), all float32, of the faces in RGB uint8 (H, W, 3).

        The detections are sorted, and the best detection is first. Boxes and landmarks are in pixels of the image.
        """
        return self.detect_many([image])[0]

    def detect_many(self, images: Sequence[np.ndarray]) -> list[Candidates]:
        """Returns the result of `detect` for each image. Inputs of the same size share one run of the network.

        If the network accepts inputs of any size, both sides of each input are multiples of the largest stride, so
        photos of many shapes share a few sizes.
        """
        found: list[list[Candidates]] = [[] for _ in images]
        for square in self._list_squares():
            fitted = [self._fit(image, square) for image in images]
            for size in dict.fromkeys(size for _, _, size in fitted):
                members = [index for index, (_, _, other) in enumerate(fitted) if other == size]
                candidates = self._run([fitted[index][0] for index in members], *size)
                for index, (boxes, points, scores) in zip(members, candidates, strict=True):
                    scale = np.float32(fitted[index][1])
                    found[index].append((boxes / scale, points / scale, scores))
        return [_merge(candidates) for candidates in found]

    def _list_squares(self) -> list[tuple[int, int, bool]]:
        """Returns width and height of each input, and whether the network also accepts inputs of other sizes."""
        height, width = self.session.get_inputs()[0].shape[2:4]
        if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
            return [(width, height, False)]
        return [(side, side, True) for side in self.sizes]

    def _fit(self, image: np.ndarray, square: tuple[int, int, bool]) -> tuple[np.ndarray, float, tuple[int, int]]:
        """Resizes the image to fit one square.

        Returns the resized image, its scale, and the width and height of the network's input.
        """
        width, height, is_free = square
        # The image keeps its aspect ratio, and fills the width or the height of the square.
        ratio = image.shape[0] / image.shape[1]
        if ratio > height / width:
            new_width, new_height = int(height / ratio), height
        else:
            new_width, new_height = width, int(width * ratio)
        scale = new_height / image.shape[0]
        if is_free:  # leave out the black area of the square, except the margin
            width, height = (
                min(self._round_up(a), self._round_up(b + MARGIN))
                for a, b in ((width, new_width), (height, new_height))
            )
        return cv2.resize(image, (new_width, new_height)), scale, (width, height)

    def detect_unscaled(self, image: np.ndarray) -> Candidates:
        """Returns the same arrays as `detect`. The image (H, W, 3) is not resized, and the network runs one time.

        If the network accepts inputs of only one size, the image must not be larger than the input.
        """
        ((width, height, is_free), *_) = self._list_squares()
        if is_free:
            height, width = (self._round_up(side) for side in image.shape[:2])
        return _merge(self._run([image], width, height))

    def _round_up(self, side: int) -> int:
        """Returns `side` rounded up to the next side, in pixels, that an input of the network may have."""
        step = STRIDE if self.layout is None else max(self.layout[0])
        return -(-side // step) * step

    def _run(self, images: Sequence[np.ndarray], width: int, height: int) -> list[Candidates]:
        """Runs the network on inputs of `width` x `height` pixels, with an image in the upper left corner of each.

        Returns all detections above the threshold, even if they overlap.
        """
        blob = np.empty((len(images), 3, height, width), np.float32)
        for channels, image in zip(blob, images, strict=True):
            channels[:, image.shape[0] :] = channels[:, :, image.shape[1] :] = _SHIFT  # black
            for channel, plane in zip(channels, cv2.split(image), strict=True):
                inside = channel[: image.shape[0], : image.shape[1]]
                np.multiply(plane, _SCALE, out=inside)
                inside += _SHIFT
        outputs = self.session.run(None, {self.session.get_inputs()[0].name: blob})
        # Some networks join the anchors of all images in the first axis, and others have an axis of images.
        by_image = zip(*(output.reshape(len(images), -1, output.shape[-1]) for output in outputs), strict=True)
        return [self._decode(of_image, width) for of_image in by_image]

    def _decode(self, outputs: Sequence[np.ndarray], width: int) -> Candidates:
        """Returns boxes, landmarks and scores of the anchors above the threshold, in pixels of the network's input.

        For each stride, the network returns the score of every anchor, and the distances from the anchor's grid point
        to the four sides of the box. The network also returns the offsets of the five landmarks from the grid point.
        The unit of the distances and offsets is the stride.
        """
        assert self.layout is not None
        strides, anchors, _ = self.layout
        n = len(strides)
        boxes, points, scores = [], [], []
        for level, stride in enumerate(strides):
            score = outputs[level].reshape(-1)
            (best,) = np.nonzero(score >= self.threshold)
            row, column = np.divmod(best // anchors, width // stride)
            centre = np.stack([column, row], 1).astype(np.float32) * stride
            sides = outputs[level + n][best] * stride
            boxes.append(np.hstack([centre - sides[:, :2], centre + sides[:, 2:]]))
            points.append(centre[:, None] + outputs[level + 2 * n][best].reshape(-1, 5, 2) * stride)
            scores.append(score[best])
        return np.concatenate(boxes), np.concatenate(points), np.concatenate(scores)


def _merge(candidates: Sequence[Candidates]) -> Candidates:
    """Merges detections, and sorts them by score, the highest first.

    Of overlapping detections, the best detection remains.
    """
    boxes, points, scores = (
        np.concatenate(part).astype(np.float32, copy=False) for part in zip(*candidates, strict=True)
    )
    order = np.argsort(-scores, kind="stable")
    best = order[suppress_overlaps(boxes[order], OVERLAP)]
    return boxes[best], points[best], scores[best]


def suppress_overlaps(boxes: np.ndarray, overlap: float) -> np.ndarray:
    """Removes boxes that overlap a better box. Returns the indices of the boxes that remain.

    A box is removed if its IoU with a better box that remains is more than `overlap`. `boxes` (n, 4) are sorted, the
    best box first. As in insightface, one pixel is added to each width and each height.
    """
    x0, y0, x1, y1 = boxes.T
    areas = (x1 - x0 + 1) * (y1 - y0 + 1)
    remaining, result = np.arange(len(boxes)), []
    while remaining.size:
        best, remaining = remaining[0], remaining[1:]
        result.append(best)
        width = np.maximum(0.0, np.minimum(x1[best], x1[remaining]) - np.maximum(x0[best], x0[remaining]) + 1)
        height = np.maximum(0.0, np.minimum(y1[best], y1[remaining]) - np.maximum(y0[best], y0[remaining]) + 1)
        shared = width * height
        remaining = remaining[shared / (areas[best] + areas[remaining] - shared) <= overlap]
    return np.array(result, np.int64)
