"""Reads the face regions and the names in Picasa's files `.picasa.ini` and `contacts.xml`.

A `.picasa.ini` has a section for each photo in its folder. The line `faces` of a section lists regions as
`rect64(HEX),ID`. HEX consists of four numbers of 16 bits, left, top, right and bottom. Leading zeros of HEX are left
out. The section `[Contacts2]` has the name of each ID. Older files have no section `[Contacts2]`, and the names of
their IDs are in `contacts.xml`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from curate.photos.labelling.xmp_people import NO_NAME, Box, NamedPeople, make_people
from manifests.pictures.metadata.xmp import parse_xml
from manifests.runtime.uris import normalise_name

INI_NAMES = (".picasa.ini", "Picasa.ini")  # old versions of Picasa wrote Picasa.ini
CONTACTS_NAME = "contacts.xml"
_FACE = re.compile(r"rect64\(([0-9a-f]{1,16})\),([0-9a-f]{1,16})", re.IGNORECASE)


@dataclass(frozen=True)
class PicasaFile:
    """The content of a `.picasa.ini` or a `contacts.xml`."""

    path: Path
    # name of a photo -> (box, ID) of each face; each name is a key twice: unchanged, and casefolded
    faces: Mapping[str, tuple[tuple[Box, str], ...]] = field(default_factory=dict)
    contacts: Mapping[str, str] = field(default_factory=dict)  # ID -> name.
    problem: str | None = None  # Why the file cannot be used.


def parse_picasa_file(path: Path, data: bytes) -> PicasaFile:
    """Returns the content of a Picasa file. Raises BrokenXml if `contacts.xml` is not valid XML."""
    if path.name.lower() == CONTACTS_NAME:
        contacts = {_read_id(one.get("id", "")): one.get("name", "") for one in parse_xml(data).iter("contact")}
        return PicasaFile(path, contacts=contacts)
    faces: dict[str, list[tuple[Box, str]]] = defaultdict(list)
    contacts, section = {}, ""
    for line in data.decode("utf-8-sig", "replace").splitlines():
        if header := re.fullmatch(r"\s*\[(.+)\]\s*", line):
            section = header[1]
        elif section == "Contacts2":
            number, _, value = line.partition("=")
            contacts[_read_id(number)] = value.partition(";")[0]
        elif line.startswith("faces="):
            faces[normalise_name(section)] += [(_read_rect64(box), _read_id(one)) for box, one in _FACE.findall(line)]
    exact = {name: tuple(found) for name, found in faces.items()}
    return PicasaFile(path, {name.casefold(): found for name, found in exact.items()} | exact, contacts)


def _read_id(text: str) -> str:
    return text.strip().lower().lstrip("0")


def _read_rect64(text: str) -> Box:
    left, top, right, bottom = (int(text.zfill(16)[at : at + 4], 16) / 0xFFFF for at in range(0, 16, 4))
    return left, top, right, bottom


def find_picasa_people(file: PicasaFile, photo: Path, contacts: Mapping[str, str]) -> NamedPeople:
    """Returns the people whom a `.picasa.ini` names in a photo. `contacts` (ID -> name) come from other Picasa files.

    A face whose ID has no name counts as unnamed.
    """
    name = normalise_name(photo.name)
    found = file.faces.get(name) or file.faces.get(name.casefold(), ())

    def find_name(contact: str) -> str:
        return "" if contact == NO_NAME else file.contacts.get(contact) or contacts.get(contact, "")

    people = make_people([(find_name(contact), box, None) for box, contact in found])
    return replace(people, regions=tuple(replace(region, upright_in_raw=True) for region in people.regions))
