"""The situation `strangers`: clean photos of some people, and one degraded photo of each of 100 strangers.

A stranger is a face whose cosines to the clean people and to the other strangers are below UNLIKE. There are six kinds
of damage, and the photos of the strangers get the six kinds in turn. Goals: at most 1% of the strangers are grouped
with another face, and the strangers lower the recall over the pairs of clean faces by at most .5 percentage points.
Each face of a person that curation marks as doubtful counts as a person of its own.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from insightface_loop import find_faces_in_loop, group_by_best_peer, has_peers

from curate.config import CurateConfig
from curate.faces.align import ARCFACE_112, align_face
from curate.faces.load import load_faces_once
from curate.run.pipeline import curate
from manifests.ledger.ledger import Ledger
from manifests.pictures.images import decode
from manifests.runtime.uris import path_of

CLEAN_PEOPLE, CLEAN_PHOTOS, STRANGERS = 10, 20, 100
SIDE = 250  # The side of a stranger's photo in pixels; the strengths of the damages are chosen for this size.
MIN_BOX = 80  # In the original photo, each side of the box of a stranger's face has at least this length, in pixels.
UNLIKE = 0.3  # The cosines of a stranger to the clean people and to other strangers are below this limit.


def blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), 4.5)


def pixelate(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    small = cv2.resize(image, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def darken(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (image * 0.07).astype(np.uint8)


def add_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(image + rng.normal(0, 55, image.shape), 0, 255).astype(np.uint8)


def compress(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 3])[1], cv2.IMREAD_COLOR)


def move(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the picture with a motion blur of 23 pixels in a random direction."""
    kernel = np.zeros((23, 23), np.float32)
    angle = rng.uniform(0, np.pi)
    along = np.linspace(-11, 11, 200)
    kernel[np.rint(11 + along * np.sin(angle)).astype(int), np.rint(11 + along * np.cos(angle)).astype(int)] = 1
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)


DAMAGES: tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...] = (
    blur,
    pixelate,
    darken,
    add_noise,
    compress,
    move,
)


def is_held_out(person: str) -> bool:
    """Returns whether a person is held out of tuning. A fixed hash of the folder's name decides this."""
    return int(hashlib.sha256(person.encode()).hexdigest(), 16) % 2 == 1


def find_strangers(files: list[Path], known: np.ndarray, spec: str) -> Iterator[np.ndarray]:
    """Yields photos, RGB uint8 (SIDE, SIDE, 3), one of each stranger.

    The faces in these photos are unlike the faces with the embeddings `known`, (n, d), and unlike each other.
    """
    models = load_faces_once(spec)
    for file in files:
        image = decode(file)
        for face in models.detect(image):
            x0, y0, x1, y1 = face.box
            side = max(x1 - x0, y1 - y0)
            if min(x1 - x0, y1 - y0) < MIN_BOX:
                continue
            vector = models.embed(align_face(image, face.landmarks5, ARCFACE_112, models.size)[None])
            if (known @ vector[0]).max() >= UNLIKE:
                continue
            half = min(0.85 * side, *image.shape[:2])
            left, top = max(0, round((x0 + x1) / 2 - half)), max(0, round((y0 + y1) / 2 - half))
            cut = np.ascontiguousarray(image[top : top + round(2 * half), left : left + round(2 * half)])
            known = np.concatenate([known, vector])
            yield cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            break


def measure(folder: Path, shared: Path, seed: int) -> dict[str, Any]:
    """Curates clean photos of people who are held out of tuning, without and with degraded strangers.

    Returns the numbers of strangers, of accepted strangers, and of strangers that are grouped with another face. Also
    returns the recall over the pairs of clean faces, without and with the strangers.
    """
    rng = np.random.default_rng(seed)
    spec = f"insightface:{shared / 'weights' / 'insightface_small'}"
    held_out = sorted(one.name for one in (shared / "people_crops").iterdir() if is_held_out(one.name))
    people = rng.choice(held_out, CLEAN_PEOPLE, replace=False).tolist()
    clean = [
        photo
        for person in people
        for photo in rng.choice(sorted((shared / "people_crops" / person).iterdir()), CLEAN_PHOTOS, replace=False)
    ]
    curate(clean, folder / "clean", CurateConfig(faces=spec))
    with Ledger.open(folder / "clean") as ledger:
        known = ledger.read_embeddings()[1]
    others = [
        file
        for source in ("people_crops", "photos")
        for person in sorted((shared / source).iterdir())
        if person.name not in people
        for file in sorted(person.iterdir())
    ]
    (folder / "strangers").mkdir(parents=True)
    strangers = find_strangers([others[place] for place in rng.permutation(len(others))], known, spec)
    for number, image in zip(range(STRANGERS), strangers, strict=False):
        damaged = DAMAGES[number % len(DAMAGES)](image, rng)
        cv2.imwrite(str(folder / "strangers" / f"{number:03}.png"), damaged[:, :, ::-1])
    curate([*clean, folder / "strangers"], folder / "dataset", CurateConfig(faces=spec))
    added = sorted((folder / "strangers").iterdir())
    figures = {
        "strangers": len(added),
        **_count(clean, read_people(folder / "clean"), read_people(folder / "dataset")),
    }
    if has_peers():
        faces = find_faces_in_loop([*clean, *added], shared / "weights" / "insightface_small")
        names = {file: file.stem if file in added else file.parent.name for file in faces}
        without, _ = group_by_best_peer({file: faces[file] for file in map(Path, clean)}, names)
        together, method = group_by_best_peer(faces, names)
        figures["insightface_loop"] = {"method": method, **_count(clean, without, together)}
    return figures


def _count(clean: list[Path], before: dict[Path, str], after: dict[Path, str]) -> dict[str, Any]:
    """Returns the figures of one method.

    `before` maps each photo to its person in the grouping without strangers, and `after` in the grouping with
    strangers.
    """
    sizes = Counter(after.values())
    accepted = [person for file, person in after.items() if file.parent.name == "strangers"]
    return {
        "accepted": len(accepted),
        "in_a_person": sum(sizes[person] > 1 for person in accepted),
        "recall_without": measure_recall(clean, before),
        "recall_with": measure_recall(clean, after),
    }


def read_people(dataset: Path) -> dict[Path, str]:
    """Returns the person of the largest accepted face of each photo.

    Each face of a doubtful person counts as a person of its own.
    """
    with Ledger.open(dataset) as ledger:
        rows = ledger.query(
            """SELECT min(u.uri) AS uri, CASE WHEN i.doubtful THEN m.face_id ELSE m.identity_id END AS person
               FROM faces f JOIN memberships m ON m.face_id = coalesce(f.duplicate_of, f.face_id)
               JOIN identities i USING (identity_id) JOIN files u ON u.photo_id = f.photo_id
               GROUP BY f.photo_id, f.face_id, f.inter_ocular_px, person
               QUALIFY row_number() OVER (PARTITION BY f.photo_id ORDER BY f.inter_ocular_px DESC, f.face_id) = 1"""
        )
    return {path_of(uri): person for uri, person in rows.iter_rows()}


def measure_recall(clean: list[Path], person_of: dict[Path, str]) -> float:
    """Returns the recall: of the pairs of photos from one folder, the share that curation puts into one group.

    Pairs with a photo without a face are left out.
    """
    same = [
        person_of[one] == person_of[other]
        for one, other in combinations(map(Path, clean), 2)
        if one.parent == other.parent and one in person_of and other in person_of
    ]
    return round(sum(same) / max(len(same), 1), 4)
