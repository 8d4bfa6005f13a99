"""Decides whether a restored face is worse than the face in the photo. A worse face is not used.

`LIMITS` has all thresholds, which are ours. The command `python benchmarks/harm_limits.py DATASET --run RUN` checks
them on people of the split `val`. The command degrades and restores faces. A result counts as better if it is nearer to
the true face than its input is. For each measure, the command prints the limit that 95% of the better results pass. We
ran the command on 2026-11-28, on 192 results of recipe `tiny`, with the limits of that day: 91% of the better results
passed all limits, and 22% of the worse results failed a limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.data.face_measures import InputFace, measure_agreement, measure_fineness, measure_sharpness_ratio

RESTORED = "restored"
# The reasons for which a face is kept as it is in the photo.
ALREADY_SHARP = "already_sharp"
NO_REFERENCE = "no_reference"  # The restorer needs a reference, and no reference shows the person of the face.
# ReFineFIR must warp every reference to the landmarks of the face, and these landmarks were not found.
NO_LANDMARKS = "no_landmarks"
LESS_SHARP = "less_sharp"
LESS_ALIKE = "less_alike"  # The restored face is less like the references than the face in the photo is.
OTHER_FACE = "other_face"  # There are no references, and the restored face is not like the face in the photo.
DISAGREES = "disagrees"


@dataclass(frozen=True)
class HarmLimits:
    """Holds the thresholds for a restored face. All thresholds are ours; see the docstring of this file."""

    # A face with at least this fineness is already sharp, if its crop covers as many photo pixels as the restorer
    # writes. Most sharp photos have .30 or more. Of the 67 faces in the photos of benchmarks/real_photos.py, 66 have
    # .22 or less.
    max_fineness: float = 0.30
    # The sharpness of the result must be at least this number times the sharpness of the input. A difference of 5% is
    # not visible.
    min_sharpness_ratio: float = 0.95
    # The restoration must not lower the mean cosine to the references by more than this number. We measured results
    # with dlib's recognizer. Of the results that are nearer to the true face than their input, 95% keep this limit.
    max_identity_loss: float = 0.006
    # Without references, the cosine of result and input must be at least `same_person` plus this share of the way from
    # `same_person` to 1. The limit is not a fixed cosine, because each recognizer has its own scale.
    min_identity_to_input: float = 0.0
    # The PSNR between the result and the input, both shrunk to the input's resolution, must be at least this number in
    # dB.
    min_agreement: float = 24.0


LIMITS = HarmLimits()


@dataclass(frozen=True)
class HarmMeasures:
    """Holds the measures of one restored face, which `find_harm` compares with the thresholds."""

    fineness: float  # The fineness of the input, see `measure_fineness`.
    sharpness_ratio: float  # The sharpness of the result divided by the sharpness of the input.
    agreement: float  # The PSNR between result and input in dB, see `measure_agreement`.
    identity_before: float | None  # The mean cosine of the input to the references; None without references.
    # The mean cosine of the result to the references. Without references, the cosine of the result to the input.
    identity_after: float


def is_already_sharp(face: InputFace, limits: HarmLimits) -> bool:
    """Returns whether a face is already sharper than a restored face would be. See `HarmLimits.max_fineness`."""
    return face.own_size >= face.crop.shape[0] and measure_fineness(face) >= limits.max_fineness


def measure_harm(
    face: InputFace, result: np.ndarray, embeddings: tuple[np.ndarray, np.ndarray], references: np.ndarray
) -> HarmMeasures:
    """Returns the measures of a result, uint8 (S, S, 3).

    `embeddings` are the unit embeddings (d,) of the input and of the result. `references` are the unit embeddings
    (K, d) of the references that were used. K can be 0.
    """
    before, after = embeddings
    return HarmMeasures(
        round(measure_fineness(face), 3),
        round(measure_sharpness_ratio(face, result), 3),
        round(measure_agreement(face, result), 1),
        round(float((references @ before).mean()), 3) if len(references) else None,
        round(float((references @ after).mean() if len(references) else before @ after), 3),
    )


def find_harm(measures: HarmMeasures, same_person: float, limits: HarmLimits) -> tuple[str, str] | None:
    """Returns (reason, explanation) if the result is worse than the input, otherwise None.

    `same_person` is the recognizer's threshold for two faces of one person. The explanation continues a sentence like
    "The face was kept, because".
    """
    before, after = measures.identity_before, measures.identity_after
    if before is not None and after < before - limits.max_identity_loss:
        return LESS_ALIKE, (
            f"the restored face is less like the references than the face in the photo is (mean cosine {after:.3f}, "
            f"before {before:.3f})"
        )
    least = same_person + limits.min_identity_to_input * (1 - same_person)
    if before is None and after < least:
        return OTHER_FACE, (
            f"the restored face is not like the face in the photo (cosine {after:.2f}, at least {least:.2f} needed)"
        )
    if measures.sharpness_ratio < limits.min_sharpness_ratio:
        return LESS_SHARP, (
            f"the restored face has {measures.sharpness_ratio:.0%} of the sharpness of the face in the photo (at least "
            f"{limits.min_sharpness_ratio:.0%} needed)"
        )
    if measures.agreement < limits.min_agreement:
        return DISAGREES, (
            f"the restored face differs too much from the face in the photo when both are blurred (PSNR "
            f"{measures.agreement:.1f} dB, at least {limits.min_agreement:g} needed)"
        )
    return None
