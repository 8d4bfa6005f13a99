"""The stage `label` records who is in a photo: from folder names, a CSV, imported lists, or metadata of other programs.

Labels are taken as truth, or are hints. Hints are only compared with the grouping. A notice reports the hints that
disagree with the grouping.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from curate.config import CurateConfig
from curate.photos.consent import find_usable_photos
from curate.photos.history.file_history import FILE_MOVED
from curate.photos.labelling.label_boxes import PhotoLabels
from curate.photos.labelling.label_table import match_label_csv, read_label_csv
from curate.photos.labelling.metadata_labels import read_metadata_labels
from curate.photos.name_rules import LEFT_OUT
from manifests.errors import BadInput
from manifests.ledger.label_faces import match_labels, select_labels_of_faces
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import NEAR_DUPLICATE, Face, File, Label, ListEntry, Photo
from manifests.privacy.erase import OPTED_OUT
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path
from manifests.runtime.workers import BatchMap

FOLDER, METADATA = "folder", "metadata"  # the sources of labels besides CSV files


def label(ledger: Ledger, config: CurateConfig, map_batches: BatchMap) -> None:
    """Records the labels of `--labels`. If `--labels` is not given, records the labels of imported lists.

    Each run replaces the labels of the earlier run. To keep labels, the user must therefore repeat `--labels` in every
    run. Photos whose use is not allowed, and faces that opted out, get no labels.
    """
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    usable = find_usable_photos(photos)
    photos = {photo_id: photo for photo_id, photo in photos.items() if photo_id in usable}
    rows, notices = read_labels(config.labels, ledger.read_rows(File), photos, map_batches)
    if config.labels is None:
        rows = make_listed_labels(ledger.read_rows(ListEntry))
    rows = [row for row in rows if row.photo_id in photos]
    if rows:
        rows = leave_out_opted_out(rows, ledger.read_rows(Face), photos)
    ledger.record("label", "all", {"labels": config.labels}, rows, replace=(Label,), detail={"notices": notices})


def check_labels(spec: str | None) -> None:
    """Raises BadInput if `read_labels` would refuse the value of `--labels`.

    The check needs no photo.
    """
    if spec is not None and isinstance(source := _parse_spec(spec)[1], Path):
        read_label_csv(source)


def _parse_spec(spec: str) -> tuple[bool, str | Path]:
    """Parses `--labels SPEC`: returns whether the labels are truth, and FOLDER, METADATA or the path of a CSV."""
    prefix, _, source = spec.partition(":")
    if prefix not in ("hint", "truth"):
        prefix, source = "", spec
    source = source or FOLDER if prefix == "hint" else source
    if source not in (FOLDER, METADATA) and not source.lower().endswith(".csv"):
        raise BadInput(
            f"--labels {spec} is unknown. Give folder, FILE.csv, hint, hint:FILE.csv, metadata, or truth:metadata."
        )
    truth = prefix == "truth" if source == METADATA else prefix != "hint"
    return truth, source if source in (FOLDER, METADATA) else Path(source)


def read_labels(
    spec: str | None, files: Sequence[File], photos: Mapping[str, Photo], map_batches: BatchMap
) -> tuple[list[Label], list[str]]:
    """Returns the labels of `photos` by `--labels SPEC`, and notices. Returns ([], []) if `spec` is None.

    If a photo has several labels for its largest face, none of the labels is used. A line of the CSV that matches
    several photos is ignored. Notices report the photos with several labels and the ignored lines. Raises BadInput if
    `spec` is unknown or if the CSV has an error.
    """
    if spec is None:
        return [], []
    truth, source = _parse_spec(spec)
    photo_files = [
        (display_path(file.uri), str(file.photo_id))
        for file in files
        if file.photo_id in photos and file.reason not in (FILE_MOVED, *LEFT_OUT)
    ]
    notices: list[str] = []
    if source == METADATA:
        labels, notices = read_metadata_labels(files, photos, map_batches)
    elif isinstance(source, Path):
        labels, notices = match_label_csv(source, photo_files)
    else:
        labels = PhotoLabels()
        for path, photo in photo_files:
            labels.whole[photo].add(make_printable(path.parent.name))
    rows, more_notices = labels.make_rows(truth, is_metadata=source == METADATA)
    return rows, notices + more_notices


def leave_out_opted_out(rows: Sequence[Label], faces: Iterable[Face], photos: Mapping[str, Photo]) -> list[Label]:
    """Returns the labels, except the labels that name, or may name, a face that opted out."""
    known = [face for face in faces if face.status == "ok" or face.reason in (NEAR_DUPLICATE, OPTED_OUT)]
    opted_out = {face.face_id for face in known if face.reason == OPTED_OUT}
    left_out = {(row.photo_id, row.number) for row in select_labels_of_faces(rows, known, photos, opted_out)}
    return [row for row in rows if (row.photo_id, row.number) not in left_out]


def make_listed_labels(lists: Iterable[ListEntry]) -> list[Label]:
    """Returns the labels of imported lists. Labels of imported lists are taken as truth."""
    return [Label(row.photo_id, row.label, True) for row in lists if row.label is not None]


def label_faces(
    labels: Iterable[Label], faces: Sequence[Face], photos: Mapping[str, Photo]
) -> tuple[dict[str, str], list[str]]:
    """Returns face_id -> label, and notices about copies with different labels, and about boxes that fit no face.

    A label with a box belongs to the accepted face that fits the box best. A label without a box belongs to the largest
    accepted face of its photo that has no label yet. `faces` are all faces with the status ok and all near-duplicates.
    The label of a near-duplicate counts for its representative. If the representative has a label from its own photo,
    the representative's own label has priority over the labels of near-duplicates. `photos` must contain the photos of
    labels with a box.
    """
    # Face id -> labels of the face. A label is a pair: whether the label comes from a near-duplicate, and the text of
    # the label.
    votes: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    empty: list[str] = []  # Photo of each box that fits no face.
    for row, face in match_labels(labels, faces, photos):
        if face is not None:
            votes[face.representative].append((face.duplicate_of is not None, row.label))
        elif row.box is not None:
            empty.append(row.photo_id)
    labels_of_faces = {}
    for face_id, candidates in votes.items():
        count = Counter(text for _, text in candidates)
        labels_of_faces[face_id] = min(candidates, key=lambda vote: (vote[0], -count[vote[1]], vote[1]))[1]
    conflicts = sorted(face_id for face_id, candidates in votes.items() if len({text for _, text in candidates}) > 1)
    notices = _describe_empty(empty)
    if not conflicts:
        return labels_of_faces, notices
    example = conflicts[0]
    texts = " and ".join(sorted({text for _, text in votes[example]})[:2])
    have = "1 face has" if len(conflicts) == 1 else f"{len(conflicts)} faces have"
    notices.append(
        f"{have} copies with different labels. For example, face {example[:12]} has {texts}, and "
        f"{labels_of_faces[example]} is used."
    )
    return labels_of_faces, notices


def _describe_empty(photos: Sequence[str]) -> list[str]:
    """Returns a notice that counts the boxes of labels without a matching face in use.

    `photos` has the photo of each box.
    """
    if not photos:
        return []
    boxes = "1 box of a label fits" if len(photos) == 1 else f"{len(photos)} boxes of labels fit"
    return [
        f"{boxes} no face in use. `likeness manifest why` shows the faces, for example of photo {min(photos)[:12]}."
    ]
