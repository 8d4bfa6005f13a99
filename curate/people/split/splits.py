"""The stage `split`: puts every face into train, val or test, so that nothing leaks between the splits.

No photo is in two splits, and a copy of a photo is in the split of the photo. With `--split-by identity`, no identity
is in two splits. With `--split-by photos`, an identity may be in several splits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from curate.config import CurateConfig, SplitRules
from curate.detection.screen import find_reasons
from curate.imports.listed_faces import LISTED_ELSEWHERE, find_listed_faces, find_listed_splits
from curate.people.copies.near_duplicates import select_replaced_faces, select_usable_faces
from curate.people.split.assign_splits import assign_splits, find_units_by_identity, find_units_by_photo
from curate.people.split.assigned import find_assigned_splits
from curate.people.split.faces_set_aside import describe_faces_set_aside, find_faces_set_aside
from curate.people.split.frozen_people import find_frozen_people
from curate.people.split.split_notes import describe_empty_splits, describe_split_changes
from curate.people.split.together import find_people_together, move_together
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.decisions.decision_log import Decision, read_decisions
from manifests.ledger.decisions.face_finder import FaceFinder
from manifests.ledger.filters import FilterSet, PhotoFacts, list_photo_facts
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DOUBTFUL_PERSON, Face, Identity, ListEntry, Membership, Photo, Split
from manifests.runtime.text import format_count

FACE_DROPPED = "face_dropped"


def split_faces(ledger: Ledger, config: CurateConfig) -> list[str]:
    """Records a split for every face with an identity. Returns notices.

    The notices count the faces that an imported list puts into a different split than their person. The notices also
    say why faces are set aside, and why a split is empty. If faces change their split although frozen sets exist, the
    notices name the people.
    """
    before, faces = ledger.read_rows(Split), ledger.read_rows(Face)
    identities, memberships = ledger.read_rows(Identity), ledger.read_rows(Membership)
    rows, notices = compute_splits(ledger, faces, identities, memberships, config, read_decisions(ledger))
    ledger.record("split", "all", config.split, rows, replace=(Split,))
    count = sum(row.reason == LISTED_ELSEWHERE for row in rows)
    if count:
        verb, whose = ("is", "its") if count == 1 else ("are", "their")
        notices.append(
            f"{format_count(count, 'face')} {verb} set aside, because an imported list puts {whose} photo and most "
            "photos of the person into different splits."
        )
    frozen = any(row.locked for row in before)
    listed = any(entry.split is not None for entry in ledger.read_rows(ListEntry))
    notices += describe_faces_set_aside(rows, select_usable_faces(faces), frozen, listed)
    notices += describe_empty_splits(rows, config.split)
    return [*notices, *describe_split_changes(find_split_changes(before, rows))]


def compute_splits(
    ledger: Ledger,
    faces: Sequence[Face],
    identities: Sequence[Identity],
    memberships: Sequence[Membership],
    config: CurateConfig,
    decisions: Sequence[Decision],
    before: Sequence[Split] | None = None,
) -> tuple[list[Split], list[str]]:
    """Returns the split rows for `faces`, `identities` and `memberships`, and notices about imported lists.

    Nothing is written. `decisions` is the whole log of decisions. `before` are the split rows of the last run, and None
    stands for the rows of the ledger.

    Raises BadInput in the same cases as `make_splits`. Raises LedgerBroken if an identity or a photo is in two splits.
    """
    usable, lists = select_usable_faces(faces), ledger.read_rows(ListEntry)
    listed_splits, notices = find_listed_splits(lists, usable)
    identity_of = {row.face_id: row.identity_id for row in memberships}
    assigned = find_assigned_splits(decisions, FaceFinder(faces), identity_of)
    listed_splits = {**listed_splits, **{face: assigned[p] for face, p in identity_of.items() if p in assigned}}
    before = ledger.read_rows(Split) if before is None else before
    successors = {face.face_id: face.representative for face in select_replaced_faces(faces)}
    frozen_rows = [row for row in before if row.reason != DOUBTFUL_PERSON]
    frozen = find_frozen_people(ledger, faces, memberships, frozen_rows, successors)
    together = find_people_together(decisions, faces, memberships)
    doubtful = {person.identity_id for person in identities if person.doubtful}
    rows = make_splits(usable, memberships, before, config.split, listed_splits, successors, frozen, together, doubtful)
    check_splits(usable, rows)
    facts = {photo.photo_id: list_photo_facts(photo) for photo in ledger.read_rows(Photo)}
    return mark_references_only(rows, usable, facts, config.screen, find_listed_faces(lists, usable)), notices


def mark_references_only(
    rows: Sequence[Split],
    faces: Sequence[Face],
    photos: Mapping[str, PhotoFacts],
    filters: FilterSet,
    listed: Container[str] = (),
) -> list[Split]:
    """Returns the rows with `no_target`: the reason of the test filter that removes the face from the targets, or None.

    Test filters apply only to faces of the split `test`. `photos` maps the id of a photo to facts about the photo.
    Faces in `listed` are not filtered, because an imported list decides which listed faces are targets.
    """
    face_of = {face.face_id: face for face in faces}
    tests = [
        face_of[row.face_id] for row in rows if row.split == "test" and row.status == "ok" and row.face_id not in listed
    ]
    test_filters = replace(filters, filters=filters.test_filters)
    reasons = find_reasons(tests, [photos[face.photo_id] for face in tests], test_filters)
    reason_of = dict(zip((face.face_id for face in tests), reasons, strict=True))
    return [replace(row, no_target=reason_of.get(row.face_id)) for row in rows]


def make_splits(
    faces: Sequence[Face],
    memberships: Sequence[Membership],
    before: Sequence[Split],
    rules: SplitRules,
    listed_splits: Mapping[str, str] | None = None,
    successors: Mapping[str, str] | None = None,
    frozen: Sequence[tuple[str, Split]] = (),
    together: Sequence[Sequence[str]] = (),
    doubtful: Container[str] = (),
) -> list[Split]:
    """Returns a split row for every face in a group, sorted by face_id.

    `faces` are all faces with the status ok and all near-duplicates. `before` are the rows of the last run.
    `listed_splits` maps a face to its split in an imported list.

    If faces are split by identity, the split of a person who shares no photo follows from a hash of the person's
    smallest face_id. The name of a person has no effect on the person's split. People who share photos go to the same
    split, if the splits do not become too small (shared_photos.py). If three or more people have two photos or more,
    every split gets people, unless too many faces would be set aside. A person with a single face has no references.
    Such a person gets the split of another person in the same photo, so that the photo can be used. If the photo shows
    several other people, the person with the most faces in the collection counts. A face is set aside if its photo
    shows people of two splits. If faces are split by photos, the rules for people apply to photos, and copies of a
    photo stay together.

    If no row of `before` is locked, the rows of `before` have no effect. If at least one row is locked, a model may
    have been trained on the faces of all rows, so every row keeps its split. The person of a row gets the split of the
    row, even if a copy of the row's face is now the representative. If a face is no longer in use, its row stays and
    has the status dropped. If people of several splits are merged, the split of a locked row takes precedence. Without
    a locked row, train takes precedence over val, and val takes precedence over test, so that no training face is used
    for evaluation. Only new people can fill an empty split.

    `successors` maps a face whose file was overwritten to the face that shows the same picture now. The row of the
    overwritten face applies to the new face, even if no row is locked. Each pair in `frozen` has a face in use and a
    locked row (frozen_people.py). The row belongs to an unused face of the person, and applies to the face in use.

    `listed_splits` takes precedence over all rows that are not locked. A person gets the split of most of its listed
    faces. A face whose listed split differs from the split of its person is set aside.

    `together` are sets of identities that must be in one split, if faces are split by identity (together.py).

    The faces of the identities in `doubtful` are set aside, except faces to which a locked row applies. Each face of a
    doubtful identity counts as a person with a single face. Doubtful faces are used neither for training nor for tests.
    Rows of `before` with the reason `doubtful_person`, rows of `frozen`, and `together` therefore do not change the
    splits of doubtful faces.

    Raises BadInput if a person has locked rows of two splits, if locked rows have a different policy than
    `rules.policy`, or if the shares of val and test leave no share for train.
    """
    if rules.policy not in ("identity", "photos"):
        raise BadInput(f"--split-by is {rules.policy}. Give identity or photos.")
    if rules.val < 0 or rules.test < 0 or rules.val + rules.test >= 1:
        raise BadInput(
            f"The share of val is {rules.val} and the share of test is {rules.test}. Give shares of 0 or more with a "
            "sum below 1."
        )
    check_policy(before, rules)
    successors, listed_splits = successors or {}, listed_splits or {}
    has_locks = any(row.locked for row in before)
    before = [row for row in before if row.reason != DOUBTFUL_PERSON and (has_locks or row.face_id in successors)]
    locked = {row.face_id for row in before if row.locked}

    # Find the split of each face with an identity. A face has the split of its unit, which is a person or a set of
    # linked photos.
    owner = {member.face_id: member.identity_id for member in memberships}
    photo_of = {face.face_id: face.photo_id for face in faces}
    grouped_faces = sorted(face for face in owner if face in photo_of)
    by_identity = rules.policy == "identity"
    representative = {**{face.face_id: face.representative for face in faces}, **successors}
    frozen_faces = {representative.get(face, face) for face in locked}
    doubtful_faces = {face for face in grouped_faces if owner[face] in doubtful and face not in frozen_faces}
    person_of = {face: face if face in doubtful_faces else owner[face] for face in grouped_faces}
    if by_identity:
        unit_of = find_units_by_identity(grouped_faces, person_of)
    else:
        unit_of = find_units_by_photo(grouped_faces, faces)
    previous_rows = [(representative.get(row.face_id, row.face_id), row) for row in before]
    previous_rows += [(face, row) for face, row in frozen if face not in doubtful_faces]
    unit_split = assign_splits(unit_of, owner, faces, previous_rows, rules, listed_splits)
    split_of = {face: unit_split[unit_of[face]] for face in grouped_faces}
    if by_identity:
        in_use = {owner[face] for face in grouped_faces if face not in doubtful_faces}
        together = [[person for person in people if person in in_use] for people in together]
        split_of = move_together(split_of, person_of, together, [face for face, row in previous_rows if row.locked])

    set_aside = find_faces_set_aside(faces, split_of, listed_splits) | dict.fromkeys(doubtful_faces, DOUBTFUL_PERSON)
    rows = []
    for face in grouped_faces:
        row = Split(face, owner[face], split_of[face], rules.policy, face in locked)
        rows.append(replace(row, status="dropped", reason=set_aside[face]) if face in set_aside else row)
    rows += [replace(row, status="dropped", reason=FACE_DROPPED) for row in before if row.face_id not in owner]
    return sorted(rows, key=lambda row: row.face_id)


def check_policy(before: Sequence[Split], rules: SplitRules) -> None:
    """Raises BadInput if locked rows of `before` have a different policy than `rules.policy`."""
    other = next((row.policy for row in before if row.locked and row.policy != rules.policy), None)
    if other is not None:
        raise BadInput(
            f"--split-by is {rules.policy}, but the frozen sets of this dataset were split by {other}. Training would "
            f"use faces of the frozen sets. Give --split-by {other}, or start a new dataset."
        )


def find_split_changes(before: Sequence[Split], after: Sequence[Split]) -> list[tuple[Split, Split]]:
    """Returns the old and the new row of each face that changes its split, sorted by face_id.

    Returns an empty list if no row of `before` is locked. Faces of doubtful people are in no split, and are left out.
    """
    if not any(row.locked for row in before):
        return []
    old_of = {row.face_id: row for row in before if row.reason != DOUBTFUL_PERSON}
    pairs = ((old_of[row.face_id], row) for row in after if row.face_id in old_of)
    return sorted(((old, new) for old, new in pairs if old.split != new.split), key=lambda pair: pair[1].face_id)


def check_splits(faces: Sequence[Face], splits: Sequence[Split]) -> None:
    """Raises LedgerBroken if an identity, a photo or a near-duplicate is in two splits.

    With `--split-by photos`, identities are not checked.
    """
    active = {row.face_id: row for row in splits if row.status == "ok"}
    splits_of: dict[str, set[str]] = defaultdict(set)  # a phrase for the error message -> splits
    for row in active.values():
        if row.policy == "identity":
            splits_of[f"identity {row.identity_id}"].add(row.split)
    for face in faces:
        same_face = f"face {face.representative} or a near-duplicate of it"
        if face.representative in active:
            splits_of[f"photo {face.photo_id}"].add(active[face.representative].split)
            splits_of[same_face].add(active[face.representative].split)
        if face.face_id in active:
            splits_of[same_face].add(active[face.face_id].split)
    for what, names in sorted(splits_of.items()):
        if len(names) > 1:
            raise LedgerBroken(f"Leak between splits: {what} is in {' and '.join(sorted(names))}.")
