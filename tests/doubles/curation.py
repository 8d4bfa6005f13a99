"""Makes photos of people who do not exist, and small face models that find these people.

Each person has a colour. A face is a textured square of this colour on a black background. If this file is started as a
script, it curates photos, and a test can kill the process: `python tests/doubles/curation.py PHOTOS DATASET WORKERS`.
"""

import atexit
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import duckdb
import numpy as np
import pyarrow as pa
import pytest

import curate.detection.detect
import curate.detection.embed
import curate.detection.face_models
import curate.detection.screen
import curate.photos.batches
import curate.photos.optout_faces
import curate.photos.scan
import curate.run.pipeline
import manifests.privacy.keys
from curate.config import CurateConfig
from curate.faces.align import ARCFACE_112, FFHQ_512
from curate.faces.interface import Detection, FaceModels, ModelFile, normalise_rows
from curate.people.leaks.find_leaks import Leaks, find_ledger_leaks
from curate.run.pipeline import curate as run
from curate.run.summary import Summary
from manifests.check import check_ledger
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME
from manifests.ledger.records import KEYS, Face, File
from manifests.runtime.uris import path_of, uri_of
from manifests.runtime.workers import open_pool

# The colours of the 14 people are the directions from the centre of a cube to its faces and corners. No two people have
# a cosine above .58.
PEOPLE = [d for d in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, d)) in (1, 3)]
SIDE = 120
BATCH = 8  # the number of files in a batch of the script; with so few files, an album has several batches
CLOCKS = ("started", "finished", "made", "ctime_ns")


def face(person: int, seed: int, side: int = SIDE) -> np.ndarray:
    rng = np.random.default_rng([person, seed])
    colour = 128 + 60 * np.array(PEOPLE[person]) / np.linalg.norm(PEOPLE[person])
    coarse = rng.uniform(-1, 1, (9, 9)).astype(np.float32)
    texture = cv2.resize(coarse - coarse.mean(), (side, side), interpolation=cv2.INTER_CUBIC)
    fine = np.kron(rng.uniform(-1, 1, (side // 4, side // 4)), np.ones((4, 4)))
    return np.clip(colour + (22 * texture + 12 * fine)[..., None], 45, 255).astype(np.uint8)


def photo(people: list[int], seed: int, side: int = SIDE) -> np.ndarray:
    """Returns a photo, RGB uint8, with the people side by side."""
    image = np.zeros((side + 60, (side + 40) * max(len(people), 1) + 40, 3), np.uint8)
    for place, person in enumerate(people):
        x = 40 + place * (side + 40)
        image[30 : 30 + side, x : x + side] = face(person, seed, side)
    return image


def save(path: Path, image: np.ndarray, *options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1], list(options))
    return path


@cache  # most tests need these photos again
def _encode_photo(person: int, number: int) -> bytes:
    return cv2.imencode(".png", photo([person], number)[:, :, ::-1])[1].tobytes()


def album(folder: Path, people: int = 4, each: int = 3) -> Path:
    """Writes photos of `people` people into a folder, `each` photos of each person. Returns the folder."""
    for person in range(people):
        for number in range(each):
            path = folder / f"person{person}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_encode_photo(person, number))
    return folder


def detect(image: np.ndarray) -> list[Detection]:
    time.sleep(float(os.environ.get("DOUBLES_DELAY", "0")))
    # Dark pictures have no face. Dark pictures are refused first, because the hostile files include black pictures of
    # 64 megapixels.
    if image.max() <= 24:
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
def models(spec: str, device: str = "cpu") -> FaceModels:
    """Returns the face models of the doubles.

    `auto` and `double` name the same recognizer. Any other `spec` names a second recognizer. `device` has no effect.
    """
    spec = "double" if spec == "auto" else spec
    recognizer = Path(curate.detection.embed.__file__ if spec == "double" else curate.detection.detect.__file__)
    files = ModelFile("detector", Path(__file__), "none"), ModelFile("recognizer", recognizer, "none")
    return FaceModels(spec, detect, embed, ARCFACE_112, 112, 3, 0.5, 0.8, False, files)


def use_models(patch: pytest.MonkeyPatch, load: Callable[[str], FaceModels]) -> None:
    """Puts `load` in place of the function that loads face models, in every module of curate that uses it."""
    for module in (
        curate.run.pipeline,
        curate.detection.face_models,
        curate.detection.detect,
        curate.detection.embed,
        curate.photos.optout_faces,
    ):
        patch.setattr(module, "load_faces_once", lambda spec, device="cpu": load(spec))


def install(patch: pytest.MonkeyPatch) -> None:
    use_models(patch, models)
    # With one worker, curation runs in this process, because a spawned process would not have the doubles. More workers
    # are possible only for a script that installs the doubles, because each worker imports the script.
    patch.setattr(
        curate.run.pipeline, "open_pool", lambda workers, start: open_pool(None if workers == 1 else workers, start)
    )
    # The key is fixed, so that two datasets can be compared.
    patch.setattr(manifests.privacy.keys, "create_key", lambda: bytes(32))


def curated(photos: Path, dataset: Path, **changes) -> Summary:
    return run([photos], dataset, CurateConfig(**changes))


@cache
def _curate_once(people: int, each: int) -> Path:
    """Returns a folder with an album in `photos` and its dataset in `dataset`. The folder is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="likeness-album-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        curated(album(folder / "photos", people, each), folder / "dataset")
    return folder


def curated_album(folder: Path, people: int = 4, each: int = 3) -> tuple[Path, Path]:
    """Returns FOLDER/photos, made by `album`, and FOLDER/dataset, made by `curated`.

    Both folders are made once and then copied, because a copy takes a tenth of the time. The ledger gets the paths and
    times of the copied photos, so a later curation finds that no photo has changed.
    """
    made, photos, dataset = _curate_once(people, each), folder / "photos", folder / "dataset"
    shutil.copytree(made / "photos", photos)
    shutil.copytree(made / "dataset", dataset)
    with duckdb.connect(str(dataset / LEDGER_NAME)) as con:
        paths = sorted(photos.rglob("*.png"))
        columns = {
            "old": [uri_of(made / path.relative_to(folder)) for path in paths],
            "new": [uri_of(path) for path in paths],
            "changed": [path.stat().st_ctime_ns for path in paths],
        }
        con.register("moved", pa.table(columns))
        con.execute("BEGIN")
        con.execute("UPDATE files SET uri = moved.new, ctime_ns = moved.changed FROM moved WHERE uri = moved.old")
        con.execute("UPDATE stages SET unit = moved.new FROM moved WHERE unit = moved.old")
        con.execute("COMMIT")
    return photos, dataset


def find_problems(dataset: Path) -> list[str]:
    """Returns the problems of a dataset, except people who look alike and are in two splits.

    If a decision or a label divides a person into two people, these two people look alike.
    """
    return [problem for problem in check_ledger(dataset) if not problem.startswith("leaks of the kind cosine")]


def find_dataset_leaks(dataset: Path, limit: int = 20) -> Leaks:
    with Ledger.open(dataset) as ledger:
        return find_ledger_leaks(ledger, limit)


def rows(dataset: Path, kind: type) -> list:
    with Ledger.open(dataset, check_tables=False) as ledger:
        return ledger.read_rows(kind)


def name_faces(dataset: Path) -> dict[str, str]:
    """Returns a dict that maps `<person>/<number>` to the id of the face in the photo person<person>/<number>.png.

    Each photo shows one face.
    """
    with Ledger.open(dataset, check_tables=False) as ledger:
        place = {row.photo_id: path_of(row.uri) for row in ledger.read_rows(File)}
        faces = ledger.read_rows(Face)
    return {f"{place[one.photo_id].parent.name[6:]}/{place[one.photo_id].stem}": one.face_id for one in faces}


def contents(dataset: Path) -> dict[str, list]:
    """Returns the rows of every table, without the columns that contain times."""
    with Ledger.open(dataset, check_tables=False) as ledger:
        tables = {name: ledger.read_table(name) for name in KEYS}
    return {name: table.drop(CLOCKS, strict=False).rows() for name, table in tables.items()}


def files(dataset: Path) -> dict[str, bytes]:
    """Returns the bytes of every file in the folders of crops and embeddings, by the path of the file."""
    found = [path for part in ("faces", "embeddings") for path in (dataset / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(dataset)): path.read_bytes() for path in sorted(found)}


if __name__ in ("__main__", "__mp_main__"):  # worker processes import this script again, and also need the doubles
    install(pytest.MonkeyPatch())
if __name__ == "__main__":
    vars(curate.photos.batches)["SECONDS_A_TRANSACTION"] = 0  # each batch has its own transaction
    for module in (curate.photos.scan, curate.detection.detect, curate.detection.screen):
        for name in ("FILES_A_BATCH", "PHOTOS_A_BATCH"):
            vars(module).update({name: BATCH} if hasattr(module, name) else {})
    run([Path(sys.argv[1])], Path(sys.argv[2]), CurateConfig(), int(sys.argv[3]))
