"""Tests that each export, read with its own library, gives the same pixels, people, pairs and low-quality images."""

import csv
import importlib.util
import json
import shutil
import sys
import tarfile
import zipfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from degrade.frozen.replay import replay
from degrade.frozen.verify import verify_folder
from manifests.errors import BadInput
from manifests.export.export_dataset import export_dataset
from manifests.export.formats import FORMATS
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Face, Membership, Pair, Photo
from manifests.runtime.files import sha256_bytes
from tests.doubles.curation import rows
from tests.doubles.exports import (
    ALL,
    LQ_SET,
    WITH_SETS,
    change,
    frozen_faces,
    pairs_of,
    splits_of,
    wanted,
    without_lmdb,
)

IN_ARCHIVES = ("webdataset", "lmdb", "ffhq-zip")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_images(out: Path, name: str, table: list[dict[str, str]]) -> dict[str, bytes]:
    """Returns the PNG file of each face.

    If the format has a library, the library reads the files. Otherwise the table names the files.
    """
    if name == "imagefolder":
        import datasets

        found = datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(out.parent / "cache"))
        plain = found.cast_column("image", datasets.Image(decode=False))
        return {
            row["face_id"]: row["image"]["bytes"] or Path(row["image"]["path"]).read_bytes()
            for split in plain
            for row in plain[split]
        }
    if name == "webdataset":
        import webdataset

        shards = sorted(map(str, out.rglob("*.tar")))
        samples = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
        return {sample["__key__"]: sample["png"] for sample in samples}
    if name == "lmdb":
        client = open_with_basicsr([str(path) for path in sorted(out.glob("*.lmdb")) if "_" not in path.name])
        return {key: client.get(key, root) for root in client._client for key in read_keys(Path(root))}
    if name == "ffhq-zip":
        images = {}
        for path in out.glob("*.zip"):
            with zipfile.ZipFile(path) as archive:
                images |= {Path(one).stem: archive.read(one) for one in archive.namelist() if one.endswith(".png")}
        return images
    return {row["face_id"]: (out / row["file"]).read_bytes() for row in table}


def open_with_basicsr(paths: list[str]):
    """Opens databases with BasicSR's reader of LMDB.

    Only the module of the reader is imported, because the import of the whole package takes ten seconds.
    """
    place = importlib.util.find_spec("basicsr")
    if place is None or place.origin is None:
        pytest.skip("needs basicsr: pip install --no-deps basicsr==1.4.2")
    file = Path(place.origin).parent / "utils" / "file_client.py"
    spec = importlib.util.spec_from_file_location("basicsr_file_client", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LmdbBackend(paths, client_keys=paths)


def read_keys(database: Path) -> list[str]:
    """Returns the keys of a database, read from meta_info.txt as BasicSR and GFPGAN do."""
    return [line.split(".")[0] for line in (database / "meta_info.txt").read_text().splitlines()]


@pytest.mark.parametrize("name", ALL)
def test_an_export_read_elsewhere_is_the_dataset_byte_for_byte(own, tmp_path, name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    taken = {"taken": datetime(1999, 12, 31, 23, 59, 58), "taken_doubt": "epoch"}
    stated = [replace(row, source="my camera", licence="CC0", consent="yes", **taken) for row in rows(own, Photo)]
    dated = [replace(row, gap_days=(*range(len(row.refs) - 1), None)) for row in rows(own, Pair)]
    change(own, [*stated[:5], *rows(own, Photo)[5:], *dated])
    export_dataset(own, tmp_path / "out", name, wanted(name))
    elsewhere = tmp_path / "elsewhere" / "a b ü"
    shutil.copytree(tmp_path / "out", elsewhere)
    shutil.rmtree(tmp_path / "out")

    table = read_csv(elsewhere / "likeness_tables" / "splits.csv")
    images = read_images(elsewhere, name, table)
    assert images.keys() == {row["face_id"] for row in table} and len(table) >= 4
    # These calls are outside the loop, because each of them reads the ledger.
    splits, paired, frozen = splits_of(own), pairs_of(own), frozen_faces(own)
    owner = {row.face_id: row.identity_id for row in rows(own, Membership)}
    for row in table:
        face = row["face_id"]
        assert sha256_bytes(images[face]) == row["sha256"] and (elsewhere / row["file"]).is_file()
        assert images[face] == crop_path(own, face).read_bytes()
        assert (row["identity"], row["split"]) == (owner[face], splits[face])
        assert (
            (row["lq_file"] != "")
            == (row["lq_sha256"] != "")
            == (FORMATS[name].lq != "none" and row["is_target"] == "true" and face in frozen)
        )
    assert {(row["taken"], row["taken_doubt"]) for row in table} == {("1999-12-31T23:59:58", "epoch"), ("", "")}
    assert {row["licence"] for row in table} >= {"CC0"} and {row["consent"] for row in table} >= {"yes"}

    pairs: dict[str, list[str]] = {}
    for row in sorted(read_csv(elsewhere / "likeness_tables" / "pairs.csv"), key=lambda row: int(row["place"])):
        assert row["split"] == splits[row["target"]]
        pairs.setdefault(row["target"], []).append(row["reference"])
        at = paired[row["target"]].index(row["reference"])
        assert row["gap_days"] == ("" if at == len(paired[row["target"]]) - 1 else str(at))
    everywhere = {target: list(refs) for target, refs in paired.items()}
    assert pairs and pairs.keys() == {row["face_id"] for row in table if row["is_target"] == "true"}
    assert pairs == {target: everywhere[target] for target in pairs}
    for kind in ("splits", "pairs"):  # each Parquet file must have the same rows as its CSV file
        rows_there = pq.read_table(elsewhere / "likeness_tables" / f"{kind}.parquet").to_pylist()
        texts = [
            {
                key: "" if cell is None else str(cell).lower() if isinstance(cell, bool) else str(cell)
                for key, cell in row.items()
            }
            for row in rows_there
        ]
        plain = read_csv(elsewhere / "likeness_tables" / f"{kind}.csv")
        for row in (*texts, *plain):
            row["similarity"] = f"{float(row.get('similarity', 0)):.5f}"
        assert texts == plain
    card = (elsewhere / "likeness_card.md").read_text()
    assert "CC0" in card and "my camera" in card and str(own) not in card


def unpack(out: Path, name: str, folder: Path) -> Path:
    """Unpacks the pictures of an export into a folder. Formats without archives need no unpacking."""
    if name == "webdataset":
        for shard in out.rglob("*.tar"):
            with tarfile.open(shard) as tar:
                tar.extractall(folder, filter="data")
    elif name == "lmdb":
        for key, data in read_images(out, name, []).items():
            folder.mkdir(exist_ok=True)
            (folder / f"{key}.png").write_bytes(data)
    return folder if name in IN_ARCHIVES else out


@pytest.mark.parametrize("name", WITH_SETS)
def test_the_images_of_a_set_are_made_again_from_the_export_alone(made, tmp_path, name):
    out = tmp_path / "out"
    export_dataset(made, out, name, wanted(name))
    elsewhere = shutil.move(out, tmp_path / "elsewhere")
    records = elsewhere / "likeness_set"
    card = json.loads((records / "card.json").read_bytes())
    lines = [json.loads(line) for line in (records / "theta.jsonl").read_bytes().splitlines()]
    assert card["preset"]["name"] == "codeformer" and card["images"] == len(lines) > 0
    originals = unpack(elsewhere, name, tmp_path / "unpacked")
    made_again = replay(originals, records / "theta.jsonl", tmp_path / "again")
    assert made_again.images == len(lines)
    recorded = {row["face_id"]: row for row in read_csv(elsewhere / "likeness_tables" / "splits.csv")}
    for line in lines:
        data = (tmp_path / "again" / line["file"]).read_bytes()
        assert data == (made / "lq" / LQ_SET / line["file"]).read_bytes()
        assert sha256_bytes(data) == recorded[Path(line["file"]).stem]["lq_sha256"]
    # the folder that the card names does not exist here, so replay and verify find the clean images by their content
    assert not (originals / lines[0]["source"]).exists()
    assert verify_folder(tmp_path / "again").ok


@without_lmdb
def test_an_lmdb_opens_with_basicsr_and_its_pairs_have_the_same_keys(made, tmp_path):
    out = tmp_path / "out"
    export_dataset(made, out, "lmdb", wanted("lmdb"))
    assert sorted(path.name for path in out.glob("*.lmdb")) == [
        "test.lmdb", "test_gt.lmdb", "test_lq.lmdb", "train.lmdb", "val.lmdb"
    ]  # fmt: skip
    both = [str(out / "test_lq.lmdb"), str(out / "test_gt.lmdb")]
    client = open_with_basicsr(both)
    # the keys must be equal, because BasicSR's PairedImageDataset refuses databases with unequal keys
    keys = [read_keys(Path(path)) for path in both]
    assert set(keys[0]) == set(keys[1]) == frozen_faces(made)
    for key in keys[0]:
        lq, gt = (cv2.imdecode(np.frombuffer(client.get(key, path), np.uint8), 1) for path in both)
        assert lq.shape == (32, 32, 3) and (gt == cv2.imread(str(crop_path(made, key)))).all()
    lines = (out / "test_lq.lmdb" / "meta_info.txt").read_text().splitlines()
    assert all(line.endswith(".png (32,32,3) 1") for line in lines)
    assert not list(out.rglob("lock.mdb"))


def test_a_zip_opens_as_the_dataset_of_stylegan_reads_it(made, tmp_path):
    export_dataset(made, tmp_path / "out", "ffhq-zip", wanted("ffhq-zip"))
    owner, splits = {row.face_id: row.identity_id for row in rows(made, Membership)}, splits_of(made)
    seen = set()
    for split in ("train", "val", "test"):
        with zipfile.ZipFile(tmp_path / "out" / f"{split}.zip") as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".png"))
            labels = dict(json.loads(archive.read("dataset.json"))["labels"])
            assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        # The labels must be whole numbers from 0, because the loader makes one-hot vectors from them.
        numbers = np.array([labels[name] for name in names])
        assert numbers.dtype == np.int64 and set(numbers.tolist()) == set(range(numbers.max() + 1))
        people = {labels[name]: owner[Path(name).stem] for name in names}
        assert all(people[labels[name]] == owner[Path(name).stem] for name in names)
        assert len(set(people.values())) == len(people)
        assert {splits[Path(name).stem] for name in names} == {split}
        seen |= {Path(name).stem for name in names}
    assert seen == splits.keys()


def test_celebref_has_a_folder_of_five_digits_for_each_person_and_a_list_for_each_split(made, tmp_path):
    out = tmp_path / "out"
    told = export_dataset(made, out, "celebref", wanted("celebref"))
    people = sorted((out / "images").iterdir())
    assert [path.name for path in people] == [f"{number:05d}" for number in range(told.people)]
    for person in people:
        assert sorted(path.name for path in person.iterdir()) == ["0.png", "1.png", "2.png", "3.png"]
    table = {row["file"]: row for row in read_csv(out / "likeness_tables" / "splits.csv")}
    for split in ("train", "val", "test"):
        names = (out / "lists" / f"{split}_image.txt").read_text().split()
        assert {table[f"images/{name}"]["split"] for name in names} == {split}
        assert len(names) == sum(row["split"] == split for row in table.values())
    owners = {}
    for file, row in table.items():
        owners.setdefault(file.split("/")[1], set()).add(row["identity"])
    assert all(len(found) == 1 for found in owners.values()) and len(owners) == told.people


def test_a_person_with_one_picture_is_left_out_of_celebref(own, tmp_path):
    person = rows(own, Membership)[0].identity_id
    faces = [row.face_id for row in rows(own, Membership) if row.identity_id == person]
    refused = {row.photo_id for row in rows(own, Face) if row.face_id in faces[1:]}
    change(own, [replace(row, consent="no") for row in rows(own, Photo) if row.photo_id in refused])
    told = export_dataset(own, tmp_path / "out", "celebref", wanted("celebref"))
    assert told.left_out["faces"] == {"consent_refused": 3, "one_picture_of_this_person": 1}


def test_without_the_library_lmdb_an_export_to_lmdb_is_a_sentence_and_leaves_nothing(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(BadInput, match="pip install lmdb"):
        export_dataset(made, tmp_path / "out", "lmdb", wanted("lmdb"))
    assert list(tmp_path.iterdir()) == []
