"""Writes the format imagefolder of Hugging Face: `SPLIT/FACE.png` and one `SPLIT/metadata.parquet`.

The call `load_dataset("imagefolder", ...)` reads the folder. When the library `datasets` reads the folder, it replaces
the column `file_name` by the column `image`, and the column `lq_file_name` of a frozen set by the column `lq`.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from manifests.export.output_folder import OutputFolder
from manifests.export.selection import MEASURES, PHOTO_FACTS, Selection, drop_targets_without_lq

_TYPES: dict[str, pa.DataType] = {
    "face_id": pa.string(),
    "identity": pa.string(),
    "split": pa.string(),
    "is_target": pa.bool_(),
    "references": pa.list_(pa.string()),
    "similarities": pa.list_(pa.float32()),
    "gap_days": pa.list_(pa.int32()),
    **dict.fromkeys(PHOTO_FACTS, pa.string()),
    **{measure: pa.float32() for measure in MEASURES},
}


def keep(selection: Selection) -> Selection:
    """Returns the selection.

    If a split has low-quality images, its targets without a low-quality image are left out.
    """
    return drop_targets_without_lq(selection, selection.lq_splits)


def write(selection: Selection, folder: OutputFolder) -> None:
    facts_of = describe_faces(selection)
    for split in sorted({face.split for face in selection.faces.values()}):
        faces = selection.faces_of(split)
        facts = [facts_of[face.face_id] for face in faces]
        columns = {
            "file_name": pa.array([f"{face.face_id}.png" for face in faces]),
            **{key: pa.array([fact[key] for fact in facts], kind) for key, kind in _TYPES.items()},
        }
        # the library `datasets` requires the same columns in all splits
        if selection.lq:
            lq = [f"lq/{face.face_id}.png" if face.face_id in selection.lq else None for face in faces]
            columns["lq_file_name"] = pa.array(lq, pa.string())
        if selection.options.version == "best":
            for key in ("version", "parent"):
                columns[key] = pa.array([fact[key] for fact in facts], pa.string())
        if selection.options.names:
            columns["name"] = pa.array([face.name for face in faces], pa.string())
        if selection.options.embeddings:
            embeddings = [selection.embeddings[face.face_id].tolist() for face in faces]
            columns["embedding"] = pa.array(embeddings, pa.list_(pa.float32()))
        folder.add_table(f"{split}/metadata.parquet", pa.table(columns))
        for face in faces:
            folder.add_image(f"{split}/{face.face_id}.png", face.image)
            if face.face_id in selection.lq:
                folder.add_image(f"{split}/lq/{face.face_id}.png", selection.lq[face.face_id])


def describe_faces(selection: Selection) -> dict[str, dict[str, Any]]:
    """Returns a dict that maps a face id to the facts about the face, without its name and its embedding."""
    pair_of = {pair.target: pair for pair in selection.pairs}
    return {
        face_id: {
            "face_id": face_id,
            "identity": face.identity_id,
            "split": face.split,
            "is_target": face_id in pair_of,
            "references": list(pair_of[face_id].references) if face_id in pair_of else [],
            "similarities": list(pair_of[face_id].similarities) if face_id in pair_of else [],
            "gap_days": list(pair_of[face_id].gap_days) if face_id in pair_of else [],
            **face.facts,
        }
        for face_id, face in selection.faces.items()
    }
