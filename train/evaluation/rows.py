"""Measure each image under each system. A row has the values of one image under one system.

The measured image is an image that the restorer restores, a file that another method restored, or the LQ image itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from manifests.errors import BadInput
from manifests.pictures.untrusted_images import Read
from manifests.runtime.text import make_printable
from train.evaluation.aggregate import Row
from train.evaluation.cases import Case
from train.evaluation.restore_case import RestoredCase
from train.evaluation.systems import System, choose_photos
from train.metrics.measure import Measure
from train.metrics.registry import METRICS
from train.restore.output_paths import list_photos

# A function of type OnImage is called with each row and its image, uint8 (S, S, 3). Where the crop extends
# beyond the photo, the image has the target's pixels.
OnImage = Callable[[Row, np.ndarray], None]


def measure_systems(
    case: Case,
    restorations: Mapping[tuple[str, str], RestoredCase],
    measure: Measure,
    systems: Sequence[System],
    metrics: Sequence[str],
    on_image: OnImage = lambda *_: None,
) -> Iterator[Row]:
    """Yields a row for each system. A system has no row if the case has no references for the system.

    `restorations` has the restoration of each case under each system, by the face id of the case and the key of the
    system (train/evaluation/cache/cached_restorations.py). The column `left_out` counts the
    references that were left out, because they do not seem to show the person of the LQ image.
    """
    for system in systems:
        if not system.restores:
            yield measure_input(case, measure, metrics, on_image)
            continue
        if choose_photos(case, system) is None:
            continue
        row, restored = _start_row(case, system.key, system.name), restorations[case.face_id, system.key]
        row["references"], row["left_out"] = restored.references, restored.left_out
        if system.source == "wrong" and restored.references > restored.left_out:
            row["shown_identity_id"] = case.wrong_identity_id
        if restored.image is None:
            yield _finish_unmeasured(row, "the restored image contains NaN or infinity", metrics)
        else:
            yield _finish_measured(row, case, restored.image, measure, metrics, on_image, case.lq)


def match_files(
    folder: Path, cases: Sequence[Case], without_case: Collection[str] = ()
) -> tuple[dict[str, Path], list[str]]:
    """Returns the files of `folder` that match a case, by face id, and the names of the files that match no image of
    the set.

    `without_case` has the faces of the set that have no case, because the faces have no reference. The files of these
    faces are neither measured nor returned.

    A file matches a case if its name without suffix is the face id. A file also matches if its name begins with the
    face id and an underscore, because many scripts name their results in this way. If several face ids fit, the longest
    counts. Raises BadInput if `folder` is not a
    folder, if no file matches, or if two files match the same case.
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


def find_unusable_files(files: Mapping[str, Path], cases: Sequence[Case], read: Read) -> dict[str, str]:
    """Returns why a folder has no usable file of a case, by face id, for the cases without a usable file.

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
        if (problem := _find_wrong_size(path, image, case)) is not None:
            raise BadInput(f"{problem}. Write the images of {path.parent} at the size of the LQ images.")
    return reasons


def _find_wrong_size(path: Path, image: np.ndarray, case: Case) -> str | None:
    if image.shape == case.lq.shape:
        return None
    (height, width), (right_height, right_width) = image.shape[:2], case.lq.shape[:2]
    return (
        f"{make_printable(path.name)} has {width} x {height} pixels, but the images of the set have "
        f"{right_width} x {right_height}"
    )


def measure_input(case: Case, measure: Measure, metrics: Sequence[str], on_image: OnImage = lambda *_: None) -> Row:
    """Returns the row of the LQ image itself. It has no values of metrics that compare an image with the LQ image."""
    row = _start_row(case, "lq", "LQ input")
    return _finish_measured(row, case, case.lq, measure, metrics, on_image, lq=None)


def measure_file(
    case: Case,
    path: Path | None,
    key: str,
    name: str,
    measure: Measure,
    metrics: Sequence[str],
    read: Read,
    on_image: OnImage = lambda *_: None,
) -> Row:
    """Returns the row of an image that another method restored, with a reason if the image cannot be measured."""
    row = _start_row(case, key, name)
    if path is None:
        return _finish_unmeasured(row, "the file is missing", metrics)
    try:
        image = read(path)
    except BadInput as error:
        return _finish_unmeasured(row, str(error), metrics)
    if (reason := _find_wrong_size(path, image, case)) is not None:
        return _finish_unmeasured(row, reason, metrics)
    return _finish_measured(row, case, image, measure, metrics, on_image, case.lq)


def _start_row(case: Case, key: str, name: str) -> Row:
    return {
        "face_id": case.face_id,
        "identity_id": case.identity_id,
        "key": key,
        "system": name,
        "references": 0,
        "left_out": 0,
        "shown_identity_id": case.identity_id,
        "reason": None,
    }


def _finish_measured(
    row: Row,
    case: Case,
    image: np.ndarray,
    measure: Measure,
    metrics: Sequence[str],
    on_image: OnImage,
    lq: np.ndarray | None,
) -> Row:
    values: Mapping[str, float] = measure(image, case.target, case.references, case.wrong, case.valid, lq=lq)
    if case.valid is not None and case.target is not None:
        image = np.where(case.valid[:, :, None], image, case.target)
    on_image(row, image)
    return row | {name: values.get(name, math.nan) for name in metrics}


def _finish_unmeasured(row: Row, reason: str, metrics: Sequence[str]) -> Row:
    return row | dict.fromkeys(metrics, math.nan) | {"reason": reason}


def select_image_metrics(names: Sequence[str]) -> list[str]:
    """Returns the metrics that have a value for each image, not only for a whole set."""
    return [name for name in names if METRICS[name].scope != "set"]
