"""Groups -> identities whose ids stay: a person found again keeps the id that most of its faces had."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from curate.group import Grouping
from manifests.records import Identity, Membership
from manifests.storage import sha256_bytes


def make_identities(
    face_ids: Sequence[str], grouping: Grouping, memberships: Sequence[Membership], identities: Sequence[Identity]
) -> tuple[list[Identity], list[Membership]]:
    """Identity and membership rows of a grouping over `face_ids`, given the rows of the run before.

    Earlier ids are handed out by falling overlap, each once; a new person's id follows from its smallest face_id. Names
    and locks stay with the id.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(grouping.labels):
        members[int(label)].append(row)
    before = {member.face_id: member.identity_id for member in memberships}
    overlap = Counter(
        (int(label), before[face]) for face, label in zip(face_ids, grouping.labels, strict=True) if face in before
    )
    smallest = {label: min(face_ids[row] for row in rows) for label, rows in members.items()}
    id_of: dict[int, str] = {}
    taken: set[str] = set()
    for (label, identity), _ in sorted(overlap.items(), key=lambda item: (-item[1], item[0][1], smallest[item[0][0]])):
        if label not in id_of and identity not in taken:
            id_of[label] = identity
            taken.add(identity)
    for label in sorted(set(members) - set(id_of), key=lambda label: smallest[label]):
        id_of[label] = _new_id(smallest[label], taken)
        taken.add(id_of[label])
    known = {identity.identity_id: identity for identity in identities}
    rows = [known.get(identity, Identity(identity)) for identity in sorted(taken)]
    return rows, [
        Membership(face, id_of[int(label)], float(np.float32(confidence)), float(np.float32(margin)))
        for face, label, confidence, margin in zip(
            face_ids, grouping.labels, grouping.confidence, grouping.margin, strict=True
        )
    ]


def _new_id(smallest_face: str, taken: set[str]) -> str:
    for attempt in range(len(taken) + 1):
        name = "p-" + sha256_bytes(f"identity {smallest_face} {attempt}".encode())[:12]
        if name not in taken:
            return name
    raise AssertionError("more names were tried than are taken")
