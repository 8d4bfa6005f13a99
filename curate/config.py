"""The options of a curation run: one frozen dataclass for each stage, with the source of each number."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from typing import Any

from curate.face_filters import DEFAULT
from manifests.errors import BadInput
from manifests.ledger.filters import FilterSet


@dataclass(frozen=True)
class DedupeRules:
    """Rules that find near-duplicates. Near-duplicates are faces from copies of one picture.

    The numbers of the rules come from our measurements on web photos. If a photo is saved with JPEG quality 40 or at
    half its size, at most 4 of the 64 bits of its hash change. The hashes of two different photos of one person differ
    in 10 bits or more. To find turned and mirrored copies, the hash of one photo is compared with the hashes of all
    turned and mirrored variants of the other photo.
    """

    # Rule 1 finds copies of a whole photo. The boxes of the two faces must overlap. Without this condition, two people
    # in one picture could count as near-duplicates, because with dlib the cosine of two different people can be .9.
    max_photo_bits: int = 6  # The 64-bit hashes of the two photos must differ in at most 6 bits.
    min_cosine_same_photo: float = 0.35  # The cosine of the two faces must be at least .35.
    # The intersection over union of the two boxes must be at least `min_overlap_same_photo`. Before the comparison, the
    # coordinates of each box are divided by the width and height of its photo.
    min_overlap_same_photo: float = 0.5
    # Rule 2 finds cropped copies of a picture. The 256-bit hashes of the two aligned faces must differ in at most
    # `max_face_bits` bits. Of 12,480 pairs of different photos of one person, only 3 pairs have hashes that differ in
    # at most 54 bits.
    max_face_bits: int = 54
    # If one of the two faces is mirrored, the hashes must differ in at most `max_mirrored_face_bits` bits (ours). Among
    # 2,871 web faces, the mirrored hashes of three pairs differ in at most 40 bits, and all three pairs are copies.
    max_mirrored_face_bits: int = 40
    # The cosine of the two faces must be at least `min_cosine_same_face`. If `FaceModels.same_person` is greater than
    # `min_cosine_same_face`, `same_person` is used instead.
    min_cosine_same_face: float = 0.80
    # If the cosine of two faces of one photo is at least `min_cosine_one_person` (ours), the two faces possibly show
    # one person. If `FaceModels.same_person` is greater than `min_cosine_one_person`, `same_person` is used instead. A
    # low value of `min_cosine_one_person` does little harm, because the value only affects which one of several copies
    # is used.
    min_cosine_one_person: float = 0.30
    # Rule 3 moves one aligned face onto the other aligned face, and correlates the pixels that both photos contain. The
    # numbers of rule 3 are ours. We chose the numbers of rule 3 from measurements on 1,177 copies of eleven kinds.
    # Among 2,871 faces, we also measured similar faces in different photos of one person. The highest correlation of
    # two such faces is .96.
    min_correlation_same_pixels: float = 0.965
    min_cosine_same_pixels: float = 0.45  # For 4 of 1,177 copies, the cosine to the original is below .45.
    # Rule 3 takes much time, so it is applied only to two faces that pass a faster test. The fast test uses the tangent
    # distance of the two faces (luma_dct.py). The fast test has two cases. If the cosine of the two faces is below
    # `min_cosine_to_register`, the hashes of the faces must differ in at most `max_face_bits_to_register` bits, and the
    # distance must be at most `max_difference`. If the cosine is `min_cosine_to_register` or more, the bits do not
    # matter. The distance must then be at most `max_difference_if_similar` + `difference_per_cosine` * (cosine -
    # `min_cosine_to_register`). If `FaceModels.same_person` is greater than `min_cosine_to_register`, `same_person` is
    # used instead. Of 1,177 copies, 1.2% fail the fast test. Of 47,809 pairs of different photos of one person, only
    # 170 pass the fast test.
    max_face_bits_to_register: int = 85
    max_difference: float = 0.1
    min_cosine_to_register: float = 0.75
    max_difference_if_similar: float = 0.1
    difference_per_cosine: float = 2.0
    # If the border of a photo cuts one of the two faces, only the pixels inside both photos count. The distance of two
    # such faces may be as large as `max_difference_if_cut`, even if the fast test sets a smaller limit. A face counts
    # as cut if at least the share `min_share_of_cut` of the pixels lies inside only one of the two photos.
    min_share_of_cut: float = 0.2
    max_difference_if_cut: float = 0.15


@dataclass(frozen=True)
class GroupRules:
    """Rules for grouping faces into people."""

    neighbours: int = 64  # Number of nearest faces with which each face is compared.
    # Two groups of faces are one person if their mean cosine is at least `same_person` (average linkage). If
    # `same_person` is None, the threshold for ArcFace is estimated from the collection, and dlib has a fixed threshold.
    same_person: float | None = None
    one_person_may_appear_twice: bool = False  # whether the grouping can join two faces of one photo, as in collages


@dataclass(frozen=True)
class SplitRules:
    """Rules that divide the people into train, val and test."""

    policy: str = "identity"  # "identity" puts each person into one split, and "photos" puts each photo into one split.
    val: float = 0.1  # Share of the people in val.
    test: float = 0.1  # Share of the people in test.


AGE_POLICIES = ("same-age", "across-ages")
PAIR_POLICIES = ("random", "nearest", "window", "affine-nearest", "diverse", "hard-pose", *AGE_POLICIES)

# With the policy `same-age`, a reference must have been taken at most MAX_SAME_AGE_YEARS before or after the target.
# With the policy `across-ages`, a reference must have been taken at least MIN_ACROSS_AGES_YEARS before or after the
# target. Both numbers are ours.
MAX_SAME_AGE_YEARS, MIN_ACROSS_AGES_YEARS = 2.0, 5.0
DAYS_A_YEAR = 365.25

# The policy `window` allows only references whose distance to the target lies between two numbers. A distance is 1
# minus the cosine of two embeddings of ArcFace (insightface's webface_r50). The numbers come from the file names of
# ReF-LDM's lists (NeurIPS 2024), `train_references_arcface0-04.csv` and `test_references_arcface01-04.csv`. The file
# name of ReF-LDM's val list contains no distance, so the split `val` uses the distances of the split `test` (ours).
REF_LDM_WINDOWS = {"train": (0.0, 0.4), "val": (0.1, 0.4), "test": (0.1, 0.4)}


@dataclass(frozen=True)
class PairRules:
    """Rules that choose the references of a target, and the order of these references.

    Raises BadInput if a rule has a wrong value. `random` is the default policy because users rarely have the references
    that are most similar to their photo. A restorer that is trained with only the 16 nearest references would learn to
    expect very similar references. A random choice is an unbiased sample of a person's other photos.
    """

    # One of PAIR_POLICIES, or `window:LOW-HIGH`. `window` uses REF_LDM_WINDOWS. `window:LOW-HIGH` uses the distances
    # LOW and HIGH for every split.
    policy: str = "random"
    min_photos: int = 2  # A person with fewer photos than this has no targets.
    min_references: int = 1  # A face with fewer usable references than this is not a target.
    # A target keeps at most 16 references. Our recipes draw at most 4 of the 16 references.
    max_references: int = 16

    def __post_init__(self) -> None:
        if self.name not in PAIR_POLICIES or (self.name != "window" and self.name != self.policy):
            raise BadInput(f"--pairs {self.policy} is unknown. Give {', '.join(PAIR_POLICIES)}, or window:LOW-HIGH.")
        low, high = self.window("train")
        if not 0 <= low < high <= 2:
            raise BadInput(
                f"--pairs {self.policy}: the window is wrong. Give two distances from 0 to 2, the lower distance "
                "first, as in window:0.1-0.4. A distance is 1 minus a cosine."
            )
        if self.min_photos < 2:
            raise BadInput(
                f"--min-photos {self.min_photos} is too small, because a target and its reference are two photos. "
                "Give 2 or more."
            )
        if not 1 <= self.min_references <= self.max_references:
            raise BadInput(
                f"--min-references {self.min_references} and --max-references {self.max_references} do not fit: "
                "the first must be 1 or more, and the second must not be less than the first."
            )

    @property
    def name(self) -> str:
        """Returns the name of the policy, for example `window` for `window:0.1-0.4`."""
        return self.policy.partition(":")[0]

    def window(self, split: str) -> tuple[float, float]:
        """Returns the least and the largest allowed distance (1 - cosine) of a reference to its target in `split`."""
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
    landmarks: str | None = None  # "dlib" adds 68 landmarks to the row of each face.
    # The detection looks for faces whose eyes are at least `min_face` pixels apart. If `min_face` is None, its value is
    # the smaller of two numbers: 16 pixels, and the limit of the filter `too_small`.
    min_face: float | None = None
    # Labels from `folder`, `FILE.csv` or `truth:metadata` are taken as truth. Labels from `hint`, `hint:FILE.csv` or
    # `metadata` are only compared with the grouping.
    labels: str | None = None
    sidecar: str | None = None  # FILE.csv with source, licence and consent of photos.
    require_consent: bool = False  # Drop photos whose consent is unknown.
    allow_unmatched: bool = False  # Continue even if a refusal of consent matches no photo.
    exclude: tuple[str, ...] = ()  # Patterns of files and folders that are left out, see curate/photos/name_rules.py.
    include: tuple[str, ...] = ()  # If `include` has patterns, only files that match a pattern are read.
    reread: bool = False  # Read every file again, even if its size and times did not change.
    # Group all faces again, even if new faces could join the people of the last grouping (curate/people/group.py).
    regroup: bool = False
    # The most memory in bytes while the faces are grouped (curate/people/grouping_memory.py). None is a share of the
    # machine's memory.
    memory: int | None = None
    screen: FilterSet = DEFAULT
    dedupe: DedupeRules = field(default_factory=DedupeRules)
    group: GroupRules = field(default_factory=GroupRules)
    split: SplitRules = field(default_factory=SplitRules)
    pairs: PairRules = field(default_factory=PairRules)


def read_config(values: Mapping[str, Any], kind: Any = CurateConfig) -> Any:
    """Returns the configuration from `values`, which `dataclasses.asdict` wrote.

    An option that is missing in `values` gets its default.
    """
    types = _read_types(kind)
    return kind(**{name: _convert(value, types[name]) for name, value in values.items() if name in types})


@cache  # every decision reads the configuration, and `get_type_hints` is slow
def _read_types(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _convert(value: Any, kind: Any) -> Any:
    if is_dataclass(kind):
        return read_config(value, kind)
    if isinstance(value, list):  # JSON stores a tuple as a list
        return tuple(_convert(item, typing.get_args(kind)[0]) for item in value)
    return value
