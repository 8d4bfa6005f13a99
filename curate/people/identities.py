"""Groups -> identities whose ids stay: a person found again keeps the id that most of its faces had."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from curate.people.clustering.group_embeddings import Grouping
from curate.people.links import Links
from manifests.ledger.records import Identity, Membership
from manifests.privacy.keys import compute_mark


def make_identities(
    face_ids: Sequence[str],
    grouping: Grouping,
    memberships: Sequence[Membership],
    key: bytes,
    links: Links | None = None,
) -> tuple[list[Identity], list[Membership]]:
    """Identity and membership rows of a grouping over `face_ids`, given the memberships of the run before.

    Earlier ids are handed out by falling overlap, each once, so that the larger part keeps the id when people come
    together or apart (the assignment of the largest total would give it to a smaller part where that makes room for
    another id); a new person's id follows from its smallest face_id and the dataset's `key`, so that it says nothing to
    whoever has not got the key. Names and locks follow from `links`, and stay with
    the faces they were given to: a name goes to the group that holds most of them.
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
        id_of[label] = _new_id(key, smallest[label], taken)
        taken.add(id_of[label])
    names = {} if links is None else name_groups(grouping.labels, links, smallest)
    locked = set() if links is None else set(grouping.labels[np.isin(links.block, sorted(links.locked))].tolist())
    rows = [Identity(id_of[label], names.get(label), label in locked) for label in members]
    return sorted(rows, key=lambda row: row.identity_id), [
        Membership(
            face, id_of[int(label)], float(np.float32(confidence)), float(np.float32(margin)), _source(row, links)
        )
        for row, (face, label, confidence, margin) in enumerate(
            zip(face_ids, grouping.labels, grouping.confidence, grouping.margin, strict=True)
        )
    ]


def _source(row: int, links: Links | None) -> str:
    if links is None:
        return "cluster"
    return "review" if row in links.review_rows else "label" if row in links.labels else "cluster"


def name_groups(labels: np.ndarray, links: Links, smallest: Mapping[int, str]) -> dict[int, str]:
    """group -> name: of the label most of its labelled faces have, or as people said, the last one.

    `labels` int (n,) are the groups of the rows of `links`, `smallest` the smallest face id of each group.
    """
    votes = Counter((int(labels[row]), label) for row, label in links.labels.items())
    names: dict[int, str] = {}
    for (group, label), _ in sorted(votes.items(), key=lambda item: (-item[1], item[0][1])):
        names.setdefault(group, label)
    for rows, name in links.names:
        held = Counter(int(labels[row]) for row in rows)
        names[min(held.items(), key=lambda item: (-item[1], smallest[item[0]]))[0]] = name
    return names


def _new_id(key: bytes, smallest_face: str, taken: set[str]) -> str:
    for attempt in range(len(taken) + 1):
        name = "p-" + compute_mark(key, "person", f"{smallest_face} {attempt}")[:12]
        if name not in taken:
            return name
    raise AssertionError("more names were tried than are taken")
