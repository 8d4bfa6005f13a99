"""Measures how long a second run of `likeness curate` with 1% new photos takes, as a share of the first run.

    python benchmarks/curation_incremental.py [--photos 15600] [--folder FOLDER] [--keep]

The photos are small pictures with one or two squares. Each square stands for a face, and its pattern is the number of a
synthetic embedding (grouping_scale.py). Two small programs take the place of the detector and the recognizer. These
programs take hardly any time. With real models, the first run takes longer, and the share of the second run is smaller.

The first run curates 99% of the photos. Then the other 1% are written into the folder, and the second run curates the
folder again. Both runs use one process. The seconds are processor time, because other programs on the machine change
processor time less than wall-clock time. The ratio is the seconds of the second run divided by the seconds of the first
run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from grouping_scale import make_faces
from record_result import record_result

import curate.run.pipeline
from curate.config import CurateConfig
from curate.faces.align import FFHQ_512
from curate.faces.interface import Detection, FaceModels, ModelFile
from curate.run.pipeline import curate as curate_photos
from manifests.ledger.filters import FilterSet

SHARE = 0.01  # the share of the photos that are new
SIDE, GRID, CHIP = 96, 6, 112  # pixels of a face, its cells along one side, pixels of the recognizer's crop
STAGES = (
    "scan",
    "apply_consent",
    "detect",
    "screen",
    "embed",
    "keep_out",
    "label",
    "record_worth_scale",
    "mark_near_duplicates",
    "group_faces",
    "split_faces",
    "pair_faces",
    "audit_leaks",
    "check_splits",
    "summarise",
    "write_card",
)


def make_patterns(count: int) -> np.ndarray:
    """Returns a different random pattern for each face, bool (count, GRID, GRID)."""
    numbers = np.random.default_rng(0).choice(2**34, count, replace=False)
    return ((numbers[:, None] >> np.arange(GRID * GRID)) & 1).astype(bool).reshape(-1, GRID, GRID)


def write_photo(path: Path, patterns: np.ndarray, seed: int) -> None:
    """Writes a photo with the faces `patterns`, bool (n, GRID, GRID), side by side, as a gray JPEG."""
    rng = np.random.default_rng(seed)
    image = np.full((SIDE + 32, len(patterns) * (SIDE + 32)), 12, np.uint8)
    for place, pattern in enumerate(patterns):
        cells = np.where(pattern, rng.integers(150, 230, pattern.shape), rng.integers(40, 100, pattern.shape))
        left = 16 + place * (SIDE + 32)
        image[16 : 16 + SIDE, left : left + SIDE] = np.kron(cells, np.ones((SIDE // GRID, SIDE // GRID)))
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 92])


def find_squares(image: np.ndarray) -> list[Detection]:
    boxes = [(left, 16, left + SIDE, 16 + SIDE) for left in range(16, image.shape[1] - SIDE, SIDE + 32)]
    return [
        Detection(np.array(box, np.float32), ((FFHQ_512 + 0.5) * SIDE / 512 - 0.5 + box[:2]).astype(np.float32), 0.9)
        for box in boxes
    ]


def read_patterns(crops: np.ndarray) -> np.ndarray:
    """Returns the patterns in the crops, uint8 (n, CHIP, CHIP, 3), as numbers, int64 (n,)."""
    centres = ((np.arange(GRID) + 0.5) * CHIP / GRID).astype(int)
    cells = crops[:, centres][:, :, centres].mean(3) > 125
    return cells.reshape(len(crops), -1) @ (1 << np.arange(GRID * GRID))


def make_models(vectors: np.ndarray, patterns: np.ndarray) -> FaceModels:
    numbers = patterns.reshape(len(patterns), -1) @ (1 << np.arange(GRID * GRID))
    order = np.argsort(numbers)

    def embed(crops: np.ndarray) -> np.ndarray:
        place = np.searchsorted(numbers[order], read_patterns(crops)).clip(max=len(order) - 1)
        return np.asarray(vectors[order[place]], np.float32)

    files = tuple(ModelFile(role, Path(__file__), "none") for role in ("detector", "recognizer"))
    template = (FFHQ_512 + 0.5) * CHIP / 512 - 0.5
    return FaceModels("double", find_squares, embed, template, CHIP, vectors.shape[1], 0.5, 0.3, True, files)


def use_models(models: FaceModels) -> None:
    """Puts `models` in place of the loaded face models, with the function that the tests use."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tests` is not installed
    from tests.doubles import curation

    curation.use_models(pytest.MonkeyPatch(), lambda spec: models)


def time_stages(seconds: dict[str, float]) -> None:
    """Replaces each stage of the pipeline by a function that adds its time to `seconds`."""

    def run(name: str, stage: Any, *arguments: Any, **options: Any) -> Any:
        start = time.process_time()
        try:
            return stage(*arguments, **options)
        finally:
            seconds[name] += time.process_time() - start

    pipeline = vars(curate.run.pipeline)
    for name in STAGES:
        pipeline[name] = partial(run, name, pipeline[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=15_600)  # with 20,280 faces, so that new faces join people
    parser.add_argument("--folder", type=Path, help="a folder with space for the photos and crops: 130 KB a face")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/curation_incremental.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_faces(options.photos * 13 // 10, folder)
        vectors, photos = np.load(folder / "vectors.npy"), np.load(folder / "photos.npy")
        patterns = make_patterns(len(vectors))
        use_models(make_models(vectors, patterns))
        seconds: dict[str, float] = defaultdict(float)
        time_stages(seconds)
        numbers = np.unique(photos)
        new = np.random.default_rng(0).random(len(numbers)) < SHARE
        faces_of: dict[int, list[int]] = defaultdict(list)
        for face, photo in enumerate(photos.tolist()):
            faces_of[photo].append(face)
        config = CurateConfig(screen=FilterSet("none", 1, ()))
        result: dict[str, Any] = {"photos": len(numbers), "faces": len(vectors)}
        for run, part in (("first", numbers[~new]), ("second", numbers[new])):
            (folder / "photos" / run).mkdir(parents=True)
            for photo in part.tolist():
                path = folder / "photos" / run / f"{photo:07}.jpg"
                write_photo(path, patterns[faces_of[photo]], photo)
            seconds.clear()
            begin = time.process_time()
            summary = curate_photos([folder / "photos"], folder / "dataset", config)
            total = time.process_time() - begin
            result[run] = {
                "photos": len(part),
                "seconds": round(total, 2),
                "stages": {stage: round(value, 2) for stage, value in seconds.items()},
            }
            print(json.dumps(result[run]), *summary.notices, sep="\n", flush=True)
        result["ratio"] = round(result["second"]["seconds"] / result["first"]["seconds"], 4)
    record_result("curation_incremental", result, options.keep)


if __name__ == "__main__":
    main()
