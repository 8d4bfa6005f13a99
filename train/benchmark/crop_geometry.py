"""Describes where a crop lies in its photo, and finds the pixels of the crop that come from the photo.

A dataset and a benchmark of the same photos have equal geometries, so the valid pixels of an image are equal in the
dataset and in the benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curate.faces.align import find_valid_pixels
from manifests.ledger.ledger import Ledger

# Landmarks are rounded to this number of digits (ours), because the last bits of a detection differ between machines.
# Landmarks are shares of the sides of the photo. If a photo is 4,000 pixels wide, the sixth digit stands for .004
# pixels.
DIGITS = 6


@dataclass(frozen=True)
class CropGeometry:
    """Holds the position of an aligned crop in its photo."""

    landmarks: tuple[float, ...]  # x, y of the five landmarks, as fractions of the photo's width and height.
    photo_size: tuple[int, int]  # Width and height of the photo in pixels.

    def find_valid(self, size: int) -> np.ndarray:
        """Returns bool (size, size): False for each pixel that is computed from pixels outside the photo."""
        points = np.array(self.landmarks).reshape(5, 2) * self.photo_size
        return find_valid_pixels(points, *self.photo_size, size)

    def check(self) -> None:
        """Raises ValueError or TypeError if no crop can have this geometry."""
        width, height = self.photo_size
        if not (isinstance(width, int) and isinstance(height, int) and min(width, height) >= 1):
            raise ValueError("photo size")
        if len(self.landmarks) != 10 or not all(map(math.isfinite, self.landmarks)):
            raise ValueError("landmarks")
        self.find_valid(16)


def read_geometries(ledger: Ledger, face_ids: Sequence[str]) -> dict[str, CropGeometry]:
    """Returns the geometry of each face, by face id."""
    rows = ledger.query(
        "SELECT f.face_id, f.landmarks5, p.width, p.height FROM faces f JOIN photos p USING (photo_id) "
        "WHERE list_contains(?, f.face_id)",
        list(face_ids),
    )
    return {
        face: CropGeometry(
            tuple(round(float(point) / side, DIGITS) for point, side in zip(points, (width, height) * 5, strict=True)),
            (width, height),
        )
        for face, points, width, height in rows.iter_rows()
    }
