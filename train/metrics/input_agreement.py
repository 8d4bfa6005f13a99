"""Measures whether a restored face is consistent with the LQ image, by a blur that brings it back to the LQ image.

Sets of real LQ images have no targets, and nobody knows their degradation. A good restoration agrees with its input in
all that the input still shows.
"""

from __future__ import annotations

import cv2
import numpy as np

# The standard deviations of the Gaussian blurs, as fractions of the side of the image (ours). 0 is no blur. The others
# go from 1 px to 23 px for a side of 512 px, each about 1.4 times the one before.
BLURS = (0.0, *(0.002 * 2 ** (step / 2) for step in range(10)))
LARGEST = 100.0  # In dB (ours): the largest value, which equal images get. Our metric PSNR has the same limit.


def agree_with_input(restored: np.ndarray, lq: np.ndarray) -> float:
    """Returns how well a blurred version of the restored image explains the LQ image, in dB (ours).

    Both images are RGB uint8 (S, S, 3). The restored image is blurred by each of BLURS. The value is the PSNR between
    the LQ image and the blurred image that is nearest to it. The blur stands for the unknown degradation. The noise and
    the JPEG blocks of the LQ image cannot be explained by a blur, so they limit the value. The limit is the same for
    all restorations of an LQ image. The LQ image itself has the value 100, and a blurred LQ image has a high value too.
    A low value therefore shows a wrong restoration, but a high value does not show a good one.
    """
    image, truth, side = restored.astype(np.float32), lq.astype(np.float32), restored.shape[0]
    errors = []
    for blur in BLURS:
        blurred = cv2.GaussianBlur(image, (0, 0), blur * side, borderType=cv2.BORDER_REFLECT_101) if blur else image
        errors.append(float(np.mean((blurred - truth) ** 2, dtype=np.float64)))
    least = min(errors)
    return LARGEST if least == 0 else min(float(10 * np.log10(255**2 / least)), LARGEST)
