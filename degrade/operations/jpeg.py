"""JPEG as cameras write it: baseline, 4:2:0."""

from __future__ import annotations

import cv2
import numpy as np

from degrade.operations.pixels import Image, to_float, to_uint8
from manifests.errors import BadInput


def jpeg_bytes(image: Image, quality: int) -> bytes:
    """The JPEG file, baseline 4:2:0, of the picture clipped and rounded to 8 bits.

    OpenCV's encoder takes BGR, so channels are turned around it: YCbCr then weighs red as red. An engine that hands
    RGB to the same encoder swaps the weights of red and blue and gets another picture at the same quality.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(to_uint8(image), cv2.COLOR_RGB2BGR), options)
    if not done:
        raise BadInput(f"A picture of {image.shape[1]} x {image.shape[0]} pixels does not fit into a JPEG.")
    return data.tobytes()


def jpeg(image: Image, quality: int) -> Image:
    """Compress and decompress; the result has 8-bit values."""
    decoded = cv2.imdecode(np.frombuffer(jpeg_bytes(image, quality), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded a line ago
    return to_float(np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8))
