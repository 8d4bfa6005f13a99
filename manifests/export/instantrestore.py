"""InstantRestore: `train/ID/cropped_images/*.png` to train on, `test/ID/{degraded,gt}.png` and `conditioning/` to test.

As in restore_dataset.py, which draws references from a person's folder and skips people of one picture, and in
inference/test.py, which takes the first four of `conditioning/` in natural order. `new_landmarks/*.npy` come from an
extractor that was not released, so they are not written.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

from manifests.export.choose import Chosen, ExportedFace, without_lq
from manifests.export.folder import Folder

TESTED = ("val", "test")


def keep(chosen: Chosen) -> Chosen:
    """Targets of val and test that have a low-quality picture; of train, people with two pictures or more."""
    chosen, trained = without_lq(chosen, set(TESTED)), _trained(chosen)
    shown = {face for case in chosen.cases for face in (case.target, *case.references)}
    alone = {face.face_id for face in chosen.faces_of("train")} - trained - shown
    faces = {key: face for key, face in chosen.faces.items() if key not in alone}
    left = Counter({("faces", "one_picture_of_this_person"): len(alone)})
    return replace(chosen, faces=faces, left_out=chosen.left_out + left).with_faces(trained, "in_no_pair")


def write(chosen: Chosen, folder: Folder) -> None:
    if "train" in chosen.wanted.splits:
        for person, faces in _people(chosen).items():
            for face in faces:
                folder.picture(f"train/{person}/cropped_images/{face.face_id}.png", face.picture)
    for case in chosen.cases:
        if case.split not in TESTED:
            continue
        here = f"{case.split}/{case.target}"
        folder.picture(f"{here}/degraded.png", chosen.lq[case.target])
        folder.picture(f"{here}/gt.png", chosen.faces[case.target].picture)
        for place, ref in enumerate(case.references):
            folder.picture(f"{here}/conditioning/{place:03d}_{ref}.png", chosen.faces[ref].picture)


def _people(chosen: Chosen) -> dict[str, list[ExportedFace]]:
    """identity -> its training faces, of people with two or more."""
    found: dict[str, list[ExportedFace]] = defaultdict(list)
    if "train" in chosen.wanted.splits:
        for face in chosen.faces_of("train"):
            found[face.identity_id].append(face)
    return {person: faces for person, faces in sorted(found.items()) if len(faces) > 1}


def _trained(chosen: Chosen) -> set[str]:
    return {face.face_id for faces in _people(chosen).values() for face in faces}
