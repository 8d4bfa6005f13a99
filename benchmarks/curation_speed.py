"""Photos a second against a plain loop: `python benchmarks/curation_speed.py PHOTOS --faces insightface:FOLDER`.

Ours is the whole of curation up to the embeddings: hashes, perceptual hashes, detection, measures, 512 px crops as PNG
flushed to disk, embeddings in shards, a ledger. The loop is `FaceAnalysis.get(cv2.imread(path))` in one process with
onnxruntime's own threads, and writes nothing. They take turns in one run, each with its models' loading; medians over
the rounds. Then each step alone, in one process on one thread, and the floor: detecting and recognizing, nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from record_result import record_result

from curate.config import CurateConfig
from curate.detection.detect import start_worker
from curate.faces import measure
from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, crop_for_recognizer
from curate.faces.load import load_faces
from manifests.ledger.records import Face
from manifests.runtime.files import sha256_bytes
from manifests.runtime.images import decode
from manifests.runtime.png_files import CROP_PNG, encode_png
from manifests.runtime.uris import path_of
from manifests.runtime.workers import count_cores, open_pool

Boxes = dict[Path, np.ndarray]  # photo -> (n, 4)


def ours(photos: Sequence[Path], dataset: Path, spec: str, workers: int) -> dict[str, float]:
    """Seconds of each stage up to the embeddings."""
    # not above: worker processes import this file again, and the command `likeness` does not burden them with these
    from curate.detection.detect import detect
    from curate.detection.embed import embed
    from curate.detection.face_models import choose_face_models, insert_model_settings
    from curate.detection.screen import screen
    from curate.photos.scan import scan
    from manifests.ledger.ledger import Ledger

    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def mark(stage: str) -> None:
        seconds[stage] = time.perf_counter() - start - sum(seconds.values())

    def quiet(*_: Any) -> None:
        return None

    with Ledger.open(dataset, write=True) as ledger, open_pool(workers, start_worker) as run:
        scan(ledger, photos, run, quiet)
        mark("scan")
        models = choose_face_models(ledger, spec)
        config = insert_model_settings(CurateConfig(faces=spec), models)
        mark("models")
        detect(ledger, config, models, run, quiet)
        mark("detect and embed")
        screen(ledger, config, run, quiet)
        embed(ledger, config, models, run, quiet)
        mark("screen and the rest")
    mark("close")
    return seconds


def loop(photos: Sequence[Path], folder: str) -> tuple[float, Boxes]:
    """Seconds of the plain loop, and its boxes."""
    from insightface.app import FaceAnalysis

    found: Boxes = {}
    start = time.perf_counter()
    app = FaceAnalysis(name=folder, allowed_modules=["detection", "recognition"])
    app.prepare(0)
    for path in photos:
        image = cv2.imread(str(path))
        faces = app.get(image) if image is not None else []
        found[path] = np.array([face.bbox for face in faces]).reshape(-1, 4)
    return time.perf_counter() - start, found


def boxes_of(dataset: Path, photos: Sequence[Path]) -> Boxes:
    """Our boxes, of accepted and of dropped faces."""
    from manifests.ledger.ledger import Ledger

    with Ledger.open(dataset) as ledger:
        held = {row[0]: row[1] for row in ledger.query("SELECT uri, photo_id FROM files").iter_rows()}
        by_photo: dict[str, list[tuple[float, ...]]] = {}
        for face in ledger.read_rows(Face):
            by_photo.setdefault(face.photo_id, []).append(face.box)
    photo_of = {path_of(uri): photo_id for uri, photo_id in held.items()}
    return {path: np.array(by_photo.get(photo_of[path.absolute()], [])).reshape(-1, 4) for path in photos}


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]))
    shared = float(sides.prod())
    return shared / float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


def matched(one: Boxes, other: Boxes) -> list[float]:
    """The overlaps of faces that both found: each with one of the other's at .5 or more, best first."""
    overlaps = []
    for path, boxes in one.items():
        pairs = [(overlap(a, b), i, j) for i, a in enumerate(boxes) for j, b in enumerate(other[path])]
        left, right = set(), set()
        for value, i, j in sorted(pairs, reverse=True):
            if value >= 0.5 and i not in left and j not in right:
                left.add(i)
                right.add(j)
                overlaps.append(value)
    return overlaps


def steps(photos: Sequence[Path], spec: str) -> dict[str, float]:
    """Milliseconds a photo of each step of ours, one process, one thread."""
    cv2.setNumThreads(1)
    models = load_faces(spec)
    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.thread_time()
        result = work()
        spent[name] = spent.get(name, 0.0) + time.thread_time() - start
        return result

    for path in photos:
        data = timed("read", path.read_bytes)
        timed("sha256, twice", lambda data=data: [sha256_bytes(data), sha256_bytes(data)])
        image = timed("decode in detect", lambda data=data: decode(data))
        timed("decode in scan", lambda data=data: decode(data))
        timed("photo's hash", lambda image=image: measure.hash_picture(image))
        for face in timed("detect", lambda image=image: models.detect(image)):
            crop = timed("align to 512 px", lambda i=image, f=face: align_face(i, f.landmarks5, FFHQ_512, FFHQ_SIZE))
            timed("measures", lambda c=crop, f=face: _measures(c, f.landmarks5))
            if measure.measure_eye_distance(face.landmarks5) < 16:  # too_small of the default filters
                continue
            timed("PNG", lambda crop=crop: encode_png(crop, CROP_PNG))
            small = timed("crop to 112 px", lambda c=crop: crop_for_recognizer(c, models.template, models.size))
            timed("recognize", lambda small=small: models.embed(small[None]))
    return {name: 1000 * seconds / len(photos) for name, seconds in spent.items()}


def _measures(crop: np.ndarray, landmarks5: np.ndarray) -> None:
    measure.estimate_pose(landmarks5)
    measure.measure_sharpness(crop)
    measure.measure_exposure(crop)
    native = measure.compute_luma(measure.crop_inner_face(crop))
    measure.measure_blockiness(native)
    measure.measure_noise(native)
    measure.hash_picture(measure.crop_inner_face(crop), side=16)


def loop_steps(photos: Sequence[Path], folder: str) -> dict[str, float]:
    """Milliseconds a photo of the loop's steps with its own threads."""
    app = _app(folder)
    spent = {"imread": 0.0, "detect": 0.0, "align and recognize": 0.0}
    for path in photos:
        start = time.perf_counter()
        image = cv2.imread(str(path))
        read = time.perf_counter()
        spent["imread"] += read - start
        if image is None:
            continue
        app.det_model.detect(image)
        found = time.perf_counter()
        spent["detect"] += found - read
        app.get(image)
        spent["align and recognize"] += max(0.0, time.perf_counter() - found - (found - read))
    return {name: 1000 * seconds / len(photos) for name, seconds in spent.items()}


@cache
def _app(folder: str) -> Any:
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(name=folder, allowed_modules=["detection", "recognition"])
    app.prepare(0)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of photos")
    parser.add_argument("--faces", required=True, help="insightface:FOLDER, for both")
    parser.add_argument("--every", type=int, default=1, help="take every so manieth photo")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--workers", type=int, default=count_cores())
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/curation_speed.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # insightface calls what scikit-image deprecates
    for package in ("curate.pipeline", "insightface.app"):
        importlib.import_module(package)  # both sides' imports come before any clock
    photos = sorted(path for path in options.photos.resolve().rglob("*") if path.is_file())[:: options.every]
    folder = options.faces.removeprefix("insightface:")
    seconds: dict[str, list[float]] = {"ours": [], "loop": []}
    stages: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        dataset = Path(scratch) / "dataset"
        for number in range(options.rounds):
            shutil.rmtree(dataset, ignore_errors=True)
            stages.append(ours(photos, dataset, options.faces, options.workers))
            seconds["ours"].append(sum(stages[-1].values()))
            taken, theirs = loop(photos, folder)
            seconds["loop"].append(taken)
            print(f"round {number + 1}: ours {seconds['ours'][-1]:.1f} s, the loop {taken:.1f} s")
        found = boxes_of(dataset, photos)
        again = sum(ours(photos, dataset, options.faces, options.workers).values())
    overlaps = matched(found, theirs)
    alone = steps(photos[::8], options.faces)
    floor = alone["detect"] + alone.get("recognize", 0.0)
    speed = {name: len(photos) / median(taken) for name, taken in seconds.items()}
    result = {
        "ours_photos_per_s": round(speed["ours"], 2),
        "loop_photos_per_s": round(speed["loop"], 2),
        "ratio": round(speed["ours"] / speed["loop"], 3),
        "ratios": [round(b / a, 3) for a, b in zip(seconds["ours"], seconds["loop"], strict=True)],
        "photos": len(photos),
        "workers": options.workers,
        "ours_faces": sum(map(len, found.values())),
        "loop_faces": sum(map(len, theirs.values())),
        "same_faces": len(overlaps),
        "mean_iou": round(float(np.mean(overlaps)), 4) if overlaps else None,
        "stage_s": {name: round(median(stage[name] for stage in stages), 2) for name in stages[0]},
        "again_s": round(again, 2),
        "loop_ms": {name: round(ms, 2) for name, ms in loop_steps(photos[::8], folder).items()},
        "ours_core_ms": {name: round(ms, 2) for name, ms in alone.items()},
        "floor_photos_per_s": round(1000 * options.workers / floor, 1),
    }
    record_result("curation_speed", result, options.keep)


if __name__ == "__main__":
    main()
