"""Which folder a run may have, and which file a restored photo becomes: nothing that is there already is harmed."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from manifests.errors import BadInput
from manifests.runtime.files import find_blocking_file
from manifests.runtime.text import make_printable


def plan_outputs(inputs: Sequence[Path], out: Path) -> tuple[list[tuple[Path, Path]], list[tuple[Path, str]]]:
    """Every input photo with the PNG it becomes, and every folder that cannot be read with a sentence that says so.

    Folders keep their structure; equal names get their suffix appended; a file that is offered twice counts once.
    Inside folders, files whose name begins with a dot are skipped on purpose (the leavings of systems and editors,
    never photos), as are special files, what lies in `out`, and links to folders. Raises BadInput where there is
    nothing to restore, two inputs would still share an output, an input would be overwritten, or `out` is a file.
    """
    if (file := find_blocking_file(out)) is not None:
        raise BadInput(f"{make_printable(file)} is a file: name a folder for --out.")
    found: list[tuple[Path, Path]] = []
    unreadable: list[tuple[Path, str]] = []
    for item in inputs:
        if item.is_dir():
            inside, closed = _files_in(item)
            found += [(path, path.relative_to(item)) for path in inside if out not in path.parents]
            unreadable += closed
        elif item.exists():
            found.append((item, Path(item.name)))
        else:
            raise BadInput(f"{make_printable(item)} does not exist: name a photo or a folder of photos.")
    if not found and not unreadable:
        raise BadInput(f"There is no file in {make_printable(inputs[0])}: name a photo or a folder of photos.")
    once: dict[str, tuple[Path, Path]] = {}
    for path, place in found:  # one inside a folder keeps its place there
        real = f"{os.path.realpath(path.parent)}/{path.name}"
        if real not in once or len(place.parts) > len(once[real][1].parts):
            once[real] = path, place
    found = list(once.values())
    stems = [place.with_suffix("") for _, place in found]
    places = [
        place.with_name(place.name + ".png") if stems.count(stem) > 1 else place.with_suffix(".png")
        for (_, place), stem in zip(found, stems, strict=True)
    ]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        first, second, *_ = (path for (path, _), place in zip(found, places, strict=True) if place == twice)
        raise BadInput(
            f"{make_printable(first)} and {make_printable(second)} would become one file in "
            f"{make_printable(out)}: restore them into "
            "different folders."
        )
    todo = [(path, out / place) for (path, _), place in zip(found, places, strict=True)]
    originals = {os.path.realpath(path) for path, _ in todo}  # unlike resolve(), it takes links in a circle
    for path, target in todo:
        if os.path.realpath(target) in originals:
            raise BadInput(
                f"{make_printable(path)} would be overwritten by a restored photo: name another folder with --out."
            )
    return todo, unreadable


def list_photos(folder: Path) -> list[Path]:
    """The files of a folder as `plan_outputs` finds them."""
    return _files_in(folder)[0]


def _files_in(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    files: list[Path] = []
    closed: list[tuple[Path, str]] = []

    def note(error: OSError) -> None:
        closed.append((Path(error.filename), f"The folder cannot be read: {error.strerror}."))

    for place, _, names in os.walk(folder, onerror=note):
        inside = [Path(place, name) for name in names if not name.startswith(".")]
        files += [path for path in inside if _may_be_a_photo(path)]
    return sorted(files), sorted(closed)


def _may_be_a_photo(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True  # reading it will say why it cannot be read
