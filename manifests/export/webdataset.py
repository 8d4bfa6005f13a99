"""WebDataset: `SPLIT/000000.tar` with `FACE.png` and `FACE.json` a face, and index.parquet over all shards.

Where asked for, `FACE.lq.png` is the frozen low-quality picture and `FACE.npy` the embedding, float32 (d,). A shard has
no clock, no owner and a fixed order, so that the same faces are the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import ExitStack

import numpy as np
import pyarrow as pa

from manifests.export import imagefolder
from manifests.export.output_folder import OutputFolder
from manifests.export.selection import ExportedFace, Selection

INDEX = "index.parquet"
_BLOCK = 512  # bytes of a tar's header, and what members are padded to
_END = 20 * _BLOCK  # a tar is padded to whole records of this size

keep = imagefolder.keep
Members = list[tuple[str, bytes]]


def write(selection: Selection, folder: OutputFolder) -> None:
    index: list[tuple[str, int, int, str, str, str]] = []
    for split in sorted({face.split for face in selection.faces.values()}):
        _write_split(selection, folder, split, index)
    names = ("shard", "offset", "bytes", "key", "split", "identity")
    types = (pa.string(), pa.int64(), pa.int64(), pa.string(), pa.string(), pa.string())
    arrays = [pa.array([row[i] for row in index], kind) for i, kind in enumerate(types)]
    folder.add_table(INDEX, pa.table(arrays, names))


def _write_split(
    selection: Selection, folder: OutputFolder, split: str, index: list[tuple[str, int, int, str, str, str]]
) -> None:
    """The shards of a split, each closed before it would be larger than asked; one sample at least each."""
    rows = imagefolder.facts(selection)
    number, size = -1, 0
    with ExitStack() as shard:
        tar: tarfile.TarFile | None = None
        for face in selection.faces_of(split):
            members = _members(selection, folder, face, rows[face.face_id])
            more = sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for _, data in members)
            if tar is None or size + more > selection.options.shard_bytes:
                shard.close()
                number, size = number + 1, _END
                file = shard.enter_context(folder.open_stream(f"{split}/{number:06d}.tar"))
                tar = shard.enter_context(tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT))
            begin = tar.offset
            for name, data in members:
                tar.addfile(_header(name, len(data)), io.BytesIO(data))
            index.append((f"{split}/{number:06d}.tar", begin, more, face.face_id, split, face.identity_id))
            size += more


def _members(selection: Selection, folder: OutputFolder, face: ExportedFace, row: dict) -> Members:
    """The files of one sample, by name below the shard."""
    key = face.face_id
    told = {**row, "name": face.name} if selection.options.names else row
    found: Members = [(f"{key}.json", (json.dumps(told, sort_keys=True) + "\n").encode())]
    if key in selection.lq:
        found.append((f"{key}.lq.png", folder.read_image(selection.lq[key])))
    if selection.options.embeddings:
        sink = io.BytesIO()
        np.save(sink, selection.embeddings[key].astype(np.float32))
        found.append((f"{key}.npy", sink.getvalue()))
    return [*found, (f"{key}.png", folder.read_image(face.image))]


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = size, 0o644, 0
    return header
