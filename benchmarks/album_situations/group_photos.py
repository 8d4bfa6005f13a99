"""The situation `group_photos`: small faces in photos of 2 to 42 megapixels, on textured backgrounds.

The portraits are pasted on a background. The background consists of parts of other photos, and these parts show no
face. The boxes that the detector draws around the pasted faces are 35, 57 and 76 pixels wide. A frontal face with 16
pixels between its eyes has a box about 35 pixels wide. The crop of such a face is 512 pixels wide, but it is enlarged
from a part of the photo that is only about 65 pixels wide.

Goals: in photos of every size, at least 95% of the faces with 16 or more pixels between the eyes are found. At most 1%
of the accepted faces should be false. At 12 megapixels, decoding and the search should take at most 3 times as long as
decoding and one run of the detector, and at 42 megapixels at most 5 times as long.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from insightface_loop import find_faces_in_loop

from curate.config import CurateConfig
from curate.detection.detect import start_worker
from curate.faces.find_faces import find_faces
from curate.faces.interface import Detection, FaceModels
from curate.faces.load import load_faces_once
from curate.faces.measure import measure_eye_distance
from curate.run.pipeline import curate
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import NEAR_DUPLICATE, Face, File
from manifests.pictures.images import decode
from manifests.runtime.uris import path_of

MEGAPIXELS = (2, 12, 24, 42)
BOX_WIDTHS = (35, 57, 76)  # The widths of the boxes of the pasted faces, in pixels.
MIN_EYES = 16  # Faces with fewer pixels than this between the eyes are not counted.
PHOTOS_A_SIZE = 4  # The number of photos of each size.
FACES_A_WIDTH = 20  # The number of faces of each box width in a photo.
GROUND = 200  # The side of a square part of the background, in pixels.
CELL = 160  # The side of the square into which a portrait is pasted, in pixels.
SET_ASIDE = ("turn_unclear", "landmarks_do_not_fit")  # Faces that curation drops for these reasons are not counted.
SAME_FACE = 0.4  # A face is found if the IoU of a box with the true box is at least this.


class Portrait(NamedTuple):
    """A part of a photo with one face."""

    image: np.ndarray  # The pixels of the part, RGB uint8 (h, w, 3).
    box: np.ndarray  # The box (4,) of the face, in pixels of the part.
    eyes: float  # The distance between the eyes, in pixels.


class GroupPhoto(NamedTuple):
    """A group photo with the true places of its faces."""

    image: np.ndarray  # The pixels of the photo, RGB uint8 (H, W, 3).
    boxes: np.ndarray  # The true boxes (n, 4) of the faces.
    eyes: np.ndarray  # The distance (n,) between the eyes of each face, in pixels.
    widths: np.ndarray  # The width (n,) of each box, one of BOX_WIDTHS.


def is_held_out(person: str) -> bool:
    """Returns whether a person is held out of tuning. A fixed hash of the folder's name decides this."""
    return int(hashlib.sha256(person.encode()).hexdigest(), 16) % 2 == 1


def cut_parts(photos: Sequence[Path], models: FaceModels) -> tuple[list[Portrait], list[np.ndarray]]:
    """Cuts two kinds of parts out of photos: portraits with one clear, frontal face, and squares of the background."""
    portraits, grounds = list[Portrait](), list[np.ndarray]()
    for path in photos:
        image = decode(path)
        faces = models.detect(image)
        height, width = image.shape[:2]
        if len(faces) == 1 and is_clear(faces[0], width, height):
            portraits.append(_cut_portrait(image, faces[0]))
        corners = [(x, y) for y in range(0, height - GROUND + 1, 100) for x in range(0, width - GROUND + 1, 100)]
        free = [corner for corner in corners if not any(_is_near(face.box, *corner) for face in faces)]
        grounds += [image[y : y + GROUND, x : x + GROUND].copy() for x, y in free[:6]]
    return portraits, grounds


def compose(
    portraits: Sequence[Portrait], grounds: Sequence[np.ndarray], megapixels: float, rng: np.random.Generator
) -> GroupPhoto:
    """Returns a group photo with FACES_A_WIDTH faces of each width in BOX_WIDTHS.

    If the photo is too small for so many faces, it has fewer faces.
    """
    height, width = round((megapixels * 1e6 * 3 / 4) ** 0.5), round((megapixels * 1e6 * 4 / 3) ** 0.5)
    image = np.zeros((height, width, 3), np.uint8)
    for y in range(0, height, GROUND):
        for x in range(0, width, GROUND):
            image[y : y + GROUND, x : x + GROUND] = grounds[rng.integers(len(grounds))][: height - y, : width - x]
    corners = [(x, y) for y in range(0, height - CELL, CELL) for x in range(0, width - CELL, CELL)]
    rng.shuffle(corners)
    widths = rng.permutation(np.repeat(BOX_WIDTHS, FACES_A_WIDTH))[: len(corners)]
    boxes, eyes = [], []
    for (x, y), box_width in zip(corners, widths, strict=False):
        portrait = portraits[rng.integers(len(portraits))]
        scale = box_width / (portrait.box[2] - portrait.box[0])
        small = cv2.resize(portrait.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:CELL, :CELL]
        image[y : y + small.shape[0], x : x + small.shape[1]] = small
        boxes.append(portrait.box * scale + [x, y, x, y])
        eyes.append(portrait.eyes * scale)
    return GroupPhoto(image, np.array(boxes), np.array(eyes), widths)


def measure(folder: Path, shared: Path, seed: int) -> dict[str, Any]:
    """Curates group photos of people who are held out of tuning.

    Returns a dict of figures. For each size of the photos and each width of the boxes, the dict has the share of the
    faces that were found. The dict also has the share of the accepted faces that are false, and for each size of the
    photos the times of `measure_times`.
    """
    start_worker()
    spec = f"insightface:{shared / 'weights' / 'insightface_small'}"
    models, rng = load_faces_once(spec), np.random.default_rng(seed)
    people = sorted(person for person in (shared / "photos").iterdir() if is_held_out(person.name))
    portraits, grounds = cut_parts([path for person in people for path in sorted(person.iterdir())], models)
    truths, times = dict[str, GroupPhoto](), dict[str, dict[str, float]]()
    (folder / "photos").mkdir(parents=True)
    for megapixels in MEGAPIXELS:
        for number in range(PHOTOS_A_SIZE):
            path = folder / "photos" / f"{megapixels}_{number}.jpg"
            truth = compose(portraits, grounds, megapixels, rng)
            assert cv2.imwrite(str(path), truth.image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            truths[path.name] = truth._replace(image=np.zeros(0))
        times[str(megapixels)] = measure_times(path, models)
    curate([folder / "photos"], folder / "dataset", CurateConfig(faces=spec))
    loop = find_faces_in_loop([folder / "photos" / name for name in truths], shared / "weights" / "insightface_small")
    boxes = {file.name: np.array([face.bbox for face in faces]).reshape(-1, 4) for file, faces in loop.items()}
    return {
        **_count(folder / "dataset", truths),
        "milliseconds": times,
        "insightface_loop": {"recall": _measure_recall(boxes, truths)},
    }


def _measure_recall(boxes: dict[str, np.ndarray], truths: dict[str, GroupPhoto]) -> dict[str, dict[str, float]]:
    """Returns the share of the true faces that were found, for each size of the photos and width of the true boxes.

    A true face was found if one of the boxes (n, 4) of its photo overlaps its true box with an IoU of SAME_FACE or
    more. The key "all" has the share for all widths.
    """
    found = {f"{size}": {width: list[bool]() for width in ("all", *map(str, BOX_WIDTHS))} for size in MEGAPIXELS}
    for name, truth in truths.items():
        overlaps = compute_ious(boxes[name], truth.boxes)
        for number in np.flatnonzero(truth.eyes >= MIN_EYES):
            for width in ("all", str(truth.widths[number])):
                found[name.split("_")[0]][width].append(bool((overlaps[:, number] >= SAME_FACE).any()))
    return {
        size: {width: round(float(np.mean(hits)), 4) for width, hits in widths.items() if hits}
        for size, widths in found.items()
    }


def _count(dataset: Path, truths: dict[str, GroupPhoto]) -> dict[str, Any]:
    with Ledger.open(dataset) as ledger:
        names = {file.photo_id: path_of(file.uri).name for file in ledger.read_rows(File)}
        faces = [(names[face.photo_id], face) for face in ledger.read_rows(Face)]
    boxes = dict[str, np.ndarray]()
    accepted = false = 0
    for name, truth in truths.items():
        here = [face for of, face in faces if of == name]
        here = [face for face in here if face.reason not in SET_ASIDE]
        boxes[name] = np.array([face.box for face in here]).reshape(-1, 4)
        overlaps = compute_ious(boxes[name], truth.boxes)
        # The photos show the same portraits several times, so most faces are near-duplicates of another face.
        usable = np.array([face.status == "ok" or face.reason == NEAR_DUPLICATE for face in here], bool)
        accepted += int(usable.sum())
        false += int((usable & (overlaps.max(1, initial=0) < SAME_FACE)).sum())
    return {
        "recall": _measure_recall(boxes, truths),
        "faces": sum(int((truth.eyes >= MIN_EYES).sum()) for truth in truths.values()),
        "kept_faces": accepted,
        "false_faces": round(false / max(accepted, 1), 4),
    }


def measure_times(path: Path, models: FaceModels) -> dict[str, float]:
    """Returns two processor times in milliseconds, `one_look` and `search`, and the ratio of `search` to `one_look`.

    `one_look` is the time of decoding and of one run of the detector. `search` is the time of decoding and of the
    whole search, which also finds small and turned faces.
    """
    image = decode(path)

    def time_call(call: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            call()
            best = min(best, time.process_time() - start)
        return 1000 * best

    decoding = time_call(lambda: decode(path))
    one_look = decoding + time_call(lambda: models.detect(image))
    search = decoding + time_call(lambda: find_faces(image, models))
    return {"one_look": round(one_look, 1), "search": round(search, 1), "ratio": round(search / one_look, 2)}


def is_clear(face: Detection, width: int, height: int) -> bool:
    x0, y0, x1, y1 = face.box
    frontal = measure_eye_distance(face.landmarks5) >= MIN_EYES / BOX_WIDTHS[0] * (x1 - x0)
    return bool(face.score >= 0.6 and frontal and x1 - x0 >= 100 and min(x0, y0) > 0 and x1 < width and y1 < height)


def _cut_portrait(image: np.ndarray, face: Detection) -> Portrait:
    """Cuts a face with a margin of half the width of its box on each side."""
    x0, y0, x1, y1 = face.box
    left, top = (max(round(float(edge - 0.5 * (x1 - x0))), 0) for edge in (x0, y0))
    right, bottom = (round(float(edge + 0.5 * (x1 - x0))) for edge in (x1, y1))
    box = face.box - np.array([left, top, left, top])
    return Portrait(image[top:bottom, left:right].copy(), box, measure_eye_distance(face.landmarks5))


def _is_near(box: np.ndarray, x: int, y: int) -> bool:
    """Returns whether the GROUND x GROUND part with the corner (x, y) is too near to the box of a face.

    A part is too near if its distance from the box is less than half the longer side of the box.
    """
    margin = 0.5 * max(box[2] - box[0], box[3] - box[1])
    return bool(
        x < box[2] + margin and x + GROUND > box[0] - margin and y < box[3] + margin and y + GROUND > box[1] - margin
    )


def compute_ious(boxes: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Returns the IoU (n, m) of each of n boxes with each of m true boxes."""
    low = np.maximum(boxes[:, None, :2], truths[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truths[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas, true_areas = ((some[:, 2:] - some[:, :2]).prod(-1) for some in (boxes, truths))
    return shared / (areas[:, None] + true_areas[None] - shared)
