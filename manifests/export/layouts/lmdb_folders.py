"""Writes LMDB databases in the layout of BasicSR: `SPLIT.lmdb/` with data.mdb and meta_info.txt.

The layout follows BasicSR's lmdb_util.py, data_util.py and file_client.py. The key of an image is its name without
`.png`, and the value is the PNG file. A line of meta_info.txt has the name, the shape and the level of PNG compression.
GFPGAN and CodeFormer train on such a database. If low-quality images are exported, `SPLIT_gt.lmdb` and `SPLIT_lq.lmdb`
have the same keys, as BasicSR's PairedImageDataset needs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from manifests.errors import BadInput
from manifests.export.output_folder import OutputFolder
from manifests.export.selection import Selection

_LEVEL = 1  # The level of PNG compression in meta_info.txt, as BasicSR writes it. No reader uses this number.
_PAGE = 4096  # Size of a page of LMDB in bytes.
_BATCH = 256  # Number of images in a transaction. LMDB keeps these images in memory until the transaction ends.


def keep(selection: Selection) -> Selection:
    return selection


def write(selection: Selection, folder: OutputFolder) -> None:
    for split in sorted({face.split for face in selection.faces.values()}):
        faces = [(face.face_id, face.image) for face in selection.faces_of(split)]
        _write_database(folder, f"{split}.lmdb", faces)
        targets = sorted(pair.target for pair in selection.pairs_of(split) if pair.target in selection.lq)
        if targets:
            _write_database(folder, f"{split}_gt.lmdb", [(face, selection.faces[face].image) for face in targets])
            _write_database(folder, f"{split}_lq.lmdb", [(face, selection.lq[face]) for face in targets])


def _write_database(folder: OutputFolder, name: str, images: Sequence[tuple[str, Path]]) -> None:
    """Write a database that maps each key to the bytes of a PNG file, and its meta_info.txt. The keys are sorted."""
    try:
        import lmdb
    except ImportError:
        raise BadInput("The format lmdb needs the library lmdb. Install it with `pip install lmdb`.") from None
    # LMDB stores each image in whole pages. The tree of keys needs less than one more page for each image.
    size = sum(image.stat().st_size + 2 * _PAGE for _, image in images if image.is_file()) + 256 * _PAGE
    lines = []
    place = folder.root / name
    with lmdb.open(str(place), map_size=size, readahead=False) as database:
        for start in range(0, len(images), _BATCH):
            with database.begin(write=True) as transaction:
                for key, image in images[start : start + _BATCH]:
                    data = folder.read_image(image)
                    folder.note_place(image, f"{name}/data.mdb")
                    transaction.put(key.encode(), data, append=True)
                    width, height = struct.unpack_from(">II", data, 16)  # the size is in IHDR, the first chunk of a PNG
                    lines.append(f"{key}.png ({height},{width},3) {_LEVEL}\n")
    (place / "lock.mdb").unlink()  # the file contains a process id, and BasicSR opens a database without locks
    folder.count_file(f"{name}/data.mdb")
    folder.add_bytes(f"{name}/meta_info.txt", "".join(lines).encode())
