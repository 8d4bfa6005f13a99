"""Applies decisions: updates identities, splits and pairs, and erases faces of photos without consent.

`decide` records decisions and applies them at once. `record_decisions` (record.py) only records decisions, and
`apply_decisions_of` applies recorded decisions later. A decision takes back the earlier decisions that it contradicts
(take_back.py). A decision is refused if it joins people who are in different frozen splits. No face model is loaded.
The faces are grouped again from their recorded embeddings, with the settings of the last curation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curate.config import CurateConfig
from curate.decisions.accept import describe_next_curation
from curate.decisions.consent_plan import plan_consent
from curate.decisions.record import describe_same_names, list_phrases, make_rows, plan_on_desk, read_desk
from curate.decisions.requests import Request
from curate.decisions.settings import read_curation_settings
from curate.decisions.take_back import describe_taken_back
from curate.people.copies.near_duplicates import compute_near_duplicates
from curate.people.group import compute_groups, compute_names
from curate.people.leaks.audit import audit_leaks
from curate.people.pairing.pairs import pair_faces
from curate.people.split.split_notes import describe_split_changes
from curate.people.split.splits import compute_splits, find_split_changes, split_faces
from manifests.errors import BadInput
from manifests.ledger.decisions.applied_decisions import (
    APPLY_STAGE,
    LAST_DECISION,
    count_unapplied_decisions,
    mark_decisions_applied,
    read_decision_batches,
    read_last_decision,
    read_unapplied_decisions,
)
from manifests.ledger.decisions.decision_log import CONSENT_KIND, DROP, Decision, read_decisions
from manifests.ledger.decisions.in_force import resolve_undos
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Degradation, Face, Identity, Membership, remove_embedding
from manifests.privacy.erase import erase_dropped_faces
from manifests.privacy.keys import ensure_key
from manifests.runtime.progress import Progress
from manifests.runtime.text import format_count


@dataclass(frozen=True)
class Outcome:
    """The decisions of a command, and all changes that the decisions cause."""

    decisions: tuple[tuple[int, str, str], ...]  # Number, kind and description of each decision.
    # The id, the old identity and the new identity of each face whose identity changes.
    moves: tuple[tuple[str, str | None, str | None], ...]
    people: int  # number of identities after the command
    notices: tuple[str, ...]
    # The id, the old split and the new split of each face whose split changes. The tuple is empty if the dataset has no
    # frozen set.
    split_changes: tuple[tuple[str, str, str], ...] = ()
    names: tuple[tuple[str, str | None, str | None], ...] = ()  # Id, old name and new name of each renamed person.
    applied: int = 0  # Number of applied decisions, including decisions that were recorded before the command.
    only_names: bool = False  # Whether the applied decisions rename people and move no face.
    # Whether all applied decisions are about filters. They change only which faces the next curation drops by its
    # filters.
    only_filters: bool = False


def decide(
    dataset: Path, requests: Sequence[Request], dry_run: bool = False, progress: Progress = lambda *_: None
) -> Outcome:
    """Records either all requested decisions or no decision, and updates identities, splits and pairs.

    A request has the same keys as a line of the decision file (docs/curate.md). Earlier decisions that were recorded
    and not applied are also applied. If `dry_run` is true, nothing is written.

    Raises BadInput, and records nothing, if a request is malformed or names an unknown face or person. Raises BadInput,
    and records nothing, if a decision contradicts a label, if an undo makes older decisions contradict each other, or
    if a decision joins people of different frozen splits.
    """
    with Ledger.open(dataset, write=not dry_run) as ledger:
        config, same_person = read_curation_settings(ledger)
        if not dry_run:
            ensure_key(ledger)
        desk = read_desk(ledger)
        planned = plan_on_desk(desk, requests, ledger.read_embeddings)
        new = planned.decisions
        waiting = count_unapplied_decisions(ledger)
        if not new and not waiting:
            return Outcome((), (), len(ledger.read_rows(Identity)), tuple(planned.notices))
        if not new:  # an earlier call recorded the same decisions, and was stopped before it applied them
            outcome = _apply(ledger, config, same_person, [], dry_run, progress)
            return replace(outcome, notices=(*planned.notices, *outcome.notices))
        notices = [*planned.notices, *describe_taken_back(desk.people.log, new, desk.lookup.name_decision)]
        notices += [*describe_same_names(new, desk.people), *_describe_waiting(waiting)]
        outcome = _apply(ledger, config, same_person, new, dry_run, progress)
        return replace(outcome, decisions=list_phrases(planned), notices=(*notices, *outcome.notices))


def apply_decisions_of(dataset: Path, dry_run: bool = False, progress: Progress = lambda *_: None) -> Outcome:
    """Applies all recorded decisions that are not yet applied, and updates identities, splits and pairs.

    If an earlier call was killed, this call does the work that is left. If `dry_run` is true, nothing is written.

    Raises BadInput, and changes nothing, if decisions contradict each other or if the people cannot be divided into
    splits.
    """
    with Ledger.open(dataset, write=not dry_run) as ledger:
        config, same_person = read_curation_settings(ledger)
        if not count_unapplied_decisions(ledger):
            return Outcome((), (), len(ledger.read_rows(Identity)), ())
        if not dry_run:
            ensure_key(ledger)
        return _apply(ledger, config, same_person, [], dry_run, progress)


def _apply(
    ledger: Ledger,
    config: CurateConfig,
    same_person: float,
    new: Sequence[Decision],
    dry_run: bool,
    progress: Progress,
) -> Outcome:
    """Records the decisions `new`, and applies all decisions that are not yet applied, including `new`.

    All changes are computed before anything is written, so that a refused decision changes nothing. `decisions` of the
    result is empty, and `decide` fills it.
    """
    log = [*read_decisions(ledger), *new]
    last = new[-1].number if new else read_last_decision(ledger)
    unapplied = [*read_unapplied_decisions(ledger), *new]
    faces = ledger.read_rows(Face)
    # If every decision is a rename or about filters, the faces are not grouped again: a rename moves no face, and only
    # the next curation uses a face that a decision accepts.
    about_filters = [decision.kind == "accept" for decision in resolve_undos(unapplied, log)]
    if all(own or one.kind == "rename" for one, own in zip(unapplied, about_filters, strict=True)):
        outcome = _apply_names(ledger, faces, log, new, last, dry_run)
        waits = all(about_filters)
        notices = (*outcome.notices, *describe_next_curation(log, unapplied, faces))
        return replace(outcome, notices=notices, applied=len(unapplied), only_names=not waits, only_filters=waits)

    memberships = ledger.read_rows(Membership)
    consent = plan_consent(ledger, log, unapplied)
    changes = consent.changes.faces
    faces = _replace_rows(faces, changes)
    kinds = ("drop", "prefer", CONSENT_KIND, "undo")
    if any(one.kind in kinds or any(taken.effect == DROP for taken in one.takes_back) for one in unapplied):
        _, copies = compute_near_duplicates(ledger, faces, log, config, same_person)
        changes = [*changes, *copies]  # no face occurs twice, because a face without consent is never a near-duplicate
        faces = _replace_rows(faces, copies)
    later = describe_next_curation(log, unapplied, faces)
    # People keep their ids as if each earlier command had grouped the faces. The last command needs no such step,
    # because this grouping carries it out.
    batches = read_decision_batches(ledger)
    groups = compute_groups(ledger, faces, log, config, progress, batches if new else batches[:-1])
    remaining = [remove_embedding(face) if face.face_id in consent.erased else face for face in faces]
    try:
        rows, _ = compute_splits(ledger, remaining, groups.identities, groups.memberships, config, log, consent.splits)
    except BadInput as error:
        raise BadInput(f"Nothing is {'recorded' if new else 'applied'}: {error}") from None
    split_changes = find_split_changes(consent.splits, rows)
    leaving = {face.face_id for face in changes if face.status != "ok"} - consent.erased
    frozen = _describe_frozen_images(ledger, leaving)

    if not dry_run:
        ledger.record(
            "group",
            "all",
            config.group,
            [*make_rows(new), *consent.changes.photos, *changes, *groups.identities, *groups.memberships],
            replace=(Identity, Membership),
            delete=consent.changes.deletions,
            detail=groups.detail,
        )
        if consent.touches_consent:
            erase_dropped_faces(ledger)
        split_faces(ledger, config)
        pair_faces(ledger, config)
        audit_leaks(ledger, progress)
        mark_decisions_applied(ledger, last)
    return Outcome(
        (),
        _find_moves(memberships, groups.memberships),
        len(groups.identities),
        (*consent.notices, *describe_split_changes(split_changes), *frozen, *groups.detail["notices"], *later),
        tuple((new_row.face_id, old_row.split, new_row.split) for old_row, new_row in split_changes),
        applied=len(unapplied),
    )


def _apply_names(
    ledger: Ledger, faces: Sequence[Face], log: Sequence[Decision], new: Sequence[Decision], last: int, dry_run: bool
) -> Outcome:
    """Records the decisions `new`, and gives people the names from the log. `faces` are the faces of the ledger."""
    ledger_people = ledger.read_rows(Identity)
    people, notices = compute_names(ledger, faces, log)
    if not dry_run:
        ledger.record(APPLY_STAGE, "all", {}, [*make_rows(new), *people], detail={LAST_DECISION: last})
    old = {row.identity_id: row.name for row in ledger_people}
    names = [(row.identity_id, old[row.identity_id], row.name) for row in people]
    changes = tuple(change for change in names if change[1] != change[2])
    return Outcome((), (), len(people), tuple(notices), names=changes)


def _describe_waiting(count: int) -> list[str]:
    """Returns a notice about `count` decisions that an earlier command recorded, or an empty list."""
    if not count:
        return []
    verb = "is" if count == 1 else "are"
    return [
        f"{format_count(count, 'decision')} that {'was' if count == 1 else 'were'} recorded before {verb} applied too."
    ]


def _replace_rows(faces: Sequence[Face], changes: Sequence[Face]) -> list[Face]:
    """Returns the rows `faces`, in which the rows of `changes` replace the rows with the same ids."""
    row_of = {face.face_id: face for face in changes}
    return [row_of.get(face.face_id, face) for face in faces]


def _find_moves(
    before: Sequence[Membership], after: Sequence[Membership]
) -> tuple[tuple[str, str | None, str | None], ...]:
    """Returns each face whose identity changes, with its identity before and after.

    An identity is None if the face has no identity.
    """
    old = {row.face_id: row.identity_id for row in before}
    new = {row.face_id: row.identity_id for row in after}
    return tuple(
        (face, old.get(face), new.get(face))
        for face in sorted(old.keys() | new.keys())
        if old.get(face) != new.get(face)
    )


def _describe_frozen_images(ledger: Ledger, leaving: Collection[str]) -> list[str]:
    """Returns a notice if frozen sets contain images of `leaving`, the faces that leave the dataset.

    Otherwise returns [].
    """
    rows = [row for row in ledger.read_rows(Degradation) if row.face_id in leaving]
    if not rows:
        return []
    sets = ", ".join(f"lq/{name}" for name in sorted({row.lq_set for row in rows}))
    count = len({row.face_id for row in rows})
    verb, whose = ("leaves", "its") if count == 1 else ("leave", "their")
    return [f"{format_count(count, 'face')} {verb} the dataset, but these frozen sets keep {whose} images: {sets}."]
