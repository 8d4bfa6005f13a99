"""Finds and checks the files of a folder of images that another method restored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from manifests.errors import BadInput
from manifests.pictures.untrusted_images import Read, open_reader
from manifests.runtime.text import format_count, make_printable
from train.evaluation.sets.cases import Case
from train.restore.output_paths import list_photos


def match_files(
    folder: Path, cases: Sequence[Case], without_case: Collection[str] = ()
) -> tuple[dict[str, Path], list[str]]:
    """Returns the files of `folder` that match a case, by face id, and the names of the files that match no image of
    the set.

    `without_case` has the faces of the set that have no case, because the faces have no reference. The files of these
    faces are neither measured nor returned.

    A file matches a case if its name without suffix is the face id. A file also matches if its name begins with the
    face id and an underscore, because many scripts name their results in this way. If a name begins with several face
    ids, the longest of them counts. Raises BadInput if `folder` is not a folder, if no file matches, or if two files
    match the same case.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder: give a folder of restored images with --restored.")
    faces, files, unmatched = {case.face_id for case in cases}, dict[str, Path](), list[str]()
    known = faces.union(without_case)
    for path in list_photos(folder):
        parts = path.stem.split("_")
        beginnings = ("_".join(parts[:count]) for count in range(len(parts), 0, -1))
        face = next((name for name in beginnings if name in known), None)
        if face is None:
            unmatched.append(path.name)
        elif face not in faces:
            continue
        elif face in files:
            raise BadInput(
                f"{folder} contains two files for one image, {files[face].name} and {path.name}: remove one of them."
            )
        else:
            files[face] = path
    if not files:
        raise BadInput(
            f"No file in {folder} has the name of an image of the frozen set: rename the files to the names of the LQ "
            f"images, for example {cases[0].face_id}.png."
        )
    return files, unmatched


def keep_common_cases(
    folders: Mapping[Path, Mapping[str, Path]],
    cases: tuple[Case, ...],
    partial: bool,
    keep: Callable[[Path, np.ndarray], None] = lambda *_: None,
) -> tuple[Case, ...]:
    """Returns the cases of which every folder has a usable file. Every file is read.

    `folders` has the files of each folder, by face id. `keep` is called with each usable file and its image. Raises
    BadInput if a folder lacks a case and `partial` is False, if a file has the wrong size, or if no case would be left.
    """
    lacking: dict[str, str] = {}  # face id -> why the first folder without a usable file has none
    with open_reader(limited=True) as read:
        for folder, files in folders.items():
            reasons = _find_unusable_files(files, cases, read, keep)
            if reasons and not partial:
                raise BadInput(
                    f"{folder} has {len(cases) - len(reasons)} of {format_count(len(cases), 'image')} of the set: "
                    f"{next(iter(reasons.values()))}. Complete the folder, or give --partial to measure only the "
                    "images that all folders have."
                )
            lacking |= reasons
    kept = tuple(case for case in cases if case.face_id not in lacking)
    if not kept:
        raise BadInput("No image is in all folders of --restored. Give folders that have at least one image in common.")
    return kept


def _find_unusable_files(
    files: Mapping[str, Path], cases: Sequence[Case], read: Read, keep: Callable[[Path, np.ndarray], None]
) -> dict[str, str]:
    """Maps the face id of each case without a usable file to the reason.

    Every file is read. Raises BadInput if a file has the wrong size, because all files of a folder then need a change.
    """
    reasons = {}
    for case in cases:
        path = files.get(case.face_id)
        if path is None:
            reasons[case.face_id] = f"the file of image {case.face_id} is missing"
            continue
        try:
            image = read(path)
        except BadInput as error:
            reasons[case.face_id] = str(error).rstrip(".")
            continue
        if (problem := find_wrong_size(path, image, case)) is not None:
            raise BadInput(f"{problem}. Write the images of {path.parent} at the size of the LQ images.")
        keep(path, image)
    return reasons


def find_wrong_size(path: Path, image: np.ndarray, case: Case) -> str | None:
    """Returns what is wrong with the size of an image for a case, without a full stop, or None."""
    if image.shape == case.lq.shape:
        return None
    (height, width), (right_height, right_width) = image.shape[:2], case.lq.shape[:2]
    return (
        f"{make_printable(path.name)} has {width} x {height} pixels, but the images of the set have "
        f"{right_width} x {right_height}"
    )
