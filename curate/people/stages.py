"""The stages from embedded faces to people: label, dedupe, group, split, pair. `likeness decide` runs them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from curate.config import CurateConfig, DedupeRules
from curate.decisions.links import Links, dropped_faces, links_of
from curate.faces.interface import FaceModels
from curate.imports.listed_faces import LISTED_ELSEWHERE, given_labels, given_pairs, given_splits, listed_faces
from curate.people.apply_decisions import uphold
from curate.people.group import group, histogram
from curate.people.identities import make_identities, names_of
from curate.people.near_duplicates import REASON as NEAR_DUPLICATE
from curate.people.near_duplicates import near_duplicates, pictures
from curate.people.pairs import make_pairs
from curate.people.splits import check_splits, make_splits, moved_splits, told_moves
from curate.photos.labels import doubts, label_faces, labels_told, spread, told_hints
from manifests.ledger.decision_log import DROPPED_BY_DECISION, Decision, parse_decision
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import (
    DecisionRow,
    Face,
    File,
    Identity,
    Label,
    ListEntry,
    Membership,
    Pair,
    Photo,
    Record,
    Split,
)
from manifests.privacy.keys import read_key
from manifests.runtime.progress import Progress


def label(ledger: Ledger, config: CurateConfig) -> None:
    """What folders or a CSV say of the photos; made anew each time, so that it lasts as long as it is said. Without,
    what imported lists say, which lasts."""
    rows, notices = labels_told(config.labels, ledger.read_rows(File))
    if config.labels is None:
        rows = given_labels(ledger.read_rows(ListEntry))
    ledger.record("label", "all", {"labels": config.labels}, rows, replace=(Label,), detail={"notices": notices})


def dedupe(ledger: Ledger, config: CurateConfig, models: FaceModels) -> None:
    """Near-duplicates point to the face that stands for them; faces that a decision drops leave with their copies."""
    acts = [parse_decision(row) for row in ledger.read_rows(DecisionRow)]
    rules, changed = deduped(ledger, ledger.read_rows(Face), acts, config, models.same_person)
    ledger.record("dedupe", "all", rules, changed)


def deduped(
    ledger: Ledger, faces: Sequence[Face], acts: Sequence[Decision], config: CurateConfig, same_person: float
) -> tuple[DedupeRules, list[Face]]:
    """The rules and the rows of faces that change."""
    rules = replace(config.dedupe, min_cosine_same_face=max(config.dedupe.min_cosine_same_face, same_person))
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    faces = [
        face
        for face in faces
        if face.shard is not None and (face.status == "ok" or face.reason in (NEAR_DUPLICATE, DROPPED_BY_DECISION))
    ]
    _, vectors = ledger.read_embeddings([face.face_id for face in faces])
    rows = near_duplicates(faces, [photos[face.photo_id] for face in faces], vectors, rules)
    unwanted = dropped_faces(acts, rows)
    rows = [
        replace(row, status="dropped", reason=DROPPED_BY_DECISION, duplicate_of=None)
        if (row.duplicate_of or row.face_id) in unwanted
        else row
        for row in rows
    ]
    return rules, [row for row, face in zip(rows, faces, strict=True) if row != face]


@dataclass(frozen=True)
class Grouped:
    """What grouping found: rows, and figures worth keeping."""

    identities: list[Identity]
    memberships: list[Membership]
    links: Links
    detail: dict[str, Any]


def group_faces(ledger: Ledger, config: CurateConfig, progress: Progress) -> None:
    """Identities and memberships, with the threshold and the similarity histogram noted."""
    acts = [parse_decision(row) for row in ledger.read_rows(DecisionRow)]
    found = grouped(ledger, ledger.read_rows(Face), acts, config, progress)
    rows: list[Record] = [*found.identities, *found.memberships]
    ledger.record("group", "all", config.group, rows, replace=(Identity, Membership), detail=found.detail)


def grouped(
    ledger: Ledger,
    all_faces: Sequence[Face],
    acts: Sequence[Decision],
    config: CurateConfig,
    progress: Progress,
) -> Grouped:
    """The faces that are ok, grouped, with labels and decisions replayed; nothing is written.

    Raises BadInput for decisions that contradict each other.
    """
    # two people of one picture are two people, also where the faces that stand for them lie in two copies of it
    faces = [face for face in all_faces if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    face_ids, vectors = ledger.read_embeddings([face.face_id for face in faces if face.status == "ok"])
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    picture_of = pictures(faces, photos, config.dedupe.max_photo_bits)
    picture_of = {face.face_id: picture_of[face.photo_id] for face in faces}
    rules = config.group
    labelled, truth, notices = _labelled(ledger, faces)
    links = links_of(acts, all_faces, face_ids, labelled if truth else {})
    progress("group", 0, len(face_ids))
    found = group(
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
    found = uphold(vectors, found, links, [was.get(face) for face in face_ids])
    identities, memberships = make_identities(face_ids, found, before, read_key(ledger), links)
    parted = {} if truth else spread(labelled, memberships)
    disagreeing = [] if truth else doubts(labelled, memberships, {face.face_id: face.photo_id for face in faces})
    detail = {
        "threshold": found.threshold,
        "calibrated": rules.same_person is None,
        "neighbour_recall": found.recall,
        "false_match_rate": found.false_match_rate,
        "histogram": histogram(vectors, found.labels),
        "label_doubts": [asdict(one) for one in disagreeing],
        "labels_parted": parted,
        "notices": [
            *notices,
            *_not_in_use(links),
            *links.notices,
            *([] if truth else told_hints(disagreeing, parted, len(labelled))),
        ],
    }
    progress("group", len(face_ids), len(face_ids))
    return Grouped(identities, memberships, links, detail)


def renamed(ledger: Ledger, all_faces: Sequence[Face], acts: Sequence[Decision]) -> tuple[list[Identity], list[str]]:
    """The identities as they stand, with the names they have by these acts, and what is to be told; nothing is written.

    Raises BadInput for decisions that contradict each other.
    """
    faces = [face for face in all_faces if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    usable = {face.face_id for face in faces if face.status == "ok"}
    members = [row for row in ledger.read_rows(Membership) if row.face_id in usable]  # by face id
    face_ids = [row.face_id for row in members]
    labelled, truth, _ = _labelled(ledger, faces)
    links = links_of(acts, all_faces, face_ids, labelled if truth else {})
    people, first, group_of = np.unique([row.identity_id for row in members], return_index=True, return_inverse=True)
    names = names_of(group_of, links, {group: face_ids[row] for group, row in enumerate(first)})
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


def split(ledger: Ledger, config: CurateConfig) -> list[str]:
    """Train, val and test. Answers what is to be told: faces that imported lists have elsewhere than their person, and
    faces that change their split although a frozen set exists."""
    faces = [face for face in ledger.read_rows(Face) if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    before = ledger.read_rows(Split)
    listed, torn = given_splits(ledger.read_rows(ListEntry), faces)
    rows = make_splits(faces, ledger.read_rows(Membership), before, config.split, listed)
    check_splits(faces, rows)
    ledger.record("split", "all", config.split, rows, replace=(Split,))
    elsewhere = sum(row.reason == LISTED_ELSEWHERE for row in rows)
    aside = f"{elsewhere} faces are set aside: a list has them in another split than most of their person's faces."
    return [*torn, *([aside] if elsewhere else []), *told_moves(moved_splits(before, rows))]


def pair(ledger: Ledger, config: CurateConfig) -> list[str]:
    """Targets with their references, and how many faces are no target for which reason. Answers what is to be told of
    references that imported lists name and that cannot be had."""
    faces = [face for face in ledger.read_rows(Face) if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    picture_of = pictures(faces, photos, config.dedupe.max_photo_bits)
    face_ids, vectors = ledger.read_embeddings()
    embedded = {face.face_id: face for face in faces}
    shown = [embedded[face_id] for face_id in face_ids]
    splits, given = ledger.read_rows(Split), ledger.read_rows(ListEntry)
    rows, left_out = make_pairs(splits, shown, vectors, config.pairs, picture_of, listed_faces(given, faces))
    listed, unpaired, lost = given_pairs(given, splits, faces, vectors, picture_of)
    detail = {**asdict(config.pairs), "left_out": {**left_out, **unpaired}, "references_lost": dict(lost)}
    every = sorted([*rows, *listed], key=lambda row: row.target)
    ledger.record("pair", "all", config.pairs, every, replace=(Pair,), detail=detail)
    if not lost:
        return []
    why = ", ".join(f"{n} {reason}" for reason, n in sorted(lost.items(), key=lambda one: (-one[1], one[0])))
    return [f"{sum(lost.values())} references that lists name are left out: {why}."]
