"""Makes small datasets that have crops but no photos, and reads the contents of frozen sets."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import cv2
import numpy as np

from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Face, Split
from manifests.pictures.png_files import encode_png
from manifests.runtime.files import sha256_file, write_atomically

SET = "codeformer-test-32-s0"


OPTIONS = {"preset": "codeformer", "split": "test", "seed": 0, "size": 32}


def toy_picture(seed: int, side: int = 64) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def toy_face(number: int, **changes: object) -> Face:
    face = Face(
        face_id=f"{number:032x}",
        photo_id=f"{number:064x}",
        box=(0.0, 0.0, 64.0, 64.0),
        landmarks5=(0.0,) * 10,
        landmarks68=None,
        det_score=0.9,
        inter_ocular_px=30.0,
        yaw=0.0,
        pitch=0.0,
        roll=0.0,
        sharpness=1.0,
        blockiness=1.0,
        exposure=0.5,
        upsample=1.0,
        phash="0" * 64,
    )
    return dataclasses.replace(face, **changes)


def toy_dataset(folder: Path, faces: int = 10) -> Path:
    """Makes a ledger and crops. A quarter of the faces are in train, and the other faces are in test.

    Also adds two faces that must not get into a frozen set: a near-duplicate, and a face that was dropped from its
    split.
    """
    rows: list = []
    for number in range(faces):
        face = toy_face(number)
        split = "train" if number % 4 == 3 else "test"
        rows += [face, Split(face.face_id, f"id{number % 3}", split, "identity")]
        write_atomically(crop_path(folder, face.face_id), encode_png(toy_picture(number)))
    duplicate, apart = toy_face(faces, duplicate_of=rows[0].face_id), toy_face(faces + 1)
    rows += [duplicate, Split(duplicate.face_id, "id0", "test", "identity")]
    rows += [apart, Split(apart.face_id, "id1", "test", "identity", status="dropped", reason="photo_spans_splits")]
    with Ledger.open(folder, write=True) as ledger:
        ledger.record("curate", "all", {}, rows)
    return folder


def contents(dataset: Path, lq_set: str = SET) -> tuple[dict[str, str], list, list]:
    """Returns what a frozen set consists of: the SHA-256 of each file, the rows of all images, and a list. The list has
    the rows of the stage `degrade` without their times, and the rows of the table `splits`."""
    files = {path.name: sha256_file(path) for path in (dataset / "lq" / lq_set).iterdir()}
    with Ledger.open(dataset) as ledger:
        rows = ledger.read_table("degradations").rows()
        units = ledger.query("SELECT unit, config_hash, detail FROM stages WHERE stage = 'degrade' ORDER BY 1").rows()
        splits = ledger.read_table("splits").rows()
    return files, rows, [units, splits]


def files(out: Path) -> dict[bytes, str]:
    found = (path for path in out.rglob("*") if path.is_file())
    return {os.fsencode(path.relative_to(out)): sha256_file(path) for path in found}
