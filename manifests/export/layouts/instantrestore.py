"""Writes the format of InstantRestore:

`train/PERSON/cropped_images/` for each person, and `test/TARGET/` for each target.

The folder of a target contains degraded.png, gt.png and the references in `conditioning/`. The layout follows
InstantRestore's restore_dataset.py and inference/test.py. The script restore_dataset.py draws references from a
person's folder, and skips people with one image. The script test.py takes the first four images of `conditioning/` in
natural order. The files `new_landmarks/*.npy` are not written. The authors' README says that the landmark extractor
that makes these files is not part of the released code.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

from manifests.export.output_folder import OutputFolder
from manifests.export.selection import ExportedFace, Selection, drop_targets_without_lq

TEST_SPLITS = ("val", "test")


def keep(selection: Selection) -> Selection:
    """Returns the targets of val and test that have a low-quality image, their references, and the training faces.

    A training face is left out if it belongs to no pair and is the only training face of its person.
    """
    selection = drop_targets_without_lq(selection, set(TEST_SPLITS))
    training_faces = {face.face_id for faces in _group_training_faces(selection).values() for face in faces}
    in_pairs = {face for pair in selection.pairs for face in (pair.target, *pair.references)}
    single_faces = {face.face_id for face in selection.faces_of("train")} - training_faces - in_pairs
    faces = {key: face for key, face in selection.faces.items() if key not in single_faces}
    left_out = Counter({("faces", "one_picture_of_this_person"): len(single_faces)})
    selection = replace(selection, faces=faces, left_out=selection.left_out + left_out)
    return selection.with_faces(training_faces, "in_no_pair")


def write(selection: Selection, folder: OutputFolder) -> None:
    for person, faces in _group_training_faces(selection).items():
        for face in faces:
            folder.add_image(f"train/{person}/cropped_images/{face.face_id}.png", face.image)
    for pair in selection.pairs:
        if pair.split not in TEST_SPLITS:
            continue
        place = f"{pair.split}/{pair.target}"
        folder.add_image(f"{place}/degraded.png", selection.lq[pair.target])
        folder.add_image(f"{place}/gt.png", selection.faces[pair.target].image)
        for number, ref in enumerate(pair.references):
            folder.add_image(f"{place}/conditioning/{number:03d}_{ref}.png", selection.faces[ref].image)


def _group_training_faces(selection: Selection) -> dict[str, list[ExportedFace]]:
    """Returns a dict that maps identity id to the person's training faces, for people with two training faces or more.

    Returns {} if the split `train` is not exported.
    """
    people: dict[str, list[ExportedFace]] = defaultdict(list)
    if "train" in selection.options.splits:
        for face in selection.faces_of("train"):
            people[face.identity_id].append(face)
    return {person: faces for person, faces in sorted(people.items()) if len(faces) > 1}
