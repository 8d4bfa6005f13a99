"""Reads the last grouping from the ledger, if new faces can join its people without a grouping of all faces."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from curate.config import GroupRules
from curate.people.clustering.extend_grouping import EarlierGrouping
from curate.people.clustering.threshold import Evidence
from manifests.ledger.decisions.applied_decisions import LAST_DECISION, find_last_number
from manifests.ledger.decisions.decision_log import Decision
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Membership
from manifests.runtime.text import format_count

# A collection with fewer faces is always grouped again, because that takes only seconds (ours).
LEAST_FACES = 20_000
# All faces are grouped again if more than the share MOST_CHANGED of the faces is new or gone since the last full
# grouping (ours). A face that is new and later gone counts twice. The threshold of a collection rises with its size. If
# a collection grows by 10%, the threshold rises by about .002.
MOST_CHANGED = 0.1
# The detail of the stage `group` has the key FULL_GROUPING. Its value has the number of faces and the rules of the last
# full grouping, and the number of faces that are new or gone since then (CHANGED).
FULL_GROUPING, CHANGED = "full_grouping", "changed"
LABELS = "labels_sha256"  # the name of the hash of the labels that the last grouping used


def read_earlier_grouping(
    ledger: Ledger,
    rules: GroupRules,
    face_ids: Sequence[str],
    memberships: Sequence[Membership],
    decisions: Sequence[Decision],
    labels: Mapping[str, str],
) -> EarlierGrouping | None:
    """Returns the last grouping of the faces `face_ids`, or None if all faces must be grouped again.

    `memberships` are the memberships of the last grouping. `labels` maps face_id -> label, if labels are truth.
    All faces are grouped again in these cases: the collection is small, many faces are new or gone, the last grouping
    had other rules or decisions, a label of an earlier face changed, the threshold was not calibrated, or `rules` allow
    a person to appear twice in a photo.
    """
    detail = ledger.read_detail("group")
    full = detail.get(FULL_GROUPING)
    if len(face_ids) < LEAST_FACES or full is None or full["rules"] != asdict(rules):
        return None
    if detail["evidence"] is None or rules.one_person_may_appear_twice:
        return None
    if detail[LAST_DECISION] != find_last_number(decisions):
        return None
    row_of = {row.face_id: row for row in memberships}
    if detail.get(LABELS) != hash_labels(labels, row_of.keys() & set(face_ids)):
        return None
    known = [row_of.get(face) for face in face_ids]
    new = sum(row is None for row in known)
    gone = len(row_of) - (len(known) - new)
    changed = full.get(CHANGED, 0) + new + gone
    if changed > MOST_CHANGED * full["faces"]:
        return None
    people = {person: number for number, person in enumerate(sorted({row.identity_id for row in known if row}))}
    evidence = detail["evidence"]
    return EarlierGrouping(
        groups=np.array([people[row.identity_id] if row else -1 for row in known], np.int64),
        confidence=np.array([row.confidence if row else 1.0 for row in known], np.float32),
        margin=np.array([row.margin if row else 2.0 for row in known], np.float32),
        evidence=Evidence(evidence["spread"], evidence["mean_within"]),
        alpha=evidence["alpha"],
        threshold=detail["threshold"],
        false_match_rate=detail["false_match_rate"],
        recall=detail["neighbour_recall"],
        changed=changed,
    )


def hash_labels(labels: Mapping[str, str], face_ids: Iterable[str]) -> str:
    """Returns a hash of the labels of some faces. Faces without a label do not change the hash."""
    of_faces = {face: labels[face] for face in face_ids if face in labels}
    return hashlib.sha256(json.dumps(of_faces, sort_keys=True).encode()).hexdigest()


def describe_extension(earlier: EarlierGrouping) -> str:
    """Returns a notice about new faces that join the people of the last grouping."""
    new = format_count(int((earlier.groups < 0).sum()), "new face")
    return f"{new} joined the people of the last grouping. `likeness curate --regroup` groups all faces again."
