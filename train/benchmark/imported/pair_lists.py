"""Reads the lists with which published test sets name the LQ images, the targets and the references."""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from manifests.errors import BadInput
from train.benchmark.imported.patterns import sort_naturally

_LQ_FOLDERS = {"severe_degrad", "moderate_degrad"}  # ReF-LDM's folders of LQ images


@dataclass(frozen=True)
class ListedCase:
    """Holds the files that a list names for one LQ image, as paths below the folder of the set.

    A path that does not exist is kept as the list writes it.
    """

    lq: str
    targets: tuple[str, ...] = ()  # The files that can be the target; more than one if the list is ambiguous.
    references: tuple[str, ...] = ()
    person: str | None = None


class _Files:
    """Finds the files of a set by the ends of their paths, because the paths of a list can begin at another folder."""

    def __init__(self, files: Iterable[str]) -> None:
        self.files = set(files)
        self.folders: dict[str, list[str]] = {}
        for file in self.files:
            self.folders.setdefault(str(PurePosixPath(file).parent), []).append(file)

    def find_file(self, text: str) -> str:
        return next((path for path in _list_endings(text) if path in self.files), text)

    def find_folder(self, text: str) -> str | None:
        return next((path for path in _list_endings(text) if path in self.folders), None)


def _list_endings(text: str) -> list[str]:
    """Returns a path, and the path without its first folder, its first two folders, and so on."""
    parts = [part for part in text.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def read_dmdnet_list(folder: Path, file: str, files: list[str], _: str) -> list[ListedCase]:
    """Reads a list of DMDNet or ASFFNet: an LQ image, a folder of references and a folder of landmarks per line.

    A line can also contain only the LQ image. The name of the folder of references is the name of the person. All
    pictures of the folder are references, in natural order, because both projects read the whole folder. Raises
    BadInput if a line has another number of columns.
    """
    known, cases = _Files(files), []
    for number, line in enumerate(_read_text(folder / file).splitlines(), 1):
        columns = line.strip().split("\t")
        if not line.strip():
            continue
        if len(columns) not in (1, 2, 3):
            raise BadInput(f"Line {number} of {folder / file} has {len(columns)} columns instead of 1 to 3.")
        if len(columns) == 1:
            cases.append(ListedCase(known.find_file(columns[0])))
            continue
        place = known.find_folder(columns[1])
        found = sort_naturally(known.folders[place]) if place is not None else [columns[1].strip()]
        person = PurePosixPath(columns[1].strip().replace("\\", "/")).name
        cases.append(ListedCase(known.find_file(columns[0]), (), tuple(found), person))
    return cases


def read_refldm_list(folder: Path, file: str, files: list[str], lq_folder: str) -> list[ListedCase]:
    """Reads a list of ReF-LDM: a CSV file with the columns gt_image, ref_image and sometimes lq_image.

    ref_image is a list of names in Python's syntax. Without the column lq_image, the LQ image has the name of the
    target. The LQ images are in a folder with the name `lq_folder`. The clean images of FFHQ can be in any other folder
    of the set. The list names no people. If lines of the list share a file name, their targets count as targets of one
    person. Raises BadInput if a column or a list is wrong.
    """
    lq_of = {PurePosixPath(name).stem: name for name in files if lq_folder in PurePosixPath(name).parts}
    clean = _Clean(name for name in files if not _LQ_FOLDERS.intersection(PurePosixPath(name).parts))
    reader, cases, names_of = csv.DictReader(_read_text(folder / file).splitlines()), [], list[list[str]]()
    if missing := {"gt_image", "ref_image"} - set(reader.fieldnames or ()):
        raise BadInput(f"{folder / file} has no column {sorted(missing)[0]}: a list of ReF-LDM needs this column.")
    for row in reader:
        try:
            references = ast.literal_eval(row["ref_image"])
            if not isinstance(references, list) or not all(isinstance(one, str) for one in references):
                raise ValueError
        except (ValueError, SyntaxError):
            raise BadInput(
                f"Line {reader.line_num} of {folder / file} has no list of references in ref_image."
            ) from None
        lq = PurePosixPath(row.get("lq_image") or row["gt_image"])
        found = tuple((*clean.find(name), name)[0] for name in references)
        cases.append(
            ListedCase(
                lq_of.get(lq.stem, f"{lq_folder}/{lq.name}"), clean.find(row["gt_image"]) or (row["gt_image"],), found
            )
        )
        names_of.append([row["gt_image"], *references])
    people = _join_people(names_of)
    return [replace(case, person=person) for case, person in zip(cases, people, strict=True)]


def _join_people(names_of: list[list[str]]) -> list[str]:
    """Returns a person for each list of file names. Lists that share a file name get the same person. The name of a
    person is the first of the person's file names in alphabetical order.
    """
    parent: dict[str, str] = {}

    def find_root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for first, *others in names_of:
        for other in others:
            one, two = sorted((find_root(first), find_root(other)))
            parent[two] = one
    return [find_root(names[0]) for names in names_of]


class _Clean:
    """Finds clean images by their path. If no file has this path, finds the files with the same name without suffix."""

    def __init__(self, files: Iterable[str]) -> None:
        self.known = _Files(files)
        self.by_stem: dict[str, list[str]] = {}
        for file in sorted(self.known.files):
            self.by_stem.setdefault(PurePosixPath(file).stem, []).append(file)

    def find(self, text: str) -> tuple[str, ...]:
        path = self.known.find_file(text)
        return (path,) if path in self.known.files else tuple(self.by_stem.get(PurePosixPath(text).stem, ()))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not a text in UTF-8: write the list again in UTF-8.") from None
