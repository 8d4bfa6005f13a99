"""What a curation run is told: one frozen dataclass a stage, with the source of each number."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any


@dataclass(frozen=True)
class ScreenRules:
    """A face outside these bounds is dropped with a reason; its row, box and measures stay."""

    # 16 px between the eyes is a 65 px face; below that an ArcFace crop is enlarged more than twice (ours)
    min_inter_ocular_px: float = 16.0
    # on the detector's own scale; None takes the detector's own figure (SCRFD .5, insightface's default; dlib .3, ours)
    min_det_score: float | None = None
    # measured on 836 web photos: the softest 2% lie below .12, out-of-focus backgrounds and upscaled thumbnails (ours)
    min_sharpness: float = 0.12
    # beyond 75 degrees one eye is hidden and five-point alignment no longer means much (ours)
    max_abs_yaw: float = 75.0
    max_abs_pitch: float = 60.0
    # mean luma of the inner face, 0..1; outside it detail is clipped (ours)
    min_exposure: float = 0.08
    max_exposure: float = 0.95
    # a box may reach this far outside the photo, as a share of its own size (ours): cut faces make poor targets
    max_outside: float = 0.25


@dataclass(frozen=True)
class DedupeRules:
    """When two faces are the same picture again.

    Ours, measured on web photos: re-encoded at quality 40 or halved, a photo's 64-bit hash moves by at most 4 bits,
    while distinct photos of one person lie 10 and more apart.
    """

    # the photos' 64-bit hashes differ in at most this many bits, the faces are at least this alike, and their boxes lie
    # in the same place: intersection over union in units of the photo. Place alone tells apart the people of a picture
    # for recognizers whose strangers are alike (dlib's reach a cosine of .9).
    max_photo_bits: int = 6
    min_cosine_same_photo: float = 0.35
    min_overlap_same_photo: float = 0.5
    # or, for recropped pictures: the aligned faces' 256-bit hashes differ in at most this many bits (of 12,480 pairs of
    # distinct photos of one person, 3 do), and the faces are at least this alike, and as alike as one person's must be
    max_face_bits: int = 54
    min_cosine_same_face: float = 0.80


@dataclass(frozen=True)
class GroupRules:
    """How faces become people."""

    neighbours: int = 64
    same_person: float | None = None  # mean cosine; None takes the recognizer's own figure
    one_person_may_appear_twice: bool = False  # in one photo: for collages and mirrors


@dataclass(frozen=True)
class SplitRules:
    """How people become train, val and test."""

    policy: str = "identity"  # or "photos", for a collection of one person
    val: float = 0.1
    test: float = 0.1


@dataclass(frozen=True)
class CurateConfig:
    """Everything a curation run is told."""

    faces: str = "auto"
    landmarks: str | None = None  # "dlib" fills landmarks68
    labels: str | None = None  # folder or FILE.csv as truth; hint, hint:FILE.csv
    screen: ScreenRules = field(default_factory=ScreenRules)
    dedupe: DedupeRules = field(default_factory=DedupeRules)
    group: GroupRules = field(default_factory=GroupRules)
    split: SplitRules = field(default_factory=SplitRules)


def config_from(told: Mapping[str, Any], kind: Any = CurateConfig) -> Any:
    """The configuration that `dataclasses.asdict` wrote down; what is not in it keeps its default."""
    types = typing.get_type_hints(kind)
    values = {name: value for name, value in told.items() if name in types}
    for name, value in values.items():
        if is_dataclass(types[name]):
            values[name] = config_from(value, types[name])
        elif isinstance(value, list):  # JSON has no tuples
            values[name] = tuple(value)
    return kind(**values)
