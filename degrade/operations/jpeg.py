"""Compresses images as cameras do, as baseline JPEG with 4:2:0 chroma."""

from __future__ import annotations

import cv2
import numpy as np

from degrade.operations.pixels import Image, to_float, to_uint8
from manifests.errors import BadInput


def jpeg_bytes(image: Image, quality: int) -> bytes:
    """Clips the image, rounds it to 8 bits, and returns it as a baseline 4:2:0 JPEG file.

    OpenCV's encoder expects BGR, so `jpeg_bytes` reverses the channels. A program that passes RGB to OpenCV's encoder
    swaps the weights of red and blue in YCbCr. With swapped weights, the same quality gives a different image. Raises
    BadInput if the image is too large for a JPEG.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(to_uint8(image), cv2.COLOR_RGB2BGR), options)
    if not done:
        raise BadInput(
            f"An image of {image.shape[1]} x {image.shape[0]} pixels is too large for a JPEG: take a smaller image."
        )
    return data.tobytes()


def jpeg(image: Image, quality: int) -> Image:
    """Compresses the image as a JPEG and decompresses it. The decompressed image has 8-bit values."""
    decoded = cv2.imdecode(np.frombuffer(jpeg_bytes(image, quality), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None  # `jpeg_bytes` returns a valid JPEG file
    return to_float(np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8))
