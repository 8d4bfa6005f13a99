"""The stage `group` groups the faces with embeddings into identities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from curate.config import CurateConfig
from curate.detection.worth import measure_worth, read_worth_scale
from curate.people.clustering.confidence import count_cosines
from curate.people.clustering.extend_grouping import extend_grouping
from curate.people.clustering.group_embeddings import Grouping, group_embeddings
from curate.people.constraints.apply_decisions import apply_decisions
from curate.people.constraints.links import Links, resolve_links
from curate.people.copies.collages import describe_collages, describe_repeated_faces, find_collages
from curate.people.copies.near_duplicates import find_pictures, select_replaced_faces, select_usable_faces
from curate.people.earlier_grouping import (
    CHANGED,
    FULL_GROUPING,
    LABELS,
    describe_extension,
    describe_full_grouping,
    hash_labels,
    read_earlier_grouping,
)
from curate.people.grouping_memory import read_embeddings
from curate.people.identities import make_identities, name_groups
from curate.people.label_hints import describe_hints, find_label_doubts, find_spread_labels
from curate.people.pending.people_now import PeopleNow, follow_batches
from curate.people.pending.refused_photos import read_consent_rule
from curate.photos.labelling.labels import label_faces
from manifests.ledger.decisions.applied_decisions import LAST_DECISION, find_last_number, read_decision_batches
from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION, Decision, read_decisions
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, File, Identity, Label, Membership, Photo, Record
from manifests.privacy.erase import CONSENT_MISSING, NO_CONSENT
from manifests.privacy.keys import read_key
from manifests.runtime.progress import Progress
from manifests.runtime.text import format_count
from manifests.runtime.uris import display_path
from manifests.runtime.workspace import Workspace

_ROWS_AT_ONCE = 2**14  # Number of faces in one step; limits the memory.


@dataclass(frozen=True)
class GroupRows:
    """The rows that the stage `group` records, and figures about the grouping."""

    identities: list[Identity]
    memberships: list[Membership]
    detail: dict[str, Any]  # the figures that the ledger stores for the stage: threshold, histogram, notices and others
    # Why all faces were grouped, although new faces could usually join the people of the last grouping; None otherwise.
    regrouping: str | None = None


def group_faces(ledger: Ledger, config: CurateConfig, progress: Progress) -> None:
    """Records identities and memberships, and the figures of `GroupRows.detail`.

    Raises BadInput if decisions contradict each other.
    """
    decisions, batches = read_decisions(ledger), read_decision_batches(ledger)
    groups = compute_groups(ledger, ledger.read_rows(Face), decisions, config, progress, batches[:-1])
    rows: list[Record] = [*groups.identities, *groups.memberships]
    detail = groups.detail
    if groups.regrouping is not None:
        detail = {**detail, "notices": [groups.regrouping, *detail["notices"]]}
    ledger.record("group", "all", config.group, rows, replace=(Identity, Membership), detail=detail)


def compute_groups(
    ledger: Ledger,
    all_faces: Sequence[Face],
    decisions: Sequence[Decision],
    config: CurateConfig,
    progress: Progress,
    followed: Sequence[Sequence[Decision]] = (),
) -> GroupRows:
    """Groups the faces with the status ok, with labels and decisions as constraints. Nothing is written.

    If only a few faces of a large collection are new, these faces join the people of the last grouping
    (earlier_grouping.py), and the other faces are not grouped again.

    `followed` are the decisions that were recorded after the last grouping, in one list for each command. The new
    grouping starts from the people as they are after these decisions. People keep their ids, and a locked person
    accepts no face of another person. The result is therefore the same as if each command had grouped the faces.

    Raises BadInput if decisions contradict each other, or if `config.memory` is too small.
    """
    faces = select_usable_faces(all_faces)
    face_ids, vectors, workspace = read_embeddings(ledger, faces, config.memory)
    # Two faces in one picture count as two people. If a picture has several copies, the representatives of its faces
    # may be in different copies. To keep the faces of one picture in different groups, the clustering therefore gets
    # the picture of each face and not its photo.
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    picture_of_photo = find_pictures(faces, photos, config.dedupe.max_photo_bits)
    picture_of = {face.face_id: picture_of_photo[face.photo_id] for face in faces}
    rules = config.group
    face_labels, labels_are_truth, notices = _read_labels(ledger, faces, photos)
    links = resolve_links(decisions, all_faces, face_ids, face_labels if labels_are_truth else {})
    progress("group", 0, len(face_ids))
    worth = _measure_worth(ledger, faces, face_ids, vectors, workspace)
    is_main = _find_main_faces(faces, face_ids, picture_of)
    before = _read_memberships(ledger, [*faces, *select_replaced_faces(all_faces)])
    if followed:
        before = _follow(ledger, all_faces, before, decisions, followed, face_labels if labels_are_truth else {})
    true_labels = face_labels if labels_are_truth else {}
    earlier, regrouping = None, None
    if not config.regroup:
        earlier, regrouping = read_earlier_grouping(ledger, rules, face_ids, before, decisions, true_labels)

    def group(pictures: Sequence[str]) -> Grouping:
        return group_embeddings(
            vectors,
            pictures,
            must_link=links.must_links,
            cannot_link=links.cannot_links,
            same_person=rules.same_person,
            neighbours=rules.neighbours,
            worth=worth,
            is_main=is_main,
            workspace=workspace,
        )

    # With --collages, the faces are grouped a second time. In the second grouping, each face of a collage counts as a
    # picture of its own.
    pictures = [picture_of[face] for face in face_ids]
    if earlier is None:
        grouping = group(pictures)
    else:
        grouping = extend_grouping(
            vectors, earlier, pictures, links.must_links, links.cannot_links, worth, is_main, workspace
        )
    collages = find_collages(vectors, grouping.labels, pictures, grouping.threshold, workspace)
    if collages and rules.one_person_may_appear_twice:
        grouping = group(
            [face if picture in collages else picture for face, picture in zip(face_ids, pictures, strict=True)]
        )
    identity_of = {row.face_id: row.identity_id for row in before}
    grouping = apply_decisions(vectors, grouping, links, [identity_of.get(face) for face in face_ids])
    identities, memberships = make_identities(face_ids, grouping, before, read_key(ledger), links, worth)
    if earlier is not None:
        notices += describe_extension(before, memberships)
    # Labels that are only hints are compared with the grouping.
    photo_of = {face.face_id: face.photo_id for face in faces}
    label_spread = {} if labels_are_truth else find_spread_labels(face_labels, memberships)
    label_doubts = [] if labels_are_truth else find_label_doubts(face_labels, memberships, photo_of)
    hints = [] if labels_are_truth else describe_hints(label_doubts, label_spread, len(face_labels))
    name_of = {file.photo_id: display_path(file.uri).name for file in ledger.read_rows(File)}
    collage_names = [name_of[photo] for photo in sorted(collages) if photo in name_of]
    collage_notices = describe_collages(collage_names, sum(collages.values()), rules.one_person_may_appear_twice)
    repeating_photos = {pictures[row] for row in grouping.repeated if pictures[row] in name_of}
    repeat_notices = describe_repeated_faces([name_of[photo] for photo in repeating_photos])
    detail = {
        "threshold": grouping.threshold,
        "calibrated": rules.same_person is None,
        "evidence": None if grouping.evidence is None else asdict(grouping.evidence) | {"alpha": grouping.alpha},
        "neighbour_recall": grouping.recall,
        "false_match_rate": grouping.false_match_rate,
        "histogram": count_cosines(vectors, grouping.labels),
        FULL_GROUPING: (
            describe_full_grouping(len(face_ids), rules)
            if earlier is None
            else ledger.read_detail("group")[FULL_GROUPING] | {CHANGED: earlier.changed}
        ),
        LABELS: hash_labels(true_labels, face_ids),
        LAST_DECISION: find_last_number(decisions),
        "label_doubts": [asdict(doubt) for doubt in label_doubts],
        "labels_parted": label_spread,
        "collages": sorted(collages),
        "notices": [
            *notices,
            *collage_notices,
            *repeat_notices,
            *_describe_missing_faces(links),
            *links.notices,
            *grouping.notices,
            *hints,
            *_describe_doubtful(identities, memberships),
        ],
    }
    progress("group", len(face_ids), len(face_ids))
    return GroupRows(identities, memberships, detail, regrouping)


def _follow(
    ledger: Ledger,
    faces: Sequence[Face],
    memberships: Sequence[Membership],
    decisions: Sequence[Decision],
    followed: Sequence[Sequence[Decision]],
    labels: Mapping[str, str],
) -> list[Membership]:
    """Returns the memberships after the decisions `followed`, which are the newest decisions of `decisions`.

    A decision of `followed` may already have dropped a face of `faces`, or the face's photo may have lost the consent.
    If such a face has a membership, the face was in use before `followed`.
    """
    new = {one.number for batch in followed for one in batch}
    log = [one for one in decisions if one.number < min(new)]
    members = {row.face_id for row in memberships}
    faces = [
        replace(face, status="ok", reason=None)
        if face.face_id in members and face.reason in (DROPPED_BY_DECISION, NO_CONSENT, CONSENT_MISSING)
        else face
        for face in faces
    ]
    usable = {face.face_id for face in faces if face.status == "ok"}
    memberships = [row for row in memberships if row.face_id in usable]
    rule = read_consent_rule(ledger)
    people = PeopleNow(faces, memberships, ledger.read_rows(Identity), log, read_key(ledger), labels, rule)
    follow_batches(people, followed)
    row_of = {row.face_id: row for row in memberships}
    return [replace(row_of[face], identity_id=person) for face, person in sorted(people.identity_of.items())]


def read_true_labels(ledger: Ledger, all_faces: Sequence[Face]) -> dict[str, str]:
    """Returns face_id -> label, or an empty dict if the labels are only hints."""
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    face_labels, labels_are_truth, _ = _read_labels(ledger, select_usable_faces(all_faces), photos)
    return face_labels if labels_are_truth else {}


def compute_names(
    ledger: Ledger, all_faces: Sequence[Face], decisions: Sequence[Decision]
) -> tuple[list[Identity], list[str]]:
    """Returns the current identities with their names from `decisions`, and notices. Nothing is written.

    Raises BadInput if decisions contradict each other.
    """
    faces = select_usable_faces(all_faces)
    usable = {face.face_id for face in faces if face.status == "ok"}
    members = [row for row in ledger.read_rows(Membership) if row.face_id in usable]  # sorted by face id
    face_ids = [row.face_id for row in members]
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    face_labels, labels_are_truth, _ = _read_labels(ledger, faces, photos)
    links = resolve_links(decisions, all_faces, face_ids, face_labels if labels_are_truth else {})
    people, first, group_of = np.unique([row.identity_id for row in members], return_index=True, return_inverse=True)
    names = name_groups(group_of, links, {group: face_ids[row] for group, row in enumerate(first)})
    name_of = {str(people[group]): name for group, name in names.items()}
    rows = [replace(row, name=name_of.get(row.identity_id)) for row in ledger.read_rows(Identity)]
    return rows, [*_describe_missing_faces(links), *links.notices]


def _read_memberships(ledger: Ledger, faces: Sequence[Face]) -> list[Membership]:
    """Returns the memberships of the previous run for the current representatives, sorted by face id.

    `faces` are the usable faces and the faces of `select_replaced_faces`. The photo of a replaced face was overwritten,
    and a usable face shows the same picture. If a face has a new representative, the new representative gets the
    membership. If a representative has several memberships, the row of the representative itself takes precedence.
    """
    representative = {face.face_id: face.representative for face in faces}
    rows = ledger.read_rows(Membership)
    # The row of the representative itself comes last, and therefore takes precedence.
    rows = sorted(rows, key=lambda row: representative.get(row.face_id) == row.face_id)
    by_face = {representative.get(row.face_id, row.face_id): row for row in rows}
    return [replace(row, face_id=face) for face, row in sorted(by_face.items())]


def _measure_worth(
    ledger: Ledger, faces: Sequence[Face], face_ids: Sequence[str], vectors: np.ndarray, workspace: Workspace
) -> np.ndarray | None:
    """Returns the worth of each face, float32 (n,), or None if the worth was not calibrated.

    A face whose embedding has no recorded length has the worth 1.
    """
    scale = read_worth_scale(ledger)
    if scale is None or not face_ids:
        return None
    norm_of = {face.face_id: face.embedding_norm for face in faces}
    norms = np.array([norm_of[face] for face in face_ids], np.float64)  # None becomes NaN
    worth = np.empty(len(norms), np.float32)
    for begin in range(0, len(norms), _ROWS_AT_ONCE):
        part = slice(begin, begin + _ROWS_AT_ONCE)
        worth[part] = np.nan_to_num(measure_worth(vectors[part], norms[part], scale), nan=1.0)
        workspace.trim()
    return worth


def _find_main_faces(faces: Sequence[Face], face_ids: Sequence[str], picture_of: Mapping[str, str]) -> np.ndarray:
    """Returns for each of the faces `face_ids` whether it is the largest face of its picture, bool (n,)."""
    size_of = {face.face_id: face.inter_ocular_px for face in faces}
    largest: dict[str, tuple[float, str]] = {}  # picture -> (distance between the eyes, id) of its largest face
    for face_id in face_ids:
        size = (size_of[face_id], face_id)
        largest[picture_of[face_id]] = max(largest.get(picture_of[face_id], size), size)
    return np.array([largest[picture_of[face_id]][1] == face_id for face_id in face_ids], bool)


def _describe_doubtful(identities: Sequence[Identity], memberships: Sequence[Membership]) -> list[str]:
    """Returns a notice about the people whose faces may be faces of strangers, or an empty list."""
    doubtful = {person.identity_id for person in identities if person.doubtful}
    if not doubtful:
        return []
    faces = sum(row.identity_id in doubtful for row in memberships)
    verb, their = ("is", "its") if len(doubtful) == 1 else ("are", "their")
    return [
        f"{format_count(len(doubtful), 'person', 'people')} with {format_count(faces, 'face')} {verb} set aside as "
        "doubtful, because the grouping may have joined faces of strangers by chance. "
        f"`likeness report` shows {their} faces, and `likeness decide DATASET lock PERSON` confirms a person."
    ]


def _read_labels(
    ledger: Ledger, faces: Sequence[Face], photos: Mapping[str, Photo]
) -> tuple[dict[str, str], bool, list[str]]:
    """Returns face_id -> label, whether the labels are truth (or only hints), and notices."""
    labels = ledger.read_rows(Label)
    face_labels, notices = label_faces(labels, faces, photos)
    return face_labels, bool(labels) and labels[0].truth, notices


def _describe_missing_faces(links: Links) -> list[str]:
    """Returns a notice about faces that decisions name and that are not in use, or an empty list."""
    numbers = sorted({face.number for face in links.missing})
    if not numbers:
        return []
    count = len({(missing.face.photo_id, missing.face.box) for missing in links.missing})  # each face once
    where = f"decision{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
    one = f"1 face that is named in {where} is not in use now."
    many = f"{count} faces that are named in {where} are not in use now."
    advice = "The decisions stay in the log. `likeness decide DATASET list` shows these faces."
    return [f"{one if count == 1 else many} {advice}"]
