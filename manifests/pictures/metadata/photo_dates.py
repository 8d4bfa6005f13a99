"""Reads the date of a photo from the metadata of its file, and finds out why the date may be wrong.

A file may have several fields with a date. The first date that can be trusted is used, in the order of `_read_fields`.
If no date can be trusted, the first date is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from PIL import Image, ImageFile, IptcImagePlugin

from manifests.pictures.metadata.xmp import BrokenXml, Value, parse_xmp, read_text

UNSET, UNREADABLE, DIGITIZED, CHANGED = "unset", "unreadable", "digitized", "changed"

_MAX_MODEL = 100  # names of cameras with more characters than this (ours) are cut to this length
_EXIF_IFD, _CAMERA = 0x8769, (271, 272)
# The time of the last change is in the first IFD, and its offset is in the EXIF IFD (EXIF 2.32)
_DATE_TIME, _OFFSET = 306, 36880
_ORIGINAL, _OFFSET_ORIGINAL = 36867, 36881
_DIGITIZED, _OFFSET_DIGITIZED = 36868, 36882
_FILE_SOURCE, _SCANNERS = 41728, (b"\1", b"\2", 1, 2)
_PHOTOSHOP = "{http://ns.adobe.com/photoshop/1.0/}"
_EXIF = "{http://ns.adobe.com/exif/1.0/}"
_XMP = "{http://ns.adobe.com/xap/1.0/}"

# EXIF writes 2020:02:29 13:14:15, and IPTC writes 20200229 131415. XMP writes 2020-02-29T13:14:15.5+01:00, or only the
# first parts of this form.
_DATE = re.compile(
    r"(\d{4})(?:[-:/. ]?(\d\d)(?:[-:/. ]?(\d\d)"
    r"(?:[T ]+(\d\d):?(\d\d)(?::?(\d\d)(?:\.\d*)?)?\s*(Z|[+-]\d\d:?\d\d)?)?)?)?"
)
_NOTHING = re.compile(r"[\s\0:/.T+Z-]*|[\s\0:/.T+Z0-]*")


@dataclass(frozen=True)
class PhotoDate:
    """The date at which a photo was taken, according to its file. The fields are None if the file has no date."""

    taken: datetime | None = None  # The time on the clock of the camera, without a time zone.
    taken_offset: int | None = None  # Minutes by which the clock of the camera was ahead of UTC.
    taken_from: str | None = None  # The name of the field that gave the date (see `_read_fields`).
    # Why the date cannot be trusted: UNSET, UNREADABLE, DIGITIZED or CHANGED. None if it can be trusted.
    taken_doubt: str | None = None
    camera_model: str | None = None  # Maker and model of the camera whose clock gave the date.


@dataclass(frozen=True)
class _Field:
    name: str
    text: str
    offset: str = ""
    doubt: str | None = None


def read_photo_date(image: Image.Image, exif: Image.Exif, xmp: bytes) -> PhotoDate:
    """Returns the date of an open picture.

    `exif` and `xmp` are its EXIF block and its XMP packet. The block and the packet may be empty.
    """
    names = (_to_text(_read_tag(exif, tag)) for tag in _CAMERA)
    camera = " ".join(name for name in names if name)[:_MAX_MODEL] or None
    dates = [_read_date(field) for field in _read_fields(image, exif, xmp)]
    best = next((date for date in dates if date.taken_doubt is None), dates[0] if dates else PhotoDate())
    return replace(best, camera_model=camera)


def _read_fields(image: Image.Image, exif: Image.Exif, xmp: bytes) -> Iterator[_Field]:
    """Yields the fields that contain a text. The most trustworthy field comes first.

    The fields with the time of the shot come first. The fields with the time of digitizing follow. For a scanned photo,
    the time of digitizing is the time of the scan. The time of the last change comes last, because programs overwrite
    it.
    """
    tags = _read_exif_ifd(exif)
    scanned = DIGITIZED if tags.get(_FILE_SOURCE) in _SCANNERS else None
    properties = _read_properties(xmp)
    iptc = _read_iptc(image)
    fields = (
        _Field("exif_original", _to_text(tags.get(_ORIGINAL)), _to_text(tags.get(_OFFSET_ORIGINAL)), scanned),
        _Field("xmp_original", read_text(properties.get(f"{_EXIF}DateTimeOriginal")), "", scanned),
        _Field("xmp_created", read_text(properties.get(f"{_PHOTOSHOP}DateCreated")), "", scanned),
        _Field("iptc_created", " ".join(filter(None, (iptc.get((2, 55)), iptc.get((2, 60))))), "", scanned),
        _Field("exif_digitized", _to_text(tags.get(_DIGITIZED)), _to_text(tags.get(_OFFSET_DIGITIZED)), DIGITIZED),
        _Field("xmp_digitized", read_text(properties.get(f"{_XMP}CreateDate")), "", DIGITIZED),
        _Field("exif_changed", _to_text(_read_tag(exif, _DATE_TIME)), _to_text(tags.get(_OFFSET)), CHANGED),
    )
    yield from (field for field in fields if field.text)


def _read_date(field: _Field) -> PhotoDate:
    """Returns the date in a field, with its doubt.

    A date without a time stands for the middle of its day. A date without a day stands for the middle of its month. A
    date without a month stands for the middle of its year.
    """
    if _NOTHING.fullmatch(field.text):
        return PhotoDate(taken_from=field.name, taken_doubt=UNSET)
    match = _DATE.fullmatch(field.text)
    try:
        if match is None:
            raise ValueError
        year, month, day, hour, minute, second = (None if part is None else int(part) for part in match.groups()[:6])
        taken = datetime(
            year or 0,
            7 if month is None else month,
            (1 if month is None else 15) if day is None else day,
            12 if hour is None else hour,
            minute or 0,
            min(second or 0, 59),  # `datetime` refuses the second 60, which is a leap second
        )
    except ValueError:
        return PhotoDate(taken_from=field.name, taken_doubt=UNREADABLE)
    return PhotoDate(taken, _read_offset(match[7] or field.offset), field.name, field.doubt)


def _read_offset(text: str) -> int | None:
    """Returns the minutes of an offset such as +01:00, or None if the text is not an offset."""
    if text == "Z":
        return 0
    match = re.fullmatch(r"([+-])(\d\d):?(\d\d)", text)
    if match is None or int(match[2]) > 14 or int(match[3]) > 59:
        return None
    return (int(match[2]) * 60 + int(match[3])) * (-1 if match[1] == "-" else 1)


def _read_exif_ifd(exif: Image.Exif) -> dict[int, object]:
    try:
        return dict(exif.get_ifd(_EXIF_IFD))
    except Exception:  # the block is broken; Pillow raises many classes of errors
        return {}


def _read_tag(exif: Image.Exif, tag: int) -> object:
    try:
        return exif.get(tag)
    except Exception:  # the block is broken; Pillow raises many classes of errors
        return None


def _read_properties(xmp: bytes) -> dict[str, Value]:
    try:
        return parse_xmp(xmp) if xmp else {}
    except BrokenXml:
        return {}


def _read_iptc(image: Image.Image) -> dict[tuple[int, int], str]:
    if not isinstance(image, ImageFile.ImageFile):
        return {}
    try:
        records = IptcImagePlugin.getiptcinfo(image) or {}
    except Exception:  # the record is broken; Pillow raises many classes of errors
        return {}
    return {name: _to_text(value) for name, value in records.items()}


def _to_text(value: object) -> str:
    """Returns a value as text. NULs and spaces at both ends of the text are removed. Returns "" for None."""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return "" if value is None else text.strip("\0 ")
