"""PNG files that Likeness writes itself: encoded here, and read back without the checks for pictures of others."""

from __future__ import annotations

import cv2
import numpy as np

from manifests.errors import BadInput

# Crops: one filter for every row and Huffman codes alone (ours: docs/speed.md). OpenCV's default tries five filters a
# row and looks for matches, which photos hardly have: 2.4 times the time for 9% less.
CROP_PNG = (
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_AVG,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY,
)
# Frozen LQ images: their sha256 is recorded, so these settings never change.
LQ_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT)


def encode_png(rgb: np.ndarray, settings: tuple[int, ...] = ()) -> bytes:
    """Returns uint8 RGB (H, W, 3) as a PNG without metadata; `settings` are OpenCV's, () for its defaults.

    The same pixels and settings give the same bytes under the same build of OpenCV. Raises BadInput if the picture
    does not fit into a PNG.
    """
    encoded, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR), settings)
    if not encoded:
        raise BadInput(f"A picture of {rgb.shape[1]} x {rgb.shape[0]} pixels does not fit into a PNG.")
    return data.tobytes()


def decode_own_png(data: bytes) -> np.ndarray | None:
    """Returns a PNG that Likeness wrote as uint8 RGB (H, W, 3), or None if it is broken or empty."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    return None if image is None else np.asarray(image)
