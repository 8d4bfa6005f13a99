"""Chooses which copy of a picture is the original, and says why the other copies are not.

Copies of one picture show the same face, so their measures can be compared. First, the copies are divided into groups
of about the same size. The best group has the most real detail. A smaller copy has lost detail, and an enlarged copy
has gained no detail. Then a list of questions compares the copies in the best group. The first question with different
answers decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from manifests.ledger.records import Face, Photo

# Copies belong to one group if the distances between their eyes differ by less than this factor (ours). In copies of
# equal size, these distances differ by up to 5%.
_SAME_SIZE = 1.08
# To be the better copy, a larger copy must have more detail: at least this many octaves (ours) for each octave by which
# the copy is larger. An octave is a factor of 2. With .05, Likeness chose the original in 95% of 96 comparisons with a
# copy of half the size, and in 95% of 96 comparisons with an enlarged copy.
_LEAST_GAIN = 0.05
# The measure of detail also counts artefacts of strong compression. The detail of a JPEG of quality below 50 is
# therefore reduced by this number of octaves (ours). At quality 30, the measure was too high by .2 octaves at the
# median, and by .5 octaves at most.
_ARTEFACTS = 0.3
# How far a copy may be from the median of its group (ours). In this order: octaves of detail, share of clipped pixels,
# share of the picture that is a border, ratio of the shown areas, degrees of roll, degrees of yaw.
_SOFTER, _CLIPPED, _FRAMED, _CROPPED, _ROLLED, _MIRRORED = 0.12, 0.03, 0.1, 0.8, 2.5, 8.0
_COMPRESSED = 50  # a JPEG of a quality below this number (ours) counts as strongly compressed

_LOSSLESS = ("PNG", "TIFF", "BMP", "JPEG2000")
# The rank of each format (ours). A file whose format has a lower rank is more likely the original. Cameras write RAW,
# and phones write HEIF and JPEG. Web sites write most files in other formats, such as WebP.
_RANKS = {"RAW": 0, **dict.fromkeys(_LOSSLESS, 1), "HEIF": 2, "JPEG": 3, "MPO": 3}

SMALLER = "is smaller"
ENLARGED = "is larger, but does not show more detail"
REPEATS = "is in a picture that shows one person twice"


@dataclass(frozen=True)
class Copy:
    """One of several faces that show the same picture."""

    face: Face
    photo: Photo
    repeats: bool = False  # whether the photo shows one person twice, for example in a collage

    @property
    def is_compressed(self) -> bool:
        """Returns whether the file is a strongly compressed JPEG."""
        return (self.photo.jpeg_quality or 100) < _COMPRESSED

    @property
    def detail(self) -> float:
        """Returns the detail in octaves, without the artefacts of strong compression."""
        return float(np.log2(max(self.face.detail or 0.0, 1e-6))) - (_ARTEFACTS if self.is_compressed else 0.0)

    @property
    def area(self) -> float:
        """Returns the area that the picture shows, in units of the squared distance between the eyes."""
        return self.photo.width * self.photo.height / max(self.face.inter_ocular_px, 1e-3) ** 2


def _exceed(values: Sequence[float], margin: float) -> list[bool]:
    """Returns for each value whether it exceeds the median by more than `margin`.

    For an even number of values, the median is the lower of the two values in the middle.
    """
    return [value > sorted(values)[(len(values) - 1) // 2] + margin for value in values]


def _find_frames(copies: Sequence[Copy]) -> list[bool]:
    return _exceed([copy.photo.border or 0.0 for copy in copies], _FRAMED)


def _find_crops(copies: Sequence[Copy]) -> list[bool]:
    """Returns for each copy whether it shows less than _CROPPED times the median area.

    Copies with a border do not count for the median. For an even number of copies, the median is the higher value in
    the middle.
    """
    whole = [copy.area for copy, framed in zip(copies, _find_frames(copies), strict=True) if not framed]
    return [copy.area < _CROPPED * sorted(whole)[len(whole) // 2] for copy in copies]


def _find_turned(copies: Sequence[Copy]) -> list[bool]:
    """Returns for each copy whether it is turned or mirrored in comparison with most copies.

    With fewer than three copies, all values are False.
    """
    if len(copies) < 3:
        return [False] * len(copies)
    roll, yaw = np.median([(copy.face.roll, copy.face.yaw) for copy in copies], axis=0)
    return [abs(copy.face.roll - roll) > _ROLLED or abs(copy.face.yaw - yaw) > _MIRRORED for copy in copies]


def _find_conversions(copies: Sequence[Copy]) -> list[int]:
    """Returns a rank for each copy. A copy with a lower rank is more likely the original.

    The rank is that of the format, with one exception. A lossless file with the same pixels as a lossy file was made
    from the lossy file, and gets a high rank.
    """
    lossy_pixels = {copy.face.crop_sha256 for copy in copies if copy.photo.format not in _LOSSLESS} - {None}
    return [
        len(_RANKS)
        if copy.photo.format in _LOSSLESS and copy.face.crop_sha256 in lossy_pixels
        else _RANKS.get(copy.photo.format or "JPEG", max(_RANKS.values()) + 1)
        for copy in copies
    ]


# Each question has a function that returns a number for each copy of a group. A copy with a greater number is less
# likely the original. The phrase describes such a copy, and continues a sentence that begins with "this copy".
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

    Each reason continues a sentence that begins with "this copy". The reason of the original is an empty text. If the
    answers to all questions are equal, the largest face is the original. Among several largest faces, the face with the
    smallest id is the original. If a copy has no measure of detail, the group of the largest copies is the best group.
    A copy in a photo that shows one person twice can be the original only if all copies are in such photos. The result
    does not depend on the order of the copies.
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
    """Divides the indices of copies into groups of copies of about the same size.

    The copies are sorted by size. A copy begins a new group if its size is at least _SAME_SIZE times the size before.
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

    The score is the greatest detail in the group, minus _LEAST_GAIN times log2 of the median size. If `measured` is
    False, the score is 0, because at least one copy has no measure of detail.
    """
    sizes = [copy.face.inter_ocular_px for copy in copies]
    if not measured:
        return 0.0, max(sizes)
    size = float(np.log2(max(np.median(sizes), 1e-3)))
    return max(copy.detail for copy in copies) - _LEAST_GAIN * size, max(sizes)
