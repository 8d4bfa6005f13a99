"""Photos of people who do not exist, and ten-line face models that find them; as a script, a curation to kill.

A person is a colour, a face is a textured square of it on black.
`python tests/doubles/curation.py PHOTOS DATASET WORKERS` curates.
"""

import itertools
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

import curate.detection.detect
import curate.detection.embed
import curate.detection.face_models
import curate.photos.optout_faces
import curate.pipeline
import manifests.privacy.keys
from curate.config import CurateConfig
from curate.faces.align import ARCFACE_112, FFHQ_512
from curate.faces.interface import Detection, FaceModels, ModelFile, normalise_rows
from curate.people.leaks.find_leaks import Leaks, find_ledger_leaks
from curate.pipeline import curate as run
from curate.summary import Summary
from manifests.check import check_ledger
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import KEYS
from manifests.runtime.workers import open_pool

# 14 people, no two with a cosine above .58: the faces and corners of a cube
PEOPLE = [d for d in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, d)) in (1, 3)]
SIDE = 120
CLOCKS = ("started", "finished", "made", "ctime_ns")


def face(person: int, seed: int, side: int = SIDE) -> np.ndarray:
    rng = np.random.default_rng([person, seed])
    colour = 128 + 60 * np.array(PEOPLE[person]) / np.linalg.norm(PEOPLE[person])
    coarse = rng.uniform(-1, 1, (9, 9)).astype(np.float32)
    texture = cv2.resize(coarse - coarse.mean(), (side, side), interpolation=cv2.INTER_CUBIC)
    fine = np.kron(rng.uniform(-1, 1, (side // 4, side // 4)), np.ones((4, 4)))
    return np.clip(colour + (22 * texture + 12 * fine)[..., None], 45, 255).astype(np.uint8)


def photo(people: list[int], seed: int, side: int = SIDE) -> np.ndarray:
    """RGB uint8: the people side by side."""
    image = np.zeros((side + 60, (side + 40) * max(len(people), 1) + 40, 3), np.uint8)
    for place, person in enumerate(people):
        x = 40 + place * (side + 40)
        image[30 : 30 + side, x : x + side] = face(person, seed, side)
    return image


def save(path: Path, image: np.ndarray, *options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1], list(options))
    return path


def album(folder: Path, people: int = 4, each: int = 3) -> Path:
    """`people` people with `each` photos of their own."""
    for person in range(people):
        for number in range(each):
            save(folder / f"person{person}" / f"{number}.png", photo([person], number))
    return folder


def detect(image: np.ndarray) -> list[Detection]:
    time.sleep(float(os.environ.get("DOUBLES_DELAY", "0")))
    if image.max() <= 24:  # soon known, also of the black pictures of 64 MP among the hostile files
        return []
    brightest = cv2.max(cv2.max(image[..., 0], image[..., 1]), image[..., 2])
    _, _, stats, _ = cv2.connectedComponentsWithStats((brightest > 24).astype(np.uint8))
    boxes = [(x, y, x + w, y + h) for x, y, w, h, area in stats[1:].tolist() if area > 400]
    return [
        Detection(
            np.array(box, np.float32), ((FFHQ_512 + 0.5) * (box[2] - box[0]) / 512 - 0.5 + box[:2]).astype("f4"), 0.9
        )
        for box in boxes
    ]


def embed(crops: np.ndarray) -> np.ndarray:
    return normalise_rows(crops[:, 28:84, 28:84].mean((1, 2)) - 128)


@cache
def models(spec: str) -> FaceModels:
    """`auto` and `double`; anything else is another recognizer."""
    spec = "double" if spec == "auto" else spec
    recognizer = Path(curate.detection.embed.__file__ if spec == "double" else curate.detection.detect.__file__)
    files = ModelFile("detector", Path(__file__), "none"), ModelFile("recognizer", recognizer, "none")
    return FaceModels(spec, detect, embed, ARCFACE_112, 112, 3, 0.5, 0.8, False, files)


def use_models(patch: pytest.MonkeyPatch, load: Callable[[str], FaceModels]) -> None:
    """Let every module of curate that loads face models load them with `load`."""
    for module in (
        curate.pipeline,
        curate.detection.face_models,
        curate.detection.detect,
        curate.detection.embed,
        curate.photos.optout_faces,
    ):
        patch.setattr(module, "load_faces_once", load)


def install(patch: pytest.MonkeyPatch) -> None:
    use_models(patch, models)
    # a spawned process has no doubles; two or more are asked for where this module is the script
    patch.setattr(
        curate.pipeline, "open_pool", lambda workers, start: open_pool(None if workers == 1 else workers, start)
    )
    patch.setattr(manifests.privacy.keys, "create_key", lambda: bytes(32))  # so that two datasets can be compared


def curated(photos: Path, dataset: Path, **changes) -> Summary:
    return run([photos], dataset, CurateConfig(**changes))


def find_problems(dataset: Path) -> list[str]:
    """All problems except look-alikes in two splits, of which a decision or a label has made two people."""
    return [problem for problem in check_ledger(dataset) if not problem.startswith("leaks of the kind cosine")]


def find_dataset_leaks(dataset: Path, limit: int = 20) -> Leaks:
    with Ledger.open(dataset) as ledger:
        return find_ledger_leaks(ledger, limit)


def rows(dataset: Path, kind: type) -> list:
    with Ledger.open(dataset) as ledger:
        return ledger.read_rows(kind)


def contents(dataset: Path) -> dict[str, list]:
    """Every table but its clocks."""
    with Ledger.open(dataset) as ledger:
        tables = {name: ledger.read_table(name) for name in KEYS}
    return {name: table.drop(CLOCKS, strict=False).rows() for name, table in tables.items()}


def files(dataset: Path) -> dict[str, bytes]:
    """Every crop and embedding, byte for byte, and anything that should not be there."""
    found = [path for part in ("faces", "embeddings") for path in (dataset / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(dataset)): path.read_bytes() for path in sorted(found)}


if __name__ in ("__main__", "__mp_main__"):  # also in the workers, which import this script again
    install(pytest.MonkeyPatch())
if __name__ == "__main__":
    run([Path(sys.argv[1])], Path(sys.argv[2]), CurateConfig(), int(sys.argv[3]))
