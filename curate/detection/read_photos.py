"""Reads and decodes the photos of the ledger from their files."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from curate.detection.reasons import PHOTO_VANISHED
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import File, Photo
from manifests.pictures.images import UndecodableImage, decode
from manifests.runtime.archives import ArchiveError, read_bytes
from manifests.runtime.files import sha256_bytes
from manifests.runtime.uris import parse_member_uri, path_of, uri_of
from manifests.runtime.workers import OUT_OF_MEMORY, FailedUnit, guard_units, is_retry
from manifests.stores.addresses import add_secrets

# If two photos together have at most MAX_PIXELS_AHEAD pixels (ours), the second photo is decoded while the first photo
# is still in use. Otherwise, the memory of the first photo is freed before the second photo is decoded, because two
# photos could need more memory than the largest single photo.
MAX_PIXELS_AHEAD = 64_000_000


# The uri of a file that contains a photo, and the sha256 of the file. The uri may contain the password of a web
# address, so a source is never written into a file.
Source = tuple[str, str]


def list_sources(ledger: Ledger) -> dict[str, tuple[Source, ...]]:
    """Returns the files that contain the pixels of each photo (photo_id -> sources).

    A file is not a source if its orientation or its samples differ from the orientation or the samples in the photo's
    row. The boxes of the faces would not fit the pixels of a changed file.
    """
    pixels = {photo.photo_id: (photo.samples, photo.orientation) for photo in ledger.read_rows(Photo)}
    sources: dict[str, list[Source]] = defaultdict(list)
    for file in ledger.read_rows(File):
        if file.photo_id is not None and (file.samples, file.orientation) == pixels.get(file.photo_id):
            sources[file.photo_id].append((add_secrets(file.uri), file.sha256 or file.photo_id))
    return {photo_id: tuple(of_photo) for photo_id, of_photo in sources.items()}


def rank_place(sources: Sequence[Source]) -> tuple[str, int]:
    """Returns a key that sorts photos by archive, and by position in the archive, so that each archive is unpacked one
    time.

    Photos that also exist as files outside an archive come first.
    """
    uris = [uri for uri, _ in sources]
    member = None if any("#" not in uri for uri in uris) or not uris else parse_member_uri(min(uris))
    return ("", 0) if member is None else (uri_of(member[0]), member[1])


def read_photo(sources: Sequence[Source]) -> np.ndarray | None:
    """Returns a photo, RGB uint8 (H, W, 3), from the first source whose bytes still have the recorded hash.

    Returns None if no source can be read or no source has its recorded hash. Raises MemoryError if decoding runs out of
    memory.
    """
    for uri, sha256 in sources:
        try:
            if parse_member_uri(uri) is not None:
                data = read_bytes(uri)
                if sha256_bytes(data) == sha256:
                    return decode(data)
                continue
            with path_of(uri).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                    return decode(file)
        except UndecodableImage as error:
            if error.reason == OUT_OF_MEMORY:
                raise MemoryError from None
        except (ArchiveError, OSError):
            continue
    return None


def read_photos(
    photos: Sequence[tuple[Photo, Sequence[Source]] | FailedUnit],
) -> Iterator[tuple[Photo, np.ndarray | str]]:
    """Yields each photo with its pixels, or with the reason why it cannot be read.

    While the caller uses one photo, the next photo is decoded if the sum of the pixels of both is at most
    MAX_PIXELS_AHEAD.
    """
    with ThreadPoolExecutor(1) as reader:
        next_image: Future[np.ndarray | None] | None = None
        for index, item in enumerate(guard_units(photos)):
            if isinstance(item, FailedUnit):
                yield item.unit[0], item.reason
                continue
            photo, sources = item
            image = None  # frees the memory of the last photo
            image = read_photo(sources) if next_image is None else next_image.result()
            next_image = None
            next_item = photos[index + 1] if index + 1 < len(photos) and not is_retry() else None
            if isinstance(next_item, tuple) and _count_pixels(photo) + _count_pixels(next_item[0]) <= MAX_PIXELS_AHEAD:
                next_image = reader.submit(read_photo, next_item[1])
            yield photo, PHOTO_VANISHED if image is None else image


def gather_photos(
    photos: Iterator[tuple[Photo, np.ndarray | str]], count: int, size: int
) -> Iterator[list[tuple[Photo, np.ndarray | str]]]:
    """Yields the `count` photos in groups of at most `size` photos.

    A group of several photos has at most MAX_PIXELS_AHEAD pixels. If a group has fewer than `size` photos, or if the
    next photo was decoded ahead, the next photo can be in memory together with the group. The last group is yielded
    before the iterator `photos` is at its end, because after the end, a failure of the process ends the whole command
    (`guard_units`).
    """
    group: list[tuple[Photo, np.ndarray | str]] = []
    number = 0
    # enumerate() would keep the last photo in memory while the next photo is decoded
    for photo, image in photos:
        number += 1  # noqa: SIM113
        pixels = sum(_count_pixels(other) for other, _ in group) + _count_pixels(photo)
        if group and pixels > MAX_PIXELS_AHEAD:
            yield group
            group = []
        group.append((photo, image))
        del image
        if len(group) == size or number == count:
            yield group
            group = []


def _count_pixels(photo: Photo) -> int:
    return photo.width * photo.height
