"""What a curation run is told: one frozen dataclass a stage, with the source of each number."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from manifests.errors import BadInput
from manifests.ledger.filters import Filter, FilterSet

# A face of which a predicate is true is dropped with its reason; its row, box and measures stay. Predicates are over
# the columns of `faces` and its photo's width and height; `detector_min_score` stands for the detector's own figure
# (SCRFD .5, insightface's default; dlib .3, ours).

DEFAULT = FilterSet(
    "default",
    1,
    (
        # 16 px between the eyes is a 65 px face; below that an ArcFace crop is enlarged more than twice (ours)
        Filter("too_small", "inter_ocular_px < 16"),
        Filter("low_score", "det_score < detector_min_score"),
        # a box may reach this far outside the photo, as a share of its own size (ours): cut faces make poor targets
        Filter(
            "cut_by_border",
            "greatest(-box[1], box[3] - width) > 0.25 * (box[3] - box[1]) OR "
            "greatest(-box[2], box[4] - height) > 0.25 * (box[4] - box[2])",
        ),
        # beyond 75 degrees one eye is hidden and five-point alignment no longer means much (ours)
        Filter("turned_away", "abs(yaw) > 75 OR abs(pitch) > 60"),
        # measured on 836 web photos: the softest 2% lie below it, out-of-focus backgrounds, upscaled thumbnails (ours)
        Filter("too_blurred", "sharpness < 0.12"),
        # mean luma of the inner face, 0..1; outside it detail is clipped (ours)
        Filter("too_dark", "exposure < 0.08"),
        Filter("too_bright", "exposure > 0.95"),
    ),
)

# For restoration: faces worth reproducing. All numbers ours; shares are of the 935 faces of 836 web photos that
# `default` keeps, of which this set keeps 260.
STRICT = FilterSet(
    "strict",
    1,
    (
        *DEFAULT.filters[:3],
        # the 512 px crop holds at least 256 px of photo (68% do not: web photos are small)
        Filter("enlarged", "upsample > 2"),
        # beyond 45 degrees the far half of the face is guessed (6%)
        Filter("turned_away", "abs(yaw) > 45 OR abs(pitch) > 40"),
        # the softest 6%, the noisiest 5%, the 2% with the strongest JPEG grid
        Filter("too_blurred", "sharpness < 0.26"),
        Filter("too_noisy", "noise > 5.6"),
        Filter("too_blocky", "blockiness > 1.2"),
        # the darkest 2%, the brightest .5%
        Filter("too_dark", "exposure < 0.2"),
        Filter("too_bright", "exposure > 0.75"),
    ),
)

FILTER_SETS = {found.name: found for found in (DEFAULT, STRICT)}


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
    # mean cosine from which two groups are one person, by average linkage; None finds the threshold in the collection
    # (ArcFace) or takes the recognizer's own figure (dlib)
    same_person: float | None = None
    one_person_may_appear_twice: bool = False  # in one photo: for collages and mirrors


@dataclass(frozen=True)
class SplitRules:
    """How people become train, val and test."""

    policy: str = "identity"  # or "photos", for a collection of one person
    val: float = 0.1
    test: float = 0.1


PAIR_POLICIES = ("random", "nearest", "window", "affine-nearest", "diverse", "hard-pose")

# ReF-LDM (NeurIPS 2024): the names of its lists, train_references_arcface0-04.csv and test_references_arcface01-04.csv,
# read as distances 1 - cosine of ArcFace (insightface's webface_r50). Its val list names none: as test (ours).
REF_LDM_WINDOWS = {"train": (0.0, 0.4), "val": (0.1, 0.4), "test": (0.1, 0.4)}


@dataclass(frozen=True)
class PairRules:
    """Which references a target keeps, and in which order. Raises BadInput for rules that mean nothing.

    `random` is the default because nobody who restores a photo has the references nearest to it: the nearest 16 would
    teach a restorer to expect them, while a random choice is an unbiased sample of a person's other photos.
    """

    # one of PAIR_POLICIES; `window` alone is REF_LDM_WINDOWS, `window:LOW-HIGH` one's own distances for every split
    policy: str = "random"
    min_photos: int = 2  # of a person, or none of its faces is a target; two is the least that makes a pair
    min_references: int = 1  # usable ones, of a target
    max_references: int = 16  # kept a target; training draws at most 4 of them (ours)

    def __post_init__(self) -> None:
        if self.name not in PAIR_POLICIES or (self.name != "window" and self.name != self.policy):
            raise BadInput(f"--pairs {self.policy}: say {', '.join(PAIR_POLICIES)}, or window:LOW-HIGH.")
        low, high = self.window("train")
        if not 0 <= low < high <= 2:
            raise BadInput(
                f"--pairs {self.policy}: a window goes from a lower to a higher distance 1 - cosine, 0 to 2, "
                "as in window:0.1-0.4."
            )
        if self.min_photos < 2:
            raise BadInput(f"--min-photos {self.min_photos}: a target and a reference are two photos, say 2 or more.")
        if not 1 <= self.min_references <= self.max_references:
            raise BadInput(
                f"--min-references {self.min_references} and --max-references {self.max_references}: "
                "the first is at least 1, the second at least the first."
            )

    @property
    def name(self) -> str:
        """The policy without its numbers."""
        return self.policy.partition(":")[0]

    def window(self, split: str) -> tuple[float, float]:
        """The distances 1 - cosine, ends included, between which the references of a split's targets lie."""
        if self.policy == "window":
            return REF_LDM_WINDOWS[split]
        if self.name != "window":
            return 0.0, 2.0
        numbers = re.fullmatch(r"window:(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", self.policy)
        return (float(numbers[1]), float(numbers[2])) if numbers else (0.0, 0.0)


@dataclass(frozen=True)
class CurateConfig:
    """Everything a curation run is told."""

    faces: str = "auto"
    landmarks: str | None = None  # "dlib" fills landmarks68
    labels: str | None = None  # folder or FILE.csv as truth; hint, hint:FILE.csv
    sidecar: str | None = None  # FILE.csv with source, licence and consent of photos
    require_consent: bool = False  # drop photos of whose consent nothing was told
    screen: FilterSet = DEFAULT
    dedupe: DedupeRules = field(default_factory=DedupeRules)
    group: GroupRules = field(default_factory=GroupRules)
    split: SplitRules = field(default_factory=SplitRules)
    pairs: PairRules = field(default_factory=PairRules)


def config_from(told: Mapping[str, Any], kind: Any = CurateConfig) -> Any:
    """The configuration that `dataclasses.asdict` wrote down; what is not in it keeps its default."""
    types = typing.get_type_hints(kind)
    return kind(**{name: _typed(value, types[name]) for name, value in told.items() if name in types})


def _typed(value: Any, kind: Any) -> Any:
    if is_dataclass(kind):
        return config_from(value, kind)
    if isinstance(value, list):  # JSON has no tuples
        return tuple(_typed(one, typing.get_args(kind)[0]) for one in value)
    return value
