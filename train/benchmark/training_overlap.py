"""Find the people and the pictures of a frozen set that a run was trained on.

The faces of the set are compared with the training faces in the snapshot of the run, in three ways:

    `file`: the run was trained on a face with the same face id, so on the same file.
    `picture`: two faces are near-duplicates by their perceptual hashes and their cosine, as in `likeness leaks`.
    `person`: the cosine of two faces reaches the threshold for one person, and other photos confirm the person, as in
        `likeness leaks`. A cosine alone does not count, because some pairs of strangers also reach the threshold.

A set that was split by photos shares its people with the training on purpose. For such a set, only the files and the
pictures are compared. The faces of an imported set have no face ids, so only pictures and people are compared.

In an imported set, the few photos of a person are often almost alike. A stranger who looks like one of these photos
then looks like all of them. So it is not enough that several photos of the set look like the stranger. The photos of
both people must show that they are one person. LQ images of strangers are alike because they are blurred, so an LQ
image without a target is compared only as a picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from curate.faces.measure import hash_face
from curate.people.leaks.dataset_faces import Rules, measure_false_matches, raise_threshold
from curate.people.leaks.face_line import FaceLine
from curate.people.leaks.face_pairs import PAIRS_PER_BATCH, FacePairs, SimilarFaces
from manifests.runtime.snapshot_files import FACTS
from manifests.runtime.text import format_count
from train.benchmark.set_faces import SetFaces
from train.data.snapshot import Snapshot, load_snapshot

KINDS = ("file", "picture", "person")  # from the strongest evidence to the weakest evidence
NO_SNAPSHOT = "RUN/snapshot is missing, so the training data of this run are not known."
_OTHER_RECOGNIZER = "The recognizers of the run and of its snapshot differ, so no embeddings can be compared."


@dataclass
class SeenGroup:
    """A person of the set whom the run was trained on. If the set was split by photos, a photo instead of a person."""

    group: str  # the id of the person or of the photo
    kind: str  # the strongest evidence, one of KINDS
    face: str  # a face of the set, and the training face that is most like it
    training_face: str
    cosine: float | None  # None for the kind `file`
    images: int = 0  # number of images of the set that show the person or come from the photo


@dataclass
class TrainingOverlap:
    """What a set and the training of a run have in common, and what was compared."""

    checked: bool
    compared: str = "people"  # "people" or "photos"
    set_faces: int = 0
    set_groups: int = 0  # number of people of the set, or of photos
    training_faces: int = 0
    training_people: int = 0
    alike_pairs: int = 0  # number of pairs whose cosine reaches the threshold for one person
    # The expected number of pairs of strangers whose cosine reaches this threshold. None if the number is not known.
    expected_pairs: float | None = 0.0
    how: dict[str, str] = field(default_factory=dict)  # kind -> a sentence that says how faces were compared
    unchecked: list[str] = field(default_factory=list)  # a sentence for each check that was not possible
    seen: list[SeenGroup] = field(default_factory=list)
    seen_targets: list[str] = field(default_factory=list)  # face ids, or names of an imported set, sorted

    def describe_seen(self) -> str:
        """Returns a clause with the number of people or photos of the set that the training used, and with the
        strongest example."""
        images = format_count(len(self.seen_targets), "image")
        units = ("person", "people") if self.compared == "people" else ("photo", "photos")
        first = self.seen[0]
        reason = {"file": "is also a training face", "picture": "shows the same picture as training face"}.get(
            first.kind, "shows the same person as training face"
        )
        other = "" if first.kind == "file" else f" {first.training_face[:12]} (cosine {first.cosine:.2f})"
        # a face id is shortened, and a name of an imported set is not
        face = first.face if "file" not in self.how else f"face {first.face[:12]}"
        return f"{format_count(len(self.seen), *units)} of the set ({images}): {face} {reason}{other}"

    def as_json(self) -> dict[str, Any]:
        """Returns the fields for the JSON of a result."""
        return asdict(self)


def find_training_overlap(
    own: SetFaces, checkpoint_folder: Path, targets: Sequence[str], strangers_near_zero: bool
) -> TrainingOverlap:
    """Compares a set with the training faces of a run.

    `own` has the faces of the set, and `targets` are the face ids of its images, or their names in an imported set.
    `checkpoint_folder` is the folder that contains the folder `snapshot`. If there is no snapshot, nothing is compared.
    `strangers_near_zero` is as in `FaceModels`. If `strangers_near_zero` is True, the threshold for one person is
    calibrated on the faces of the set and of the training together, because the threshold of a small set is too low for
    the many people of the training. Raises BadInput if the snapshot cannot be read.
    """
    if not has_snapshot(checkpoint_folder):
        return TrainingOverlap(False, unchecked=[NO_SNAPSHOT])
    snapshot = load_snapshot(checkpoint_folder / "snapshot")
    if own.is_imported and snapshot.recognizer["sha256"] != own.recognizer:
        return TrainingOverlap(False, unchecked=[_OTHER_RECOGNIZER])
    training = snapshot.find_rows("train")
    overlap = TrainingOverlap(
        True,
        own.group_kind,
        len(own.faces),
        len(set(own.groups)),
        len(training),
        len(np.unique(snapshot.person_numbers[training])),
    )
    found: list[SeenGroup] = []
    if not own.is_imported:  # the faces of an imported set have no face ids
        overlap.how["file"] = "Two faces have equal files and equal boxes, and therefore the same face id."
        found = _find_same_files(own, {snapshot.face_ids[i] for i in training})
    if snapshot.recognizer["sha256"] != own.recognizer:
        overlap.unchecked.append(
            "The recognizers of the set and of the training differ, so only files were compared, and neither pictures "
            "nor people."
        )
    else:
        own = replace(own, rules=_fit_rules(own, snapshot, training, strangers_near_zero))
        overlap.how |= _describe_rules(own.rules, own.group_kind, own.is_imported)
        found += _compare_faces(own, snapshot, training, overlap) if len(own.rows) else []
        if len(own.rows) < len(own.faces):
            overlap.unchecked.append(
                f"Only files were compared for {len(own.faces) - len(own.rows)} of {len(own.faces)} faces of the set, "
                "because these faces have no embedding."
            )
    if own.degraded:
        images = format_count(len(own.degraded), "image")
        overlap.unchecked.append(f"Compared only as pictures, because there is no target: {images} of the set.")
    missing = len(set(targets)) - len(own.group_of.keys() & set(targets))
    if missing:
        images = format_count(missing, "image")
        overlap.unchecked.append(f"Not compared, because their faces are in no split: {images} of the set.")
    overlap.seen = _keep_strongest(found)
    seen = {one.group for one in overlap.seen}
    overlap.seen_targets = sorted(face for face in set(targets) if own.group_of.get(face) in seen)
    for one in overlap.seen:
        one.images = sum(own.group_of[face] == one.group for face in overlap.seen_targets)
    return overlap


def has_snapshot(checkpoint_folder: Path) -> bool:
    """Returns whether the folder contains the training faces of a run."""
    return (checkpoint_folder / "snapshot" / FACTS).is_file()


def _fit_rules(own: SetFaces, snapshot: Snapshot, training: np.ndarray, strangers_near_zero: bool) -> Rules:
    """Returns the rules for the comparison of the set with the training faces. If `false_match_rate` is NaN, as in an
    imported set, it is measured on the people of the training. `false_match_rate` stays NaN if the training has only
    one person.
    """
    rules = own.rules
    if strangers_near_zero and len(own.rows):
        groups = own.groups
        people = [f"set {groups[row]}" for row in own.rows]
        people += [f"training {snapshot.identity_ids[row]}" for row in training]
        rules = raise_threshold(rules, np.concatenate([own.vectors, snapshot.embeddings[training]]), people)
    if math.isnan(rules.false_match_rate):
        people = [snapshot.identity_ids[row] for row in training]
        rules = measure_false_matches(rules, snapshot.embeddings[training], people)
    return rules


def _describe_rules(rules: Rules, group_kind: str, is_imported: bool) -> dict[str, str]:
    how = {
        "picture": (
            f"The perceptual hashes of two aligned faces differ in at most {rules.max_face_bits} of 256 bits "
            f"({rules.max_mirrored_face_bits} if one face is mirrored), and their cosine is "
            f"{rules.min_cosine_same_face:g} or more."
        )
    }
    if group_kind == "people":
        how["person"] = (
            f"The cosine of two faces is {rules.same_person:g} or more, and so is the mean cosine of "
            f"{'each' if is_imported else 'one'} of the two faces to all faces of the other person."
        )
    return how


def _find_same_files(own: SetFaces, training_faces: set[str]) -> list[SeenGroup]:
    return [
        SeenGroup(group, "file", line.face, line.face, None)
        for line, group in zip(own.faces, own.groups, strict=True)
        if line.face in training_faces
    ]


def _compare_faces(
    own: SetFaces, snapshot: Snapshot, training: np.ndarray, overlap: TrainingOverlap
) -> list[SeenGroup]:
    """Returns each pair (face of the set, training face) that shows one picture or one person.

    Also adds the numbers of such pairs to `overlap`.
    """
    vectors = snapshot.embeddings[training]
    hashed = _find_possible_copies(own.vectors, vectors, own.rules.min_cosine_same_face)
    # A snapshot has no photos, so the hashes and boxes of photos are empty and are not compared. The hash of a face is
    # compared only if the cosine is high. Training faces without a high cosine therefore get a hash of zeros.
    lines = [
        FaceLine(
            snapshot.face_ids[row],
            "",
            snapshot.identity_ids[row],
            "train",
            hash_face(np.asarray(snapshot.crops[row])) if is_hashed else "0" * 64,
            "0" * 16,
            (0.0, 0.0, 0.0, 0.0),
            None,
        )
        for row, is_hashed in zip(training.tolist(), hashed.tolist(), strict=True)
    ]
    faces = [*(replace(line, split="set") for line in own.faces), *lines]
    rows = np.concatenate([own.rows, len(own.faces) + np.arange(len(lines))])
    pairs = FacePairs(faces, rows, np.concatenate([own.vectors, vectors]), own.rules)
    people = own.group_kind == "people"
    found: list[SeenGroup] = []
    for similar in pairs.judge_similar_faces(np.arange(len(own.faces)), rows[len(own.rows) :], people, own.is_imported):
        overlap.alike_pairs += int(similar.is_alike.sum())
        found += _list_seen(own, faces, similar)
    if people:
        rate = own.rules.false_match_rate
        overlap.expected_pairs = None if math.isnan(rate) else round(len(own.rows) * len(lines) * rate, 1)
    return found


def _find_possible_copies(own: np.ndarray, training: np.ndarray, least: float) -> np.ndarray:
    """Returns whether each training face has a cosine of `least` or more to any face of the set, bool (n,)."""
    possible = np.zeros(len(training), bool)
    step = max(1, PAIRS_PER_BATCH * 64 // max(len(own), 1))  # the float32 cosines of a step take 16 MB
    for start in range(0, len(training) if len(own) else 0, step):
        # the bound is a little lower, because cosines are rounded later
        possible[start : start + step] = (own @ training[start : start + step].T).max(0) >= least - 1e-5
    return possible


def _list_seen(own: SetFaces, faces: Sequence[FaceLine], similar: SimilarFaces) -> Iterable[SeenGroup]:
    degraded = np.array([face.face in own.degraded for face in own.faces], bool)
    tells_person = similar.is_person & ~similar.is_copy & ~degraded[similar.i]
    for kind, chosen in (("picture", similar.is_copy), ("person", tells_person)):
        columns = similar.i[chosen].tolist(), similar.j[chosen].tolist(), similar.cosines[chosen].tolist()
        for i, j, cosine in zip(*columns, strict=True):
            yield SeenGroup(own.groups[i], kind, faces[i].face, faces[j].face, cosine)


def _keep_strongest(found: Iterable[SeenGroup]) -> list[SeenGroup]:
    """Returns the strongest evidence of each person or photo, the strongest first."""

    def rank(one: SeenGroup) -> tuple[int, float, str, str]:
        return (KINDS.index(one.kind), -(one.cosine or 0), one.face, one.training_face)

    strongest: dict[str, SeenGroup] = {}
    for one in sorted(found, key=rank):
        strongest.setdefault(one.group, one)
    return list(strongest.values())
