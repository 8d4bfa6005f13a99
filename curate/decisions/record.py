"""Records decisions without a grouping. `apply_decisions_of` (decide.py) updates people, splits and pairs later.

A recorded decision is never refused later, unless the photos change. Everything that can be wrong with a decision is
therefore checked here: its form, the ids that it names, frozen splits, the sidecar with the consent, and
contradictions. A decision can end a contradiction because it takes older decisions back (take_back.py). Every other
contradiction is refused. The consent of a photo changes at once, so that no page shows a photo without consent. The
photo is dropped later.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curate.decisions.accept import read_gone_photos
from curate.decisions.consent_requests import (
    PhotoConsents,
    check_sidecar,
    describe_copies,
    describe_lost_photos,
    find_changed_consents,
    read_photo_consents,
)
from curate.decisions.lookup.face_lookup import FaceLookup
from curate.decisions.lookup.old_people import ReadEmbeddings
from curate.decisions.plan_requests import PlannedRequests, plan_requests
from curate.decisions.requests import Request
from curate.decisions.settings import read_curation_settings
from curate.decisions.take_back import describe_taken_back
from curate.people.group import read_true_labels
from curate.people.pending.people_now import Change, PeopleNow, follow_batches
from curate.people.pending.refused_photos import ConsentRule
from curate.people.split.assign_splits import describe_two_frozen_splits
from manifests.errors import BadInput
from manifests.ledger.decisions.applied_decisions import (
    read_decision_batches,
    read_grouped_decision,
    read_last_decision,
)
from manifests.ledger.decisions.decision_log import Decision, encode_faces, read_decisions
from manifests.ledger.decisions.face_finder import FaceFinder
from manifests.ledger.ledger import Ledger, utc_now
from manifests.ledger.records import DecisionRow, Face, Identity, Membership, Photo, Split
from manifests.privacy.keys import ensure_key, read_key


@dataclass
class Desk:
    """The data in memory with which each request is checked. `record_decisions` keeps the data up to date."""

    people: PeopleNow
    lookup: FaceLookup
    photos: PhotoConsents
    frozen: Mapping[str, Split]  # Face -> its split row, for the faces of people whom a frozen set keeps in a split.
    last_number: int  # The number of the newest decision that was ever recorded.
    version: tuple[object, ...]  # The result of `read_version` when the desk was read.


@dataclass(frozen=True)
class Recorded:
    """The decisions that were recorded, and what they change before the next grouping."""

    decisions: tuple[tuple[int, str, str], ...]  # Number, kind and description of each decision.
    notices: tuple[str, ...]
    change: Change | None  # None if the log contains all requested decisions already.
    desk: Desk  # The desk after the decisions. A new object if another command had changed the ledger.


def read_desk(ledger: Ledger, in_words: bool = False) -> Desk:
    """Reads faces, people and decisions of a ledger. Reading 100,000 faces takes some seconds.

    If `in_words` is true, sentences for the user name decisions in words, and otherwise by their numbers. Raises
    BadInput if no curation of the dataset has finished, and LedgerError if the dataset has no key.
    """
    read_curation_settings(ledger)
    batches, grouped = read_decision_batches(ledger), read_grouped_decision(ledger)
    log = [one for one in read_decisions(ledger) if one.number <= grouped]
    faces, identities = ledger.read_rows(Face), ledger.read_rows(Identity)
    labels = read_true_labels(ledger, faces)
    photos = read_photo_consents(ledger)
    rule = ConsentRule(photos.sidecar, photos.require)
    people = PeopleNow(faces, ledger.read_rows(Membership), identities, log, read_key(ledger), labels, rule)
    follow_batches(people, batches)
    frozen = find_frozen_rows(faces, ledger.read_rows(Split))
    lookup = FaceLookup(people, read_gone_photos(ledger), in_words=in_words)
    return Desk(people, lookup, photos, frozen, read_last_decision(ledger), read_version(ledger))


def read_version(ledger: Ledger) -> tuple[object, ...]:
    """Returns a value that changes with every command that writes into the ledger."""
    return ledger.query("SELECT max(finished), count(*) FROM stages").row(0)


def record_decisions(dataset: Path, requests: Sequence[Request], desk: Desk | None = None) -> Recorded:
    """Records either all requested decisions or no decision. People, splits and pairs stay as they are.

    A request has the same keys as a line of the decision file (docs/curate.md). The desk is read again if `desk` is
    None, or if another command has changed the ledger since `desk` was read. Raises BadInput in the same cases as
    `decide`.
    """
    with Ledger.open(dataset, write=True, check_tables=desk is None) as ledger:
        if desk is None or desk.version != read_version(ledger):
            ensure_key(ledger)
            desk = read_desk(ledger, desk is not None and desk.lookup.in_words)
        planned = plan_on_desk(desk, requests, ledger.read_embeddings)
        new, change = planned.decisions, planned.change
        if change is None:
            return Recorded((), tuple(planned.notices), None, desk)
        _check_frozen_groups(change, desk.frozen)
        notices = [*planned.notices, *describe_taken_back(desk.people.log, new, desk.lookup.name_decision)]
        notices += [*describe_same_names(new, desk.people), *describe_copies(new, desk.people, desk.photos)]
        consents = find_changed_consents([*desk.people.log, *new], desk.photos)
        notices += describe_lost_photos(consents, desk.photos)
        photos = ledger.read_rows(Photo, "list_contains(?, photo_id)", list(consents)) if consents else []
        photos = [replace(photo, consent=consents[photo.photo_id]) for photo in photos]
        ledger.record("decide", "all", {}, [*make_rows(new), *photos])
        desk.version = read_version(ledger)
    desk.last_number = new[-1].number
    desk.photos.now.update(consents)
    return Recorded(list_phrases(planned), tuple(notices), desk.people.follow(new, change), desk)


def plan_on_desk(desk: Desk, requests: Sequence[Request], read_embeddings: ReadEmbeddings) -> PlannedRequests:
    """Returns the requested decisions and what they change. `desk` is not changed.

    Raises BadInput if a request is wrong or not allowed. The caller checks the new people with `_check_frozen_groups`.
    """

    def check(decisions: Sequence[Decision], people: PeopleNow) -> None:
        check_sidecar(decisions, desk.photos)
        check_frozen_people(decisions, people.finder, desk.frozen)

    return plan_requests(requests, desk.lookup, desk.photos, desk.last_number, read_embeddings, check)


def list_phrases(planned: PlannedRequests) -> tuple[tuple[int, str, str], ...]:
    """Returns the number, the kind and a phrase for each decision."""
    return tuple((one.number, one.kind, phrase) for one, phrase in zip(planned.decisions, planned.phrases, strict=True))


def describe_same_names(decisions: Sequence[Decision], people: PeopleNow) -> list[str]:
    """Returns a sentence for each new name that another person has too. `people` are the people before the
    decisions.
    """
    sentences = []
    for decision in decisions:
        if decision.kind == "rename" and decision.name:
            found = (people.finder.find(location)[0] for location in decision.parts[0])
            own = {people.identity_of.get(face.representative) for face in found if face is not None}
            others = [
                row.identity_id
                for row in people.identities.values()
                if row.name is not None
                and row.name.casefold() == decision.name.casefold()
                and row.identity_id not in own
                and people.members.get(row.identity_id)
            ]
            if others:
                number = "Another person has" if len(others) == 1 else f"{len(others)} other people have"
                sentences.append(f"{number} this name too ({', '.join(sorted(others)[:3])}).")
    return sentences


def make_rows(decisions: Sequence[Decision]) -> list[DecisionRow]:
    """Returns the rows of decisions that one command records. All rows have the same time."""
    time = utc_now()
    return [
        DecisionRow(one.number, one.kind, json.dumps(encode_faces(one)), time, one.name, one.undoes)
        for one in decisions
    ]


def find_frozen_rows(faces: Sequence[Face], splits: Sequence[Split]) -> dict[str, Split]:
    """Returns face -> split row, for the faces in use of each person whom a frozen set keeps in a split."""
    representative = {face.face_id: face.representative for face in faces}
    return {
        representative[row.face_id]: row
        for row in splits
        if row.locked and row.policy == "identity" and row.face_id in representative
    }


def check_frozen_people(decisions: Sequence[Decision], finder: FaceFinder, frozen: Mapping[str, Split]) -> None:
    """Raises BadInput if a decision puts people of different frozen splits into one split."""
    for decision in decisions if frozen else ():
        if decision.kind == "assign":
            _check_assigned_split(decision, finder, frozen)
        if decision.kind not in ("merge", "together", "move"):
            continue
        joined = decision.parts[:2] if decision.kind == "move" else decision.parts
        rows: dict[str, Split] = {}  # split -> the row of a joined face in this split
        for location in (location for part in joined for location in part):
            face, _ = finder.find(location)
            row = frozen.get(face.representative) if face is not None else None
            if row is not None:
                rows[row.split] = row
        if len(rows) > 1:
            (one, first), (other, second) = sorted(rows.items())[:2]
            raise BadInput(
                f"Nothing is recorded: {first.identity_id} is in the frozen {one} split and {second.identity_id} is in "
                f"the frozen {other} split. One person cannot be in two splits. To merge these people, start a new "
                "dataset."
            )


def _check_assigned_split(decision: Decision, finder: FaceFinder, frozen: Mapping[str, Split]) -> None:
    """Raises BadInput if the person of the decision is in another frozen split."""
    for location in decision.parts[0]:
        face, _ = finder.find(location)
        row = frozen.get(face.representative) if face is not None else None
        if row is not None and row.split != decision.name:
            raise BadInput(
                f"Nothing is recorded: {row.identity_id} is in the frozen {row.split} split, and stays there. To put "
                "the person into another split, start a new dataset."
            )


def _check_frozen_groups(change: Change, frozen: Mapping[str, Split]) -> None:
    """Raises BadInput if a person gets faces of different frozen splits.

    For example, an undo of a decision `split` can have this effect.
    """
    splits_of: dict[str, dict[str, None]] = defaultdict(dict)
    for face, person in change.owner.items():
        if face in frozen:
            splits_of[person][frozen[face].split] = None
    for person, splits in splits_of.items():
        if len(splits) > 1:
            raise BadInput(f"Nothing is recorded: {describe_two_frozen_splits(person, *list(splits)[:2])}")
