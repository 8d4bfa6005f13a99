"""Writes the snapshot of a training run from chosen faces of a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_recognizer
from train.data.crops import read_crop
from train.data.snapshot import CROPS, FACES, FACTS, VERSION


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
        "row": list(range(len(faces))),
        "face_id": list(faces),
        "identity_id": [people[face] for face in faces],
        "split": [splits[face] for face in faces],
        "is_target": [True] * len(faces),
        "references": [[0]] * len(faces),
        "upsample": [1.0] * len(faces),
        "landmarks5": [[0.0] * 10] * len(faces),
        "resolution": [size] * len(faces),
        "large_row": [-1] * len(faces),
        "embedding": [np.asarray(row, np.float32).tolist() for row in embeddings],
    }
    folder = run / "snapshot"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / FACES)
    np.save(folder / CROPS, np.stack([read_crop(dataset, face, size) for face in faces]))
    facts = {"version": VERSION, "config": {"size": size}, "recognizer": {"sha256": recognizer}, "hash": "double"}
    (folder / FACTS).write_text(json.dumps(facts))
