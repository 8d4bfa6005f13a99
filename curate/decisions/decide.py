"""Records decisions, and updates identities, splits and pairs at once.

A decision is refused if it contradicts an earlier decision, or if it joins people who are in different frozen splits.
No face model is loaded. The faces are grouped again from their recorded embeddings, with the settings of the last
curation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.config import CurateConfig, read_config
from curate.decisions.face_lookup import FaceLookup
from curate.decisions.requests import Request, parse_requests
from curate.people.copies.near_duplicates import compute_near_duplicates
from curate.people.group import GroupRows, compute_groups, compute_names
from curate.people.leaks.audit import audit_leaks
from curate.people.pairing.pairs import pair_faces
from curate.people.split.split_notes import describe_split_changes
from curate.people.split.splits import compute_splits, find_split_changes, split_faces
from manifests.errors import BadInput
from manifests.ledger.decision_log import SIDED, Decision, FaceFinder, encode_faces, read_decisions
from manifests.ledger.ledger import Ledger, utc_now
from manifests.ledger.records import DecisionRow, Degradation, Face, Identity, Membership, Split
from manifests.privacy.keys import ensure_key
from manifests.runtime.progress import Progress
from manifests.runtime.text import format_count


@dataclass(frozen=True)
class Outcome:
    """The decisions of a command, and all changes that the decisions cause."""

    decisions: tuple[tuple[int, str, str], ...]  # Number, kind and a phrase for each decision.
    # The id, the old identity and the new identity of each face whose identity changes.
    moves: tuple[tuple[str, str | None, str | None], ...]
    people: int  # number of identities after the command
    notices: tuple[str, ...]
    # The id, the old split and the new split of each face whose split changes. The tuple is empty if the dataset has no
    # frozen set.
    split_changes: tuple[tuple[str, str, str], ...] = ()
    names: tuple[tuple[str, str | None, str | None], ...] = ()  # id, old name and new name of each renamed person


def decide(
    dataset: Path, requests: Sequence[Request], dry_run: bool = False, progress: Progress = lambda *_: None
) -> Outcome:
    """Records either all requested decisions or no decision, and updates identities, splits and pairs.

    A request has the same keys as a line of the decision file (docs/curate.md). If `dry_run` is true, nothing is
    written.

    Raises BadInput, and records nothing, if a request is malformed or names an unknown face or person. Raises BadInput,
    and records nothing, if decisions contradict each other, or if a decision joins people of different frozen splits.
    """
    with Ledger.open(dataset, write=not dry_run) as ledger:
        config, same_person = read_curation_settings(ledger)
        if not dry_run:
            ensure_key(ledger)
        log = read_decisions(ledger)
        faces, memberships = ledger.read_rows(Face), ledger.read_rows(Membership)
        parsed = parse_requests(log, requests, FaceLookup(faces, memberships))
        new = parsed.decisions
        if not new:
            return Outcome((), (), len(ledger.read_rows(Identity)), tuple(parsed.notices))
        decisions = tuple(
            (decision.number, decision.kind, phrase) for decision, phrase in zip(new, parsed.phrases, strict=True)
        )
        # A rename moves no face, so the faces are not grouped again.
        if all(decision.kind == "rename" for decision in new):
            ledger_people = ledger.read_rows(Identity)
            people, notices = compute_names(ledger, faces, [*log, *new])
            if not dry_run:
                ledger.record("decide", "all", {}, [*_make_rows(new), *people])
            old = {row.identity_id: row.name for row in ledger_people}
            names = [(row.identity_id, old[row.identity_id], row.name) for row in people]
            changes_of_names = tuple(change for change in names if change[1] != change[2])
            return Outcome(decisions, (), len(people), (*parsed.notices, *notices), names=changes_of_names)

        # Compute all changes before anything is written, so that a refused decision changes nothing.
        _check_frozen_people(new, faces, ledger.read_rows(Split))
        changes: list[Face] = []
        if any(decision.kind in ("drop", "undo") for decision in new):
            _, changes = compute_near_duplicates(ledger, faces, [*log, *new], config, same_person)
            row_of = {face.face_id: face for face in changes}
            faces = [row_of.get(face.face_id, face) for face in faces]
        groups = compute_groups(ledger, faces, [*log, *new], config, progress)
        split_changes = _compute_split_changes(ledger, config, faces, groups, [*log, *new])
        frozen = _describe_frozen_images(ledger, [face.face_id for face in changes if face.status != "ok"])

        if not dry_run:
            ledger.record(
                "group",
                "all",
                config.group,
                [*_make_rows(new), *changes, *groups.identities, *groups.memberships],
                replace=(Identity, Membership),
                detail=groups.detail,
            )
            split_faces(ledger, config)
            pair_faces(ledger, config)
            audit_leaks(ledger, progress)
        return Outcome(
            decisions,
            _find_moves(memberships, groups.memberships),
            len(groups.identities),
            (*parsed.notices, *describe_split_changes(split_changes), *frozen, *groups.detail["notices"]),
            tuple((new_row.face_id, old_row.split, new_row.split) for old_row, new_row in split_changes),
        )


def read_curation_settings(ledger: Ledger) -> tuple[CurateConfig, float]:
    """Returns the settings of the last curation, and `FaceModels.same_person` of the recognizer.

    Raises BadInput if no curation of the dataset has finished.
    """
    settings = ledger.read_detail("settings")
    if not settings:
        raise BadInput(
            f"No curation of {ledger.dataset} has finished yet. Run `likeness curate PHOTOS --out {ledger.dataset}` "
            "first."
        )
    return read_config(settings["config"]), float(settings["same_person"])


def _make_rows(decisions: Sequence[Decision]) -> list[DecisionRow]:
    time = utc_now()
    return [
        DecisionRow(one.number, one.kind, json.dumps(encode_faces(one)), time, one.name, one.undoes)
        for one in decisions
    ]


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


def _check_frozen_people(decisions: Sequence[Decision], faces: Sequence[Face], splits: Sequence[Split]) -> None:
    """Raises BadInput if a decision puts people of different frozen splits into one split."""
    representative = {face.face_id: face.representative for face in faces}
    frozen = {representative.get(row.face_id): row for row in splits if row.locked and row.policy == "identity"}
    finder = FaceFinder(faces)
    for decision in decisions:
        if decision.kind not in (*SIDED, "move"):
            continue
        joined = decision.parts if decision.kind in SIDED else decision.parts[:2]
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


def _compute_split_changes(
    ledger: Ledger,
    config: CurateConfig,
    faces: Sequence[Face],
    groups: GroupRows,
    decisions: Sequence[Decision],
) -> list[tuple[Split, Split]]:
    """Returns the old and the new row of each face that will change its split.

    Raises BadInput if the new groups cannot be divided into splits.
    """
    try:
        rows, _ = compute_splits(ledger, faces, groups.identities, groups.memberships, config, decisions)
    except BadInput as error:
        raise BadInput(f"Nothing is recorded: {error}") from None
    return find_split_changes(ledger.read_rows(Split), rows)


def _describe_frozen_images(ledger: Ledger, face_ids: Sequence[str]) -> list[str]:
    """Returns a notice if frozen sets contain images of the faces `face_ids`, which leave the dataset.

    Otherwise returns [].
    """
    leaving = set(face_ids)
    rows = [row for row in ledger.read_rows(Degradation) if row.face_id in leaving]
    if not rows:
        return []
    sets = ", ".join(f"lq/{name}" for name in sorted({row.lq_set for row in rows}))
    count = len({row.face_id for row in rows})
    verb, whose = ("leaves", "its") if count == 1 else ("leave", "their")
    return [f"{format_count(count, 'face')} {verb} the dataset, but these frozen sets keep {whose} images: {sets}."]
