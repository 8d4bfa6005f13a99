"""Gives a restored face the colours and the shading of its input, if the recognizer finds both faces very similar.

A network that adds detail also changes colours and shading a little. The correction replaces the low frequencies of the
result by those of the input, as StableSR's colour fix does. The condition and both numbers in this file are ours.
"""

from __future__ import annotations

import cv2
import numpy as np

from train.data.face_measures import InputFace, estimate_resolution

# A face is corrected if the cosine of input and result is at least `same_person` plus this share of the way from
# `same_person` to 1. The cosine is high enough for almost all degraded faces in the real photos of
# benchmarks/real_photos.py, and for 36% of the test faces that were degraded by the preset codeformer. If all test
# faces were corrected, 4 in 100 would no longer be counted as their person, because the worst inputs would undo the
# restoration.
READABLE_SHARE = 0.55
# The standard deviation of the blur that gives the low frequencies, in pixels of the input's own resolution. With .5,
# the correction undoes 73% of a change that repeats every 4 pixels, and nearly all of a coarser change. With a wider
# blur, the correction undoes less. With a narrower blur, the correction also undoes the sharpening: with .4, the
# sharpness falls visibly.
BLUR = 0.5


def keep_coarse_form(face: InputFace, restored: np.ndarray, cosine: float, same_person: float) -> np.ndarray:
    """Returns the restored face with the low frequencies of the input, or `restored` if the cosine is too low.

    `restored` is float32 (S, S, 3) in 0..255. The result can be slightly outside this range. `cosine` is the
    recognizer's cosine of the input and `restored`. `same_person` is the recognizer's threshold for two faces of one
    person.
    """
    if cosine < same_person + READABLE_SHARE * (1 - same_person):
        return restored
    blur = BLUR * face.crop.shape[0] / estimate_resolution(face)
    return restored + cv2.GaussianBlur(face.crop - restored, (0, 0), blur)
