"""Keeps what the input shows clearly in a restored face.

A network that adds detail also moves colours and shading a little. Where the input resolves them, the input is right.
Correcting the low frequencies is known from StableSR's colour fix. The condition and both numbers are ours.
"""

from __future__ import annotations

import cv2
import numpy as np

from train.data.face_measures import InputFace, estimate_resolution

# The input counts as readable if the result is very like it to the recognizer: the cosine of the two is at least
# `same_person` plus this share of the way from `same_person` to 1. Almost all really degraded faces of
# benchmarks/real_photos.py reach it. Of the test faces degraded by the preset codeformer 36% do. If all were corrected,
# the coarse form of the worst would undo what the restorer found: 4 in 100 would not be counted as their person.
READABLE_SHARE = 0.55
# Standard deviation of the blur that separates the coarse form, in pixels of the input's own resolution. With .5, 73%
# of a change with a period of 4 such pixels is undone, and nearly all of a coarser change. A wider blur undoes less. A
# narrower blur undoes the sharpening: at .4 the sharpness falls visibly.
BLUR = 0.5


def keep_coarse_form(face: InputFace, restored: np.ndarray, cosine: float, same_person: float) -> np.ndarray:
    """Returns the restored face with the low frequencies of the input, or the same face if the input is not readable.

    `restored` and the result are float32 (S, S, 3) in 0..255, and the result may leave this range a little. `cosine` is
    the recognizer's cosine of the input and `restored`. `same_person` is its lowest mean cosine for one person.
    """
    if cosine < same_person + READABLE_SHARE * (1 - same_person):
        return restored
    blur = BLUR * face.crop.shape[0] / estimate_resolution(face)
    return restored + cv2.GaussianBlur(face.crop - restored, (0, 0), blur)
