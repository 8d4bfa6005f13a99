"""The stage `group`: embedded faces become people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from curate.config import CurateConfig
from curate.people.apply_decisions import apply_decisions
from curate.people.clustering.confidence import count_cosines
from curate.people.clustering.group_embeddings import group_embeddings
from curate.people.identities import make_identities, name_groups
from curate.people.links import Links, resolve_links
from curate.people.near_duplicates import find_pictures
from curate.photos.labels import describe_hints, find_label_doubts, find_spread_labels, label_faces
from manifests.ledger.decision_log import Decision, parse_decision
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import NEAR_DUPLICATE, DecisionRow, Face, Identity, Label, Membership, Photo, Record
from manifests.privacy.keys import read_key
from manifests.runtime.progress import Progress


@dataclass(frozen=True)
class GroupRows:
    """What grouping found: rows, and figures worth keeping."""

    identities: list[Identity]
    memberships: list[Membership]
    links: Links
    detail: dict[str, Any]


def group_faces(ledger: Ledger, config: CurateConfig, progress: Progress) -> None:
    """Identities and memberships, with the threshold and the similarity histogram noted."""
    acts = [parse_decision(row) for row in ledger.read_rows(DecisionRow)]
    found = compute_groups(ledger, ledger.read_rows(Face), acts, config, progress)
    rows: list[Record] = [*found.identities, *found.memberships]
    ledger.record("group", "all", config.group, rows, replace=(Identity, Membership), detail=found.detail)


def compute_groups(
    ledger: Ledger,
    all_faces: Sequence[Face],
    acts: Sequence[Decision],
    config: CurateConfig,
    progress: Progress,
) -> GroupRows:
    """The faces that are ok, grouped, with labels and decisions replayed; nothing is written.

    Raises BadInput for decisions that contradict each other.
    """
    # two people of one picture are two people, also where the faces that stand for them lie in two copies of it
    faces = [face for face in all_faces if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    face_ids, vectors = ledger.read_embeddings([face.face_id for face in faces if face.status == "ok"])
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    picture_of = find_pictures(faces, photos, config.dedupe.max_photo_bits)
    picture_of = {face.face_id: picture_of[face.photo_id] for face in faces}
    rules = config.group
    labelled, truth, notices = _labelled(ledger, faces)
    links = resolve_links(acts, all_faces, face_ids, labelled if truth else {})
    progress("group", 0, len(face_ids))
    found = group_embeddings(
        vectors,
        None if rules.one_person_may_appear_twice else [picture_of[face] for face in face_ids],
        must_link=links.must,
        cannot_link=links.cannot,
        same_person=rules.same_person,
        neighbours=rules.neighbours,
    )
    stands = {face.face_id: face.duplicate_of or face.face_id for face in faces}
    # where another face stands for a picture now, it is still the one that belonged to somebody
    earlier = sorted(
        ledger.read_rows(Membership), key=lambda row: stands.get(row.face_id) == row.face_id
    )  # own rows win
    by_face = {stands.get(row.face_id, row.face_id): row for row in earlier}
    before = [replace(row, face_id=face) for face, row in sorted(by_face.items())]
    was = {row.face_id: row.identity_id for row in before}
    found = apply_decisions(vectors, found, links, [was.get(face) for face in face_ids])
    identities, memberships = make_identities(face_ids, found, before, read_key(ledger), links)
    parted = {} if truth else find_spread_labels(labelled, memberships)
    disagreeing = (
        [] if truth else find_label_doubts(labelled, memberships, {face.face_id: face.photo_id for face in faces})
    )
    detail = {
        "threshold": found.threshold,
        "calibrated": rules.same_person is None,
        "neighbour_recall": found.recall,
        "false_match_rate": found.false_match_rate,
        "histogram": count_cosines(vectors, found.labels),
        "label_doubts": [asdict(one) for one in disagreeing],
        "labels_parted": parted,
        "notices": [
            *notices,
            *_not_in_use(links),
            *links.notices,
            *([] if truth else describe_hints(disagreeing, parted, len(labelled))),
        ],
    }
    progress("group", len(face_ids), len(face_ids))
    return GroupRows(identities, memberships, links, detail)


def compute_names(
    ledger: Ledger, all_faces: Sequence[Face], acts: Sequence[Decision]
) -> tuple[list[Identity], list[str]]:
    """The identities as they stand, with the names they have by these acts, and what is to be told; nothing is written.

    Raises BadInput for decisions that contradict each other.
    """
    faces = [face for face in all_faces if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    usable = {face.face_id for face in faces if face.status == "ok"}
    members = [row for row in ledger.read_rows(Membership) if row.face_id in usable]  # by face id
    face_ids = [row.face_id for row in members]
    labelled, truth, _ = _labelled(ledger, faces)
    links = resolve_links(acts, all_faces, face_ids, labelled if truth else {})
    people, first, group_of = np.unique([row.identity_id for row in members], return_index=True, return_inverse=True)
    names = name_groups(group_of, links, {group: face_ids[row] for group, row in enumerate(first)})
    name_of = {str(people[group]): name for group, name in names.items()}
    rows = [replace(row, name=name_of.get(row.identity_id)) for row in ledger.read_rows(Identity)]
    return rows, [*_not_in_use(links), *links.notices]


def _labelled(ledger: Ledger, faces: Sequence[Face]) -> tuple[dict[str, str], bool, list[str]]:
    """face -> label, whether labels are truth, and what is to be told."""
    labels = ledger.read_rows(Label)
    labelled, notices = label_faces(labels, faces)
    return labelled, bool(labels) and labels[0].truth, notices


def _not_in_use(links: Links) -> list[str]:
    missing = sorted({one.number for one in links.missing})
    if not missing:
        return []
    faces = len({(one.face.photo_id, one.face.box) for one in links.missing})  # however many decisions name them
    which = f"decision{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
    one = f"1 face that decisions name is not in use now ({which})"
    many = f"{faces} faces that decisions name are not in use now ({which})"
    return [f"{one if faces == 1 else many}; the decisions are kept: `likeness decide DATASET list` says which."]
