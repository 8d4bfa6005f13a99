"""Writes the format WebDataset: shards `SPLIT/000000.tar` with the files of each face, and one index.parquet.

Each face has the files `FACE.png` and `FACE.json`. If the options ask for low-quality images, `FACE.lq.png` is the
frozen image. If the options ask for embeddings, `FACE.npy` is the embedding, float32 (d,). The headers of a shard have
no time and no owner, and the order of its files is fixed. The same faces therefore give the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.export.layouts import imagefolder
from manifests.export.output_folder import OutputFolder
from manifests.export.selection import ExportedFace, Selection

INDEX = "index.parquet"
INDEX_COLUMNS = (
    ("shard", pa.string()),
    ("offset", pa.int64()),  # position in the shard of the first tar header of the face, in bytes
    ("bytes", pa.int64()),
    ("key", pa.string()),
    ("split", pa.string()),
    ("identity", pa.string()),
)
_BLOCK = 512  # Size of a tar header in bytes. The content of each file is padded to a multiple of this size.
_END = 20 * _BLOCK  # A tar file is padded to a multiple of this number of bytes.

IndexRow = tuple[str, int, int, str, str, str]  # a row of the index: the values of INDEX_COLUMNS

keep = imagefolder.keep


def write(selection: Selection, folder: OutputFolder) -> None:
    index: list[IndexRow] = []
    for split in sorted({face.split for face in selection.faces.values()}):
        index += _write_split(selection, folder, split)
    arrays = [pa.array([row[i] for row in index], kind) for i, (_, kind) in enumerate(INDEX_COLUMNS)]
    folder.add_table(INDEX, pa.table(arrays, [name for name, _ in INDEX_COLUMNS]))


def _write_split(selection: Selection, folder: OutputFolder, split: str) -> list[IndexRow]:
    """Write the shards of a split, and return the rows of the index for these shards.

    A new shard begins when the next face would make the shard larger than `shard_bytes` of the options. Each shard
    contains at least one face.
    """
    index: list[IndexRow] = []
    facts_of = imagefolder.describe_faces(selection)
    number, size = -1, 0
    with ExitStack() as shard:
        tar: tarfile.TarFile | None = None
        for face in selection.faces_of(split):
            files = _make_files(selection, folder, face, facts_of[face.face_id])
            added = sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for _, data in files)
            if tar is None or size + added > selection.options.shard_bytes:
                shard.close()
                number, size = number + 1, _END
                name = f"{split}/{number:06d}.tar"
                file = shard.enter_context(folder.open_stream(name))
                tar = shard.enter_context(tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT))
            offset = tar.offset
            for member, data in files:
                tar.addfile(_make_header(member, len(data)), io.BytesIO(data))
            folder.note_place(face.image, name)
            if face.face_id in selection.lq:
                folder.note_place(selection.lq[face.face_id], name)
            index.append((name, offset, added, face.face_id, split, face.identity_id))
            size += added
    return index


def _make_files(
    selection: Selection, folder: OutputFolder, face: ExportedFace, facts: dict[str, Any]
) -> list[tuple[str, bytes]]:
    """Returns the files of one face as pairs of name and content."""
    key = face.face_id
    facts = {**facts, "name": face.name} if selection.options.names else facts
    files = [(f"{key}.json", (json.dumps(facts, sort_keys=True) + "\n").encode())]
    if key in selection.lq:
        files.append((f"{key}.lq.png", folder.read_image(selection.lq[key])))
    if selection.options.embeddings:
        buffer = io.BytesIO()
        np.save(buffer, selection.embeddings[key].astype(np.float32))
        files.append((f"{key}.npy", buffer.getvalue()))
    return [*files, (f"{key}.png", folder.read_image(face.image))]


def _make_header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = size, 0o644, 0
    return header
