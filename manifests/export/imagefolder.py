"""Hugging Face imagefolder: `SPLIT/FACE.png` and a metadata.parquet a split, for `load_dataset("imagefolder", ...)`.

`file_name` becomes the column `image`; `lq_file_name`, where a frozen set goes along, becomes `lq`. Also what the rows
of `webdataset` hold.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from manifests.export.output_folder import OutputFolder
from manifests.export.selection import MEASURES, Selection, drop_targets_without_lq

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


def keep(selection: Selection) -> Selection:
    return drop_targets_without_lq(selection, selection.lq_splits)


def write(selection: Selection, folder: OutputFolder) -> None:
    rows = facts(selection)
    for split in sorted({face.split for face in selection.faces.values()}):
        faces = selection.faces_of(split)
        columns = {key: pa.array([rows[face.face_id][key] for face in faces], kind) for key, kind in _TYPES.items()}
        table = {"file_name": pa.array([f"{face.face_id}.png" for face in faces]), **columns}
        if selection.lq:  # in every split: the library wants the same columns everywhere
            lq = [f"lq/{face.face_id}.png" if face.face_id in selection.lq else None for face in faces]
            table["lq_file_name"] = pa.array(lq, pa.string())
        if selection.options.version == "best":
            for key in ("version", "parent"):
                table[key] = pa.array([rows[face.face_id][key] for face in faces], pa.string())
        if selection.options.names:
            table["name"] = pa.array([face.name for face in faces], pa.string())
        if selection.options.embeddings:
            vectors = [selection.embeddings[face.face_id].tolist() for face in faces]
            table["embedding"] = pa.array(vectors, pa.list_(pa.float32()))
        folder.add_table(f"{split}/metadata.parquet", pa.table(table))
        for face in faces:
            folder.add_image(f"{split}/{face.face_id}.png", face.image)
            if face.face_id in selection.lq:
                folder.add_image(f"{split}/lq/{face.face_id}.png", selection.lq[face.face_id])


def facts(selection: Selection) -> dict[str, dict[str, Any]]:
    """face -> what may be said of it, the same in every format that has a place for it."""
    pairs = {pair.target: pair for pair in selection.pairs}
    return {
        key: {
            "face_id": key,
            "identity": face.identity_id,
            "split": face.split,
            "is_target": key in pairs,
            "references": list(pairs[key].references) if key in pairs else [],
            "similarities": list(pairs[key].similarities) if key in pairs else [],
            **face.facts,
        }
        for key, face in selection.faces.items()
    }
