"""Plan the output files of `restore`: one file for each input photo."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from manifests.errors import BadInput
from manifests.runtime.files import find_blocking_file
from manifests.runtime.text import make_printable
from manifests.runtime.uris import fold_name

_JPEG_SUFFIXES, _LOSSLESS_SUFFIXES = (".jpg", ".jpeg"), (".png", ".tif", ".tiff", ".webp")


class PhotoOutput(NamedTuple):
    """Names the two possible output files of one photo. `restore` writes one of the two files."""

    photo: Path
    own: Path  # The output if the photo is copied or keeps its format.
    png: Path  # The output if the photo becomes a PNG; equal to `own` if the suffix of the photo is .png.

    def expect(self, lossless: bool) -> Path:
        """Returns the file that `restore` will probably write, if it restores a face. The photo's suffix decides."""
        suffix = self.photo.suffix.lower()
        keeps = suffix in _LOSSLESS_SUFFIXES or (suffix in _JPEG_SUFFIXES and not lossless)
        return self.own if keeps else self.png


def plan_outputs(inputs: Sequence[Path], out: Path) -> tuple[list[PhotoOutput], list[tuple[Path, str]]]:
    """Returns the output files of each input photo, and (folder, reason) for each folder that cannot be read.

    Photos of a folder keep their subfolders and their names in `out`. A photo that becomes a PNG gets the suffix .png
    instead of its own. If another photo of the folder has the same name apart from the suffix, .png is added to the
    whole name, for example a.jpg.png. If the name is still taken, .png is added again. A photo that is given twice is
    restored once.

    In a folder, `restore` skips files whose names begin with a dot, because systems and editors make such files.
    `restore` also skips files that are not regular, links to folders, and everything inside `out`.

    Raises BadInput if there is nothing to restore, if two photos would have the same output file, if an input would be
    overwritten, or if `out` is a file.
    """
    if (file := find_blocking_file(out)) is not None:
        raise BadInput(f"{make_printable(file)} is a file: give a folder with --out.")
    real_out = Path(os.path.realpath(out))
    photos: list[tuple[Path, Path]] = []  # (file, path of the file relative to the folder that the user gave)
    unreadable: list[tuple[Path, str]] = []
    for item in inputs:
        if item.is_dir():
            files, closed_folders = _list_files(item)
            if Path(os.path.realpath(item)) in real_out.parents:  # leave out the results of earlier calls
                files = [path for path in files if not Path(os.path.realpath(path.parent)).is_relative_to(real_out)]
            photos += [(path, path.relative_to(item)) for path in files]
            unreadable += closed_folders
        elif item.exists():
            photos.append((item, Path(item.name)))
        else:
            raise BadInput(f"{make_printable(item)} does not exist: give a photo or a folder of photos.")
    if not photos and not unreadable:
        raise BadInput(f"{make_printable(inputs[0])} contains no file: give a photo or a folder of photos.")
    # If the user gave both a file and its folder, the output keeps the path relative to the folder.
    unique: dict[str, tuple[Path, Path]] = {}
    for path, place in photos:
        real_path = f"{os.path.realpath(path.parent)}/{path.name}"
        if real_path not in unique or len(place.parts) > len(unique[real_path][1].parts):
            unique[real_path] = path, place
    photos = list(unique.values())
    # The PNG of a.jpg is a.png. If the folder also contains a.webp, the PNG of a.jpg is a.jpg.png. Names are folded
    # (`fold_name`) before they are compared, because a.png and A.png are one file on some systems.
    stems = [fold_name(place.with_suffix("")) for _, place in photos]
    stem_counts = Counter(stems)
    owners = {fold_name(place): path for path, place in photos}  # Maps an output's folded name to its photo.
    outputs, writers = list[PhotoOutput](), dict[Path, Path]()  # `writers` maps an output file to its photo.
    for (path, place), stem in zip(photos, stems, strict=True):
        png = place if place.suffix == ".png" else place.with_suffix(".png")
        if png != place and stem_counts[stem] > 1:
            png = place.with_name(place.name + ".png")
        while png != place and owners.setdefault(fold_name(png), path) != path:
            png = png.with_name(png.name + ".png")
        for name in {place, png}:
            if (first := writers.setdefault(name, path)) != path:
                raise BadInput(
                    f"{make_printable(first)} and {make_printable(path)} would become the same file in "
                    f"{make_printable(out)}: restore them into different folders."
                )
        outputs.append(PhotoOutput(path, out / place, out / png))
    originals = {os.path.realpath(path) for path, _, _ in outputs}  # Path.resolve raises an error for circular links
    for path, own, png in outputs:
        if not originals.isdisjoint({os.path.realpath(own), os.path.realpath(png)}):
            raise BadInput(f"A restored photo would overwrite {make_printable(path)}: give another folder with --out.")
    return outputs, unreadable


def list_photos(folder: Path) -> list[Path]:
    """Returns the sorted files of a folder that `restore` would restore."""
    return _list_files(folder)[0]


def _list_files(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Returns the sorted files of a folder and its subfolders, and (folder, reason) for each folder that cannot be
    read."""
    files: list[Path] = []
    closed_folders: list[tuple[Path, str]] = []

    def add_closed_folder(error: OSError) -> None:
        closed_folders.append((Path(error.filename), f"The folder cannot be read: {error.strerror}."))

    for parent, _, names in os.walk(folder, onerror=add_closed_folder):
        paths = [Path(parent, name) for name in names if not name.startswith(".")]
        files += [path for path in paths if _may_be_a_photo(path)]
    return sorted(files), sorted(closed_folders)


def _may_be_a_photo(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True  # the decoder will report why the file cannot be read
