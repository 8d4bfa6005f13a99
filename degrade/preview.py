"""Makes the contact sheet of `likeness preview`, which shows one image degraded by several presets and seeds."""

from __future__ import annotations

import cv2
import numpy as np

from degrade.operations.apply import apply
from degrade.operations.pixels import Pixels, shrink, to_float, to_uint8
from degrade.sampling import Preset, sample_theta

_GAP, _LABEL = 6, 22  # pixels


def make_contact_sheet(
    pixels: Pixels, presets: list[Preset], seeds: list[int], size: int = 512, tile: int = 192
) -> Pixels:
    """Returns a sheet with one row for each preset: the clean image, then one degraded image for each seed.

    `pixels` and the sheet are uint8 RGB (H, W, 3). If the longer side of the image is larger than `size`, the image is
    reduced to `size` before the degradation. On the sheet, the longer side of each image is at most `tile` pixels.
    Every θ is drawn with the key "preview". Raises BadInput if the image is too small for one of the θ.
    """
    clean = shrink(pixels, size)
    rows = [[_tile(clean, f"{preset.name}: clean", tile)] for preset in presets]
    for row, preset in zip(rows, presets, strict=True):
        for seed in seeds:
            degraded = to_uint8(apply(to_float(clean), sample_theta(preset, seed, "preview")))
            row.append(_tile(degraded, f"seed {seed}", tile))
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def _tile(pixels: Pixels, label: str, tile: int) -> Pixels:
    small = shrink(pixels, tile)
    height, width = small.shape[:2]
    sheet = np.full((tile + _LABEL + _GAP, tile + _GAP, 3), 255, np.uint8)
    top, left = (tile - height) // 2, (tile - width) // 2
    sheet[_LABEL + top : _LABEL + top + height, left : left + width] = small
    cv2.putText(sheet, label, (2, _LABEL - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return sheet
