"""The options of a curation run: one frozen dataclass for each stage, with the source of each number."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from manifests.errors import BadInput
from manifests.ledger.filters import Filter, FilterSet

# If a filter's predicate is true for a face, the face is dropped with the filter's reason. Its row keeps box and
# measures. A predicate may name columns of `faces`, and the photo's width and height. `detector_min_score` stands for
# the detector's own threshold (SCRFD .5, insightface's default; dlib .3, ours).

DEFAULT = FilterSet(
    "default",
    1,
    (
        # 16 px between the eyes is a 65 px face; smaller faces are enlarged more than twice for ArcFace (ours)
        Filter("too_small", "inter_ocular_px < 16"),
        Filter("low_score", "det_score < detector_min_score"),
        # a box may reach outside the photo by this share of its own size (ours): cut faces are poor targets
        Filter(
            "cut_by_border",
            "greatest(-box[1], box[3] - width) > 0.25 * (box[3] - box[1]) OR "
            "greatest(-box[2], box[4] - height) > 0.25 * (box[4] - box[2])",
        ),
        # beyond 75 degrees one eye is hidden, and an alignment by five points is unreliable (ours)
        Filter("turned_away", "abs(yaw) > 75 OR abs(pitch) > 60"),
        # of 836 web photos, the softest 2% are below it: faces out of focus, enlarged thumbnails (ours)
        Filter("too_blurred", "sharpness < 0.12"),
        # exposure is the mean luma of the inner face, 0 to 1; outside these bounds detail is lost (ours)
        Filter("too_dark", "exposure < 0.08"),
        Filter("too_bright", "exposure > 0.95"),
    ),
)

# For restoration: faces that are worth reproducing. All numbers are ours. `default` keeps 935 faces of 836 web photos,
# and this set keeps 260 of them. The percentages below are shares of the 935 faces.
STRICT = FilterSet(
    "strict",
    1,
    (
        *DEFAULT.filters[:3],
        # the 512 px crop covers at least 256 px of the photo (68% are dropped: web photos are small)
        Filter("enlarged", "upsample > 2"),
        # beyond 45 degrees the far half of the face is a guess (6% are dropped)
        Filter("turned_away", "abs(yaw) > 45 OR abs(pitch) > 40"),
        # drops the softest 6%, the noisiest 5%, and the 2% with the strongest JPEG grid
        Filter("too_blurred", "sharpness < 0.26"),
        Filter("too_noisy", "noise > 5.6"),
        Filter("too_blocky", "blockiness > 1.2"),
        # drops the darkest 2% and the brightest .5%
        Filter("too_dark", "exposure < 0.2"),
        Filter("too_bright", "exposure > 0.75"),
    ),
)

FILTER_SETS = {filters.name: filters for filters in (DEFAULT, STRICT)}


@dataclass(frozen=True)
class DedupeRules:
    """Rules for near-duplicates: faces that show the same picture, encoded, resized or cropped again.

    The numbers are ours, measured on web photos. JPEG quality 40 or half the size changes at most 4 of the 64 bits
    of a photo's hash. Different photos of one person differ in 10 bits or more.
    """

    # Rule 1 finds copies of a whole photo. Without the overlap, two people in one picture could be near-duplicates:
    # with dlib, the cosine of two strangers reaches .9.
    max_photo_bits: int = 6  # greatest number of different bits in the photos' 64-bit hashes
    min_cosine_same_photo: float = 0.35  # least cosine of the two faces
    min_overlap_same_photo: float = 0.5  # least intersection over union of the two boxes, in units of the photo
    # Rule 2 finds pictures that were cropped again.
    # Greatest number of different bits in the aligned faces' 256-bit hashes. Of 12,480 pairs of different photos of one
    # person, 3 have fewer or as many.
    max_face_bits: int = 54
    # Least cosine of the two faces. The recognizer's own cosine for one person is used instead if it is greater.
    min_cosine_same_face: float = 0.80


@dataclass(frozen=True)
class GroupRules:
    """Rules for grouping faces into people."""

    neighbours: int = 64  # nearest faces that each face is compared with
    # Two groups with this mean cosine or more are one person (average linkage). None finds the threshold in the
    # collection (ArcFace), or takes the recognizer's own threshold (dlib).
    same_person: float | None = None
    one_person_may_appear_twice: bool = False  # whether two faces of one photo may be one person, as in collages


@dataclass(frozen=True)
class SplitRules:
    """Rules for splitting people into train, val and test."""

    policy: str = "identity"  # or "photos", for a collection of one person
    val: float = 0.1  # share of the people
    test: float = 0.1


PAIR_POLICIES = ("random", "nearest", "window", "affine-nearest", "diverse", "hard-pose")

# Distances 1 - cosine of ArcFace (insightface's webface_r50), from the names of ReF-LDM's lists (NeurIPS 2024):
# train_references_arcface0-04.csv and test_references_arcface01-04.csv. Its val list names no distance, so val has
# the distances of test (ours).
REF_LDM_WINDOWS = {"train": (0.0, 0.4), "val": (0.1, 0.4), "test": (0.1, 0.4)}


@dataclass(frozen=True)
class PairRules:
    """Rules for the references of a target: which references it keeps, and in which order.

    Raises BadInput if the rules make no sense. `random` is the default policy because users rarely have the
    references that are most like their photo. With the nearest 16 references, a restorer would learn to expect
    them. A random choice is an unbiased sample of a person's other photos.
    """

    # One of PAIR_POLICIES. `window` uses REF_LDM_WINDOWS; `window:LOW-HIGH` uses the same distances for every split.
    policy: str = "random"
    min_photos: int = 2  # the faces of a person with fewer photos are no targets; a pair needs two
    min_references: int = 1  # a face with fewer usable references is no target
    max_references: int = 16  # for each target; training draws at most 4 of them (ours)

    def __post_init__(self) -> None:
        if self.name not in PAIR_POLICIES or (self.name != "window" and self.name != self.policy):
            raise BadInput(f"--pairs {self.policy} is unknown: say {', '.join(PAIR_POLICIES)}, or window:LOW-HIGH.")
        low, high = self.window("train")
        if not 0 <= low < high <= 2:
            raise BadInput(
                f"--pairs {self.policy}: a window needs a lower and a higher distance 1 - cosine, from 0 to 2, as in "
                "window:0.1-0.4."
            )
        if self.min_photos < 2:
            raise BadInput(f"--min-photos {self.min_photos}: a target and a reference are two photos: say 2 or more.")
        if not 1 <= self.min_references <= self.max_references:
            raise BadInput(
                f"--min-references {self.min_references} and --max-references {self.max_references}: the first must be "
                "1 or more, and the second not less than the first."
            )

    @property
    def name(self) -> str:
        """Returns the policy without its numbers."""
        return self.policy.partition(":")[0]

    def window(self, split: str) -> tuple[float, float]:
        """Returns the least and the greatest distance, 1 - cosine, from a target of this split to its references."""
        if self.policy == "window":
            return REF_LDM_WINDOWS[split]
        if self.name != "window":
            return 0.0, 2.0
        numbers = re.fullmatch(r"window:(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", self.policy)
        return (float(numbers[1]), float(numbers[2])) if numbers else (0.0, 0.0)


@dataclass(frozen=True)
class CurateConfig:
    """All options of a curation run."""

    faces: str = "auto"
    landmarks: str | None = None  # "dlib" fills landmarks68
    labels: str | None = None  # folder or FILE.csv are taken as truth; hint and hint:FILE.csv only report
    sidecar: str | None = None  # FILE.csv with source, licence and consent of photos
    require_consent: bool = False  # drop photos whose consent is unknown
    screen: FilterSet = DEFAULT
    dedupe: DedupeRules = field(default_factory=DedupeRules)
    group: GroupRules = field(default_factory=GroupRules)
    split: SplitRules = field(default_factory=SplitRules)
    pairs: PairRules = field(default_factory=PairRules)


def read_config(values: Mapping[str, Any], kind: Any = CurateConfig) -> Any:
    """Returns the configuration that `dataclasses.asdict` turned into `values`. A missing option gets its default."""
    types = typing.get_type_hints(kind)
    return kind(**{name: _convert(value, types[name]) for name, value in values.items() if name in types})


def _convert(value: Any, kind: Any) -> Any:
    if is_dataclass(kind):
        return read_config(value, kind)
    if isinstance(value, list):  # JSON has no tuples
        return tuple(_convert(item, typing.get_args(kind)[0]) for item in value)
    return value
