"""Reads the data for the search for leaks from a ledger: the faces, the policy of the splits, and the thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from curate.config import DedupeRules
from curate.people.clustering.threshold import calibrate_on_people
from curate.people.leaks.face_line import FaceLine
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.ledger import Ledger

_COLUMNS = """
    SELECT f.face_id, f.photo_id, coalesce(m.identity_id, s.identity_id) AS person, s.split, f.phash,
           p.phash AS photo_phash, f.box, p.width, p.height"""
# FACES_WITH_SPLITS returns each face of a split, and each near-duplicate of a face of a split. A near-duplicate is in
# the split of its representative.
FACES_WITH_SPLITS = f"""{_COLUMNS}, f.duplicate_of
    FROM faces f JOIN splits s ON s.face_id = coalesce(f.duplicate_of, f.face_id)
    LEFT JOIN photos p ON p.photo_id = f.photo_id LEFT JOIN memberships m ON m.face_id = s.face_id
    WHERE s.status = 'ok' AND (f.status = 'ok' OR f.reason = 'near_duplicate') ORDER BY f.face_id"""
# _UNUSED_FROZEN_FACES returns the faces that are in frozen sets although the dataset does not use the faces any more.
# The photo of an unused frozen face was overwritten, or the face was dropped. Evaluations of models still use the face.
_UNUSED_FROZEN_FACES = f"""{_COLUMNS}, NULL AS duplicate_of
    FROM faces f JOIN splits s USING (face_id)
    LEFT JOIN photos p ON p.photo_id = f.photo_id LEFT JOIN memberships m USING (face_id)
    WHERE s.locked AND s.reason = 'face_dropped' AND f.shard IS NOT NULL ORDER BY f.face_id"""

_SAMPLE = 4096  # The number (ours) of faces on which the share of false matches is measured.


@dataclass(frozen=True)
class Rules:
    """The thresholds of a dataset for near-duplicates (curate/config.py), and for two faces of one person."""

    max_photo_bits: int
    min_cosine_same_photo: float
    min_overlap_same_photo: float
    max_face_bits: int
    max_mirrored_face_bits: int
    min_cosine_same_face: float
    same_person: float
    false_match_rate: float  # the estimated share of pairs of strangers whose cosine reaches `same_person`


def read_faces(ledger: Ledger, query: str = FACES_WITH_SPLITS) -> list[FaceLine]:
    """Returns the faces of all splits, and the near-duplicates of these faces, ordered by face id.

    Raises LedgerBroken if the photo of a face has no row.
    """
    faces = []
    rows = ledger.query(query)
    for face, photo, person, split, phash, photo_phash, box, width, height, copy_of in rows.iter_rows():
        if photo_phash is None:
            raise LedgerBroken(
                f"The photo of face {face[:12]} has no row in the ledger: run `likeness manifest check`."
            )
        place = tuple(round(edge / side, 4) for edge, side in zip(box, (width, height) * 2, strict=True))
        faces.append(FaceLine(face, photo, person, split, phash, photo_phash, place, copy_of))
    return faces


def read_unused_frozen_faces(ledger: Ledger) -> list[FaceLine]:
    """Returns the faces that are in frozen sets although the dataset does not use these faces any more, ordered by face
    id.

    Raises LedgerBroken in the same case as `read_faces`.
    """
    return read_faces(ledger, _UNUSED_FROZEN_FACES)


def read_policy(ledger: Ledger) -> str:
    """Returns how the dataset was split: identity or photos. Raises BadInput if the dataset has no splits."""
    policies = ledger.query("SELECT DISTINCT policy FROM splits WHERE status = 'ok' ORDER BY policy")["policy"]
    if len(policies) != 1:
        raise BadInput(f"{ledger.dataset} has no splits: run `likeness curate` until it finishes.")
    return str(policies[0])


def read_rules(ledger: Ledger) -> Rules:
    """Returns the thresholds with which the dataset was curated. Raises BadInput if the thresholds are not in the
    ledger."""
    settings, grouping = ledger.read_detail("settings"), ledger.read_detail("group")
    dedupe = settings["config"]["dedupe"] if settings else {}
    names = {field.name for field in fields(Rules)} - {"same_person", "false_match_rate"}
    if not names <= dedupe.keys() or "threshold" not in grouping:
        raise BadInput(
            f"{ledger.dataset} was not curated completely by this version of Likeness: run `likeness curate` again."
        )
    rules = {name: dedupe[name] for name in names}
    rules["min_cosine_same_face"] = max(rules["min_cosine_same_face"], settings["same_person"])
    # The rate and the threshold are stored in benchmarks. The two numbers are rounded, because their last bits differ
    # between machines.
    rate = float(f"{grouping['false_match_rate']:.2g}")
    return Rules(**rules, same_person=round(float(grouping["threshold"]), 4), false_match_rate=rate)


def raise_threshold(rules: Rules, vectors: np.ndarray, people: Sequence[str]) -> Rules:
    """Returns the rules for a comparison of two collections.

    `vectors` are the unit embeddings of both collections, float32 (n, d). `people` names the person of each row.
    `same_person`, the cosine from which two faces count as one person, is calibrated on both collections together.
    Both collections together have more pairs of strangers than each alone, and therefore need a higher threshold.
    `same_person` never becomes lower than in `rules`.
    """
    calibrated = calibrate_on_people(vectors, people)
    if calibrated is None or calibrated[0] <= rules.same_person:
        return rules
    return replace(rules, same_person=calibrated[0], false_match_rate=calibrated[1])


def make_usual_rules(same_person: float) -> Rules:
    """Returns the rules for faces that are in no dataset: the rules of a curation with the usual settings.

    `same_person` is as in `FaceModels`. `false_match_rate` is NaN, because it is not known.
    """
    usual = DedupeRules()
    names = {field.name for field in fields(Rules)} - {"same_person", "false_match_rate"}
    rules = {name: getattr(usual, name) for name in names}
    rules["min_cosine_same_face"] = max(usual.min_cosine_same_face, same_person)
    return Rules(**rules, same_person=same_person, false_match_rate=math.nan)


def measure_false_matches(rules: Rules, vectors: np.ndarray, people: Sequence[str]) -> Rules:
    """Returns `rules` with a new `false_match_rate`: the share of the pairs of strangers among `people` whose cosine
    reaches the threshold.

    `vectors` and `people` are as in `raise_threshold`. The share is measured on at most _SAMPLE faces. Without a pair
    of strangers, the share is NaN.
    """
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(_SAMPLE, len(vectors))).astype(np.int64))
    _, person = np.unique([people[row] for row in rows], return_inverse=True)
    strangers = person[:, None] != person[None, :]
    cosines = (vectors[rows] @ vectors[rows].T)[strangers]
    rate = float((cosines >= rules.same_person).mean()) if len(cosines) else math.nan
    return replace(rules, false_match_rate=float(f"{rate:.2g}"))
