"""Reads labels that other programs wrote: XMP in photos and in sidecar files, and Picasa's files.

A sidecar of `photo.jpg` is `photo.jpg.xmp` or `photo.xmp`. Worker processes read all files. Photos in archives have no
sidecars. The coordinates of regions are converted to the upright photo.
"""

from __future__ import annotations

import io
import stat
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.photos.batches import FILES_A_BATCH, split_into_batches
from curate.photos.history.file_history import MISSING
from curate.photos.history.frame_changes import FrameChange, find_turn
from curate.photos.labelling.label_boxes import PhotoLabels
from curate.photos.labelling.picasa import (
    CONTACTS_NAME,
    INI_NAMES,
    PicasaFile,
    find_picasa_people,
    parse_picasa_file,
)
from curate.photos.labelling.xmp_people import Box, NamedPeople, Region, read_xmp_people
from curate.photos.name_rules import LEFT_OUT, NOT_INCLUDED
from curate.photos.walk import LEAVES_FOLDER
from manifests.ledger.records import File, Photo
from manifests.pictures.embedded_metadata import EmbeddedMetadata, read_embedded_metadata
from manifests.pictures.metadata.xmp import MAX_XMP, BrokenXml
from manifests.runtime.archives import read_bytes
from manifests.runtime.text import format_count, make_printable
from manifests.runtime.uris import display_path, parse_member_uri, path_of, uri_of
from manifests.runtime.workers import FAILURE_TEXTS, BatchMap, FailedUnit, guard_units
from manifests.stores.addresses import add_secrets
from manifests.stores.store_path import is_address

# Two pictures have the same proportions if the values of width / height differ by at most 2% (ours). The rounding to
# whole pixels changes the proportions of small pictures.
_MAX_CHANGE_OF_PROPORTIONS = 0.02
_UPRIGHT = 1


@dataclass(frozen=True)
class FileMetadata:
    """The people that the metadata of one photo file names."""

    uri: str
    people: tuple[NamedPeople, ...] = ()  # The people of each sidecar, then the people of the photo file.
    turned_by: int | None = None  # See EmbeddedMetadata.
    is_raw: bool = False
    problems: tuple[tuple[str, str], ...] = ()  # path of a file, and why its metadata cannot be used


def read_metadata_labels(
    files: Sequence[File], photos: Mapping[str, Photo], map_batches: BatchMap
) -> tuple[PhotoLabels, list[str]]:
    """Returns the labels in the metadata of the photos' files, and notices.

    `photos` are the photos that may be labelled. `files` are all files of the ledger.
    """
    # the sidecar of a photo is read even if no pattern of --include matches the sidecar
    left_out = {file.uri for file in files if file.reason in (*LEFT_OUT, LEAVES_FOLDER) and file.reason != NOT_INCLUDED}
    named = [file for file in files if file.photo_id in photos and file.reason not in (*LEFT_OUT, *MISSING)]
    uris = {file.uri for file in files}
    units = [(add_secrets(file.uri), tuple(_find_sidecars(file.uri, left_out, uris))) for file in named]
    batches = split_into_batches(units, FILES_A_BATCH)
    metadata = [found for batch in map_batches(read_people_batch, batches) for found in batch]
    picasa = _read_picasa_files(named, files, left_out, map_batches)
    contacts = {number: name for one in picasa for number, name in one.contacts.items()}
    picasa_in: dict[Path, list[PicasaFile]] = defaultdict(list)
    for one in picasa:
        picasa_in[one.path.parent].append(one)

    labels = PhotoLabels()
    for file, found in zip(named, metadata, strict=True):
        photo = photos[str(file.photo_id)]
        people = list(found.people)
        if parse_member_uri(file.uri) is None:
            path = path_of(file.uri)
            people += [find_picasa_people(one, path, contacts) for one in picasa_in.get(path.parent, ())]
        for one in people:
            labels.whole[photo.photo_id].update(one.names)
            labels.unused["without a name"] += one.unnamed
            labels.unused["that cannot be read"] += one.broken
            if one.regions or one.unnamed or one.broken:
                labels.placed.add(photo.photo_id)
            for region in one.regions:
                box = place_box(region, photo, file, found)
                if box is None:
                    labels.unused["of a picture with other proportions"] += 1
                else:
                    labels.boxes[photo.photo_id].append((region.name, box))
    problems = [problem for found in metadata for problem in found.problems]
    problems += [(str(one.path), one.problem) for one in picasa if one.problem is not None]
    return labels, _describe_problems(problems)


def place_box(region: Region, photo: Photo, file: File, metadata: FileMetadata) -> Box | None:
    """Returns the box of a region in the upright photo, or None if the picture of the region has other proportions.

    Regions belong to the stored picture (MWG guidelines 2.0, section 5.9), but some programs write regions of the
    upright picture. If the size in the region fits only one of the two pictures, the region belongs to this picture.
    Picasa writes the regions of a RAW for the upright picture.
    """
    turned_by = metadata.turned_by
    photo_turn = turned_by or photo.orientation or _UPRIGHT
    file_turn = turned_by or file.orientation or _UPRIGHT
    stored = _turn_size((photo.width, photo.height), photo_turn)
    # EXIF orientation -> size of the stored picture after a turn by this orientation
    frames = {_UPRIGHT: stored, file_turn: _turn_size(stored, file_turn)}
    usual = file_turn if metadata.is_raw and region.upright_in_raw else _UPRIGHT
    if region.size is not None:
        fitting = [turn for turn, size in frames.items() if _have_same_shape(size, region.size)]
        if not fitting:
            return None
        usual = usual if usual in fitting else fitting[0]
    return FrameChange("", (1, 1), (1, 1), find_turn(usual, photo_turn)).move_box(region.box)


def _turn_size(size: tuple[float, float], orientation: int) -> tuple[float, float]:
    """Returns the width and height of a picture after a turn by an EXIF orientation.

    The inverse turn gives the same width and height.
    """
    return (size[1], size[0]) if orientation >= 5 else size


def _have_same_shape(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return bool(abs(np.log(a[0] * b[1] / (a[1] * b[0]))) <= _MAX_CHANGE_OF_PROPORTIONS)


def _find_sidecars(uri: str, left_out: set[str], uris: set[str]) -> Iterable[Path]:
    """Yields the paths of possible sidecars of a photo. A photo in an archive has no sidecars.

    `uris` are the uris of all files that the scan found. In a store, only these files are possible sidecars, because a
    check of each other path would be a request.
    """
    if parse_member_uri(uri) is not None:
        return
    path = path_of(uri)
    for sidecar in dict.fromkeys((path.with_name(f"{path.name}.xmp"), path.with_suffix(".xmp"))):
        for spelling in (sidecar, sidecar.with_suffix(".XMP")):
            if (other := uri_of(spelling)) not in left_out and (other in uris or not is_address(other)):
                yield spelling


def _read_picasa_files(
    named: Iterable[File], files: Iterable[File], left_out: set[str], map_batches: BatchMap
) -> list[PicasaFile]:
    """Returns the Picasa files in the folders of the photos, and every contacts.xml that the scan found."""
    folders = {path_of(file.uri).parent for file in named if parse_member_uri(file.uri) is None}
    paths = {folder / name for folder in folders for name in (*INI_NAMES, CONTACTS_NAME)}
    paths |= {path_of(file.uri) for file in files if file.uri.lower().endswith(f"/{CONTACTS_NAME}")}
    uris = {file.uri for file in files}
    existing = [
        path
        for path in sorted(paths)
        if (uri := uri_of(path)) not in left_out and (uri in uris or not is_address(uri)) and _is_plain_file(path)
    ]
    batches = split_into_batches(existing, FILES_A_BATCH)
    return [found for batch in map_batches(read_picasa_batch, batches) for found in batch]


def read_people_batch(units: Sequence[tuple[str, tuple[Path, ...]] | FailedUnit]) -> list[FileMetadata]:
    """Returns the people that the metadata of each file names. A worker process runs this function.

    A unit is the uri of a file and the paths of its possible sidecars.
    """
    return [_read_people(unit) for unit in guard_units(units)]


def _read_people(unit: tuple[str, tuple[Path, ...]] | FailedUnit) -> FileMetadata:
    if isinstance(unit, FailedUnit):
        uri = unit.unit[0]
        return FileMetadata(uri, problems=((str(display_path(uri)), FAILURE_TEXTS[unit.reason]),))
    uri, sidecars = unit
    people: list[NamedPeople] = []
    problems: list[tuple[str, str]] = []
    for path in sidecars:
        if _is_plain_file(path):
            try:
                people.append(read_xmp_people(_read_limited(path)))
            except (BrokenXml, OSError) as error:
                problems.append((str(path), _explain(error)))
    turned_by, is_raw = None, False
    try:
        embedded = _read_embedded(uri)
        turned_by, is_raw = embedded.turned_by, embedded.is_raw
        if embedded.xmp:
            people.append(read_xmp_people(embedded.xmp))
    except Exception as error:  # on broken files, Pillow raises many classes of errors
        problems.append((str(display_path(uri)), _explain(error)))
    return FileMetadata(uri, tuple(people), turned_by, is_raw, tuple(problems))


def read_picasa_batch(paths: Sequence[Path | FailedUnit]) -> list[PicasaFile]:
    """Returns the content of Picasa's files. A worker process runs this function."""
    found = []
    for path in guard_units(paths):
        if isinstance(path, FailedUnit):
            found.append(PicasaFile(path.unit, problem=FAILURE_TEXTS[path.reason]))
            continue
        try:
            found.append(parse_picasa_file(path, _read_limited(path)))
        except (BrokenXml, OSError) as error:
            found.append(PicasaFile(path, problem=_explain(error)))
    return found


def _read_embedded(uri: str) -> EmbeddedMetadata:
    if parse_member_uri(uri) is not None:
        return read_embedded_metadata(io.BytesIO(read_bytes(uri)))
    with path_of(uri).open("rb") as file:
        return read_embedded_metadata(file)


def _is_plain_file(path: Path) -> bool:
    """Returns whether a path is a file, and not a link, a pipe or a device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _read_limited(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_XMP + 1)
    if len(data) > MAX_XMP:
        raise BrokenXml(f"has more than {MAX_XMP // 2**20} MiB of metadata")
    return data


def _explain(error: Exception) -> str:
    return str(error) if isinstance(error, BrokenXml) else "cannot be read"


def _describe_problems(problems: Sequence[tuple[str, str]]) -> list[str]:
    """Returns one notice about the files whose metadata cannot be used."""
    if not problems:
        return []
    path, why = min(problems)
    return [
        f"The metadata of {format_count(len(problems), 'file')} is not used. For example, {make_printable(path)} "
        f"{make_printable(why)}."
    ]
