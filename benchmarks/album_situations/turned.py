"""The situation `turned`: photos that are turned by 90, 180 or 270 degrees, without EXIF.

The same photos are curated twice: as they are, and turned. A face counts as found and upright if two conditions hold:
the turned photo has an accepted face at the corresponding place, and the crop of this face has the same direction as
the crop of the original face, with an error below 30 degrees.

Goals: at least 98% of the faces of turned photos are found and upright. The pair F of the grouping (the F score over
all pairs of faces) should be at most .01 lower with the turned photos than with the upright photos.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from album_situations.group_photos import SAME_FACE, compute_ious, is_held_out
from grouping_scores import score_grouping
from insightface_loop import find_faces_in_loop, group_by_best_peer, has_peers

from curate.config import CurateConfig
from curate.detection.detect import start_worker
from curate.run.pipeline import curate
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import NEAR_DUPLICATE, Face, File, Membership, Photo
from manifests.pictures.images import decode
from manifests.runtime.uris import path_of

PHOTOS_A_PERSON = 30
MIN_SIDE = 150  # Photos with a side of fewer pixels than this are thumbnails, and are left out.
# A face in a turned photo counts as upright if its crop and the crop of the same face in the upright photo differ in
# direction by less than this number of degrees.
MAX_TILT = 30


def measure(folder: Path, shared: Path, seed: int) -> dict[str, Any]:
    """Curates photos of people who are held out of tuning, as they are and turned.

    Returns the share of the faces that are found and upright in turned photos, for each turn and for all turns
    together. Also returns the pair F of the grouping for both albums. The labels are the names of the people's folders.
    """
    start_worker()
    rng = np.random.default_rng(seed)
    turns = dict[str, int]()
    for person in sorted(path for path in (shared / "photos").iterdir() if is_held_out(path.name)):
        photos = [path for path in sorted(person.iterdir()) if min(decode(path).shape[:2]) >= MIN_SIDE]
        for number in rng.permutation(len(photos))[:PHOTOS_A_PERSON]:
            image, turn = decode(photos[number]), 90 * int(rng.integers(4))
            name = f"{person.name}/{photos[number].stem}.png"
            turns[name] = turn
            _save(folder / "upright" / name, image)
            # the minus sign turns the photo clockwise, because np.rot90 turns counterclockwise
            _save(folder / "turned" / name, np.rot90(image, -turn // 90))
    config = CurateConfig(faces=f"insightface:{shared / 'weights' / 'insightface_small'}")
    for album in ("upright", "turned"):
        curate([folder / album], folder / f"{album}_dataset", config)
    truth, found = (_read_faces(folder / f"{album}_dataset", folder / album) for album in ("upright", "turned"))
    hits: dict[int, list[bool]] = {turn: [] for turn in (0, 90, 180, 270)}
    for name, (faces, size) in truth.items():
        others = found.get(name, ([], size))[0]
        for face in faces:
            if _is_accepted(face):
                hits[turns[name]].append(_has_upright(face, others, turns[name], size))
    scores = {album: _score(folder / f"{album}_dataset", folder / album) for album in ("upright", "turned")}
    every = [hit for turn, of_turn in hits.items() if turn for hit in of_turn]
    figures = {
        "found_and_upright": round(float(np.mean(every)), 4),
        "by_turn": {str(turn): round(float(np.mean(of_turn)), 4) for turn, of_turn in hits.items()},
        "faces": len(every),
        "pair_f": scores,
        "pair_f_lost": round(scores["upright"] - scores["turned"], 4),
    }
    if has_peers():
        figures["insightface_loop"] = _measure_loop(folder, sorted(turns), shared / "weights" / "insightface_small")
    return figures


def _measure_loop(folder: Path, photos: list[str], models: Path) -> dict[str, Any]:
    """Returns the figures of the insightface loop: the share of found photos, and the pair F of both albums.

    The share is over the upright photos in which the loop finds a face. A photo counts as found if the loop finds a
    face in its turned copy too.
    """
    figures: dict[str, Any] = {}
    found = dict[str, set[str]]()
    for album in ("upright", "turned"):
        faces = find_faces_in_loop([folder / album / name for name in photos], models)
        people, method = group_by_best_peer(faces, {file: file.parent.name for file in faces})
        found[album] = {str(file.relative_to(folder / album)) for file in people}
        labels = [people.get(folder / album / name, name) for name in photos]
        score = score_grouping([Path(name).parent.name for name in photos], np.array(labels))["pair_f"]
        figures[album] = {"method": method, "pair_f": float(score)}
    return {**figures, "found": round(len(found["upright"] & found["turned"]) / len(found["upright"]), 4)}


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(image[:, :, ::-1]))


def _is_accepted(face: Face) -> bool:
    return face.status == "ok" or face.reason == NEAR_DUPLICATE


def _read_faces(dataset: Path, album: Path) -> dict[str, tuple[list[Face], tuple[int, int]]]:
    """Returns the faces of each photo, and the width and height of the photo."""
    with Ledger.open(dataset) as ledger:
        names = {row.photo_id: str(path_of(row.uri).relative_to(album.resolve())) for row in ledger.read_rows(File)}
        photos = {names[row.photo_id]: ([], (row.width, row.height)) for row in ledger.read_rows(Photo)}
        for face in ledger.read_rows(Face):
            photos[names[face.photo_id]][0].append(face)
    return photos


def _has_upright(face: Face, others: list[Face], turn: int, size: tuple[int, int]) -> bool:
    """Returns whether `others` has an accepted and upright face at the place to which the turn moves `face`."""
    box = np.array(face.box).reshape(2, 2)
    width, height = size
    for _ in range(turn // 90):  # a quarter turn moves (x, y) to (height - y, x)
        box = np.stack([height - box[:, 1], box[:, 0]], axis=1)
        width, height = height, width
    corners = np.concatenate([box.min(0), box.max(0)])[None]
    return any(
        _is_accepted(other)
        and compute_ious(np.array([other.box]), corners)[0, 0] >= SAME_FACE
        and abs((other.roll - face.roll - turn + 180) % 360 - 180) < MAX_TILT
        for other in others
    )


def _score(dataset: Path, album: Path) -> float:
    """Returns the pair F of the largest faces of the photos.

    A photo without an accepted face counts as a group of its own.
    """
    with Ledger.open(dataset) as ledger:
        groups = {row.face_id: row.identity_id for row in ledger.read_rows(Membership)}
    labels, found = [], []
    for name, (faces, _) in sorted(_read_faces(dataset, album).items()):
        accepted = [face for face in faces if face.face_id in groups or face.duplicate_of in groups]
        largest = max(accepted, key=lambda face: face.box[2] - face.box[0], default=None)
        labels.append(Path(name).parent.name)
        found.append(name if largest is None else groups.get(largest.face_id, groups.get(largest.representative, name)))
    return float(score_grouping(labels, np.array(found))["pair_f"])
