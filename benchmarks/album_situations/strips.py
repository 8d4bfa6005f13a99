"""The situation `strips`: photo-booth strips, grids and posters beside the single photos that they show.

Each person has SINGLES photos of `people_crops`, each with one face. A strip is one picture that shows SHOWN of these
photos again, in one of several layouts. A person counts as torn if the person's single photos are in more groups with
the strips than without the strips. In the album `unknown`, the photos of the strips do not exist as single photos. In
this album, curation can join the faces of a strip only with the option --collages.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from insightface_loop import find_faces_in_loop, group_by_best_peer, has_peers
from PIL import Image

from curate.config import CurateConfig, GroupRules
from curate.detection.detect import start_worker
from curate.run.pipeline import curate
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, File, Membership
from manifests.pictures.images import decode
from manifests.runtime.uris import path_of

SINGLES, SHOWN = 8, 4  # The number of single photos of each person, and the number of photos in a strip.
REPEATS = 8  # The layout `one_frame_repeated` shows one frame this many times.
GAP = 12  # The distance between two frames, in pixels.
Layout = Callable[[Sequence[np.ndarray]], np.ndarray]


def is_held_out(person: str) -> bool:
    """Returns whether a person is held out of tuning. A fixed hash of the folder's name decides this."""
    return int(hashlib.sha256(person.encode()).hexdigest(), 16) % 2 == 1


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """Returns the image at `scale` times its size, RGB uint8."""
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=method)


def stack(frames: Sequence[np.ndarray], columns: int = 1, scale: float = 1.0) -> np.ndarray:
    """Returns the frames in rows of `columns` frames on a white background, as one picture, RGB uint8.

    All frames must have the same size.
    """
    small = [resize(frame, scale) for frame in frames]
    height, width = small[0].shape[0] + GAP, small[0].shape[1] + GAP
    image = np.full((height * -(-len(small) // columns) + GAP, width * columns + GAP, 3), 255, np.uint8)
    for place, frame in enumerate(small):
        y, x = GAP + place // columns * height, GAP + place % columns * width
        image[y : y + frame.shape[0], x : x + frame.shape[1]] = frame
    return image


def hang_poster(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Returns a photo of a person beside a poster of the person, RGB uint8."""
    person, poster = resize(frames[0], 1.5), resize(frames[1], 0.7)
    image = np.full((person.shape[0], person.shape[1] + poster.shape[1] + 2 * GAP, 3), 150, np.uint8)
    image[:, -person.shape[1] :] = person
    image[GAP : GAP + poster.shape[0], GAP : GAP + poster.shape[1]] = poster
    return image


LAYOUTS: dict[str, Layout] = {
    "strip": stack,
    "row": lambda frames: stack(frames, columns=len(frames)),
    "grid_enlarged": lambda frames: stack(frames, columns=2, scale=1.6),
    "strip_reduced": lambda frames: stack(frames, scale=0.6),
    "strip_gray": lambda frames: stack(frames).mean(2, keepdims=True).repeat(3, 2).astype(np.uint8),
    "strip_mirrored": lambda frames: stack([frame[:, ::-1] for frame in frames]),
    "one_frame_repeated": lambda frames: stack([frames[0]] * REPEATS, columns=2),
    "poster": hang_poster,
}


def measure(folder: Path, shared: Path, seed: int) -> dict[str, Any]:
    """Curates albums of people who are held out of tuning: without strips, and with one strip of each person.

    Returns for each layout the number of people who are torn, and the number of pictures that a notice calls collages.
    For the album `unknown` with strips, also returns the share of the faces in strips that are in the group of their
    person. This share is measured once without and once with --collages.
    """
    start_worker()
    people = sorted(one for one in (shared / "people_crops").iterdir() if is_held_out(one.name))
    rng, spec = np.random.default_rng(seed), f"insightface:{shared / 'weights' / 'insightface_small'}"
    frames: dict[str, list[np.ndarray]] = {}
    for person in people:
        chosen = rng.permutation(sorted(person.iterdir()))[: SINGLES + SHOWN].tolist()
        frames[person.name] = [decode(Path(path)) for path in chosen]
    album = folder / "singles"
    for name, images in frames.items():
        (album / name).mkdir(parents=True)
        for number, image in enumerate(images[:SINGLES]):
            Image.fromarray(image).save(album / name / f"{number}.png")

    curate([album], folder / "without", CurateConfig(faces=spec))
    before = _count_groups(folder / "without")
    figures: dict[str, Any] = {"people": len(people), "torn": {}, "collages_named": {}}
    for layout, compose in LAYOUTS.items():
        strips = _save_strips(folder / layout, {name: compose(images[:SHOWN]) for name, images in frames.items()})
        _add_strips(folder, layout, strips, CurateConfig(faces=spec))
        after = _count_groups(folder / f"{layout}_dataset")
        figures["torn"][layout] = sum(after[name] > before[name] for name in frames)
        figures["collages_named"][layout] = _count_collages(folder / f"{layout}_dataset")
    unknown = _save_strips(folder / "unknown", {name: stack(images[SINGLES:]) for name, images in frames.items()})
    for name, allowed in (("unknown_by_default", False), ("unknown_with_collages", True)):
        config = CurateConfig(faces=spec, group=GroupRules(one_person_may_appear_twice=allowed))
        _add_strips(folder, name, unknown, config)
        after = _count_groups(folder / f"{name}_dataset")
        figures["torn"][name] = sum(after[person] > before[person] for person in frames)
        figures["collages_named"][name] = _count_collages(folder / f"{name}_dataset")
        figures[name] = _measure_joined(folder / f"{name}_dataset")
    if has_peers():
        models = shared / "weights" / "insightface_small"
        figures["insightface_loop"] = {"torn": _count_torn_by_loop(album, [folder / name for name in LAYOUTS], models)}
    return figures


def _count_torn_by_loop(album: Path, strips: Sequence[Path], models: Path) -> dict[str, int]:
    """Returns for each folder of strips the number of people who are torn in the groups of the insightface loop."""
    singles = find_faces_in_loop(sorted(album.rglob("*.png")), models)
    names = {file: file.parent.name for file in singles}

    def count(people: dict[Path, str]) -> Counter[str]:
        groups = {(file.parent.name, person) for file, person in people.items() if file in names}
        return Counter(person for person, _ in groups)

    before, torn = count(group_by_best_peer(singles, names)[0]), dict[str, int]()
    for folder in strips:
        added = find_faces_in_loop(sorted(folder.iterdir()), models)
        labels = names | {file: file.stem for file in added}
        after = count(group_by_best_peer(singles | added, labels)[0])
        torn[folder.name] = sum(after[name] > before[name] for name in before)
    return torn


def _save_strips(folder: Path, strips: dict[str, np.ndarray]) -> Path:
    """Writes the strip of each person to a folder, and returns the folder."""
    folder.mkdir()
    for name, image in strips.items():
        Image.fromarray(image).save(folder / f"{name}.jpg", quality=90)
    return folder


def _add_strips(folder: Path, name: str, strips: Path, config: CurateConfig) -> None:
    """Curates the strips in a copy of the dataset that already contains the single photos."""
    shutil.copytree(folder / "without", folder / f"{name}_dataset")
    curate([folder / "singles", strips], folder / f"{name}_dataset", config)


def _read_groups(dataset: Path) -> list[tuple[Path, str, str]]:
    """Returns (file, representative, identity) of each grouped face. Near-duplicates are included."""
    with Ledger.open(dataset) as ledger:
        files = {file.photo_id: path_of(file.uri) for file in ledger.read_rows(File)}
        person_of = {row.face_id: row.identity_id for row in ledger.read_rows(Membership)}
        faces = ledger.read_rows(Face)
    return [
        (files[face.photo_id], face.representative, person_of[face.representative])
        for face in faces
        if face.representative in person_of
    ]


def _count_groups(dataset: Path) -> Counter[str]:
    """Returns for each person the number of groups that contain the person's single photos."""
    groups = {(file.parent.name, group) for file, _, group in _read_groups(dataset) if file.suffix == ".png"}
    return Counter(person for person, _ in groups)


def _count_collages(dataset: Path) -> int:
    with Ledger.open(dataset) as ledger:
        return len(ledger.read_detail("group")["collages"])


def _measure_joined(dataset: Path) -> float:
    """Returns the share of the faces in strips that are in the largest group of their person."""
    rows = _read_groups(dataset)
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for file, _, group in rows:
        if file.suffix == ".png":
            groups[file.parent.name][group] += 1
    joined = [groups[file.stem].most_common(1)[0][0] == group for file, _, group in rows if file.suffix == ".jpg"]
    return round(float(np.mean(joined)), 4)
