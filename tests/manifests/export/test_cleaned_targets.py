"""Tests exports with cleaned crops: only training faces have cleaned crops, and the tables mark these crops.

Without an option, an export contains the original crops.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.errors import BadInput, LedgerBroken
from manifests.export.export_dataset import CARD, export_dataset
from manifests.export.formats import FORMATS
from manifests.export.selection import ExportOptions
from manifests.ledger.cleaned_targets import version_path
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import CleanedVersion, Face
from manifests.runtime.files import sha256_bytes, write_atomically
from tests.doubles.curation import install, rows
from tests.doubles.exports import dataset_of, splits_of, tree
from tests.doubles.iteration import RED

BEST = ExportOptions(version="best")


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Makes a dataset in which every face, even of val and test, has a red cleaned version."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        dataset = dataset_of(tmp_path / "made")
    data = cv2.imencode(".png", RED[:, :, ::-1])[1].tobytes()
    made = []
    for face in rows(dataset, Face):
        write_atomically(version_path(dataset, "it", 1, face.face_id), data)
        made.append(CleanedVersion("it", 1, face.face_id, "soft", "parent", "run", "c", "{}", sha256_bytes(data)))
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("iterate", "it/clean-1/00000", {}, made)
    return dataset


def is_red(data: bytes) -> bool:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return image.shape == RED.shape and bool((image[:, :, ::-1] == RED).all())


def members_of(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(one.name, tar.extractfile(one).read()) for one in tar.getmembers()]  # type: ignore[union-attr]


def test_cleaned_pictures_are_marked_and_of_the_training_split_alone(planted: Path, tmp_path: Path) -> None:
    split_of = splits_of(planted)
    told = export_dataset(planted, tmp_path / "folder", "imagefolder", BEST)
    export_dataset(planted, tmp_path / "tars", "webdataset", BEST)
    cleaned = 0
    for split in ("train", "val", "test"):
        table = pq.read_table(tmp_path / "folder" / split / "metadata.parquet").to_pylist()
        members = dict(member for path in (tmp_path / "tars" / split).glob("*.tar") for member in members_of(path))
        for row in table:
            face = row["face_id"]
            assert split_of[face] == split
            data = (tmp_path / "folder" / split / row["file_name"]).read_bytes()
            shown = json.load(io.BytesIO(members[f"{face}.json"]))
            assert {key: shown[key] for key in ("version", "parent")} == {
                key: row[key] for key in ("version", "parent")
            }
            assert is_red(data) == is_red(members[f"{face}.png"]) == (split == "train")
            assert (row["version"], row["parent"]) == (("it/1", "parent") if split == "train" else ("original", None))
            cleaned += split == "train"
    card = json.loads((tmp_path / "folder" / CARD).read_text())
    assert cleaned and card["cleaned"] == cleaned and card["options"]["version"] == "best"
    assert any(f"{cleaned} images are cleaned versions" in notice for notice in told.notices)


@pytest.mark.parametrize("name", ["imagefolder", "webdataset"])
def test_without_being_asked_an_export_has_the_originals(planted: Path, tmp_path: Path, name: str) -> None:
    told = export_dataset(planted, tmp_path / "out", name, ExportOptions())
    assert json.loads((tmp_path / "out" / CARD).read_text())["cleaned"] == 0
    pictures = [data for path, data in tree(tmp_path / "out").items() if path.endswith(".png")]
    assert not any(map(is_red, pictures)) and not any("cleaned" in notice for notice in told.notices)
    for path in (tmp_path / "out").rglob("metadata.parquet"):
        assert "version" not in pq.read_schema(path).names


def test_what_cannot_be_exported_cleaned_is_a_sentence(planted: Path, tmp_path: Path) -> None:
    for name in set(FORMATS) - {"imagefolder", "webdataset", "dmdnet"}:
        with pytest.raises(BadInput, match=f"The format {name} cannot mark cleaned images"):
            export_dataset(planted, tmp_path / "out", name, BEST)
    with pytest.raises(BadInput, match=r"--crops worst is unknown. Write original or best"):
        export_dataset(planted, tmp_path / "out", "imagefolder", ExportOptions(version="worst"))
    version_path(
        planted, "it", 1, next(face for face, split in splits_of(planted).items() if split == "train")
    ).unlink()
    with pytest.raises(LedgerBroken, match=r"is missing or changed. Export with --crops original"):
        export_dataset(planted, tmp_path / "out", "imagefolder", BEST)
    with Ledger.open(planted, write=True) as ledger:
        ledger.record("none", "all", {}, [], replace=[CleanedVersion])
    with pytest.raises(BadInput, match=r"no cleaned version. Make cleaned versions with `likeness iterate`"):
        export_dataset(planted, tmp_path / "out", "imagefolder", BEST)
    assert not (tmp_path / "out").exists()
