"""Sets the size of the images in the HTML pages of `evaluate` and `restore`, and encodes these images."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from degrade.operations.pixels import shrink

SCREEN_PIXELS = 176  # The side of an image on the page, in pixels of the screen.
FILE_PIXELS = 256  # The largest side of an encoded image in pixels.
WEBP_QUALITY = 82
MAX_REFERENCES = 4  # the page shows at most this number of references of a face


def encode_image(image: np.ndarray, size: int = FILE_PIXELS) -> str:
    """Returns an image, uint8 (S, S, 3), as a data URL of a WebP with at most `size` pixels a side."""
    small = shrink(image, size) if image.shape[0] > size else image
    done, data = cv2.imencode(
        ".webp", np.ascontiguousarray(small[:, :, ::-1]), [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY]
    )
    assert done
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()
