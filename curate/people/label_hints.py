"""Compares labels that are only hints with the grouping."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from manifests.ledger.records import Membership
from manifests.runtime.text import format_count

EXAMPLES = 5  # largest number of examples in a notice


@dataclass(frozen=True)
class LabelDoubt:
    """A face whose label is not the most frequent label of its identity.

    The label may be wrong, or the grouping may be wrong.
    """

    face_id: str
    photo_id: str
    label: str
    identity_id: str
    identity_label: str


def find_label_doubts(
    hints: Mapping[str, str], memberships: Iterable[Membership], photo_of: Mapping[str, str]
) -> list[LabelDoubt]:
    """Returns the faces whose label differs from the most frequent label of their identity.

    `hints` maps a face to its label. The most frequent label of the identity must have at least two faces, and more
    faces than the differing label of the face.
    """
    identity_of = {member.face_id: member.identity_id for member in memberships}
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for face, text in hints.items():
        if face in identity_of:
            votes[identity_of[face]][text] += 1
    best_of = {identity: min(count.items(), key=lambda item: (-item[1], item[0])) for identity, count in votes.items()}
    doubts = []
    for face, text in sorted(hints.items()):
        identity = identity_of.get(face)
        if identity is None:
            continue
        best, count = best_of[identity]
        if text != best and count > max(votes[identity][text], 1):
            doubts.append(LabelDoubt(face, photo_of[face], text, identity, best))
    return doubts


def find_spread_labels(hints: Mapping[str, str], memberships: Iterable[Membership]) -> dict[str, dict[str, int]]:
    """Returns the labels whose faces are in several identities (label -> identity -> number of faces).

    The identity with the most faces is first.
    """
    identity_of = {member.face_id: member.identity_id for member in memberships}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for face, text in hints.items():
        if face in identity_of:
            counts[text][identity_of[face]] += 1
    return {
        text: dict(sorted(count.items(), key=lambda item: (-item[1], item[0])))
        for text, count in sorted(counts.items())
        if len(count) > 1
    }


def describe_hints(doubts: Sequence[LabelDoubt], spread: Mapping[str, Mapping[str, int]], hints: int) -> list[str]:
    """Returns notices about the differences between the labels and the grouping. `hints` is the number of labelled
    faces.

    `spread` comes from `find_spread_labels`.
    """
    query = "likeness manifest query DATASET \"SELECT detail->'{}' FROM stages WHERE stage = 'group'\"."
    notices = []
    if doubts:
        examples = "; ".join(
            f"face {doubt.face_id[:12]} is labelled {doubt.label} and is in {doubt.identity_id} "
            f"({doubt.identity_label})"
            for doubt in doubts[:EXAMPLES]
        )
        notices.append(
            f"{len(doubts)} of {hints} labels disagree with the grouping: {examples}. This command lists all such "
            "labels: " + query.format("label_doubts")
        )
    if spread:
        examples = "; ".join(
            f"{text} in {', '.join(f'{identity} ({n})' for identity, n in list(counts.items())[:EXAMPLES])}"
            + (f" and {len(counts) - EXAMPLES} more" if len(counts) > EXAMPLES else "")
            for text, counts in list(spread.items())[:EXAMPLES]
        )
        labels = "1 label is" if len(spread) == 1 else f"{len(spread)} labels are"
        notices.append(
            f"{labels} spread over several people: {examples}. This command lists all such labels: "
            + query.format("labels_parted")
        )
    if hints and not notices:
        notices.append(f"The labels of all {format_count(hints, 'labelled face')} agree with the grouping.")
    return notices
