"""A frozen benchmark: a folder that says by content alone what is restored, shown and compared; no name, path or clock.

    cases.jsonl   a line a target, by face: its crop, its LQ picture and θ, its references in order, wrong references
    faces.jsonl   a line a face of train, val and test, and of their near-duplicates: what a leak is looked for in
    card.json     the set, the draws, the recognizer and the thresholds, and `benchmark`, the sha256 of the two
    pictures/, lq/   with --with-images: the shown crops and LQ pictures as PNG
    embeddings.npy   with --with-embeddings: the shown crops' embeddings

A face is named by its face_id, a hash of its photo's bytes and its box. A picture is named by the sha256 of its pixels:
a file's bytes would also hold what the encoder that wrote it was, and a photo's bytes do not say that it was cropped
alike. So whoever has the same photos gets the same names, and a crop that came out otherwise is noticed.
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

from degrade.frozen.jobs import Job, check_engine, run_job
from degrade.operations.pixels import shrink
from degrade.theta import check_theta
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.queries import read_recognizer
from manifests.runtime.files import ARRAY_ERRORS, sha256_bytes
from manifests.runtime.images import UndecodableImage, decode

CARD, CASES, FACES = "card.json", "cases.jsonl", "faces.jsonl"
PICTURES, LQ, EMBEDDINGS = "pictures", "lq", "embeddings.npy"
KIND, VERSION = "likeness benchmark", 1

SPLITS = ("train", "val", "test")
_HEX16, _HEX32, _HEX64 = (re.compile(f"[0-9a-f]{{{digits}}}") for digits in (16, 32, 64))

# what is read from a card
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
class FaceLine:
    """A face of a split, or a near-duplicate of one: a line of faces.jsonl."""

    face: str  # face_id
    photo: str  # photo_id
    person: str
    split: str
    phash: str  # 256 bits of the aligned face, hex
    photo_phash: str  # 64 bits of the whole photo, hex
    place: tuple[float, ...]  # x0, y0, x1, y1 in units of the photo's width and height
    copy_of: str | None  # the face that stands for it, for a near-duplicate
    picture: str | None = None  # of its 512 px crop, where a case shows it


@dataclass(frozen=True)
class CaseLine:
    """A target with all that belongs to it: a line of cases.jsonl."""

    face: str
    person: str
    picture: str  # the 512 px crop; area-resized to the card's `size` it is the target
    lq: str
    theta: dict[str, Any]
    references: tuple[str, ...]  # pictures, in the order they are shown
    wrong_references: tuple[str, ...]  # pictures of another person, as many; none where nobody has as many
    wrong_person: str | None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's folder, read and found whole."""

    folder: Path
    card: dict[str, Any]
    cases: tuple[CaseLine, ...]
    faces: tuple[FaceLine, ...]


def is_benchmark(folder: Path) -> bool:
    """Whether the folder's card says so, of a finished benchmark or one that was begun."""
    try:
        card = json.loads((Path(folder) / CARD).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(card, dict) and card.get("kind") == KIND


def load_benchmark(folder: Path) -> Benchmark:
    """Read card, cases and faces; no picture. Raises BadInput where the folder is no benchmark, is not finished, of
    another version, or not as it was frozen."""
    folder = Path(folder)
    if not is_benchmark(folder):
        raise BadInput(f"{folder} is no benchmark: name a folder that `likeness freeze` made.")
    try:
        card = json.loads((folder / CARD).read_bytes())
        if card["version"] != VERSION:
            raise BadInput(f"{folder} is a benchmark of version {card['version']}, this Likeness reads {VERSION}.")
        if not card["complete"]:
            raise BadInput(f"{folder} is not finished: run the same `likeness freeze` command again.")
        cases, faces = (folder / CASES).read_bytes(), (folder / FACES).read_bytes()
        if hash_benchmark(cases, faces) != card["benchmark"]:
            raise BadInput(f"{CASES} or {FACES} of {folder} is not what was frozen: get the benchmark again.")
        found = Benchmark(
            folder,
            card,
            tuple(CaseLine(**_tuples(line)) for line in map(json.loads, cases.splitlines())),
            tuple(FaceLine(**_tuples(line)) for line in map(json.loads, faces.splitlines())),
        )
        _check(found)
    except OSError as error:
        raise BadInput(f"{error.filename} cannot be read ({error.strerror}): get the benchmark again.") from None
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{folder} holds lines that no benchmark has: get it again.") from None
    return found


def _tuples(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in line.items()}


def _check(found: Benchmark) -> None:
    """Raise where a card or a line is not what this version writes: names become paths, so they must be hashes."""
    card, faces = found.card, {line.face for line in found.faces}
    if any(not isinstance(card[key], kind) for key, kind in _CARD.items()) or not 16 <= card["size"] <= 512:
        raise ValueError("card")
    if not all(isinstance(card[part][key], kind) for (part, key), kind in _CARD_PARTS.items()):
        raise ValueError("card")
    for line in found.faces:
        forms = ((_HEX32, line.face), (_HEX64, line.phash), (_HEX16, line.photo_phash))
        if any(not form.fullmatch(name) for form, name in forms) or line.split not in SPLITS or len(line.place) != 4:
            raise ValueError("face")
    known = {line.picture for line in found.faces}
    for case in found.cases:
        shown = (case.picture, *case.references, *case.wrong_references)
        if any(not _HEX64.fullmatch(name) for name in (*shown, case.lq)) or not known.issuperset(shown):
            raise ValueError("picture")
        if case.face not in faces or not case.references:
            raise ValueError("case")
        check_theta(case.theta)


def has_embeddings(card: Mapping[str, Any]) -> bool:
    """Whether embeddings go with a benchmark; older ones have them where they have pictures."""
    return bool(card.get("embeddings", card.get("pictures", False)))


def hash_picture(pixels: np.ndarray) -> str:
    """sha256 of RGB uint8 (H, W, 3) and its height and width."""
    height, width = pixels.shape[:2]
    return hashlib.sha256(f"{height} {width} ".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def hash_benchmark(cases: bytes, faces: bytes) -> str:
    """The benchmark's name: equal where cases.jsonl and faces.jsonl are."""
    return sha256_bytes(f"{sha256_bytes(cases)} {sha256_bytes(faces)}".encode())


def encode_lines(rows: Iterable[CaseLine | FaceLine]) -> bytes:
    """cases.jsonl or faces.jsonl; sorted keys, so that equal rows are equal bytes."""
    return "".join(json.dumps(dataclasses.asdict(row), sort_keys=True) + "\n" for row in rows).encode()


def faces_by_picture(found: Benchmark) -> dict[str, str]:
    """picture -> the face that it shows, the smallest of them where one picture is of several."""
    named = {face.picture: face.face for face in reversed(found.faces) if face.picture is not None}
    return {str(picture): face for picture, face in named.items()}


def read_crops(found: Benchmark, photos: Path | None) -> dict[str, np.ndarray]:
    """picture -> RGB uint8 of every crop that a case shows, area-resized to the benchmark's size; from the benchmark
    itself, else from the dataset `photos`. Raises BadInput where neither has pictures, LedgerBroken for one that is
    missing or another one."""
    crops = {}
    for picture, face in faces_by_picture(found).items():
        path = _crop(found, picture, face, photos)
        crops[picture] = shrink(_read(path, picture, found, photos), found.card["size"])
    return crops


def read_lq(found: Benchmark, case: CaseLine, photos: Path | None) -> np.ndarray:
    """RGB uint8 (size, size, 3): the LQ picture of a case, read, or made again from the crop and θ."""
    if found.card["pictures"]:
        return _read(found.folder / LQ / f"{case.lq}.png", case.lq, found, photos)
    check_engine(found.card["engine"])
    path = _crop(found, case.picture, case.face, photos)
    made = run_job(Job(path, found.card["size"], case.theta, engine=found.card["engine"]))
    pixels = None if made.problem else decode(made.png)
    if pixels is None or hash_picture(pixels) != case.lq:
        raise LedgerBroken(
            f"{path} degrades to another picture here than {found.folder} froze ({made.problem or _tools(found)}): ask "
            "for the benchmark with its pictures."
        )
    return pixels


def read_embeddings(found: Benchmark, photos: Path | None) -> tuple[list[str], np.ndarray]:
    """Face ids and their unit embeddings, float32 (n, d): of the shown faces from a benchmark with embeddings, of all
    its faces that the dataset `photos` holds where one is given, of none without either. Raises BadInput for a dataset
    of another recognizer, LedgerBroken for embeddings that do not fit."""
    if photos is not None:
        with Ledger.open(photos) as ledger:
            check_recognizer(found, ledger)
            held = set(ledger.query("SELECT face_id FROM faces WHERE shard IS NOT NULL")["face_id"])
            return ledger.read_embeddings([face.face for face in found.faces if face.face in held])
    if not has_embeddings(found.card):
        return [], np.zeros((0, 0), np.float32)
    named = sorted(faces_by_picture(found).items())
    path = found.folder / EMBEDDINGS
    try:
        vectors = np.load(path)
    except ARRAY_ERRORS:
        vectors = None
    if vectors is None or vectors.dtype != np.float32 or vectors.shape != (len(named), found.card["recognizer"]["dim"]):
        raise LedgerBroken(f"{path} is missing, broken or of another form: get the benchmark again.")
    return [face for _, face in named], np.asarray(vectors)


def check_recognizer(found: Benchmark, ledger: Ledger) -> None:
    """Raise BadInput where the dataset's embeddings are of another recognizer than the benchmark's."""
    if read_recognizer(ledger).sha256 != found.card["recognizer"]["sha256"]:
        raise BadInput(
            f"The embeddings of {ledger.dataset} are of another recognizer than those of {found.folder}: curate the "
            "photos with the same face models (--faces)."
        )


def _crop(found: Benchmark, picture: str, face: str, photos: Path | None) -> Path:
    if found.card["pictures"]:
        return found.folder / PICTURES / f"{picture}.png"
    if photos is None:
        raise BadInput(
            f"{found.folder} holds no pictures: name a dataset of the same photos first, and the benchmark "
            "with --benchmark."
        )
    return crop_path(photos, face)


def _read(path: Path, picture: str, found: Benchmark, photos: Path | None) -> np.ndarray:
    try:
        pixels = decode(path)
    except (OSError, UndecodableImage):
        pixels = None
    if pixels is None or hash_picture(pixels) != picture:
        what = "is missing" if not path.exists() else "is broken or not the picture that was frozen"
        more = (
            "get the benchmark again" if found.card["pictures"] else f"{photos} must hold the photos of {found.folder}"
        )
        raise LedgerBroken(f"{path} {what}: {more}.")
    return pixels


def _tools(found: Benchmark) -> str:
    return "made with " + ", ".join(f"{name} {version}" for name, version in found.card["tools"].items())
