"""Reads the last grouping from the ledger, if new faces can join its people without a grouping of all faces."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from curate.config import GroupRules
from curate.people.clustering.extend_grouping import EarlierGrouping
from curate.people.clustering.threshold import Evidence
from manifests.ledger.decisions.applied_decisions import LAST_DECISION, find_last_number
from manifests.ledger.decisions.decision_log import Decision
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Membership
from manifests.runtime.text import format_count
from manifests.runtime.versions import code_version

# A collection with fewer faces than this number (ours) is always grouped again, because that takes only seconds.
LEAST_FACES = 20_000
# The faces that are new or gone since the last full grouping are counted. A face that is new and later gone counts
# twice. If the count is more than the share MOST_CHANGED (ours) of the faces of that grouping, all faces are grouped
# again. Until then, the threshold of that grouping is used. If a collection grows by 10%, a new threshold would be
# about .002 higher.
MOST_CHANGED = 0.1
# The detail of the stage `group` has the key FULL_GROUPING. Its value has the number of faces and the rules of the last
# full grouping, the version of Likeness that made it (VERSION), and the number of faces that are new or gone since then
# (CHANGED).
FULL_GROUPING, VERSION, CHANGED = "full_grouping", "version", "changed"
LABELS = "labels_sha256"  # key of the hash of the labels that the last grouping used


def read_earlier_grouping(
    ledger: Ledger,
    rules: GroupRules,
    face_ids: Sequence[str],
    memberships: Sequence[Membership],
    decisions: Sequence[Decision],
    labels: Mapping[str, str],
) -> tuple[EarlierGrouping | None, str | None]:
    """Returns the last grouping of the faces `face_ids`, or None if all faces must be grouped again.

    If new faces could usually join the last grouping, but cannot join it now, also returns a notice that says why.

    `memberships` are the memberships of the last grouping. `labels` maps face_id -> label, if labels are truth.
    There is no notice if all faces are grouped in any case: the collection is small or was never grouped, the threshold
    was not calibrated, or `rules` allow a person to appear twice in a photo. There is a notice if many faces are new or
    gone, if the last grouping had other rules or decisions, if another version made it, or if a label of an earlier
    face changed.
    """
    detail = ledger.read_detail("group")
    full = detail.get(FULL_GROUPING)
    if len(face_ids) < LEAST_FACES or full is None or detail["evidence"] is None or rules.one_person_may_appear_twice:
        return None, None
    row_of = {row.face_id: row for row in memberships}
    known = [row_of.get(face) for face in face_ids]
    new = sum(row is None for row in known)
    gone = len(row_of) - (len(known) - new)
    changed = full.get(CHANGED, 0) + new + gone
    reason = None
    if full["rules"] != asdict(rules):
        reason = "an option of the grouping changed"
    elif full.get(VERSION) != code_version():
        reason = "another version of Likeness made the last grouping"
    elif detail[LAST_DECISION] != find_last_number(decisions):
        reason = "a decision was recorded after the last grouping"
    elif detail.get(LABELS) != hash_labels(labels, row_of.keys() & set(face_ids)):
        reason = "the label of an earlier face changed"
    elif changed > MOST_CHANGED * full["faces"]:
        share = f"more than {MOST_CHANGED:.0%} of the faces"
        reason = f"{share} are new or gone since all faces were grouped the last time"
    if reason is not None:
        return None, f"All {format_count(len(face_ids), 'face')} were grouped again, because {reason}."
    people = {person: number for number, person in enumerate(sorted({row.identity_id for row in known if row}))}
    evidence = detail["evidence"]
    earlier = EarlierGrouping(
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
    return earlier, None


def describe_full_grouping(faces: int, rules: GroupRules) -> dict[str, Any]:
    """Returns the value of FULL_GROUPING after a grouping of all `faces` faces."""
    return {"faces": faces, "rules": asdict(rules), VERSION: code_version()}


def hash_labels(labels: Mapping[str, str], face_ids: Iterable[str]) -> str:
    """Returns a hash of the labels of some faces. Faces without a label do not change the hash."""
    of_faces = {face: labels[face] for face in face_ids if face in labels}
    return hashlib.sha256(json.dumps(of_faces, sort_keys=True).encode()).hexdigest()


def describe_extension(before: Sequence[Membership], after: Sequence[Membership]) -> list[str]:
    """Returns a notice about the new faces that joined people of the last grouping, or an empty list.

    `before` and `after` are the memberships of the last grouping and of the new grouping.
    """
    earlier = {row.face_id for row in before}
    people = {row.identity_id for row in before}
    new = [row.identity_id for row in after if row.face_id not in earlier]
    if not new:
        return []
    joined = [person for person in new if person in people]
    parts = []
    if joined:
        joining = format_count(len(joined), "new face")
        parts.append(f"{joining} joined {format_count(len(set(joined)), 'person', 'people')} of the last grouping")
    if others := len(new) - len(joined):
        verb = "is" if others == 1 else "form"
        form = format_count(len(set(new) - people), "new person", "new people")
        parts.append(f"{format_count(others, 'new face')} {verb} {form}")
    return [f"{', and '.join(parts)}. `likeness curate --regroup` groups all faces again."]
