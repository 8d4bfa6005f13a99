"""Writes the faces and the pairs of an export as plain tables, in CSV and in Parquet. Every format has these tables.

`splits` has a row for each face, and `pairs` has a row for each reference of each target. If cleaned versions are
exported, `splits` also has the columns `version` and `parent`, as in the format imagefolder.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from manifests.export.output_folder import OutputFolder
from manifests.export.selection import PHOTO_FACTS, Selection

TABLES = "likeness_tables"  # folder of the tables in an export

# The columns `file` and `lq_file` are paths in the export. If the format packs images into archives, these columns name
# the archive. The name or key of the image in the archive is the face id.
_SPLITS = {
    "face_id": pa.string(),
    "identity": pa.string(),
    "split": pa.string(),
    "is_target": pa.bool_(),
    "file": pa.string(),
    "sha256": pa.string(),  # The sha256 of the PNG file of the exported crop.
    # The file of the low-quality image. NULL if the export has no low-quality image of the face.
    "lq_file": pa.string(),
    "lq_sha256": pa.string(),
    "source": pa.string(),
    "licence": pa.string(),
    "consent": pa.string(),
    "taken": pa.string(),  # Date and time by the clock of the camera (ISO 8601). NULL without a date.
    "taken_doubt": pa.string(),  # Why the date is doubtful, or NULL.
}
_PAIRS = {
    "target": pa.string(),  # The face id of the target.
    "reference": pa.string(),  # The face id of the reference.
    "place": pa.int32(),  # Place of the reference among the target's references. The first place is 1.
    "similarity": pa.float32(),  # Cosine similarity of the reference and the target, from -1 to 1.
    "gap_days": pa.int32(),  # Days between the photos of the reference and the target. NULL if a date is unknown.
    "split": pa.string(),  # The split of the target.
}


def write_tables(selection: Selection, folder: OutputFolder) -> None:
    """Write TABLES/{splits,pairs}.{csv,parquet}. The images must be in the folder before this call."""
    targets = {pair.target for pair in selection.pairs}
    versions = dict.fromkeys(("version", "parent"), pa.string()) if selection.options.version == "best" else {}
    faces = [
        (
            face_id,
            face.identity_id,
            face.split,
            face_id in targets,
            *folder.describe_image(face.image),
            *(folder.describe_image(selection.lq[face_id]) if face_id in selection.lq else (None, None)),
            *(face.facts[key] for key in (*PHOTO_FACTS, *versions)),
        )
        for face_id, face in sorted(selection.faces.items())
    ]
    pairs = [
        (pair.target, reference, place, cosine, days, pair.split)
        for pair in selection.pairs
        for place, (reference, cosine, days) in enumerate(
            zip(pair.references, pair.similarities, pair.gap_days, strict=True), 1
        )
    ]
    for name, columns, rows in (("splits", _SPLITS | versions, faces), ("pairs", _PAIRS, pairs)):
        folder.add_bytes(f"{TABLES}/{name}.csv", _format_csv(list(columns), rows))
        arrays = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(columns.values())]
        folder.add_table(f"{TABLES}/{name}.parquet", pa.table(arrays, list(columns)))


def _format_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """Returns a CSV file in UTF-8. None becomes an empty cell, and a truth value becomes `true` or `false`."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([str(cell).lower() if isinstance(cell, bool) else cell for cell in row] for row in rows)
    return buffer.getvalue().encode()
