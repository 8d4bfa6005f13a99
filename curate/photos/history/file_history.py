"""Makes the rows of files that changed, vanished or became unreadable after an earlier scan, and of repeated files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from curate.photos.name_rules import LEFT_OUT
from manifests.ledger.records import Face, File, Photo
from manifests.privacy.erase import OPTED_OUT
from manifests.privacy.keys import hide_uri
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path, is_missing
from manifests.stores.failures import DENIED, FILE_CHANGED, TRUNCATED

FILE_REPLACED = "file_replaced"  # Every file that contained the photo was overwritten.
FILE_GONE = "file_gone"  # The file no longer exists, and no other file contains its photo.
FILE_MOVED = "file_moved"  # The file no longer exists, but another file contains its photo.
MISSING = (FILE_GONE, FILE_MOVED)
# A file with a reason in _UNREAD was not read, so it may still contain the photo of its earlier row.
_UNREAD = ("unreadable_file", "broken_symlink", "file_vanished", FILE_CHANGED, DENIED, TRUNCATED)


def find_missing(files: Sequence[File], walked: Collection[str] = (), listed: Collection[str] = ()) -> set[str]:
    """Returns the uris of the files in `files` that contained photos in an earlier scan and no longer exist.

    `walked` are the uris of all files that the scan found, and `listed` are the uris of the folders in stores that the
    scan listed. A file below such a folder no longer exists if the scan did not find the file or its archive.
    """

    def is_lost(uri: str) -> bool:
        is_listed = any(uri.startswith(f"{folder}/") for folder in listed)
        return uri.partition("#")[0] not in walked if is_listed else is_missing(uri)

    return {file.uri for file in files if _may_stand_for_photo(file) and is_lost(file.uri)}


def mark_same_files(files: Sequence[File], missing: Collection[str] = ()) -> list[File]:
    """Returns the file rows that must change, so that at most one file of each photo has the status ok.

    `missing` contains the uris of files that no longer exist. Of the present files of a photo, the file with the first
    uri gets the status ok, and the rest get the reason `same_file`. A missing file gets the reason FILE_MOVED if
    another file contains its photo, and FILE_GONE otherwise.
    """
    by_photo: dict[str, list[File]] = defaultdict(list)
    for file in files:
        if file.photo_id is not None and _may_stand_for_photo(file):
            by_photo[file.photo_id].append(file)
    changed_rows = []
    for same_files in by_photo.values():
        present = sorted((file for file in same_files if file.uri not in missing), key=lambda file: file.uri)
        rows = [replace(file, status="ok", reason=None) for file in present[:1]]
        rows += [replace(file, status="dropped", reason="same_file") for file in present[1:]]
        reason = FILE_MOVED if present else FILE_GONE
        rows += [replace(file, status="dropped", reason=reason) for file in same_files if file.uri in missing]
        changed_rows += [row for row in rows if row not in same_files]
    return changed_rows


def _may_stand_for_photo(file: File) -> bool:
    return file.photo_id is not None and file.reason not in _UNREAD and file.reason not in LEFT_OUT


def mark_left_out(files: Iterable[File], left_out: Mapping[str, str | None]) -> list[File]:
    """Returns the changed rows of files of earlier scans that are now left out, alone or with their folder or archive.

    `left_out` maps the uri of a file or folder that is left out to the reason. The size is removed from each row, so
    that a later scan reads the file again if the file is no longer left out.
    """
    rows = []
    for file in files if left_out else ():
        name = file.uri.partition("#")[0]
        places = [name] if name != file.uri else []
        while "/" in name:
            name = name.rpartition("/")[0]
            places.append(name)
        reason = next((left_out[place] for place in places if place in left_out), None)
        if reason is not None:
            rows.append(replace(file, status="dropped", reason=reason, bytes=None))
    return rows


def keep_photo_id(row: File, earlier: File | None) -> File:
    """Returns the row of a file.

    A file that cannot be read now, or that is left out, may still contain the photo of its earlier row. The new row of
    such a file therefore gets the photo of the earlier row.
    """
    keeps = earlier is not None and (row.reason in _UNREAD or row.reason in LEFT_OUT)
    if earlier is None or not keeps:
        return row
    return replace(
        row,
        photo_id=earlier.photo_id,
        sha256=earlier.sha256,
        samples=earlier.samples,
        orientation=earlier.orientation,
        taken=earlier.taken,
        taken_offset=earlier.taken_offset,
        taken_from=earlier.taken_from,
        taken_doubt=earlier.taken_doubt,
        camera_model=earlier.camera_model,
    )


def must_stay_hidden(row: File, key: bytes, hidden: Collection[str]) -> bool:
    """Returns whether the file was kept out when it was last read, and now contains no readable photo.

    The name of a kept-out file must not come back into the ledger. The name of another file may contain the hidden
    name: if `a.jpg` is kept out, `a.jpg.xmp` also stays hidden. `hidden` contains the uris of the kept-out files.
    """
    if row.photo_id is not None or not hidden:
        return False
    uris = [row.uri]
    while "." in uris[-1].rpartition("/")[2]:
        uris.append(uris[-1].rpartition(".")[0])
    return any(hide_uri(key, uri) in hidden for uri in uris)


def mark_replaced(
    files: Sequence[File], photos: Sequence[Photo], faces: Sequence[Face]
) -> tuple[list[Photo | Face], list[Photo]]:
    """Returns rows of photos and faces that no file contains any more, and rows of photos that files contain again.

    A photo whose files are all left out gets the reason of one of its files. A photo whose files were all overwritten
    gets FILE_REPLACED. The rows of photos and faces without a file have the status dropped. The rows of photos that a
    file contains again have the status ok.
    """
    in_files = {file.photo_id for file in files if file.reason not in LEFT_OUT}
    left_out = {file.photo_id: file.reason for file in files if file.reason in LEFT_OUT}
    reason_of = {
        photo.photo_id: left_out.get(photo.photo_id) or FILE_REPLACED
        for photo in photos
        if photo.photo_id not in in_files
    }
    rows: list[Photo | Face] = []
    for photo in photos:
        if (reason := reason_of.get(photo.photo_id)) not in (None, photo.reason):
            rows.append(replace(photo, status="dropped", reason=reason))
    for face in faces:
        # the row of a face that opted out keeps its reason and its box, in case a file contains the photo again
        if (reason := reason_of.get(face.photo_id)) not in (None, face.reason) and face.reason != OPTED_OUT:
            rows.append(replace(face, status="dropped", reason=reason, duplicate_of=None))
    without_file = (FILE_REPLACED, *LEFT_OUT)
    photos_back = [photo for photo in photos if photo.reason in without_file and photo.photo_id in in_files]
    return rows, [replace(photo, status="ok", reason=None) for photo in photos_back]


def describe_missing_files(files: Sequence[File], earlier: Mapping[str, File]) -> list[str]:
    """Returns notices about the files that no longer exist, and about the files that have moved since the last scan.

    `earlier` contains the rows of the last scan (uri -> row).
    """
    moved = [file for file in files if file.reason == FILE_MOVED and earlier[file.uri].reason != FILE_MOVED]
    gone = [file for file in files if file.reason == FILE_GONE]
    notices = []
    if moved:
        are, their = ("files are", "their photos") if len(moved) > 1 else ("file is", "its photo")
        notices.append(
            f"{len(moved)} {are} no longer there{_format_example(moved)}. Other files contain {their}, and the dataset "
            "uses the other files."
        )
    if gone:
        subject = (
            "1 file that contained a photo is" if len(gone) == 1 else f"{len(gone)} files that contained photos are"
        )
        notices.append(
            f"{subject} no longer there{_format_example(gone)}. The dataset keeps the photos, faces and crops of "
            "missing files."
        )
    return notices


def _format_example(files: Sequence[File]) -> str:
    first = make_printable(display_path(min(file.uri for file in files)))
    return f", for example {first}" if len(files) > 1 else f": {first}"
