"""The situation `covered`: faces with masks or dark glasses, and drawn faces, in a small and in a large collection.

The covered faces are faces of known people and of strangers. Known people also have plain photos, in which the face is
not covered. Goals: no two known people are joined, and few covered faces are grouped with a wrong person. Two known
people count as joined if one group contains a quarter or more of the plain photos of each. The faces of a person whom
curation marks as doubtful count as single faces.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from album_situations.strangers import is_held_out, read_people
from insightface_loop import find_faces_in_loop, group_by_best_peer, has_peers

from curate.config import CurateConfig
from curate.faces.load import load_faces_once
from curate.run.pipeline import curate
from manifests.pictures.images import decode

JOINED = 0.25  # A group counts as a group of a person if it has at least this share of the person's plain photos.
# COLLECTIONS maps the name of a collection to four numbers: the known people, the plain photos of each known person,
# the covered photos of each known person, and the strangers.
COLLECTIONS = {"30 photos": (5, 4, 2, 0), "1,000 photos": (24, 36, 4, 40)}
_COLOURS = ((235, 240, 245), (120, 170, 210), (20, 20, 25), (60, 90, 160))


def _make_frame(landmarks5: np.ndarray) -> Callable[[float, float], np.ndarray]:
    """Returns a function that maps face coordinates to pixels.

    The origin of the face coordinates is between the eyes. The unit is the distance between the eyes.
    """
    left, right = landmarks5[0].astype(float), landmarks5[1].astype(float)
    across = right - left
    down = np.array([-across[1], across[0]])
    return lambda x, y: (left + right) / 2 + x * across + y * down


def put_on_mask(image: np.ndarray, landmarks5: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the picture with a mask from the nose to the chin, in one of four colours."""
    at, image = _make_frame(landmarks5), image.copy()
    colour = _COLOURS[rng.integers(len(_COLOURS))]
    corners = [(-1, 0.35), (0, 0.28), (1, 0.35), (0.95, 1.2), (0.45, 1.75), (-0.45, 1.75), (-0.95, 1.2)]
    cv2.fillPoly(image, [np.rint([at(*corner) for corner in corners]).astype(np.int32)], colour, cv2.LINE_AA)
    for y in (0.7, 0.95, 1.2):
        ends = [np.rint(at(x, y)).astype(int).tolist() for x in (-0.9, 0.9)]
        cv2.line(image, *ends, [max(0, value - 25) for value in colour], 1, cv2.LINE_AA)
    return image


def put_on_glasses(image: np.ndarray, landmarks5: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the picture with dark glasses."""
    at, image = _make_frame(landmarks5), image.copy()
    across = at(1, 0) - at(0, 0)
    unit, angle = float(np.hypot(*across)), float(np.degrees(np.arctan2(across[1], across[0])))
    colour = rng.integers(0, 40, 3).tolist()
    width, height = rng.uniform(0.8, 0.94), rng.uniform(0.56, 0.72)
    for x in (-0.5, 0.5):
        cv2.ellipse(image, (at(x, 0.03).tolist(), (width * unit, height * unit), angle), colour, -1, cv2.LINE_AA)
    ends = [np.rint(at(x, 0)).astype(int).tolist() for x in (-1.05, 1.05)]
    cv2.line(image, *ends, colour, max(2, round(0.07 * unit)), cv2.LINE_AA)
    return image


def draw(image: np.ndarray, landmarks5: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a pencil drawing of the picture."""
    gray, _ = cv2.pencilSketch(np.ascontiguousarray(image[:, :, ::-1]), sigma_s=60, sigma_r=0.07, shade_factor=0.05)
    return np.repeat(gray[:, :, None], 3, axis=2)


COVERS = (put_on_mask, put_on_glasses, draw)


def measure(folder: Path, shared: Path, seed: int) -> dict[str, Any]:
    """Curates a small and a large collection of people who are held out of tuning.

    Returns counts for each collection: how many groups join two known people, and how many covered photos of known
    people are grouped with their own person, with another person and with no other photo. Also returns how many covered
    photos of strangers are grouped with other photos.
    """
    rng = np.random.default_rng(seed)
    spec = f"insightface:{shared / 'weights' / 'insightface_small'}"
    models = load_faces_once(spec)
    folders = sorted((shared / "people_crops").iterdir())
    held_out = [one for one in folders if is_held_out(one.name)]
    figures: dict[str, Any] = {}
    for name, (people, plain, covered, strangers) in COLLECTIONS.items():
        out = folder / name.replace(" ", "_").replace(",", "")
        (out / "covered").mkdir(parents=True)
        known = [held_out[place] for place in rng.permutation(len(held_out))[:people]]
        files: list[Path] = []
        to_cover: list[Path] = []
        for person in known:
            photos = sorted(person.iterdir())
            chosen = [photos[place] for place in rng.permutation(len(photos))[: plain + covered]]
            files += chosen[covered:]
            to_cover += chosen[:covered]
        unknown = [one for one in folders if one not in known]
        for place in rng.permutation(len(unknown))[:strangers]:
            to_cover.append(sorted(unknown[place].iterdir())[0])
        for number, photo in enumerate(to_cover):
            image = decode(photo)
            if faces := models.detect(image):
                # In the small collection, each person has a photo with a mask and a photo with dark glasses.
                cover = COVERS[number % (2 if covered == 2 else 3)]
                image = cover(image, faces[0].landmarks5, rng)
                path = out / "covered" / photo.parent.name / photo.name
                path.parent.mkdir(exist_ok=True)
                cv2.imwrite(str(path.with_suffix(".png")), image[:, :, ::-1])
        curate([*files, out / "covered"], out / "dataset", CurateConfig(faces=spec))
        names_known = {one.name for one in known}
        figures[name] = _count(read_people(out / "dataset"), names_known, plain)
        if has_peers():
            every = [*files, *sorted((out / "covered").rglob("*.png"))]
            faces = find_faces_in_loop(every, shared / "weights" / "insightface_small")
            people_of, method = group_by_best_peer(faces, {file: file.parent.name for file in faces})
            figures[name]["insightface_loop"] = {"method": method, **_count(people_of, names_known, plain)}
    return figures


def _count(person_of: dict[Path, str], known: set[str], plain: int) -> dict[str, Any]:
    """Returns the figures of one collection. `person_of` maps each photo to its group."""
    # Maps each group to the number of its plain photos from each folder.
    plain_photos: dict[str, Counter[str]] = defaultdict(Counter)
    sizes = Counter(person_of.values())
    for file, person in person_of.items():
        if "covered" not in file.parts:
            plain_photos[person][file.parent.name] += 1
    counts: Counter[str] = Counter()
    for file, person in person_of.items():
        if "covered" not in file.parts:
            continue
        others = sizes[person] > 1
        if file.parent.name not in known:
            counts["strangers_in_a_person" if others else "strangers_alone"] += 1
        elif not others:
            counts["covered_alone"] += 1
        else:
            owner = plain_photos[person].most_common(1)
            is_own = bool(owner) and owner[0][0] == file.parent.name
            counts["covered_with_own_person" if is_own else "covered_with_another_person"] += 1
    joined = sum(sum(count >= JOINED * plain for count in shown.values()) > 1 for shown in plain_photos.values())
    return {"photos": len(person_of), "joined_people": joined, **dict(sorted(counts.items()))}
