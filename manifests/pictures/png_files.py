"""Writes the PNG files of Likeness, and reads these files without the checks for untrusted pictures."""

from __future__ import annotations

import cv2
import numpy as np

from manifests.errors import BadInput

# Crops are written with one filter for every row, and with Huffman codes only (ours, see docs/speed.md). OpenCV's
# default tries five filters for each row and searches for repeated bytes. The default takes 2.4 times as long as these
# settings. The files of the default are only 9% smaller than our files, because photos hardly repeat bytes.
CROP_PNG = (
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_AVG,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY,
)
# The settings of frozen LQ images never change, because the ledger records the sha256 of each image.
LQ_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT)


def encode_png(rgb: np.ndarray, settings: tuple[int, ...] = ()) -> bytes:
    """Returns uint8 RGB (H, W, 3) as a PNG without metadata.

    `settings` are OpenCV's PNG settings. If `settings` is empty, OpenCV uses its defaults. The same pixels and settings
    give the same bytes in every run of the same build of OpenCV. Raises BadInput if the picture is too large for a PNG.
    """
    encoded, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR), settings)
    if not encoded:
        size = f"{rgb.shape[1]} x {rgb.shape[0]} pixels"
        raise BadInput(f"A picture of {size} is too large for a PNG. Give a smaller picture.")
    return data.tobytes()


def decode_own_png(data: bytes) -> np.ndarray | None:
    """Returns the pixels of a PNG that Likeness wrote, uint8 RGB (H, W, 3), or None if the data is broken or empty."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    return None if image is None else np.asarray(image)
