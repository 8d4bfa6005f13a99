"""The stage `label` records who is in a photo, from folder names, from a CSV, or from imported lists.

Labels of `--labels folder` and `--labels FILE.csv` are taken as truth. Labels of `--labels hint` and `--labels
hint:FILE.csv` are only compared with the grouping. A notice reports the hints that disagree with the grouping.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.config import CurateConfig
from curate.photos.csv_tables import read_csv
from curate.photos.history.file_history import FILE_MOVED
from curate.photos.name_rules import LEFT_OUT
from manifests.errors import BadInput
from manifests.ledger.decision_log import MAX_NAME
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, File, Label, ListEntry, Membership
from manifests.runtime.text import format_count, make_printable
from manifests.runtime.uris import display_path, normalise_name

EXAMPLES = 5  # greatest number of examples in a notice


@dataclass(frozen=True)
class LabelDoubt:
    """A face whose label is not the most frequent label of its identity.

    Either the label or the grouping may be wrong.
    """

    face_id: str
    photo_id: str
    label: str
    identity_id: str
    identity_label: str


def label(ledger: Ledger, config: CurateConfig) -> None:
    """Records the labels of `--labels`. If `--labels` is not given, records the labels of imported lists.

    New labels replace the labels of an earlier run, so `--labels` must be repeated in every run.
    """
    rows, notices = read_labels(config.labels, ledger.read_rows(File))
    if config.labels is None:
        rows = make_listed_labels(ledger.read_rows(ListEntry))
    ledger.record("label", "all", {"labels": config.labels}, rows, replace=(Label,), detail={"notices": notices})


def check_labels(spec: str | None) -> None:
    """Raises BadInput if `read_labels` would refuse the value of `--labels`.

    The check works before any photo is read.
    """
    if spec is not None and (table := _parse_spec(spec)[1]) is not None:
        _read_label_csv(table)


def _parse_spec(spec: str) -> tuple[bool, Path | None]:
    """Returns whether `--labels SPEC` is a hint, and the path of the CSV. The path is None for labels from folders."""
    hint = spec == "hint" or spec.startswith("hint:")
    source = spec.partition(":")[2] or "folder" if hint else spec
    if source != "folder" and not source.lower().endswith(".csv"):
        raise BadInput(f"--labels {spec} is unknown. Give folder, FILE.csv, hint, or hint:FILE.csv.")
    return hint, None if source == "folder" else Path(source)


def read_labels(spec: str | None, files: Sequence[File]) -> tuple[list[Label], list[str]]:
    """Returns the labels of photos by `--labels SPEC`, and notices. Returns ([], []) if `spec` is None.

    A photo with several labels stays without a label. A line of the CSV that matches several photos is ignored. Notices
    report the photos without a label and the ignored lines. Raises BadInput if `spec` is unknown or if the CSV has an
    error.
    """
    if spec is None:
        return [], []
    hint, table = _parse_spec(spec)
    photo_files = [
        (display_path(file.uri), file.photo_id)
        for file in files
        if file.photo_id is not None and file.reason not in (FILE_MOVED, *LEFT_OUT)
    ]
    pairs: list[tuple[str, str]]  # photo, label
    notices: list[str]
    if table is None:
        pairs, notices = [(photo, make_printable(path.parent.name)) for path, photo in photo_files], []
    else:
        pairs, notices = _match_label_csv(table, photo_files)
    labels_of: dict[str, set[str]] = defaultdict(set)
    for photo, text in pairs:
        labels_of[photo].add(text)
    ambiguous = sorted(photo for photo, labels in labels_of.items() if len(labels) > 1)
    if ambiguous:
        photos = "photo has" if len(ambiguous) == 1 else "photos have"
        labels = " and ".join(sorted(labels_of[ambiguous[0]])[:2])
        notices.append(
            f"{len(ambiguous)} {photos} several labels, so no label is used. For example, photo {ambiguous[0][:12]} "
            f"has {labels}."
        )
    clear = sorted(photo for photo, labels in labels_of.items() if len(labels) == 1)
    return [Label(photo, min(labels_of[photo]), not hint) for photo in clear], notices


def _read_label_csv(table: Path) -> list[tuple[str, str]]:
    """Returns the photo and the label of each line of a CSV. Columns other than photo and label are ignored."""
    header, lines = read_csv(table, ("photo", "label"))
    photo_column, label_column = header.index("photo"), header.index("label")
    pairs = []
    for number, cells in lines:
        photo, text = (cells[at] if at < len(cells) else "" for at in (photo_column, label_column))
        text = text.strip()
        if not photo or not text:
            raise BadInput(f"{table}, line {number}: the cell of the photo or of the label is empty. Write both.")
        if not text.isprintable() or len(text) > MAX_NAME:
            raise BadInput(
                f"{table}, line {number}: the label is too long or has several lines. Write one line of at most "
                f"{MAX_NAME} characters, and look for a quote that is not closed."
            )
        pairs.append((photo, text))
    if not pairs:
        raise BadInput(f"{table} names no photo. Below the first line, write one line for each photo.")
    return pairs


def _match_label_csv(table: Path, files: Iterable[tuple[Path, str]]) -> tuple[list[tuple[str, str]], list[str]]:
    """Returns the photo and the label of each line that matches exactly one photo, and notices about the lines that do
    not.
    """
    files_named: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, photo in files:
        files_named[normalise_name(path.name)].append((normalise_name(path), photo))
    pairs, unmatched_names, ambiguous = [], [], []
    for name, text in _read_label_csv(table):
        normal_path = os.path.normpath(normalise_name(name))
        same_name = files_named.get(Path(normal_path).name, [])
        # A photo whose whole path is in the line has priority over a photo whose path only ends with the text of the
        # line.
        matches = [
            photo for path, photo in same_name if path in (normal_path, normalise_name(Path(normal_path).absolute()))
        ]
        matches = matches or [photo for path, photo in same_name if path.endswith("/" + normal_path)]
        if not matches:
            unmatched_names.append(name)
        elif len(set(matches)) > 1:
            ambiguous.append(name)
        else:
            pairs.append((matches[0], text))
    notices = []
    if unmatched_names:
        notices.append(
            f"{table}: no photo matches {format_count(len(unmatched_names), 'file name')}: {_join(unmatched_names)}."
        )
    if ambiguous:
        notices.append(
            f"{table}: several photos match {format_count(len(ambiguous), 'file name')}: {_join(ambiguous)}. Write the "
            "folder in front of the name."
        )
    return pairs, notices


def make_listed_labels(lists: Iterable[ListEntry]) -> list[Label]:
    """Returns the labels of imported lists. Labels of imported lists are taken as truth."""
    return [Label(row.photo_id, row.label, True) for row in lists if row.label is not None]


def label_faces(labels: Iterable[Label], faces: Sequence[Face]) -> tuple[dict[str, str], list[str]]:
    """Returns the labels of faces (face_id -> label), and a notice about copies with different labels.

    A photo's label belongs to its largest accepted face. `faces` are the faces that are ok or near-duplicates. The
    label of a near-duplicate counts for its representative. If the representative's own photo has a label, this label
    has priority over the labels of copies.
    """
    label_of = {row.photo_id: row.label for row in labels}
    votes: dict[str, list[tuple[bool, str]]] = defaultdict(list)  # face_id -> (whether the label is from a copy, label)
    for photo, face in find_largest_faces(label_of, faces).items():
        votes[face.representative].append((face.duplicate_of is not None, label_of[photo]))
    labels_of_faces = {}
    for face_id, candidates in votes.items():
        count = Counter(text for _, text in candidates)
        labels_of_faces[face_id] = min(candidates, key=lambda vote: (vote[0], -count[vote[1]], vote[1]))[1]
    conflicts = sorted(face_id for face_id, candidates in votes.items() if len({text for _, text in candidates}) > 1)
    if not conflicts:
        return labels_of_faces, []
    example = conflicts[0]
    texts = " and ".join(sorted({text for _, text in votes[example]})[:2])
    have = "1 face has" if len(conflicts) == 1 else f"{len(conflicts)} faces have"
    return labels_of_faces, [
        f"{have} copies with different labels. For example, face {example[:12]} has {texts}, and "
        f"{labels_of_faces[example]} is used."
    ]


def find_largest_faces(photos: Container[str], faces: Iterable[Face]) -> dict[str, Face]:
    """Returns the largest face of each of `photos` (photo -> face)."""
    largest: dict[str, Face] = {}
    for face in faces:
        if face.photo_id in photos:
            best = largest.get(face.photo_id)
            if best is None or _rank_size(face) > _rank_size(best):
                largest[face.photo_id] = face
    return largest


def _rank_size(face: Face) -> tuple[float, str]:
    return (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]), face.face_id


def find_label_doubts(
    hints: Mapping[str, str], memberships: Iterable[Membership], photo_of: Mapping[str, str]
) -> list[LabelDoubt]:
    """Returns the faces whose label differs from the most frequent label of their identity.

    `hints` maps a face to its label. The most frequent label must belong to at least two faces. The most frequent label
    must also belong to more faces than the label that differs.
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
    """Returns notices about the differences between the labels and the grouping. `hints` is the number of labels.

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


def _join(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (" and others" if len(names) > EXAMPLES else "")
