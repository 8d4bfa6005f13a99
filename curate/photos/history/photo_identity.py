"""Finds out which known photo a file contains, even if a program has changed the metadata of the file.

The first search compares the sha256 of the file, which does not depend on the version of the decoder. The second search
compares the sha256 of the stored samples, which does not depend on the metadata. The third search compares the path of
the file: if a file was saved again under its old path, with the same composition, it contains the same photo. If no
search finds a photo, the file contains a new photo. The id of the new photo is the sha256 of the file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np

from curate.photos.history.frame_changes import FrameChange, find_turn
from manifests.ledger.records import File, Photo
from manifests.pictures.stored_samples import is_current
from manifests.runtime.uris import is_missing

# A file that was saved again under its old path contains the same photo if the 256-bit hashes before and after differ
# in at most MAX_BITS_SAVED_AGAIN bits (ours).
MAX_BITS_SAVED_AGAIN = 12
# the proportions, width / height, may change by 2% (ours), because of rounding to pixels
MAX_CHANGE_OF_PROPORTIONS = 0.02


@dataclass
class KnownPhotos:
    """The photos and files of the ledger, and the photos and files that this scan has read so far."""

    files: dict[str, File]  # Uri -> file.
    photos: dict[str, Photo]  # The id of a photo -> photo.
    by_file: dict[str, str] = field(default_factory=dict)  # The sha256 of a file -> photo_id.
    by_samples: dict[str, str] = field(default_factory=dict)  # The sha256 of the stored samples -> photo_id.
    uris: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # Photo_id -> uris of its files.


def collect_known_photos(files: Iterable[File], photos: Iterable[Photo]) -> KnownPhotos:
    """Returns the photos and files of the ledger."""
    known = KnownPhotos({}, {})
    for photo in photos:
        _add_photo(known, photo)
    for file in files:
        _add_file(known, file)
    return known


def find_stale_files(known: KnownPhotos) -> set[str]:
    """Returns the uris of the files whose photo was decoded by a different version of the decoder."""
    stale = {photo_id for photo_id, photo in known.photos.items() if not is_current(photo.decoder)}
    return {uri for uri, file in known.files.items() if file.photo_id in stale}


def identify(rows: Sequence[File | Photo], known: KnownPhotos) -> tuple[list[File | Photo], list[FrameChange]]:
    """Returns the rows to record for files that were read, and the changes of the coordinates in known photos.

    In `rows`, the row of a photo follows the row of its file, and the id of the photo is the sha256 of the file. A
    photo gets a row if it is new or has changed. `known` is updated.
    """
    identified: list[File | Photo] = []
    changes: list[FrameChange] = []
    for row, following in zip_longest(rows, rows[1:]):
        if isinstance(row, Photo):
            continue
        file = row
        if isinstance(following, Photo):
            file = replace(row, photo_id=_find_photo_id(row, following, known))
            before = known.photos.get(str(file.photo_id))
            photo = following if before is None else _update_photo(before, following, file, known)
            if before is not None and (change := _find_frame_change(before, photo)) is not None:
                changes.append(change)
            if photo != before:
                identified.append(photo)
                _add_photo(known, photo)
        identified.append(file)
        _add_file(known, file)
    return identified, changes


def _find_photo_id(file: File, photo: Photo, known: KnownPhotos) -> str:
    """Returns the id of the photo in a file. `photo` describes the pixels of the file."""
    photo_id = known.by_file.get(str(file.sha256)) or known.by_samples.get(str(photo.samples))
    if photo_id is not None:
        return photo_id
    earlier = known.files.get(file.uri)
    before = known.photos.get(str(earlier.photo_id)) if earlier is not None else None
    if before is not None and not _is_elsewhere(before, file.uri, known) and _is_saved_again(before, photo):
        return before.photo_id
    return photo.photo_id


def _is_saved_again(before: Photo, after: Photo) -> bool:
    """Returns whether two photos have nearly the same perceptual hash and the same proportions."""
    if before.phash256 is None or after.phash256 is None:
        return False
    bits = (int(before.phash256, 16) ^ int(after.phash256, 16)).bit_count()
    proportions = before.width * after.height / (before.height * after.width)
    return bits <= MAX_BITS_SAVED_AGAIN and abs(np.log(proportions)) <= MAX_CHANGE_OF_PROPORTIONS


def _is_elsewhere(photo: Photo, uri: str, known: KnownPhotos) -> bool:
    """Returns whether a file other than `uri` still contains the recorded pixels of a photo."""
    files = [known.files[other] for other in known.uris[photo.photo_id] if other != uri]
    return any(
        (file.samples, file.orientation) == (photo.samples, photo.orientation) and not is_missing(file.uri)
        for file in files
    )


def _update_photo(before: Photo, after: Photo, file: File, known: KnownPhotos) -> Photo:
    """Returns the row of a known photo after one of its files was read.

    The new row describes the pixels of the file in two cases. First, the decoder was updated. Second, the pixels have
    changed, and no other file contains the recorded pixels. Otherwise the row stays as it is.
    """
    same_pixels = (before.samples, before.orientation) == (after.samples, after.orientation)
    is_updated_decoder = before.decoder != after.decoder
    if not is_updated_decoder and (same_pixels or _is_elsewhere(before, file.uri, known)):
        return before
    return replace(
        before,
        width=after.width,
        height=after.height,
        phash=after.phash,
        phash256=after.phash256,
        samples=after.samples,
        orientation=after.orientation,
        decoder=after.decoder,
        notice=after.notice,
    )


def _find_frame_change(before: Photo, after: Photo) -> FrameChange | None:
    """Returns the change of the coordinates in a photo, or None if the boxes of its faces do not change."""
    sizes = (before.width, before.height), (after.width, after.height)
    if before.samples == after.samples and before.orientation != after.orientation:
        turn = find_turn(before.orientation or 1, after.orientation or 1)
        return FrameChange(before.photo_id, *sizes, turn)
    return None if sizes[0] == sizes[1] else FrameChange(before.photo_id, *sizes)


def _add_photo(known: KnownPhotos, photo: Photo) -> None:
    known.photos[photo.photo_id] = photo
    known.by_file[photo.photo_id] = photo.photo_id
    if photo.samples is not None:
        known.by_samples.setdefault(photo.samples, photo.photo_id)


def _add_file(known: KnownPhotos, file: File) -> None:
    earlier = known.files.get(file.uri)
    if earlier is not None and earlier.photo_id is not None:
        known.uris[earlier.photo_id].discard(file.uri)
    known.files[file.uri] = file
    if file.photo_id is not None:
        known.uris[file.photo_id].add(file.uri)
        known.by_file.setdefault(file.sha256 or file.photo_id, file.photo_id)
