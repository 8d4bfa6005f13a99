"""Makes the 68 iBUG points of a face whose five landmarks are at the FFHQ template, in place of dlib's points."""

import numpy as np

from curate.faces.align import FFHQ_512


def mean_face() -> np.ndarray:
    """Returns 68 points, float64 (68, 2), in pixels of a 512 px crop."""
    left, right, nose, mouth_left, mouth_right = FFHQ_512
    turn = np.linspace(np.pi, 0, 17)
    jaw = np.stack([256 + 160 * np.cos(turn), 240 + 230 * np.sin(turn)], 1)
    arc = np.linspace(-45, 45, 5)
    brows = [np.stack([eye[0] + arc, eye[1] - 45 + arc**2 / 200], 1) for eye in (left, right)]
    bridge = np.linspace([256, 245], nose, 4)
    nostrils = nose + np.stack([np.linspace(-25, 25, 5), [15, 20, 24, 20, 15]], 1)
    ring = np.arange(6) * np.pi / 3
    eyes = [eye + np.stack([-22 * np.cos(ring), -10 * np.sin(ring)], 1) for eye in (left, right)]
    middle, half = (mouth_left + mouth_right) / 2, (mouth_right[0] - mouth_left[0]) / 2
    circle = np.arange(1, 12) * np.pi / 6
    lips = middle + np.stack([-half * np.cos(circle), -22 * np.sin(circle)], 1)
    lips[5] = mouth_right
    small = np.arange(8) * np.pi / 4
    inside = middle + np.stack([-0.7 * half * np.cos(small), -8 * np.sin(small)], 1)
    return np.concatenate([jaw, *brows, bridge, nostrils, *eyes, mouth_left[None], lips, inside])
