"""Measures how many photos per second curation processes, and how many photos per second a plain loop processes.

    python benchmarks/curation_speed.py PHOTOS --faces insightface:FOLDER [--keep]

The benchmark runs curation only until the embeddings are written. Curation hashes the photos, and detects and measures
faces. Curation writes crops of 512 px as PNG files and flushes the files to disk. Curation also writes embeddings in
shards and keeps a ledger. The plain loop calls `FaceAnalysis.get(cv2.imread(path))` in one process, in which
onnxruntime chooses its number of threads. The loop writes nothing. In each round, curation runs and then the loop runs.
The times include loading the models. The figures are medians over the rounds.

Then each step of curation is timed alone, in one process with one thread. `floor_photos_per_s` is the speed that
curation would have if only detection and recognition took time.
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
from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, crop_for_recognizer, find_valid_pixels
from curate.faces.comparison.luma_dct import encode_luma
from curate.faces.find_faces import find_faces
from curate.faces.load import load_faces
from curate.photos.picture_measures import measure_picture
from manifests.ledger.decisions.face_finder import measure_overlap
from manifests.ledger.records import Face
from manifests.pictures.images import decode, decode_picture, open_header
from manifests.pictures.png_files import encode_png_quickly
from manifests.runtime.files import sha256_bytes
from manifests.runtime.uris import path_of
from manifests.runtime.workers import count_cores, open_pool

Boxes = dict[Path, np.ndarray]  # maps a photo to the boxes (n, 4) of its faces


def measure_size(path: Path) -> int:
    """Returns the number of pixels of a photo, from the header of its file."""
    with path.open("rb") as file, open_header(file) as image:
        return image.width * image.height


def time_curation(
    photos: Sequence[Path], dataset: Path, spec: str, workers: int, device: str = "cpu"
) -> dict[str, float]:
    """Runs the stages of curation up to the embeddings. Returns the seconds of each stage.

    `device` is a value of --device.
    """
    # These modules are imported here, because worker processes import this file again and do not need these modules.
    from curate.detection.detect import detect
    from curate.detection.embed import embed
    from curate.detection.face_models import choose_face_models, insert_model_settings
    from curate.detection.screen import screen
    from curate.photos.scan import scan
    from manifests.ledger.ledger import Ledger

    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def end_stage(stage: str) -> None:
        seconds[stage] = time.perf_counter() - start - sum(seconds.values())

    def ignore_progress(*_: Any) -> None:
        return None

    with Ledger.open(dataset, write=True) as ledger, open_pool(workers, start_worker) as run:
        scan(ledger, photos, run, ignore_progress)
        end_stage("scan")
        models = choose_face_models(ledger, spec, device)
        config = insert_model_settings(CurateConfig(faces=spec), models)
        end_stage("models")
        detect(ledger, config, models, run, ignore_progress)
        end_stage("detect and embed")
        screen(ledger, config, run, ignore_progress)
        embed(ledger, config, models, run, ignore_progress)
        end_stage("screen and the rest")
    end_stage("close")
    return seconds


def time_loop(photos: Sequence[Path], folder: str) -> tuple[float, Boxes]:
    """Runs the plain loop. Returns the seconds of the loop and the boxes that the loop found."""
    from insightface.app import FaceAnalysis

    boxes: Boxes = {}
    start = time.perf_counter()
    app = FaceAnalysis(name=folder, allowed_modules=["detection", "recognition"])
    app.prepare(0)
    for path in photos:
        image = cv2.imread(str(path))
        faces = app.get(image) if image is not None else []
        boxes[path] = np.array([face.bbox for face in faces]).reshape(-1, 4)
    return time.perf_counter() - start, boxes


def read_boxes(dataset: Path, photos: Sequence[Path]) -> Boxes:
    """Returns the boxes of all faces in the ledger, accepted and dropped."""
    from manifests.ledger.ledger import Ledger

    with Ledger.open(dataset) as ledger:
        photo_ids = {row[0]: row[1] for row in ledger.query("SELECT uri, photo_id FROM files").iter_rows()}
        by_photo: dict[str, list[tuple[float, ...]]] = {}
        for face in ledger.read_rows(Face):
            by_photo.setdefault(face.photo_id, []).append(face.box)
    photo_of = {path_of(uri): photo_id for uri, photo_id in photo_ids.items()}
    return {path: np.array(by_photo.get(photo_of[path.absolute()], [])).reshape(-1, 4) for path in photos}


def match_boxes(one: Boxes, other: Boxes) -> list[float]:
    """Returns the overlap (IoU) of the two boxes of each face that curation and the loop both found.

    The boxes of a photo are matched in the order of their overlap, the largest overlap first. Boxes with an overlap
    below .5 are not matched.
    """
    overlaps = []
    for path, boxes in one.items():
        pairs = [(measure_overlap(a, b), i, j) for i, a in enumerate(boxes) for j, b in enumerate(other[path])]
        left, right = set(), set()
        for value, i, j in sorted(pairs, reverse=True):
            if value >= 0.5 and i not in left and j not in right:
                left.add(i)
                right.add(j)
                overlaps.append(value)
    return overlaps


def time_steps(photos: Sequence[Path], spec: str) -> dict[str, float]:
    """Returns the milliseconds per photo of each step of curation, in one process with one thread."""
    cv2.setNumThreads(1)
    models = load_faces(spec)
    spent: dict[str, float] = {}

    def time_step(name: str, work: Callable[[], Any]) -> Any:
        start = time.thread_time()
        result = work()
        spent[name] = spent.get(name, 0.0) + time.thread_time() - start
        return result

    for path in photos:
        data = time_step("read", path.read_bytes)
        time_step("sha256, twice", lambda data=data: [sha256_bytes(data), sha256_bytes(data)])
        image = time_step("decode in detect", lambda data=data: decode(data))
        picture = time_step("decode in scan", lambda data=data: decode_picture(data, identify=True))
        time_step("photo's hashes", lambda image=image: measure.hash_picture(image))
        time_step("photo's measures", lambda picture=picture: measure_picture(picture))
        upright = time_step("detect", lambda image=image: models.detect(image))
        found = time_step("second looks", lambda i=image, faces=upright: find_faces(i, models, upright=faces))
        for face in found:
            crop = time_step(
                "align to 512 px", lambda i=image, f=face: align_face(i, f.landmarks5, FFHQ_512, FFHQ_SIZE)
            )
            time_step("measures", lambda i=image, c=crop, f=face: _measure_face(i, c, f.landmarks5))
            # the default filters drop a face with fewer than 16 pixels between the eyes
            if measure.measure_eye_distance(face.landmarks5) < 16:
                continue
            time_step("PNG", lambda crop=crop: encode_png_quickly(crop))
            small = time_step("crop to 112 px", lambda c=crop: crop_for_recognizer(c, models.template, models.size))
            time_step("recognize", lambda small=small: models.embed(small[None]))
    return {name: 1000 * seconds / len(photos) for name, seconds in spent.items()}


def _measure_face(image: np.ndarray, crop: np.ndarray, landmarks5: np.ndarray) -> None:
    measure.estimate_pose(landmarks5)
    encode_luma(crop, find_valid_pixels(landmarks5, image.shape[1], image.shape[0], 128))
    for measure_pixels in (measure.measure_detail, measure.measure_clipped, measure.measure_dark):
        measure_pixels(image, landmarks5)
    measure.measure_sharpness(crop)
    measure.measure_exposure(crop)
    native = measure.compute_luma(measure.crop_inner_face(crop))
    measure.measure_blockiness(native)
    measure.measure_noise(native)
    measure.hash_face(crop)


def time_loop_steps(photos: Sequence[Path], folder: str) -> dict[str, float]:
    """Returns the milliseconds per photo of each step of the loop. onnxruntime chooses its number of threads."""
    app = _load_app(folder)
    spent = {"imread": 0.0, "detect": 0.0, "align and recognize": 0.0}
    for path in photos:
        start = time.perf_counter()
        image = cv2.imread(str(path))
        read_end = time.perf_counter()
        spent["imread"] += read_end - start
        if image is None:
            continue
        app.det_model.detect(image)
        detect_end = time.perf_counter()
        spent["detect"] += detect_end - read_end
        app.get(image)
        spent["align and recognize"] += max(0.0, time.perf_counter() - detect_end - (detect_end - read_end))
    return {name: 1000 * seconds / len(photos) for name, seconds in spent.items()}


@cache
def _load_app(folder: str) -> Any:
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(name=folder, allowed_modules=["detection", "recognition"])
    app.prepare(0)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of photos")
    parser.add_argument(
        "--faces", required=True, help="insightface:FOLDER, the face models of curation and of the loop"
    )
    parser.add_argument("--megapixels", type=float, default=2.0, help="take only photos of at most this size")
    parser.add_argument("--every", type=int, default=1, help="take only every Nth photo")
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of rounds; curation and the loop each have one turn in a round"
    )
    parser.add_argument("--workers", type=int, default=count_cores())
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/curation_speed.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # insightface calls functions that scikit-image deprecates
    for package in ("curate.run.pipeline", "insightface.app"):
        importlib.import_module(package)  # the imports of curation and of the loop are not timed
    found = sorted(path for path in options.photos.resolve().rglob("*") if path.is_file())
    photos = [path for path in found if measure_size(path) <= options.megapixels * 1e6][:: options.every]
    folder = options.faces.removeprefix("insightface:")
    seconds: dict[str, list[float]] = {"ours": [], "loop": []}
    stages: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        dataset = Path(scratch) / "dataset"
        for number in range(options.rounds):
            shutil.rmtree(dataset, ignore_errors=True)
            stages.append(time_curation(photos, dataset, options.faces, options.workers))
            seconds["ours"].append(sum(stages[-1].values()))
            loop_seconds, loop_boxes = time_loop(photos, folder)
            seconds["loop"].append(loop_seconds)
            print(f"round {number + 1}: ours {seconds['ours'][-1]:.1f} s, the loop {loop_seconds:.1f} s")
        boxes = read_boxes(dataset, photos)
        again = sum(time_curation(photos, dataset, options.faces, options.workers).values())
    overlaps = match_boxes(boxes, loop_boxes)
    alone = time_steps(photos[::8], options.faces)
    floor = alone["detect"] + alone.get("recognize", 0.0)
    speed = {name: len(photos) / median(times) for name, times in seconds.items()}
    result = {
        "ours_photos_per_s": round(speed["ours"], 2),
        "loop_photos_per_s": round(speed["loop"], 2),
        "ratio": round(speed["ours"] / speed["loop"], 3),
        "ratios": [round(b / a, 3) for a, b in zip(seconds["ours"], seconds["loop"], strict=True)],
        "photos": len(photos),
        "at_most_megapixels": options.megapixels,
        "workers": options.workers,
        "ours_faces": sum(map(len, boxes.values())),
        "loop_faces": sum(map(len, loop_boxes.values())),
        "same_faces": len(overlaps),
        "mean_iou": round(float(np.mean(overlaps)), 4) if overlaps else None,
        "stage_s": {name: round(median(stage[name] for stage in stages), 2) for name in stages[0]},
        "again_s": round(again, 2),
        "loop_ms": {name: round(ms, 2) for name, ms in time_loop_steps(photos[::8], folder).items()},
        "ours_core_ms": {name: round(ms, 2) for name, ms in alone.items()},
        "floor_photos_per_s": round(1000 * options.workers / floor, 1),
    }
    record_result("curation_speed", result, options.keep)


if __name__ == "__main__":
    main()
