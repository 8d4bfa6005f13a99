"""Finds the current faces of decisions. A face is given as its row in the embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curate.detection.filter_files import is_dropped_by_filter
from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION, Decision, FaceLocation
from manifests.ledger.decisions.face_finder import FaceFinder
from manifests.ledger.decisions.in_force import find_undos
from manifests.ledger.records import Face


@dataclass(frozen=True)
class MissingFace:
    """A face that a decision names and that is not in use now."""

    number: int  # number of the decision
    face: FaceLocation
    reason_not_in_use: str


@dataclass
class ResolvedDecision:
    """A decision whose faces are row numbers of the current faces."""

    decision: Decision
    # For each part of the decision: row -> whether the face is only a witness (see FaceLocation).
    parts: list[dict[int, bool]]

    def get_joined_parts(self) -> list[dict[int, bool]]:
        """Returns the parts that a merge or a move joins into one person."""
        return self.parts if self.decision.kind == "merge" else self.parts[:2]

    def get_rows(self, part: int, last_named: Mapping[int, int]) -> list[int]:
        """Returns the rows of a part. A witness that a later split or move names is left out."""
        number = self.decision.number
        return sorted(
            row for row, witness in self.parts[part].items() if not (witness and last_named.get(row, 0) > number)
        )

    def release_witnesses(self, undone_decision: ResolvedDecision) -> None:
        """Removes the witnesses that are in a part only because of `undone_decision`, which is a merge or a move.

        If a part contains faces from several sides of `undone_decision`, only the witnesses of one side stay. A side
        stays if one of its faces is named directly. If a part has no face that is named directly, the largest side
        stays.
        """
        for part in self.parts:
            sides = [set(part) & set(side) for side in undone_decision.get_joined_parts()]
            if sum(map(bool, sides)) > 1:
                staying = max(
                    sides, key=lambda side: (any(not part[row] for row in side), len(side), -min(side, default=0))
                )
                for row in set().union(*sides) - staying:
                    if part[row]:
                        del part[row]


def resolve_decisions(
    decisions: Sequence[Decision], active: Sequence[Decision], finder: FaceFinder, row_of: Mapping[str, int]
) -> tuple[list[ResolvedDecision], list[MissingFace]]:
    """Returns the active decisions with faces as row numbers, and the faces that are not in use.

    A witness (see FaceLocation) is left out if it is in a part of a decision only because of an undone decision.
    """
    resolved: list[ResolvedDecision] = []
    missing: list[MissingFace] = []
    for decision in active:
        one, missing_faces = _resolve(decision, finder, row_of)
        resolved.append(one)
        missing += missing_faces
    undo_of = find_undos(decisions)
    for decision in decisions:
        if decision.kind in ("merge", "move") and decision.number in undo_of:
            undone_decision, _ = _resolve(decision, finder, row_of)
            for one in resolved:  # decisions that were made while the undone decision was active
                if decision.number < one.decision.number < undo_of[decision.number]:
                    one.release_witnesses(undone_decision)
    return resolved, missing


def _resolve(
    decision: Decision, finder: FaceFinder, row_of: Mapping[str, int]
) -> tuple[ResolvedDecision, list[MissingFace]]:
    """Returns the decision with row numbers in place of faces, and the faces of the decision that are not in use."""
    parts, missing = [], []
    for locations in decision.parts:
        rows: dict[int, bool] = {}
        for location in locations:
            face, reason_not_in_use = finder.find(location)
            row = row_of.get(face.representative) if face is not None else None
            if row is not None:
                rows[row] = rows.get(row, True) and location.witness
            elif not _is_expected(decision, face):
                missing.append(MissingFace(decision.number, location, reason_not_in_use or "not in use"))
        parts.append(rows)
    return ResolvedDecision(decision, parts), missing


def _is_expected(decision: Decision, face: Face | None) -> bool:
    """Returns whether a decision explains why its face is not in use.

    A decision explains this in two cases: it drops the face, or it accepts a face that only the next curation will use.
    """
    if face is None:
        return False
    is_dropped_here = decision.kind == "drop" and face.reason == DROPPED_BY_DECISION
    return is_dropped_here or (decision.kind == "accept" and is_dropped_by_filter(face))
