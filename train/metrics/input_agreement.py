"""Measures whether a restored face is consistent with the LQ image: whether a blur turns the face into this image.

The metric needs no target and no knowledge of the degradation, so it also works for sets of real LQ images.
"""

from __future__ import annotations

import cv2
import numpy as np

# The standard deviations of the Gaussian blurs, as fractions of the side of the image (ours). 0 is no blur. Each value
# after 0.002 is sqrt(2) times the value before it. At 512 px, the values are 1 px to 23 px.
BLURS = (0.0, *(0.002 * 2 ** (step / 2) for step in range(10)))
LARGEST = 100.0  # the value for equal images, in dB (ours); it is also the largest value of our metric PSNR


def agree_with_input(restored: np.ndarray, lq: np.ndarray) -> float:
    """Returns the largest PSNR between the LQ image and the restored image after one of BLURS, in dB (ours).

    Both images are RGB uint8 (S, S, 3). The blur stands for the unknown degradation. A blur cannot produce the noise
    and the JPEG blocks of the LQ image, so they limit the value of all restorations of this image. A low value shows
    that a restoration contradicts its input. A high value does not show that a restoration is good: the LQ image itself
    has the value 100.
    """
    image, truth, side = restored.astype(np.float32), lq.astype(np.float32), restored.shape[0]
    errors = []
    for blur in BLURS:
        blurred = cv2.GaussianBlur(image, (0, 0), blur * side, borderType=cv2.BORDER_REFLECT_101) if blur else image
        errors.append(float(np.mean((blurred - truth) ** 2, dtype=np.float64)))
    least = min(errors)
    return LARGEST if least == 0 else min(float(10 * np.log10(255**2 / least)), LARGEST)
