"""Writes a zip file for each split, as StyleGAN's dataset_tool.py does for FFHQ. `SPLIT.zip` has PNGs and dataset.json.

The dataset classes of StyleGAN2-ADA, StyleGAN3, EDM and EDM2 read such a zip file. dataset.json has a number for each
picture. This number stands for the person, so that a generator can be trained with the person as its condition. PNGs
are stored without another compression and with a fixed time, so the same faces give the same bytes.
"""

from __future__ import annotations

import json
import zipfile

from manifests.export.output_folder import OutputFolder
from manifests.export.selection import Selection

LABELS = "dataset.json"
_FOLDER = "00000"  # dataset_tool.py puts the first 1000 pictures into this folder; the readers accept any folder


def keep(selection: Selection) -> Selection:
    return selection


def write(selection: Selection, folder: OutputFolder) -> None:
    for split in sorted({face.split for face in selection.faces.values()}):
        faces = selection.faces_of(split)
        people = {person: number for number, person in enumerate(sorted({face.identity_id for face in faces}))}
        labels = []
        with folder.open_stream(f"{split}.zip") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for face in faces:
                name = f"{_FOLDER}/{face.face_id}.png"
                archive.writestr(_make_entry(name), folder.read_image(face.image))
                folder.note_place(face.image, f"{split}.zip")
                labels.append([name, people[face.identity_id]])
            archive.writestr(_make_entry(LABELS), json.dumps({"labels": labels}))


def _make_entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # The time is the earliest that a zip file can store.
    # The entry names Unix as its system on every machine, so that the bytes are the same.
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    return entry
