"""Load and check an imported benchmark, and read its pictures. An imported benchmark is a folder with these files:

    `cases.jsonl` has a line for each LQ image: its name, its person, its target and its references.
    `card.json` has the layout, origin, licence and problems of the set, the size of its images, and its hash.
    `images/` has copies of the files of the set, if --with-images was given.

A picture is a file of the published set. The benchmark has the path of the file below the folder of the set, and the
sha256 of its bytes. The hash of the benchmark depends on the names of people, but not on paths. A renamed folder
therefore changes the hash only if its name is the name of a person.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from degrade.operations.pixels import shrink
from manifests.errors import BadInput, LedgerBroken
from manifests.pictures.untrusted_images import open_reader
from manifests.runtime.files import sha256_bytes
from train.benchmark.frozen_benchmark import CARD, CASES, has_card

KIND, VERSION, IMAGES = "likeness imported benchmark", 1, "images"
_HEX64 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class SetPicture:
    """Names one file of a published set."""

    file: str  # The path below the folder of the set, with "/" between folders.
    sha256: str  # The hash of the bytes of the file.


@dataclass(frozen=True)
class ImportedCase:
    """Holds a line of cases.jsonl: an LQ image with its target and its references."""

    name: str  # The name that restored images of other methods must have.
    person: str | None  # None if the set does not say who is on the image.
    columns: dict[str, str]
    lq: SetPicture
    target: SetPicture | None
    references: tuple[SetPicture, ...]
    wrong_person: str | None
    wrong_references: tuple[SetPicture, ...]

    def list_pictures(self) -> list[SetPicture]:
        """Returns all pictures of the case except the wrong references."""
        return [self.lq, *([self.target] if self.target else []), *self.references]


@dataclass(frozen=True)
class ImportedBenchmark:
    """Holds the checked card and the checked lines of an imported benchmark, but no pixels."""

    folder: Path
    card: dict[str, Any]
    cases: tuple[ImportedCase, ...]


def is_imported(folder: Path) -> bool:
    """Returns True if the folder has the card of an imported benchmark, finished or unfinished."""
    return has_card(folder, KIND)


def find_imported(dataset: Path, lq_set: str | None) -> tuple[Path, Path | None] | None:
    """Returns the folder of an imported benchmark, and the folder of its published set or None. If `dataset` is an
    imported benchmark, it must have copies of the photos, and the second value is None. If `lq_set` is the path of an
    imported benchmark, `dataset` is the folder of its published set. In all other cases, the result is a single None.
    Raises BadInput if `dataset` is an imported benchmark and `lq_set` is given too.
    """
    if is_imported(dataset) and lq_set is not None:
        raise BadInput(f"{dataset} is an imported benchmark and has one set: leave --set and --benchmark out.")
    if is_imported(dataset):
        return dataset, None
    return (Path(lq_set), dataset) if lq_set is not None and is_imported(Path(lq_set)) else None


def load_imported(folder: Path) -> ImportedBenchmark:
    """Loads the card and the cases of an imported benchmark.

    Raises BadInput if the folder is not an imported benchmark, is not finished, has another version, or was changed.
    """
    folder = Path(folder)
    if not is_imported(folder):
        raise BadInput(f"{folder} is not an imported benchmark: give a folder that `likeness import-benchmark` wrote.")
    again = "import the set again into a new folder"
    try:
        card = json.loads((folder / CARD).read_bytes())
        if card["version"] != VERSION:
            raise BadInput(
                f"{folder} is an imported benchmark of version {card['version']}, but this Likeness reads version "
                f"{VERSION}: {again}."
            )
        if not card["complete"]:
            raise BadInput(f"{folder} is not finished: run the same `likeness import-benchmark` command again.")
        cases = tuple(_make_case(json.loads(line)) for line in (folder / CASES).read_bytes().splitlines())
        if hash_cases(cases, card["size"]) != card["benchmark"]:
            raise BadInput(f"{CASES} or {CARD} of {folder} was changed: {again}.")
        if not cases or not isinstance(card["targets"], bool) or not isinstance(card["images"], bool):
            raise ValueError
    except OSError as error:
        raise BadInput(f"{error.filename} cannot be read ({error.strerror}): {again}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{folder} contains lines that a benchmark cannot contain: {again}.") from None
    return ImportedBenchmark(folder, card, cases)


def _make_case(line: Mapping[str, Any]) -> ImportedCase:
    """Raises ValueError for a name that is no file name, because restored images get this name."""
    if not line["name"] or PurePosixPath(line["name"]).name != line["name"] or "\\" in line["name"]:
        raise ValueError("name")
    return ImportedCase(
        **{
            **line,
            "lq": _make_picture(line["lq"]),
            "target": None if line["target"] is None else _make_picture(line["target"]),
            "references": tuple(map(_make_picture, line["references"])),
            "wrong_references": tuple(map(_make_picture, line["wrong_references"])),
        }
    )


def _make_picture(fields: Mapping[str, str]) -> SetPicture:
    """Raises ValueError for a path that could lead out of the folder of the set."""
    picture = SetPicture(**fields)
    path = PurePosixPath(picture.file)
    if path.is_absolute() or ".." in path.parts or "\\" in picture.file or not _HEX64.fullmatch(picture.sha256):
        raise ValueError("picture")
    return picture


def encode_cases(cases: Iterable[ImportedCase]) -> bytes:
    """Returns the contents of cases.jsonl. Keys are sorted, so that equal cases give equal bytes."""
    return "".join(json.dumps(dataclasses.asdict(case), sort_keys=True) + "\n" for case in cases).encode()


def hash_cases(cases: Iterable[ImportedCase], size: int) -> str:
    """Returns the hash of an imported benchmark: of its size, and of the names, people, columns and pictures of its
    cases.

    The paths of the files do not change the hash.
    """
    lines: list[Any] = [size]
    for case in cases:
        hashes = [[one.sha256 for one in pictures] for pictures in (case.references, case.wrong_references)]
        target = case.target.sha256 if case.target else None
        lines.append([case.name, case.person, case.columns, case.lq.sha256, target, hashes])
    return sha256_bytes(json.dumps(lines, sort_keys=True).encode())


def read_pictures(
    benchmark: ImportedBenchmark,
    pictures: Sequence[SetPicture],
    folder: Path | None,
    keep: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> dict[str, np.ndarray]:
    """Returns the pictures by their paths, RGB uint8 (size, size, 3), resized as `resize_square` does.

    The files come from the benchmark. If the benchmark has no copies, they come from `folder`, the folder of the
    published set. `keep` is called with each picture, and the result of `keep` is returned in place of the picture.
    Raises BadInput if the benchmark has no copies and `folder` is None. Raises LedgerBroken if a file is missing or has
    other bytes than when it was imported.
    """
    place = benchmark.folder / IMAGES if benchmark.card["images"] else folder
    if place is None:
        raise BadInput(
            f"{benchmark.folder} contains no copies of the photos: give the folder of the published set as the first "
            "argument and the benchmark with --benchmark, or import the set again with --with-images."
        )
    read_files = {}
    with open_reader(limited=True) as read:
        for picture in pictures:
            if picture.file in read_files:
                continue
            path = place / picture.file
            try:
                same = sha256_bytes(path.read_bytes()) == picture.sha256
            except OSError:
                raise LedgerBroken(
                    f"{path} is missing or cannot be read: give the folder from which {benchmark.folder} was imported."
                ) from None
            if not same:
                raise LedgerBroken(
                    f"{path} has changed since {benchmark.folder} was imported: get a new copy of the set, or import "
                    "the set again into a new folder."
                )
            read_files[picture.file] = keep(resize_square(read(path), benchmark.card["size"]))
    return read_files


def resize_square(image: np.ndarray, size: int) -> np.ndarray:
    """Returns a square image, uint8 (S, S, 3), with a side of `size` pixels.

    If the image must shrink, each pixel of the result is the mean of an area, as in frozen sets. If the image must
    grow, cubic interpolation (cv2.INTER_CUBIC) is used.
    """
    if image.shape[0] >= size:
        return shrink(image, size)
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)
