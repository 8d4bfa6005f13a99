"""Finds the people that an XMP packet names: regions with names, and names without a region.

| who wrote the packet | what is read |
|---|---|
| digiKam, Lightroom, Picasa, Photini, osxphotos and others | `mwg-rs:Regions` (MWG guidelines 2.0, section 5.9) |
| Windows Live Photo Gallery, digiKam, Photini | `MP:RegionInfo` (Microsoft, People Tagging Overview) |
| digiKam | `digiKam:TagsList`: the tags below the tag `People` |
| any program | `Iptc4xmpExt:PersonInImage` (IPTC Photo Metadata Standard) |
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from manifests.ledger.decisions.decision_log import MAX_NAME
from manifests.pictures.metadata.xmp import Value, parse_xmp, read_fields, read_items, read_number, read_text

_MWG = "{http://www.metadataworkinggroup.com/schemas/regions/}"
_AREA = "{http://ns.adobe.com/xmp/sType/Area#}"
_SIZE = "{http://ns.adobe.com/xap/1.0/sType/Dimensions#}"
_MP = "{http://ns.microsoft.com/photo/1.2/}"
_MP_LIST = "{http://ns.microsoft.com/photo/1.2/t/RegionInfo#}"
_MP_REGION = "{http://ns.microsoft.com/photo/1.2/t/Region#}"
_DIGIKAM = "{http://www.digikam.org/ns/1.0/}"
_IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"

MAX_REGIONS = 1000  # At most 1,000 regions (ours) of a photo are read.
NO_NAME = "ffffffffffffffff"  # Picasa's id of a face without a name; Picasa also wrote the id as a name.
_NOBODY = ("", NO_NAME)
_DIGIKAM_NOBODY = ("Unknown", "Unconfirmed", "Ignored")  # digiKam's tags for faces without a name

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Region:
    """A part of a picture in which a program marked a person."""

    name: str
    box: Box  # x0, y0, x1, y1 as shares of the width and height of the picture that the program opened.
    # Width and height, in any unit, of the picture that the program opened. `size` is None if the program wrote no
    # size.
    size: tuple[float, float] | None = None
    upright_in_raw: bool = False  # whether the program turned a RAW upright before it marked the region


@dataclass(frozen=True)
class NamedPeople:
    """The people that a piece of metadata names."""

    regions: tuple[Region, ...] = ()
    names: tuple[str, ...] = ()  # Names without a region.
    unnamed: int = 0  # Number of regions without a name.
    broken: int = 0  # Number of regions whose box or name cannot be used.


def read_xmp_people(packet: bytes) -> NamedPeople:
    """Returns the people that a packet names. Raises BrokenXml.

    Some programs write each region twice, as an MWG region and as a Microsoft region. The Microsoft regions are read
    only if there are no MWG regions.
    """
    properties = parse_xmp(packet)
    people = _read_mwg(properties)
    if not people.regions:
        people = _add(people, _read_microsoft(properties))
    names = [read_text(item) for item in read_items(properties.get(f"{_IPTC}PersonInImage"))]
    for item in read_items(properties.get(f"{_DIGIKAM}TagsList")):
        root, _, path = read_text(item).partition("/")
        name = path.rpartition("/")[2]
        if root == "People" and name not in _DIGIKAM_NOBODY:
            names.append(name)
    clean = [name for name in map(clean_name, names) if name]
    return _add(people, NamedPeople(names=tuple(dict.fromkeys(clean))))


def clean_name(text: str) -> str | None:
    """Returns a name in NFC without blanks at its ends.

    Returns "" if the text stands for nobody, and None if the text is no name.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if name in _NOBODY:
        return ""
    # U+FFFD replaces bytes that could not be decoded as text
    return name if len(name) <= MAX_NAME and name.isprintable() and "\ufffd" not in name else None


def make_people(found: list[tuple[str, Box | None, tuple[float, float] | None]]) -> NamedPeople:
    """Returns the named regions. An item of `found` has the text of the name, the box, and the size of the picture.

    The box is None if it cannot be read.
    """
    regions: list[Region] = []
    unnamed = broken = 0
    for text, box, size in found[:MAX_REGIONS]:
        name, inside = clean_name(text), None if box is None else clip_box(box)
        if name == "":
            unnamed += 1
        elif name is None or inside is None:
            broken += 1
        else:
            regions.append(Region(name, inside, size))
    return NamedPeople(tuple(regions), (), unnamed, broken + max(len(found) - MAX_REGIONS, 0))


def clip_box(box: Box) -> Box | None:
    """Returns the part of a box that lies inside the picture, or None if no part lies inside.

    Coordinates are shares of the width and height of the picture.
    """
    if not all(map(math.isfinite, box)):
        return None
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in box)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _read_mwg(properties: Mapping[str, Value]) -> NamedPeople:
    regions = read_fields(properties.get(f"{_MWG}Regions"))
    applied = read_fields(regions.get(f"{_MWG}AppliedToDimensions"))
    width, height = (read_number(applied.get(f"{_SIZE}{side}")) for side in "wh")
    size = (width, height) if width and height and 0 < width < math.inf and 0 < height < math.inf else None
    found: list[tuple[str, Box | None, tuple[float, float] | None]] = []
    for item in read_items(regions.get(f"{_MWG}RegionList")):
        fields = read_fields(item)
        if read_text(fields.get(f"{_MWG}Type")) in ("", "Face"):  # other types are Pet, Focus and BarCode
            found.append((read_text(fields.get(f"{_MWG}Name")), _read_area(fields.get(f"{_MWG}Area"), size), size))
    return make_people(found)


def _read_area(value: Value | None, size: tuple[float, float] | None) -> Box | None:
    """Returns the box of an MWG area. The x and y of the area are its centre. Circles and points have no box."""
    area = read_fields(value)
    numbers = [read_number(area.get(f"{_AREA}{side}")) for side in "xywh"]
    if any(number is None for number in numbers):
        return None
    x, y, w, h = (number or 0.0 for number in numbers)
    if read_text(area.get(f"{_AREA}unit")) == "pixel":
        if size is None:
            return None
        x, w, y, h = x / size[0], w / size[0], y / size[1], h / size[1]
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def _read_microsoft(properties: Mapping[str, Value]) -> NamedPeople:
    info = read_fields(properties.get(f"{_MP}RegionInfo"))
    found: list[tuple[str, Box | None, tuple[float, float] | None]] = []
    names = []
    for item in read_items(info.get(f"{_MP_LIST}Regions")):
        fields = read_fields(item)
        name, rectangle = (read_text(fields.get(f"{_MP_REGION}{key}")) for key in ("PersonDisplayName", "Rectangle"))
        if not rectangle:  # a name without a region
            names.append(clean_name(name))
            continue
        numbers = [read_number(part) for part in rectangle.split(",")]
        box = None
        if len(numbers) == 4 and None not in numbers:
            x, y, w, h = (number or 0.0 for number in numbers)
            box = x, y, x + w, y + h
        found.append((name, box, None))
    return _add(make_people(found), NamedPeople(names=tuple(name for name in names if name)))


def _add(a: NamedPeople, b: NamedPeople) -> NamedPeople:
    return NamedPeople(a.regions + b.regions, a.names + b.names, a.unnamed + b.unnamed, a.broken + b.broken)
