"""Makes a small dataset with landmarks and a frozen set for tests of exports, and CSV lists for tests of imports."""

import csv
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from degrade.frozen.dataset_sets import make_set
from manifests.export.formats import FORMATS
from manifests.export.selection import ExportOptions
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Degradation, Face, Pair, Photo, Split
from tests.doubles.curation import curated_album, rows

LQ_SET = "codeformer-test-32-s0"
without_lmdb = pytest.mark.skipif(find_spec("lmdb") is None, reason="needs lmdb: make install")
ALL = [pytest.param(name, marks=without_lmdb) if name == "lmdb" else name for name in FORMATS]
WITH_SETS = [one for one in ALL if not isinstance(one, str) or FORMATS[one].lq != "none"]


def dataset_of(folder: Path, people: int = 5, each: int = 4) -> Path:
    """Returns a curated album, FOLDER/dataset. The test must have installed the doubles."""
    return curated_album(folder, people, each)[1]


def freeze(dataset: Path) -> str:
    """Makes a frozen set of the test split at 32 px."""
    make_set(dataset, preset="codeformer", split="test", seed=0, size=32)
    return LQ_SET


def wanted(name: str, **more) -> ExportOptions:
    """Returns options for an export. The options name the frozen set if the format can contain one."""
    return ExportOptions(lq_set=None if FORMATS[name].lq == "none" else LQ_SET, **more)


def change(dataset: Path, changed: list) -> None:
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("test", "change", {}, changed)


def mark(dataset: Path) -> None:
    """Gives every face 68 landmarks. The landmarks are points inside the box of the face."""
    ring = np.stack([np.cos(np.arange(68) / 5), np.sin(np.arange(68) / 7)], axis=1) * 0.3 + 0.5
    faces = []
    for face in rows(dataset, Face):
        x0, y0, x1, y1 = face.box
        points = ring * [x1 - x0, y1 - y0] + [x0, y0]
        faces.append(replace(face, landmarks68=tuple(points.ravel().tolist())))
    change(dataset, faces)


def consent(dataset: Path, photo_id: str, said: str) -> None:
    change(dataset, [replace(row, consent=said) for row in rows(dataset, Photo) if row.photo_id == photo_id])


def pairs_of(dataset: Path) -> dict[str, tuple[str, ...]]:
    return {row.target: row.refs for row in rows(dataset, Pair)}


def splits_of(dataset: Path) -> dict[str, str]:
    return {row.face_id: row.split for row in rows(dataset, Split) if row.status == "ok"}


def frozen_faces(dataset: Path) -> set[str]:
    return {row.face_id for row in rows(dataset, Degradation)}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_csv(path: Path, header: list[str], lines: list[list[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path
