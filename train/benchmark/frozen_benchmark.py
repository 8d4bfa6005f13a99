"""Load and check a benchmark. A benchmark is a folder with these files:

    `cases.jsonl` has a line for each case: the target and its position in the photo, its LQ image and θ, its
    references in order, and its wrong references.
    `faces.jsonl` has a line for each face of train, val and test, and for each near-duplicate of these faces. The
    search for leaks reads these lines.
    `card.json` has the set, the seed, the recognizer, the thresholds, and a hash of `cases.jsonl` and `faces.jsonl`.
    `pictures/` and `lq/` have the crops and the LQ images of the cases as PNG, if --with-images was given.
    `embeddings.npy` has the embeddings of the crops, if --with-embeddings was given.

A benchmark contains no name of a person, no path and no time. The name of a face is its face id, which is a hash of the
photo's bytes and the face's box. A picture is a crop or an LQ image. The name of a picture is the sha256 of its pixels,
and not of its PNG file, because the file also depends on the encoder. So everybody who has the same photos gets the
same names. A crop with different pixels has a different name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate.people.leaks.face_line import FaceLine
from degrade.theta import check_theta
from manifests.errors import BadInput
from manifests.ledger.records import SPLITS
from manifests.runtime.files import sha256_bytes
from train.benchmark.crop_geometry import CropGeometry

CARD, CASES, FACES = "card.json", "cases.jsonl", "faces.jsonl"
PICTURES, LQ, EMBEDDINGS = "pictures", "lq", "embeddings.npy"
KIND, VERSION = "likeness benchmark", 1

_HEX16, _HEX32, _HEX64 = (re.compile(f"[0-9a-f]{{{digits}}}") for digits in (16, 32, 64))

# The fields of a card that this file reads, with their types.
_CARD: dict[str, type] = {
    "size": int, "references": int, "images_in_set": int, "pictures": bool, "engine": str, "policy": str,
    "set": dict, "recognizer": dict, "thresholds": dict, "leaks": dict, "tools": dict,
}  # fmt: skip
_CARD_PARTS: dict[tuple[str, str], type] = {
    ("set", "name"): str,
    ("recognizer", "sha256"): str,
    ("recognizer", "dim"): int,
    ("leaks", "cosine"): int,
    ("thresholds", "same_person"): float,
    ("thresholds", "false_match_rate"): float,
    ("thresholds", "near_duplicate"): dict,
}


@dataclass(frozen=True)
class CaseLine:
    """Holds a line of cases.jsonl: a target, its LQ image and its references."""

    face: str
    person: str
    picture: str  # The name of the 512 px crop; the target is this crop, area-resized to `size`.
    lq: str  # The name of the LQ image.
    theta: dict[str, Any]
    references: tuple[str, ...]  # The names of the reference pictures, in the order in which a restorer gets them.
    wrong_references: tuple[str, ...]  # Pictures of another person; empty if no other person has enough.
    wrong_person: str | None
    geometry: CropGeometry  # the position of the target's crop in its photo


@dataclass(frozen=True)
class Benchmark:
    """Holds the checked card and the checked lines of a benchmark, but no pixels."""

    folder: Path
    card: dict[str, Any]
    cases: tuple[CaseLine, ...]
    faces: tuple[FaceLine, ...]


def is_benchmark(folder: Path) -> bool:
    """Returns True if the folder has the card of a benchmark, finished or unfinished."""
    return has_card(folder, KIND)


def has_card(folder: Path, kind: str) -> bool:
    """Returns whether the folder has a card of the kind `kind`."""
    try:
        card = json.loads((Path(folder) / CARD).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(card, dict) and card.get("kind") == kind


def load_benchmark(folder: Path) -> Benchmark:
    """Loads the card, the cases and the faces of a benchmark.

    Raises BadInput if the folder is not a benchmark, is not finished, has another version, or was changed.
    """
    folder = Path(folder)
    if not is_benchmark(folder):
        raise BadInput(f"{folder} is not a benchmark: give a folder that `likeness freeze` wrote.")
    try:
        card = json.loads((folder / CARD).read_bytes())
        if card["version"] != VERSION:
            raise BadInput(
                f"{folder} is a benchmark of version {card['version']}, but this Likeness reads version {VERSION}: "
                "install the version of Likeness that wrote the benchmark."
            )
        if not card["complete"]:
            raise BadInput(f"{folder} is not finished: run the same `likeness freeze` command again.")
        cases, faces = (folder / CASES).read_bytes(), (folder / FACES).read_bytes()
        if hash_benchmark(cases, faces) != card["benchmark"]:
            raise BadInput(f"{CASES} or {FACES} of {folder} was changed: get a new copy of the benchmark.")
        benchmark = Benchmark(
            folder,
            card,
            tuple(map(_make_case_line, map(json.loads, cases.splitlines()))),
            tuple(FaceLine(**_make_tuples(line)) for line in map(json.loads, faces.splitlines())),
        )
        _check_fields(benchmark)
    except OSError as error:
        raise BadInput(
            f"{error.filename} cannot be read ({error.strerror}): get a new copy of the benchmark."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise BadInput(
            f"{folder} contains lines that a benchmark cannot contain: get a new copy of the benchmark."
        ) from None
    return benchmark


def _make_tuples(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in line.items()}


def _make_case_line(line: Mapping[str, Any]) -> CaseLine:
    return CaseLine(**_make_tuples({**line, "geometry": CropGeometry(**_make_tuples(line["geometry"]))}))


def _check_fields(benchmark: Benchmark) -> None:
    """Raises ValueError, KeyError or TypeError if this version of Likeness cannot have written the card or a line.

    The names of pictures are used as file names. A name that is not a hash could name a file outside the benchmark.
    """
    card, faces = benchmark.card, {line.face for line in benchmark.faces}
    if any(not isinstance(card[key], kind) for key, kind in _CARD.items()) or not 16 <= card["size"] <= 512:
        raise ValueError("card")
    if not all(isinstance(card[part][key], kind) for (part, key), kind in _CARD_PARTS.items()):
        raise ValueError("card")
    for line in benchmark.faces:
        forms = ((_HEX32, line.face), (_HEX64, line.phash), (_HEX16, line.photo_phash))
        if any(not form.fullmatch(name) for form, name in forms) or line.split not in SPLITS or len(line.place) != 4:
            raise ValueError("face")
    pictures = {line.picture for line in benchmark.faces}
    for case in benchmark.cases:
        crops = (case.picture, *case.references, *case.wrong_references)
        if any(not _HEX64.fullmatch(name) for name in (*crops, case.lq)) or not pictures.issuperset(crops):
            raise ValueError("picture")
        if case.face not in faces or not case.references:
            raise ValueError("case")
        check_theta(case.theta)
        case.geometry.check()


def has_embeddings(card: Mapping[str, Any]) -> bool:
    """Returns True if a benchmark contains embeddings.

    An old card has no field `embeddings`. A benchmark with an old card contains embeddings if it contains pictures.
    """
    return bool(card.get("embeddings", card.get("pictures", False)))


def hash_picture(pixels: np.ndarray) -> str:
    """Returns the name of a picture: the sha256 of its height, its width and its pixels, RGB uint8 (H, W, 3)."""
    height, width = pixels.shape[:2]
    return hashlib.sha256(f"{height} {width} ".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def hash_benchmark(cases: bytes, faces: bytes) -> str:
    """Returns the name of a benchmark, a hash of the contents of cases.jsonl and faces.jsonl."""
    return sha256_bytes(f"{sha256_bytes(cases)} {sha256_bytes(faces)}".encode())


def encode_lines(lines: Iterable[CaseLine | FaceLine]) -> bytes:
    """Returns the contents of cases.jsonl or faces.jsonl. Keys are sorted, so that equal lines give equal bytes."""
    return "".join(json.dumps(dataclasses.asdict(line), sort_keys=True) + "\n" for line in lines).encode()


def map_pictures_to_faces(benchmark: Benchmark) -> dict[str, str]:
    """Returns the face id of each picture. If several faces share a picture, the result has the face that comes first
    in `benchmark.faces`."""
    faces = {line.picture: line.face for line in reversed(benchmark.faces) if line.picture is not None}
    return {str(picture): face for picture, face in faces.items()}
