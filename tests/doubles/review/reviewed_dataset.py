"""Makes a small dataset with all that the review shows: copies, unused files, a frozen set and results of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from degrade.frozen.dataset_sets import make_set
from manifests.ledger.ledger import Ledger
from manifests.pictures.png_files import encode_png
from manifests.runtime.files import write_atomically
from manifests.runtime.uris import path_of
from tests.doubles import curation as doubles

SET = "codeformer-test-32-s0"


def make_dataset(root: Path) -> Path:
    """Curates photos of eight people, with near-duplicates, two faces that are too small, and a broken file.

    One photo shows no face. The dataset has a frozen set of 32 px.
    """
    photos = doubles.album(root / "photos", people=8, each=3)
    for number in range(2):
        picture = doubles.photo([0], number)
        doubles.save(
            photos / "copies" / f"small{number}.png", cv2.resize(picture, None, fx=0.75, fy=0.75, interpolation=3)
        )
        doubles.save(photos / f"tiny{number}.png", doubles.photo([1], 5 + number, side=40))
    doubles.save(photos / "empty.png", np.zeros((80, 80, 3), np.uint8))
    shutil.copy(photos / "person1" / "0.png", photos / "again.png")
    (photos / "broken.jpg").write_bytes(b"no picture")
    with pytest.MonkeyPatch.context() as patch:
        doubles.install(patch)
        doubles.curated(photos, root / "dataset")
    make_set(root / "dataset", "codeformer", "test", 0, 32, workers=1)
    return root / "dataset"


def make_result(dataset: Path, folder: Path, broken: bool = False) -> list[str]:
    """Writes the result of an evaluation as `likeness evaluate --keep-images` does. Returns the faces. The face with
    the lowest PSNR comes first.

    In the restored image of the face number n, all pixels have the gray value n.
    """
    with Ledger.open(dataset) as ledger:
        faces = ledger.query("SELECT face_id FROM degradations ORDER BY face_id")["face_id"].to_list()
    rows = [
        {"face_id": face, "key": key, "system": key, "reason": None, "psnr": base + number, "lpips": 0.5}
        for number, face in enumerate(faces)
        for key, base in (("lq", 10.0), ("0", 20.0), ("2", 30.0))
    ]
    metric = {"unit": "", "better": "higher", "digits": 1, "convention": "c", "source": "s", "without_a_figure": ""}
    result = {
        "lq_set": SET, "images": len(faces), "people": 1, "images_in_set": len(faces), "without_wrong_references": 0,
        "left_out": {}, "interval": "none", "references": 2, "judge": {"spec": "j", "is_the_datasets_own": False},
        "unmeasured": [], "not_measured": {}, "differences": [], "image_folders": {"2": "evaluation-images/1"},
        "metrics": {"psnr": {**metric, "title": "PSNR", "unit": "dB"},
                    "lpips": {**metric, "title": "LPIPS", "better": "lower"}},
        "rows": [{"key": key, "system": name, "images": len(faces), "unmeasured": 0, "psnr": None, "lpips": None}
                 for key, name in (("lq", "LQ input"), ("0", "no reference"), ("2", "restored"))],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text("{" if broken else json.dumps(result))
    pl.DataFrame(rows).write_parquet(folder / "evaluation.parquet")
    for number, face in enumerate(faces):
        image = np.full((32, 32, 3), number, np.uint8)
        write_atomically(folder / "evaluation-images" / "1" / f"{face}.png", encode_png(image))
    return list(faces)


def make_restored_folder(dataset: Path, folder: Path) -> None:
    """Writes a folder as `likeness restore` does.

    The folder has the outputs for an image of the set, for a photo of the dataset, and for an unknown photo.

    The log also has lines that must not be shown: a photo that failed, a file outside the folder, and a broken line.
    """
    with Ledger.open(dataset) as ledger:
        face = ledger.query("SELECT min(face_id) AS face FROM degradations")["face"][0]
        uri = ledger.query("SELECT min(uri) AS uri FROM files WHERE status = 'ok' AND contains(uri, 'person1')")["uri"][
            0
        ]
    sources = {
        "set.png": (dataset / "lq" / SET / f"{face}.png", 0.5, "ok"),
        "photo.png": (path_of(uri), 0.25, "ok"),
        "unknown.png": (folder.parent / "elsewhere.png", None, "kept"),
        "failed.png": (folder.parent / "failed.png", None, "failed"),
        "../outside.png": (folder.parent / "outside.png", None, "ok"),
    }
    lines = []
    for place, (source, similarity, status) in sources.items():
        write_atomically(folder / place, encode_png(np.full((40, 60, 3), 77, np.uint8)))
        faces = [{"similarity": similarity, "sentence": f"The face of <{place}> was restored."}]
        lines.append({"place": place, "source": str(source), "status": status, "reason": None, "faces": faces})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "restored.jsonl").write_text(text + '{"place": 3}\nbroken\n')
