"""Writes the folder layout of CelebRef-HQ: `images/PERSON/NUMBER.png`, and a list of pictures for each split.

A person's folder has five digits, and the pictures of a person are numbered from 0, as in DMDNet's examples. We saw no
lists of splits in DMDNet's repository, so the lists `lists/SPLIT_image.txt` are ours. `likeness manifest import
--format labelled-folder --split-lists` reads these lists.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

from manifests.export.output_folder import OutputFolder
from manifests.export.selection import ExportedFace, Selection

IMAGES, LISTS = "images", "lists"


def keep(selection: Selection) -> Selection:
    """Returns the selection without people who have only one face.

    Loaders need two pictures in a folder: a target and a reference.

    All faces of pairs stay, because a target and its references show one person.
    """
    people = Counter(face.identity_id for face in selection.faces.values())
    faces = {key: face for key, face in selection.faces.items() if people[face.identity_id] > 1}
    left_out = Counter({("faces", "one_picture_of_this_person"): len(selection.faces) - len(faces)})
    return replace(selection, faces=faces, left_out=selection.left_out + left_out)


def write(selection: Selection, folder: OutputFolder) -> None:
    people: dict[str, list[ExportedFace]] = defaultdict(list)
    for _, face in sorted(selection.faces.items()):
        people[face.identity_id].append(face)
    lists: dict[str, list[str]] = {split: [] for split in selection.options.splits}
    for number, (_, faces) in enumerate(sorted(people.items())):
        for place, face in enumerate(faces):
            name = f"{number:05d}/{place}.png"
            folder.add_image(f"{IMAGES}/{name}", face.image)
            lists.setdefault(face.split, []).append(name)
    for split, names in lists.items():
        folder.add_bytes(f"{LISTS}/{split}_image.txt", "".join(f"{name}\n" for name in names).encode())
