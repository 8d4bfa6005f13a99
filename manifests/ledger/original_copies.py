"""Chooses which copy of a picture is the original, and says why the other copies are not.

Copies of one picture show the same face, so their measures can be compared. First, copies of about the same size form a
group. The best group has the most real detail: a smaller copy has lost detail, and an enlarged copy has gained no
detail. The copies in the best group are compared by a list of questions. The first question whose answers differ
decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from manifests.ledger.records import Face, Photo

# Copies belong to one group if the distances between their eyes differ by less than this factor (ours). The landmarks
# of copies of equal size differ by up to 5%.
_SAME_SIZE = 1.08
# A larger copy is better only if it has this many octaves more detail for each octave by which it is larger (ours).
# With .05, Likeness chose the original in 95% of 96 comparisons with a copy of half the size, and in 95% of 96
# comparisons with an enlarged copy.
_LEAST_GAIN = 0.05
# Artefacts of strong compression are measured as detail. Therefore the detail of a JPEG of quality below 50 is reduced
# by this number of octaves (ours). At quality 30, the measured detail is too high by .2 octaves at the median, and by
# at most .5.
_ARTEFACTS = 0.3
# The limits of the questions (ours). Each limit says how far a copy may be from the median of its group. In this order,
# the limits are octaves of detail, a share of clipped pixels, a share of a border, a ratio of the areas of the
# pictures, degrees of roll and degrees of yaw.
_SOFTER, _CLIPPED, _FRAMED, _CROPPED, _ROLLED, _MIRRORED = 0.12, 0.03, 0.1, 0.8, 2.5, 8.0
_COMPRESSED = 50  # a JPEG below this quality shows artefacts (ours)

_LOSSLESS = ("PNG", "TIFF", "BMP", "JPEG2000")
# The rank of each format (ours). A file whose format has a lower rank is more likely the original. Cameras write RAW,
# and telephones write HEIF and JPEG. Other formats, such as WebP, are mostly made by web sites.
_RANKS = {"RAW": 0, **dict.fromkeys(_LOSSLESS, 1), "HEIF": 2, "JPEG": 3, "MPO": 3}

SMALLER = "is smaller"
ENLARGED = "is larger, but does not show more detail"
REPEATS = "is in a picture that shows one person twice"


@dataclass(frozen=True)
class Copy:
    """One of several faces that show the same picture."""

    face: Face
    photo: Photo
    repeats: bool = False  # whether the photo shows one person twice, as a strip or a collage

    @property
    def is_compressed(self) -> bool:
        """Returns whether the file is a JPEG of low quality."""
        return (self.photo.jpeg_quality or 100) < _COMPRESSED

    @property
    def detail(self) -> float:
        """Returns the detail in octaves, without the artefacts of strong compression."""
        return float(np.log2(max(self.face.detail or 0.0, 1e-6))) - (_ARTEFACTS if self.is_compressed else 0.0)

    @property
    def area(self) -> float:
        """Returns the area of the picture, divided by the square of the distance between the eyes."""
        return self.photo.width * self.photo.height / max(self.face.inter_ocular_px, 1e-3) ** 2


def _exceed(values: Sequence[float], margin: float) -> list[bool]:
    """Returns for each value whether it is more than `margin` above the median.

    The median of two values is the lower value.
    """
    return [value > sorted(values)[(len(values) - 1) // 2] + margin for value in values]


def _find_frames(copies: Sequence[Copy]) -> list[bool]:
    return _exceed([copy.photo.border or 0.0 for copy in copies], _FRAMED)


def _find_crops(copies: Sequence[Copy]) -> list[bool]:
    """Returns for each copy whether it shows less than the share _CROPPED of what the median copy shows.

    Copies with a border do not count for the median. The median of two values is the higher value.
    """
    whole = [copy.area for copy, framed in zip(copies, _find_frames(copies), strict=True) if not framed]
    return [copy.area < _CROPPED * sorted(whole)[len(whole) // 2] for copy in copies]


def _find_turned(copies: Sequence[Copy]) -> list[bool]:
    """Returns for each copy whether it is turned or mirrored, compared with most copies.

    For one or two copies, every value is False.
    """
    if len(copies) < 3:
        return [False] * len(copies)
    roll, yaw = np.median([(copy.face.roll, copy.face.yaw) for copy in copies], axis=0)
    return [abs(copy.face.roll - roll) > _ROLLED or abs(copy.face.yaw - yaw) > _MIRRORED for copy in copies]


def _find_conversions(copies: Sequence[Copy]) -> list[int]:
    """Returns the rank of the format of each copy. A file with a lower rank is more likely the original.

    If a lossless and a lossy file have the same pixels, the lossless file was made from the lossy file, and has the
    highest rank. If the pixels differ, the lossy file was made from the lossless file.
    """
    lossy_pixels = {copy.face.crop_sha256 for copy in copies if copy.photo.format not in _LOSSLESS} - {None}
    return [
        len(_RANKS)
        if copy.photo.format in _LOSSLESS and copy.face.crop_sha256 in lossy_pixels
        else _RANKS.get(copy.photo.format or "JPEG", max(_RANKS.values()) + 1)
        for copy in copies
    ]


# Each question is a phrase that continues "this copy", and a function that returns a number for each copy of a group.
# The phrase describes the copies with the greater numbers. A copy with a greater number is less likely the original.
_QUESTIONS: tuple[tuple[str, Callable[[Sequence[Copy]], Sequence[float]]], ...] = (
    ("has no colours", lambda copies: [bool(copy.photo.gray) for copy in copies]),
    ("was converted to fewer colours", lambda copies: [" " in (copy.photo.format or "") for copy in copies]),
    ("is compressed strongly", lambda copies: [copy.is_compressed for copy in copies]),
    ("has lost its brightest parts", lambda copies: _exceed([copy.face.clipped or 0.0 for copy in copies], _CLIPPED)),
    ("has less detail", lambda copies: _exceed([-copy.detail for copy in copies], _SOFTER)),
    ("has a border", _find_frames),
    ("shows less of the picture", _find_crops),
    ("is turned or mirrored", _find_turned),
    ("does not name the camera", lambda copies: [not copy.photo.camera for copy in copies]),
    ("was converted to another format", _find_conversions),
)
NO_BETTER = "is no better"


def choose_original(copies: Sequence[Copy]) -> tuple[int, list[str]]:
    """Returns the index of the original, and the reason why each other copy is not the original.

    Each reason continues a sentence that begins with "this copy". The reason of the original is an empty text. If no
    question decides, the largest face is the original. If several faces are the largest, the face with the smallest id
    is the original. If a copy has no measure of detail, the largest copies are the best group. A photo that shows one
    person twice can be the original only if every photo shows one person twice. The result does not depend on the order
    of the copies.
    """
    single = [i for i, copy in enumerate(copies) if not copy.repeats] or list(range(len(copies)))
    groups = _group_by_size(copies, single)
    measured = all(copies[i].face.detail is not None for i in single)
    best = max(groups, key=lambda group: _rate_group([copies[i] for i in group], measured))
    members = [copies[i] for i in best]
    answers = [tuple(row) for row in zip(*(answer(members) for _, answer in _QUESTIONS), strict=True)]
    keys = [
        (*answer, -copy.face.inter_ocular_px, copy.face.face_id) for answer, copy in zip(answers, members, strict=True)
    ]
    first = min(range(len(members)), key=lambda i: keys[i])
    original = best[first]
    reasons = []
    for i, copy in enumerate(copies):
        if i == original:
            reasons.append("")
        elif i not in single:
            reasons.append(REPEATS)
        elif i not in best:
            is_smaller = copy.face.inter_ocular_px < copies[original].face.inter_ocular_px
            reasons.append(SMALLER if is_smaller else ENLARGED)
        else:
            worse = (
                phrase
                for (phrase, _), own, other in zip(_QUESTIONS, answers[best.index(i)], answers[first], strict=True)
                if own != other
            )
            reasons.append(next(worse, NO_BETTER))
    return original, reasons


def _group_by_size(copies: Sequence[Copy], indices: Sequence[int]) -> list[list[int]]:
    """Divides the indices of copies into groups of about the same size.

    If the copies of a group are sorted by size, each copy is less than _SAME_SIZE times as large as the copy before it.
    """
    order = sorted(indices, key=lambda i: (copies[i].face.inter_ocular_px, copies[i].face.face_id))
    groups = [[order[0]]]
    for before, i in pairwise(order):
        if copies[i].face.inter_ocular_px < _SAME_SIZE * copies[before].face.inter_ocular_px:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _rate_group(copies: Sequence[Copy], measured: bool) -> tuple[float, float]:
    """Returns a score of the detail of a group, and the size of its largest face.

    The score is the greatest detail minus a number that grows with the size of the faces. If `measured` is False, at
    least one copy has no measure of detail, and the score is 0.
    """
    sizes = [copy.face.inter_ocular_px for copy in copies]
    if not measured:
        return 0.0, max(sizes)
    size = float(np.log2(max(np.median(sizes), 1e-3)))
    return max(copy.detail for copy in copies) - _LEAST_GAIN * size, max(sizes)
