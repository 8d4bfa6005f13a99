"""InstantRestore: `train/ID/cropped_images/*.png` to train on, `test/ID/{degraded,gt}.png` and `conditioning/` to test.

As in restore_dataset.py, which draws references from a person's folder and skips people of one picture, and in
inference/test.py, which takes the first four of `conditioning/` in natural order. `new_landmarks/*.npy` come from an
extractor that was not released, so they are not written.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

from manifests.export.output_folder import OutputFolder
from manifests.export.selection import ExportedFace, Selection, drop_targets_without_lq

TESTED = ("val", "test")


def keep(selection: Selection) -> Selection:
    """Targets of val and test that have a low-quality picture; of train, people with two pictures or more."""
    selection, trained = drop_targets_without_lq(selection, set(TESTED)), _trained(selection)
    shown = {face for pair in selection.pairs for face in (pair.target, *pair.references)}
    alone = {face.face_id for face in selection.faces_of("train")} - trained - shown
    faces = {key: face for key, face in selection.faces.items() if key not in alone}
    left = Counter({("faces", "one_picture_of_this_person"): len(alone)})
    return replace(selection, faces=faces, left_out=selection.left_out + left).with_faces(trained, "in_no_pair")


def write(selection: Selection, folder: OutputFolder) -> None:
    if "train" in selection.options.splits:
        for person, faces in _people(selection).items():
            for face in faces:
                folder.add_image(f"train/{person}/cropped_images/{face.face_id}.png", face.image)
    for pair in selection.pairs:
        if pair.split not in TESTED:
            continue
        here = f"{pair.split}/{pair.target}"
        folder.add_image(f"{here}/degraded.png", selection.lq[pair.target])
        folder.add_image(f"{here}/gt.png", selection.faces[pair.target].image)
        for place, ref in enumerate(pair.references):
            folder.add_image(f"{here}/conditioning/{place:03d}_{ref}.png", selection.faces[ref].image)


def _people(selection: Selection) -> dict[str, list[ExportedFace]]:
    """identity -> its training faces, of people with two or more."""
    found: dict[str, list[ExportedFace]] = defaultdict(list)
    if "train" in selection.options.splits:
        for face in selection.faces_of("train"):
            found[face.identity_id].append(face)
    return {person: faces for person, faces in sorted(found.items()) if len(faces) > 1}


def _trained(selection: Selection) -> set[str]:
    return {face.face_id for faces in _people(selection).values() for face in faces}
