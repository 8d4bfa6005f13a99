"""Makes the rows of files that changed, vanished or became unreadable after an earlier scan, and of repeated files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

from manifests.ledger.records import Face, File, Photo
from manifests.privacy.keys import hide_uri
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path, is_missing

FILE_REPLACED = "file_replaced"  # every file that contained the photo was overwritten
# A file with a reason in `_UNREAD` was not read. A file that was not read may still contain the photo of its earlier
# row.
_UNREAD = ("unreadable_file", "broken_symlink", "file_vanished")


def mark_same_files(files: Sequence[File]) -> list[File]:
    """Returns the file rows that must change, so that only one file of each photo has the status ok.

    The file with the first uri gets the status ok. The photo's other files get the reason `same_file`.
    """
    by_photo: dict[str, list[File]] = defaultdict(list)
    for file in files:
        if file.photo_id is not None and file.reason not in _UNREAD:
            by_photo[file.photo_id].append(file)
    changed_rows = []
    for same_files in by_photo.values():
        first, *others = sorted(same_files, key=lambda file: file.uri)
        rows = [replace(first, status="ok", reason=None)]
        rows += [replace(other, status="dropped", reason="same_file") for other in others]
        changed_rows += [row for row in rows if row not in same_files]
    return changed_rows


def keep_photo_id(row: File, earlier: File | None) -> File:
    """Returns the row of a file.

    If the file cannot be read now, the row gets the photo of the file's earlier row, because the file may still contain
    this photo.

    The file may still contain this photo.
    """
    return replace(row, photo_id=earlier.photo_id) if earlier is not None and row.reason in _UNREAD else row


def must_stay_hidden(row: File, key: bytes, hidden: Collection[str]) -> bool:
    """Returns whether the file was kept out when it was last read, and now contains no readable photo.

    The name of such a file must not come back into the ledger. `hidden` contains the uris of the files that are kept
    out.
    """
    return row.photo_id is None and bool(hidden) and hide_uri(key, row.uri) in hidden


def mark_replaced(
    files: Sequence[File], photos: Sequence[Photo], faces: Sequence[Face]
) -> tuple[list[Photo | Face], list[Photo]]:
    """Returns rows of photos and faces that no file contains any more, and rows of photos that came back.

    The rows of photos and faces without a file have the status dropped. The rows of photos that came back have the
    status ok.
    """
    in_files = {file.photo_id for file in files}
    rows: list[Photo | Face] = []
    for photo in photos:
        if photo.photo_id not in in_files and photo.reason != FILE_REPLACED:
            rows.append(replace(photo, status="dropped", reason=FILE_REPLACED))
    for face in faces:
        if face.photo_id not in in_files and face.reason != FILE_REPLACED:
            rows.append(replace(face, status="dropped", reason=FILE_REPLACED, duplicate_of=None))
    photos_back = [photo for photo in photos if photo.reason == FILE_REPLACED and photo.photo_id in in_files]
    return rows, [replace(photo, status="ok", reason=None) for photo in photos_back]


def describe_missing_files(rows: Sequence[File]) -> list[str]:
    """Returns a notice about the files in `rows` that contained photos and no longer exist.

    `rows` are the files that this scan did not find.
    """
    missing_files = [
        row for row in rows if row.photo_id is not None and row.reason not in _UNREAD and is_missing(row.uri)
    ]
    if not missing_files:
        return []
    subject = (
        f"{len(missing_files)} files that contained photos are"
        if len(missing_files) > 1
        else "1 file that contained a photo is"
    )
    first = make_printable(display_path(min(row.uri for row in missing_files)))
    example = f", for example {first}" if len(missing_files) > 1 else f": {first}"
    return [f"{subject} no longer there{example}. The dataset keeps the photos, faces and crops of missing files."]
