"""The situation `copies`: photos and their copies, for example copies that phones, web sites and editors make.

Goals: curation finds at least 98% of all copies, whatever their kind, and makes no leak (see `_count_leaks`).
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from curate.config import CurateConfig
from curate.detection.detect import start_worker
from curate.run.pipeline import curate
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, File, Pair, Split
from manifests.pictures.images import decode
from manifests.runtime.uris import path_of

COPIED_PHOTOS = 3  # How many photos of each person are copied.
# A photo is copied only if both its sides are in this range, in pixels. A photo with sides of MIN_SIDE is just large
# enough: its copy of a third of the size still shows a face. A photo with sides of MAX_SIDE is still copied quickly.
MIN_SIDE, MAX_SIDE = 350, 1200


def encode(rgb: np.ndarray, kind: str = "JPEG", **options: object) -> bytes:
    """Returns a picture, RGB uint8 (H, W, 3), as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}) | options)
    return buffer.getvalue()


def resize(rgb: np.ndarray, scale: float) -> np.ndarray:
    """Returns the picture at `scale` times its size: shrunk by area averages, or enlarged by bicubic interpolation."""
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=method)


def turn(rgb: np.ndarray, degrees: float) -> np.ndarray:
    """Returns the picture turned around its centre. The corners are black."""
    height, width = rgb.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return cv2.warpAffine(rgb, matrix, (width, height), flags=cv2.INTER_LINEAR)


def crop(rgb: np.ndarray, share: float) -> np.ndarray:
    """Returns the middle part of the picture. The part has `share` times the width and `share` times the height."""
    height, width = rgb.shape[:2]
    x, y = round(width * (1 - share) / 2), round(height * (1 - share) / 2)
    return rgb[y : height - y, x : width - x]


def frame(rgb: np.ndarray) -> np.ndarray:
    """Returns the picture in a white frame. The width of the frame is 8% of the longer side of the picture."""
    width = round(0.08 * max(rgb.shape[:2]))
    return cv2.copyMakeBorder(rgb, *[width] * 4, cv2.BORDER_CONSTANT, value=(250, 250, 250))


def show_on_a_phone(rgb: np.ndarray) -> np.ndarray:
    """Returns a screenshot, RGB uint8 (1600, 720, 3), with the picture between two bars with text."""
    screen = np.full((1600, 720, 3), 24, np.uint8)
    shown = resize(rgb, 720 / rgb.shape[1])[:1360]
    top = (1600 - len(shown)) // 2
    screen[top : top + len(shown)] = shown
    screen[:60], screen[1540:] = 245, 245
    for row, text in ((42, "09:41    Photos"), (1580, "like   share   delete")):
        cv2.putText(screen, text, (30, row), cv2.FONT_HERSHEY_SIMPLEX, 1, (60, 60, 60), 2)
    return screen


COPIES: dict[str, Callable[[np.ndarray], bytes]] = {
    "half": lambda rgb: encode(resize(rgb, 1 / 2)),
    "third": lambda rgb: encode(resize(rgb, 1 / 3)),
    "jpeg_30": lambda rgb: encode(rgb, quality=30),
    "gray": lambda rgb: encode(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)),
    "mirrored": lambda rgb: encode(np.ascontiguousarray(rgb[:, ::-1])),
    "cropped": lambda rgb: encode(crop(rgb, 0.76)),
    "brightened": lambda rgb: encode(cv2.convertScaleAbs(rgb, alpha=1.25, beta=20)),
    "framed": lambda rgb: encode(frame(rgb)),
    "turned": lambda rgb: encode(turn(rgb, 5)),
    "screenshot": lambda rgb: encode(show_on_a_phone(rgb), "PNG"),
    "bicubic_3": lambda rgb: encode(resize(rgb, 3)),
}


def is_held_out(person: str) -> bool:
    """Returns whether a person is held out of tuning. A fixed hash of the folder's name decides this."""
    return int(hashlib.sha256(person.encode()).hexdigest(), 16) % 2 == 1


def measure(folder: Path, shared: Path, seed: int) -> dict[str, Any]:
    """Curates all photos of held-out people, together with copies of some of these photos.

    `folder` must be empty. Returns a dict of figures: the share of the copies that curation found, and several counts.
    A copy is found if its largest face is a near-duplicate of a face in the original photo or in another copy of this
    photo. Copies whose largest face was not accepted do not count. The dict also has `original_kept`: the share of the
    original photos whose largest face is not marked as a near-duplicate of a copy.
    """
    album, dataset = folder / "album", folder / "dataset"
    source = _write_album(album, shared / "photos", np.random.default_rng(seed))
    start_worker()
    curate([album], dataset, CurateConfig(faces=f"insightface:{shared / 'weights' / 'insightface_small'}"))
    with Ledger.open(dataset) as ledger:
        name = {row.photo_id: path_of(row.uri).name for row in ledger.read_rows(File) if row.photo_id is not None}
        faces = [face for face in ledger.read_rows(Face) if face.status == "ok" or face.duplicate_of is not None]
        pairs, splits = ledger.read_rows(Pair), ledger.read_rows(Split)
    by_id = {face.face_id: face for face in faces}
    largest: dict[str, Face] = {}  # Maps a file name to the largest face of the file.
    # Maps a representative to the names of the files that contain this face or one of its near-duplicates.
    files_of: dict[str, set[str]] = defaultdict(set)
    for face in sorted(faces, key=lambda face: face.inter_ocular_px):
        largest[name[face.photo_id]] = face
        files_of[face.representative].add(name[face.photo_id])

    found: dict[str, list[bool]] = {kind: [] for kind in COPIES}
    kept, same = [], 0
    for file, face in sorted(largest.items()):
        others = files_of[face.representative] - {file}
        if file in source.values():
            kept.append(face.duplicate_of is None)
        elif file in source:
            kind = file.removeprefix(source[file] + "-").partition(".")[0]
            found[kind].append(any(source.get(other, other) == source[file] for other in others))
        same += file not in source and any(source.get(other, other) != file for other in others)
    return {
        "copies": sum(map(len, found.values())),
        "found": round(float(np.mean([one for kind in found.values() for one in kind])), 4),
        **{f"found_{kind}": round(float(np.mean(results)), 4) for kind, results in found.items()},
        **_count_leaks(by_id, pairs, splits, {photo: source.get(file, file) for photo, file in name.items()}),
        "original_kept": round(float(np.mean(kept)), 4),
        "photos_like_another_photo": same,
    }


def _write_album(album: Path, photos: Path, rng: np.random.Generator) -> dict[str, str]:
    """Writes the photos of held-out people and the copies.

    Returns a dict that maps the name of each file to the name of its original.
    """
    album.mkdir()
    source: dict[str, str] = {}
    for person in sorted(person for person in photos.iterdir() if is_held_out(person.name)):
        large = []
        for path in sorted(person.iterdir()):
            name = f"{person.name}-{path.name}"
            shutil.copyfile(path, album / name)
            shape = decode(path).shape[:2]
            large += [name] if min(shape) >= MIN_SIDE and max(shape) <= MAX_SIDE else []
        for name in sorted(rng.permutation(large)[:COPIED_PHOTOS].tolist()):
            source[name] = name
            rgb = decode(album / name)
            for kind, make in COPIES.items():
                copy = f"{name}-{kind}.{'png' if kind == 'screenshot' else 'jpg'}"
                (album / copy).write_bytes(make(rgb))
                source[copy] = name
    return source


def _count_leaks(
    faces: Mapping[str, Face], pairs: list[Pair], splits: list[Split], source: Mapping[str, str]
) -> dict[str, int]:
    """Returns the number of leaks of each of three kinds. `source` maps a photo id to the name of the original photo.

    The kinds are: a target with a reference from the same photo; a photo whose files are in two splits; a person who
    has two used faces from the same photo.
    """
    own = sum(
        any(source[faces[ref].photo_id] == source[faces[pair.target].photo_id] for ref in pair.refs) for pair in pairs
    )
    targets: dict[str, set[str]] = defaultdict(set)  # maps an identity and an original photo to the used faces
    splits_of: dict[str, set[str]] = defaultdict(set)
    for row in splits:
        if row.status == "ok":
            original = source[faces[row.face_id].photo_id]
            splits_of[original].add(row.split)
            targets[f"{row.identity_id} {original}"].add(row.face_id)
    twice = sum(len(used) > 1 for used in targets.values())
    return {
        "targets_with_own_copy": own,
        "photos_in_two_splits": sum(len(names) > 1 for names in splits_of.values()),
        "people_with_two_copies_in_use": twice,
    }
