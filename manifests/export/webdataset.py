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
from manifests.export.choose import Chosen, ExportedFace
from manifests.export.folder import Folder

INDEX = "index.parquet"
_BLOCK = 512  # bytes of a tar's header, and what members are padded to
_END = 20 * _BLOCK  # a tar is padded to whole records of this size

keep = imagefolder.keep
Members = list[tuple[str, bytes]]


def write(chosen: Chosen, folder: Folder) -> None:
    index: list[tuple[str, int, int, str, str, str]] = []
    for split in sorted({face.split for face in chosen.faces.values()}):
        _write_split(chosen, folder, split, index)
    names = ("shard", "offset", "bytes", "key", "split", "identity")
    types = (pa.string(), pa.int64(), pa.int64(), pa.string(), pa.string(), pa.string())
    arrays = [pa.array([row[i] for row in index], kind) for i, kind in enumerate(types)]
    folder.table(INDEX, pa.table(arrays, names))


def _write_split(chosen: Chosen, folder: Folder, split: str, index: list[tuple[str, int, int, str, str, str]]) -> None:
    """The shards of a split, each closed before it would be larger than asked; one sample at least each."""
    rows = imagefolder.facts(chosen)
    number, size = -1, 0
    with ExitStack() as shard:
        tar: tarfile.TarFile | None = None
        for face in chosen.faces_of(split):
            members = _members(chosen, folder, face, rows[face.face_id])
            more = sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for _, data in members)
            if tar is None or size + more > chosen.wanted.shard_bytes:
                shard.close()
                number, size = number + 1, _END
                file = shard.enter_context(folder.stream(f"{split}/{number:06d}.tar"))
                tar = shard.enter_context(tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT))
            begin = tar.offset
            for name, data in members:
                tar.addfile(_header(name, len(data)), io.BytesIO(data))
            index.append((f"{split}/{number:06d}.tar", begin, more, face.face_id, split, face.identity_id))
            size += more


def _members(chosen: Chosen, folder: Folder, face: ExportedFace, row: dict) -> Members:
    """The files of one sample, by name below the shard."""
    key = face.face_id
    told = {**row, "name": face.name} if chosen.wanted.names else row
    found: Members = [(f"{key}.json", (json.dumps(told, sort_keys=True) + "\n").encode())]
    if key in chosen.lq:
        found.append((f"{key}.lq.png", folder.read(chosen.lq[key])))
    if chosen.wanted.embeddings:
        sink = io.BytesIO()
        np.save(sink, chosen.embeddings[key].astype(np.float32))
        found.append((f"{key}.npy", sink.getvalue()))
    return [*found, (f"{key}.png", folder.read(face.picture))]


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = size, 0o644, 0
    return header
