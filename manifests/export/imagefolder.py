"""Hugging Face imagefolder: `SPLIT/FACE.png` and a metadata.parquet a split, for `load_dataset("imagefolder", ...)`.

`file_name` becomes the column `image`; `lq_file_name`, where a frozen set goes along, becomes `lq`. Also what the rows
of `webdataset` hold.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from manifests.export.choose import MEASURES, Chosen, without_lq
from manifests.export.folder import Folder

_TYPES: dict[str, pa.DataType] = {
    "face_id": pa.string(),
    "identity": pa.string(),
    "split": pa.string(),
    "is_target": pa.bool_(),
    "references": pa.list_(pa.string()),
    "similarities": pa.list_(pa.float32()),
    "source": pa.string(),
    "licence": pa.string(),
    "consent": pa.string(),
    **{measure: pa.float32() for measure in MEASURES},
}


def keep(chosen: Chosen) -> Chosen:
    return without_lq(chosen, chosen.lq_splits)


def write(chosen: Chosen, folder: Folder) -> None:
    rows = facts(chosen)
    for split in sorted({face.split for face in chosen.faces.values()}):
        faces = chosen.faces_of(split)
        columns = {key: pa.array([rows[face.face_id][key] for face in faces], kind) for key, kind in _TYPES.items()}
        table = {"file_name": pa.array([f"{face.face_id}.png" for face in faces]), **columns}
        if chosen.lq:  # in every split: the library wants the same columns everywhere
            lq = [f"lq/{face.face_id}.png" if face.face_id in chosen.lq else None for face in faces]
            table["lq_file_name"] = pa.array(lq, pa.string())
        if chosen.wanted.version == "best":
            for key in ("version", "parent"):
                table[key] = pa.array([rows[face.face_id][key] for face in faces], pa.string())
        if chosen.wanted.names:
            table["name"] = pa.array([face.name for face in faces], pa.string())
        if chosen.wanted.embeddings:
            vectors = [chosen.embeddings[face.face_id].tolist() for face in faces]
            table["embedding"] = pa.array(vectors, pa.list_(pa.float32()))
        folder.table(f"{split}/metadata.parquet", pa.table(table))
        for face in faces:
            folder.picture(f"{split}/{face.face_id}.png", face.picture)
            if face.face_id in chosen.lq:
                folder.picture(f"{split}/lq/{face.face_id}.png", chosen.lq[face.face_id])


def facts(chosen: Chosen) -> dict[str, dict[str, Any]]:
    """face -> what may be said of it, the same in every format that has a place for it."""
    cases = {case.target: case for case in chosen.cases}
    return {
        key: {
            "face_id": key,
            "identity": face.identity_id,
            "split": face.split,
            "is_target": key in cases,
            "references": list(cases[key].references) if key in cases else [],
            "similarities": list(cases[key].similarities) if key in cases else [],
            **face.told,
        }
        for key, face in chosen.faces.items()
    }
