"""Plans what decisions about consent change when they are applied: dropped photos and faces, and what is erased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from curate.photos.consent import ConsentChanges, compute_consent, read_require_consent
from manifests.ledger.decisions.decision_log import CONSENT_KIND, Decision
from manifests.ledger.decisions.in_force import resolve_undos
from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_faces_with_reason
from manifests.ledger.records import Degradation, Split
from manifests.privacy.erase import ERASURE_REASONS, lock_splits
from manifests.runtime.text import format_count


@dataclass(frozen=True)
class ConsentPlan:
    """What the decisions about consent change."""

    splits: list[Split]  # the split rows that are left after the erasure
    changes: ConsentChanges = field(default_factory=ConsentChanges)
    erased: frozenset[str] = frozenset()  # Faces whose crop and embedding are erased.
    touches_consent: bool = False  # Whether one of the decisions is about consent, or takes such a decision back.
    notices: tuple[str, ...] = ()


def plan_consent(ledger: Ledger, log: Sequence[Decision], unapplied: Sequence[Decision]) -> ConsentPlan:
    """Returns what the decisions about consent in `unapplied` change. Nothing is written. `log` is the whole log.

    If an earlier command was killed before it erased its faces, these faces are in `erased` too.
    """
    splits = ledger.read_rows(Split)
    if not any(decision.kind == CONSENT_KIND for decision in resolve_undos(unapplied, log)):
        return ConsentPlan(splits)
    changes = compute_consent(ledger, log, read_require_consent(ledger))
    lost = {face.face_id for face in changes.faces}
    erased = lost | {face.face_id for face in read_faces_with_reason(ledger, ERASURE_REASONS)}
    locked = {row.face_id: row for row in lock_splits(splits, erased)}
    splits = [locked.get(row.face_id, row) for row in splits if row.face_id not in erased]
    sets = {row.lq_set for row in ledger.read_rows(Degradation) if row.face_id in lost}
    notices = (*_describe_changes(changes), *_describe_sets(sets), *changes.notices)
    return ConsentPlan(splits, changes, frozenset(erased), True, notices)


def _describe_changes(changes: ConsentChanges) -> list[str]:
    """Returns a notice about photos that may not be used any more, and a notice about photos that may be used again."""
    notices = []
    if changes.lost:
        in_use = sum(face.photo_id in changes.lost for face in changes.faces)
        photos, faces = format_count(len(changes.lost), "photo"), format_count(in_use, "face")
        notices.append(
            f"{photos} with {faces} may not be used any more. The crops, embeddings, low-quality "
            "images and thumbnails of these faces are erased."
        )
    if changes.regained:
        photos, its = format_count(len(changes.regained), "photo"), "Its" if len(changes.regained) == 1 else "Their"
        notices.append(f"{photos} may be used again. {its} faces come back with the next `likeness curate`.")
    return notices


def _describe_sets(sets: set[str]) -> list[str]:
    """Returns a notice about the frozen sets that lose images, or an empty list."""
    if not sets:
        return []
    names = ", ".join(f"lq/{name}" for name in sorted(sets))
    return [f"{'This frozen set loses' if len(sets) == 1 else 'These frozen sets lose'} images: {names}."]
