"""Gives a restored face the colours and the shading of its input, if the recognizer finds both faces very similar.

A network that adds detail also changes colours and shading a little, so colours and shading are taken from the input.
StableSR's colour fix corrects the low frequencies in the same way. The condition for this correction and both numbers
in this file are ours.
"""

from __future__ import annotations

import cv2
import numpy as np

from train.data.face_measures import InputFace, estimate_resolution

# The input counts as readable if the recognizer finds the input and the result very similar: their cosine is at least
# `same_person` plus this share of the way from `same_person` to 1. Almost all really degraded faces of
# benchmarks/real_photos.py are readable. Of the test faces that the preset codeformer degraded, 36% are readable. If
# all test faces were corrected, the coarse form of the worst inputs would undo the restoration: 4 in 100 faces would no
# longer be counted as their person.
READABLE_SHARE = 0.55
# Standard deviation of the blur that separates the coarse form, in pixels of the input's own resolution. The correction
# undoes the coarse part of the change that the network made. With .5, the correction undoes 73% of a pattern that
# repeats every 4 of these pixels, and nearly all of a coarser change. With a wider blur, the correction undoes less of
# the change. With a narrower blur, the correction also undoes the sharpening: with .4, the sharpness falls visibly.
BLUR = 0.5


def keep_coarse_form(face: InputFace, restored: np.ndarray, cosine: float, same_person: float) -> np.ndarray:
    """Returns the restored face with the low frequencies of the input, or `restored` if the input is not readable.

    `restored` and the result are float32 (S, S, 3) in 0..255. The result can be slightly outside this range. `cosine`
    is the recognizer's cosine of the input and `restored`. `same_person` is the recognizer's threshold: faces with a
    mean cosine of `same_person` or more count as one person.
    """
    if cosine < same_person + READABLE_SHARE * (1 - same_person):
        return restored
    blur = BLUR * face.crop.shape[0] / estimate_resolution(face)
    return restored + cv2.GaussianBlur(face.crop - restored, (0, 0), blur)
