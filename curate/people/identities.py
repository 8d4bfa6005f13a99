"""Makes an identity of each group of faces. The id of an identity stays the same from run to run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from curate.people.clustering.group_embeddings import Grouping
from curate.people.constraints.links import Links
from manifests.ledger.records import Identity, Membership
from manifests.privacy.keys import compute_mark


def make_identities(
    face_ids: Sequence[str],
    grouping: Grouping,
    memberships: Sequence[Membership],
    key: bytes,
    links: Links | None = None,
    worth: np.ndarray | None = None,
) -> tuple[list[Identity], list[Membership]]:
    """Returns the identity and membership rows of a grouping of `face_ids`. `memberships` are the rows of the last run.

    A group gets the id of the earlier identity with which it shares most faces. The group and the id with the most
    shared faces are matched first, and each id is used only one time. If a person is divided or merged, the larger part
    therefore keeps the id. A matching that maximises the total number of shared faces could give the id to the smaller
    part.

    The id of a new person is computed from its smallest face_id and the dataset's `key`. Without the dataset's key,
    nobody can compute the id from the face. Names and locks come from `links`. Each name in `links` has a list of
    faces. The group that contains most of these faces gets the name. `worth` is the worth of each face, (n,), or None.
    """
    members: dict[int, list[int]] = defaultdict(list)  # group -> rows
    for row, label in enumerate(grouping.labels):
        members[int(label)].append(row)
    smallest = {label: min(face_ids[row] for row in rows) for label, rows in members.items()}

    before = {member.face_id: member.identity_id for member in memberships}
    id_of = choose_ids(members, [before.get(face) for face in face_ids], smallest, key)
    names = {} if links is None else name_groups(grouping.labels, links, smallest)
    locked = set() if links is None else set(grouping.labels[np.isin(links.block, sorted(links.locked))].tolist())
    doubtful = set() if grouping.doubtful is None else set(grouping.labels[grouping.doubtful].tolist())
    doubtful -= locked | names.keys()
    rows = [Identity(id_of[label], names.get(label), label in locked, label in doubtful) for label in members]
    return sorted(rows, key=lambda row: row.identity_id), [
        Membership(
            face,
            id_of[int(label)],
            float(np.float32(confidence)),
            float(np.float32(margin)),
            _find_source(row, links),
            None if worth is None else float(worth[row]),
        )
        for row, (face, label, confidence, margin) in enumerate(
            zip(face_ids, grouping.labels, grouping.confidence, grouping.margin, strict=True)
        )
    ]


def choose_ids(
    members: Mapping[int, Sequence[int]],
    before: Sequence[str | None],
    smallest: Mapping[int, str],
    key: bytes,
    others: Collection[str] = (),
) -> dict[int, str]:
    """Returns group -> id, as `make_identities` explains.

    `members` maps a group to its rows, and `smallest` maps a group to its smallest face_id. `before` is the earlier id
    of each row, or None. `others` are the ids of people who have no face in these rows.
    """
    # (group, earlier id) -> number of shared faces; the pair with the most shared faces is handled first
    overlap = Counter((group, before[row]) for group, rows in members.items() for row in rows if before[row])
    id_of: dict[int, str] = {}
    used_ids: set[str] = set()
    for (group, identity), _ in sorted(
        overlap.items(), key=lambda item: (-item[1], str(item[0][1]), smallest[item[0][0]])
    ):
        if group not in id_of and identity is not None and identity not in used_ids:
            id_of[group] = identity
            used_ids.add(identity)
    for group in sorted(set(members) - set(id_of), key=lambda group: smallest[group]):
        id_of[group] = _make_id(key, smallest[group], used_ids, others)
        used_ids.add(id_of[group])
    return id_of


def _find_source(row: int, links: Links | None) -> str:
    """Returns the reason why a face is in its identity: a decision, a label or the clustering."""
    if links is None:
        return "cluster"
    return "review" if row in links.review_rows else "label" if row in links.labels else "cluster"


def name_groups(labels: np.ndarray, links: Links, smallest: Mapping[int, str]) -> dict[int, str]:
    """Returns group -> name.

    The latest decision that names a group gives the group its name. If no decision names the group, the name is the
    label that most labelled faces of the group have.

    `labels` are the groups of the faces in `links`, int (n,). `smallest` maps a group to its smallest face_id.
    """
    votes = Counter((int(labels[row]), label) for row, label in links.labels.items())
    names: dict[int, str] = {}
    for (group, label), _ in sorted(votes.items(), key=lambda item: (-item[1], item[0][1])):
        names.setdefault(group, label)
    for rows, name in links.names:
        count = Counter(int(labels[row]) for row in rows)
        names[min(count.items(), key=lambda item: (-item[1], smallest[item[0]]))[0]] = name
    return names


def _make_id(key: bytes, smallest_face: str, used_ids: set[str], others: Collection[str]) -> str:
    """Returns an id that is not in use: `p-` and 12 hexadecimal digits of a keyed hash of the face id."""
    for attempt in range(len(used_ids) + len(others) + 1):
        name = "p-" + compute_mark(key, "person", f"{smallest_face} {attempt}")[:12]
        if name not in used_ids and name not in others:
            return name
    raise AssertionError("every id that was tried is in use")
