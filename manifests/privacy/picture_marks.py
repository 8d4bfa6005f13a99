"""Recognizes copies of a kept-out photo by marks from which nobody can see the photo.

manifests/privacy/keys.py defines a mark. A photo has a mark of its sha256, a mark of its stored samples, a mark of the
uri of each of its files, and marks of parts of its perceptual hash. The marks of two hashes that differ in one bit are
completely different. The 256-bit hash is therefore cut into bands, and each band has its own mark. A picture counts as
a copy if at least MIN_BANDS bands agree. If the picture is in a file with the uri of a kept-out file, one band is
enough.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from manifests.ledger.ledger import Ledger
from manifests.ledger.records import File, KeptOutMark, Photo
from manifests.privacy.keys import compute_mark, hide_uri

# The number of bands, and the least number of agreeing bands (ours). We tried bands of 16 to 51 bits on 2,756 photos.
# 12 bands of 21 bits found all copies as JPEG of quality 90 or 40, as WebP of quality 80, in gray, and at half and
# double size. With these bands, Likeness found 99.4% of the copies at a third of the size as JPEG of quality 75. In 3.8
# million pairs of photos, 42 pairs had two equal bands. We count 41 of these pairs as true copies, because every number
# of bands that we tried finds these 41 pairs.
BANDS, MIN_BANDS = 12, 2
_BITS = 256 // BANDS
_MARK_DIGITS = 16  # number of hex digits of the mark of a band: 64 bits, although a band has only 2**21 values


def split_into_bands(phash256: str) -> list[int]:
    """Returns the bands of a 256-bit hash, whose hex digits are `phash256`. The last 4 bits belong to no band."""
    bits = f"{int(phash256, 16):0256b}"
    return [int(bits[start : start + _BITS], 2) for start in range(0, BANDS * _BITS, _BITS)]


def find_copies(photos: Iterable[Photo], photo_ids: Iterable[str]) -> dict[str, set[str]]:
    """Returns a dict that maps a photo id to the photo ids of its copies.

    Only `photo_ids` with copies are in the dict.
    """
    bands = {photo.photo_id: split_into_bands(photo.phash256) for photo in photos if photo.phash256 is not None}
    photos_of: dict[tuple[int, int], list[str]] = defaultdict(list)  # maps the number and the value of a band to photos
    for photo_id, values in bands.items():
        for band in enumerate(values):
            photos_of[band].append(photo_id)
    copies: dict[str, set[str]] = {}
    for photo_id in photo_ids:
        agreeing = Counter(other for band in enumerate(bands.get(photo_id, ())) for other in photos_of[band])
        if found := {other for other, count in agreeing.items() if count >= MIN_BANDS} - {photo_id}:
            copies[photo_id] = found
    return copies


def mark_bands(key: bytes, phash256: str | None) -> tuple[str, ...] | None:
    """Returns the marks of the bands of a perceptual hash, or None without a hash."""
    if phash256 is None:
        return None
    bands = enumerate(split_into_bands(phash256))
    return tuple(compute_mark(key, f"band {number}", f"{value}")[:_MARK_DIGITS] for number, value in bands)


def mark_samples(key: bytes, samples: str | None) -> str | None:
    """Returns the mark of `samples`, the hash of a photo's stored samples, or None without a hash."""
    return None if samples is None else compute_mark(key, "samples", samples)


def make_kept_out_rows(
    ledger: Ledger, key: bytes, photo_ids: Sequence[str], outside: Iterable[Photo], reason: str, time: datetime
) -> list[KeptOutMark]:
    """Returns the rows of the table `kept_out` for photos that must stay out, without the rows that the ledger already
    has.

    A photo has a row for its own sha256, and a row for the sha256 of each other file that contains the photo.
    `photo_ids` are photos of the ledger. `outside` are photos that are not in the ledger. If only the sha256 of a photo
    is known, the row has no samples and no bands.
    """
    known_marks = {row.mark for row in ledger.read_rows(KeptOutMark)}
    inside = {photo.photo_id: photo for photo in ledger.read_rows(Photo) if photo.photo_id in set(photo_ids)}
    files: dict[str, list[File]] = defaultdict(list)
    for file in ledger.read_rows(File):
        files[str(file.photo_id)].append(file)
    rows: dict[str, KeptOutMark] = {}
    for photo in (*(inside.get(photo_id) or Photo(photo_id, 0, 0, "") for photo_id in photo_ids), *outside):
        of_photo = files[photo.photo_id] if photo.photo_id in inside else []
        hashes = [photo.photo_id, *(file.sha256 for file in of_photo if file.sha256 is not None)]
        row = KeptOutMark(
            "",
            "photo",
            reason,
            time,
            samples=mark_samples(key, photo.samples),
            bands=mark_bands(key, photo.phash256),
            places=tuple(hide_uri(key, file.uri) for file in of_photo),
        )
        for sha256 in hashes:
            mark = compute_mark(key, "photo", sha256)
            rows.setdefault(mark, replace(row, mark=mark))
    return [row for mark, row in rows.items() if mark not in known_marks]


@dataclass(frozen=True)
class KeptOutPictures:
    """The marks of kept-out pictures, in a form in which a new picture can be compared with them quickly."""

    key: bytes = b""
    samples: Mapping[str, str] = field(default_factory=dict)  # Maps the mark of stored samples to the reason.
    bands: Mapping[str, Sequence[int]] = field(default_factory=dict)  # Maps the mark of a band to numbers of pictures.
    reasons: Sequence[str] = ()  # The reason of each picture, by its number.
    places: Sequence[frozenset[str]] = ()  # The marks of the uris of each picture's files.

    def find_reason(self, samples: str | None, phash256: str | None, uri: str) -> str | None:
        """Returns the reason why a picture in the file `uri` is kept out, or None if the picture may be used."""
        if not self.reasons:
            return None
        reason = self.samples.get(mark_samples(self.key, samples) or "")
        if reason is not None:
            return reason
        place = hide_uri(self.key, uri)
        agreeing = Counter(
            number for mark in mark_bands(self.key, phash256) or () for number in self.bands.get(mark, ())
        )
        for number, count in sorted(agreeing.items()):
            if count >= (1 if place in self.places[number] else MIN_BANDS):
                return self.reasons[number]
        return None


NO_PICTURES = KeptOutPictures()


def arrange_marks(key: bytes, rows: Iterable[KeptOutMark]) -> KeptOutPictures:
    """Arranges the marks in rows of the table `kept_out`, so that a picture can be compared with them."""
    pictures = {row.bands: row for row in rows if row.bands is not None}
    bands: dict[str, list[int]] = defaultdict(list)
    for number, marks in enumerate(pictures):
        for mark in marks or ():
            bands[mark].append(number)
    reasons = tuple(row.reason for row in pictures.values())
    places = tuple(frozenset(row.places or ()) for row in pictures.values())
    samples = {row.samples: row.reason for row in pictures.values() if row.samples is not None}
    return KeptOutPictures(key, samples, dict(bands), reasons, places)
