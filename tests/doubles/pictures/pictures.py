"""Makes a picture of four colours, saves pictures in any format, and compares two such pictures."""

import io

import numpy as np
from PIL import Image

# The picture has four quarters of plain colour. JPEG hardly changes these colours, and each turn of the picture puts
# them into another order.
COLOURS = [[(200, 30, 40), (30, 180, 60)], [(40, 60, 210), (230, 220, 50)]]


def quarters(height: int = 48, width: int = 64) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for row in (0, 1):
        for column in (0, 1):
            image[row * height // 2 :, column * width // 2 :] = COLOURS[row][column]
    return image


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def close(found: np.ndarray, wanted: np.ndarray, by: int) -> bool:
    """Returns whether all values differ by at most `by`, except near the edges of the quarters."""
    away = np.ones(wanted.shape[:2], bool)
    h, w = away.shape
    away[h // 2 - 9 : h // 2 + 9] = False
    away[:, w // 2 - 9 : w // 2 + 9] = False
    return found.shape == wanted.shape and int(np.abs(found.astype(int) - wanted)[away].max()) <= by
