"""What folders or a CSV say of who is in a photo: as truth, or as a hint that is compared and reported.

`folder` or `FILE.csv` is truth; `hint`, `hint:folder` or `hint:FILE.csv` forces nothing.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.photos.csv_tables import read_csv
from manifests.errors import BadInput
from manifests.ledger.decision_log import MAX_NAME
from manifests.ledger.records import Face, File, Label, Membership
from manifests.runtime.text import format_count, make_printable
from manifests.runtime.uris import display_path

SHOWN = 5  # examples in a notice


@dataclass(frozen=True)
class Doubt:
    """A face whose label is not the one that most of its identity has: a suspected label error, or a false merge."""

    face_id: str
    photo_id: str
    label: str
    identity_id: str
    identity_label: str


def check_labels(spec: str | None) -> None:
    """Raise BadInput for what `labels_told` would refuse, before any photo is known."""
    if spec is not None and (table := _parsed(spec)[1]) is not None:
        _read_csv(table)


def _parsed(spec: str) -> tuple[bool, Path | None]:
    """Whether `--labels SPEC` is a hint, and the table it names; None for folders."""
    hint = spec == "hint" or spec.startswith("hint:")
    source = spec.partition(":")[2] or "folder" if hint else spec
    if source != "folder" and not source.lower().endswith(".csv"):
        raise BadInput(f"--labels {spec}: say folder, FILE.csv, hint, or hint:FILE.csv.")
    return hint, None if source == "folder" else Path(source)


def labels_told(spec: str | None, files: Sequence[File]) -> tuple[list[Label], list[str]]:
    """Labels of photos and what is to be told about them, from `--labels SPEC`; nothing for None.

    A photo in folders of two names is left unlabelled, and so is a file name in the CSV that means two photos; both are
    told. Raises BadInput for a spec that is none, and for a CSV that cannot be read, with the line.
    """
    if spec is None:
        return [], []
    hint, table = _parsed(spec)
    kept = [(display_path(file.uri), file.photo_id) for file in files if file.photo_id is not None]
    said: list[tuple[str, str]]
    notices: list[str]
    if table is None:
        said, notices = [(photo, make_printable(path.parent.name)) for path, photo in kept], []
    else:
        said, notices = _from_csv(table, kept)
    found: dict[str, set[str]] = defaultdict(set)
    for photo, label in said:
        found[photo].add(label)
    torn = sorted(photo for photo, labels in found.items() if len(labels) > 1)
    if torn:
        both = " and ".join(sorted(found[torn[0]])[:2])
        notices.append(f"{len(torn)} photos have two labels and count as unlabelled: {torn[0][:12]} has {both}.")
    return [Label(photo, min(found[photo]), not hint) for photo in sorted(found) if len(found[photo]) == 1], notices


def _read_csv(table: Path) -> list[tuple[str, str]]:
    """The photo and the label of each line, neither empty. Further columns that the first line names are left alone."""
    header, lines = read_csv(table, ("photo", "label"))
    photo, label = header.index("photo"), header.index("label")
    found = []
    for number, cells in lines:
        name, told = (cells[at] if at < len(cells) else "" for at in (photo, label))
        if not name or not told.strip():
            raise BadInput(f"{table}, line {number}: a photo and a label are needed.")
        if not told.strip().isprintable() or len(told.strip()) > MAX_NAME:
            raise BadInput(
                f"{table}, line {number}: a label is one line of at most {MAX_NAME} characters; is a quote not closed?"
            )
        found.append((name, told.strip()))
    if not found:
        raise BadInput(f"{table} names no photo: under the first line, write a line for each.")
    return found


def _from_csv(table: Path, files: Iterable[tuple[Path, str]]) -> tuple[list[tuple[str, str]], list[str]]:
    of_name: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, photo in files:
        of_name[path.name].append((str(path), photo))
    said, unknown, twice = [], [], []
    for name, label in _read_csv(table):
        full = os.path.normpath(name)
        near = of_name.get(Path(full).name, [])
        exact = [photo for path, photo in near if path in (full, str(Path(full).absolute()))]
        fits = exact or [photo for path, photo in near if path.endswith(os.sep + full)]
        if not fits:
            unknown.append(name)
        elif len(set(fits)) > 1:
            twice.append(name)
        else:
            said.append((fits[0], label))
    notices = []
    if unknown:
        notices.append(f"{table} names {format_count(len(unknown), 'file')} of no photo here, {_some(unknown)}.")
    if twice:
        notices.append(
            f"{table} names {format_count(len(twice), 'file')} that may be several photos, say their folder: "
            f"{_some(twice)}."
        )
    return said, notices


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" and others" if len(names) > SHOWN else "")


def label_faces(labels: Iterable[Label], faces: Sequence[Face]) -> tuple[dict[str, str], list[str]]:
    """face_id -> label for the largest accepted face of each labelled photo, and what is to be told.

    `faces` are those that are ok or near-duplicates. A near-duplicate's label counts for the face that stands for it,
    whose own photo's label goes first; where copies disagree, that is told.
    """
    label_of = {row.photo_id: row.label for row in labels}
    largest = largest_faces(label_of, faces)
    votes: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    for photo, face in largest.items():
        votes[face.duplicate_of or face.face_id].append((face.duplicate_of is not None, label_of[photo]))
    told = {}
    for face_id, said in votes.items():
        count = Counter(label for _, label in said)
        told[face_id] = min(said, key=lambda vote: (vote[0], -count[vote[1]], vote[1]))[1]
    torn = sorted(face_id for face_id, said in votes.items() if len({label for _, label in said}) > 1)
    if not torn:
        return told, []
    both = " and ".join(sorted({label for _, label in votes[torn[0]]})[:2])
    return told, [f"{len(torn)} faces have copies under other labels: {torn[0][:12]} has {both}, and counts as "
                  f"{told[torn[0]]}."]  # fmt: skip


def largest_faces(photos: Container[str], faces: Iterable[Face]) -> dict[str, Face]:
    """photo -> its largest face, of these photos."""
    largest: dict[str, Face] = {}
    for face in faces:
        if face.photo_id in photos:
            best = largest.get(face.photo_id)
            if best is None or _size(face) > _size(best):
                largest[face.photo_id] = face
    return largest


def _size(face: Face) -> tuple[float, str]:
    return (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]), face.face_id


def doubts(hinted: Mapping[str, str], memberships: Iterable[Membership], photo_of: Mapping[str, str]) -> list[Doubt]:
    """Hinted faces that disagree with the label most of their identity's hinted faces have, at least two and more."""
    identity_of = {member.face_id: member.identity_id for member in memberships}
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for face, label in hinted.items():
        if face in identity_of:
            votes[identity_of[face]][label] += 1
    main = {identity: min(count.items(), key=lambda item: (-item[1], item[0])) for identity, count in votes.items()}
    found = []
    for face, label in sorted(hinted.items()):
        identity = identity_of.get(face)
        if identity is None:
            continue
        best, most = main[identity]
        if label != best and most > max(votes[identity][label], 1):
            found.append(Doubt(face, photo_of[face], label, identity, best))
    return found


def spread(hinted: Mapping[str, str], memberships: Iterable[Membership]) -> dict[str, dict[str, int]]:
    """label -> identity -> its faces there, for labels whose faces lie in several identities; largest first."""
    identity_of = {member.face_id: member.identity_id for member in memberships}
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for face, label in hinted.items():
        if face in identity_of:
            held[label][identity_of[face]] += 1
    return {
        label: dict(sorted(count.items(), key=lambda item: (-item[1], item[0])))
        for label, count in sorted(held.items())
        if len(count) > 1
    }


def told_hints(found: Sequence[Doubt], parted: Mapping[str, Mapping[str, int]], hinted: int) -> list[str]:
    """What is to be told of hints: `found` doubts, labels `parted` over identities, of `hinted` faces."""
    look = "likeness manifest query DATASET \"SELECT detail->'{}' FROM stages WHERE stage = 'group'\"."
    told = []
    if found:
        some = "; ".join(
            f"face {one.face_id[:12]} is labelled {one.label} and lies in {one.identity_id} ({one.identity_label})"
            for one in found[:SHOWN]
        )
        told.append(
            f"{len(found)} of {hinted} labels disagree with the grouping, look at them: {some}. All: "
            + look.format("label_doubts")
        )
    if parted:
        some = "; ".join(
            f"{label} in {', '.join(f'{identity} ({n})' for identity, n in list(held.items())[:SHOWN])}"
            + (f" and {len(held) - SHOWN} more" if len(held) > SHOWN else "")
            for label, held in list(parted.items())[:SHOWN]
        )
        of = "1 label is" if len(parted) == 1 else f"{len(parted)} labels are"
        told.append(f"{of} spread over several identities: {some}. All: " + look.format("labels_parted"))
    if hinted and not told:
        told.append(f"The labels of all {hinted} faces that have one agree with the grouping.")
    return told
