"""Makes the tables of snapshots, and writes the snapshot of a training run from chosen faces of a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_recognizer
from manifests.runtime.snapshot_files import CROPS, EMBEDDINGS, FACES, FACTS, LANDMARKS, LARGE_CROPS, VALID, VERSION
from train.data.snapshot import FACE_COLUMNS
from train.data.taking.crops import read_crop


def make_face_table(columns: Mapping[str, Sequence[Any]], batch_rows: int = 7) -> pa.Table:
    """Returns the table of a snapshot, in batches of `batch_rows` rows.

    `columns` has the columns face_id, identity_id, split and references. A column that `columns` does not contain has
    the values of a target without a large crop.
    """
    count = len(columns["face_id"])
    usual = {"is_target": True, "upsample": 1.0, "large_row": -1, "resolution": 0, "version": None}
    columns = {name: [value] * count for name, value in usual.items()} | dict(columns)
    arrays = []
    for field in FACE_COLUMNS:
        if pa.types.is_dictionary(field.type):
            names = sorted(set(columns[field.name]))
            codes = pa.array([names.index(name) for name in columns[field.name]], field.type.index_type)
            arrays.append(pa.DictionaryArray.from_arrays(codes, pa.array(names)))
        else:
            arrays.append(pa.array(columns[field.name], field.type))
    return pa.Table.from_batches(pa.table(arrays, schema=FACE_COLUMNS).to_batches(max_chunksize=batch_rows))


def write_snapshot(
    run: Path, dataset: Path, splits: Mapping[str, str], size: int, vectors: Mapping[str, np.ndarray] | None = None
) -> None:
    """Writes RUN/snapshot with the faces in `splits`, which maps face ids to splits.

    `vectors` replaces the embeddings of some faces.
    """
    with Ledger.open(dataset) as ledger:
        faces, embeddings = ledger.read_embeddings(sorted(splits))
        people = dict(ledger.query("SELECT face_id, identity_id FROM memberships").iter_rows())
        recognizer = read_recognizer(ledger).sha256
    embeddings = [(vectors or {}).get(face, row) for face, row in zip(faces, embeddings, strict=True)]
    columns = {
        "face_id": list(faces),
        "identity_id": [people[face] for face in faces],
        "split": [splits[face] for face in faces],
        "references": [[0]] * len(faces),
        "resolution": [size] * len(faces),
    }
    folder = run / "snapshot"
    folder.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_file(str(folder / FACES), FACE_COLUMNS) as writer:
        writer.write_table(make_face_table(columns))
    np.save(folder / EMBEDDINGS, np.array(embeddings, np.float32))
    np.save(folder / LANDMARKS, np.zeros((len(faces), 5, 2), np.float32))
    np.save(folder / CROPS, np.stack([read_crop(dataset, face, size) for face in faces]))
    np.save(folder / LARGE_CROPS, np.zeros((0, 512, 512, 3), np.uint8))
    np.save(folder / VALID, np.zeros((len(faces), size * size // 8), np.uint8))
    facts = {"version": VERSION, "config": {"size": size}, "recognizer": {"sha256": recognizer}, "hash": "double"}
    (folder / FACTS).write_text(json.dumps(facts))
