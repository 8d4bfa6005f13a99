"""Measure each image under each system. A row has the values of one image under one system.

The measured image is an image that the restorer restores, a file that another method restored, or the LQ image itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from curate.faces.align import crop_for_recognizer
from curate.faces.interface import FaceModels
from curate.faces.measure import measure_sharpness
from manifests.errors import BadInput
from manifests.pictures.untrusted_images import Read
from manifests.runtime.text import make_printable
from train.data.landmarks import find_landmarks
from train.data.mesh import find_warp_points, warps_references
from train.data.tensors import to_image, to_tensor
from train.evaluation.aggregate import Row
from train.evaluation.cases import Case
from train.evaluation.systems import Embed, System, select_references
from train.metrics.measure import Measure
from train.metrics.registry import METRICS
from train.models.restorer import Restorer
from train.restore.load_restorer import needs_reference, run_model
from train.restore.output_paths import list_photos
from train.restore.references.confirm_references import REFERENCE_PARTS, confirm_references
from train.restore.references.reference_photos import (
    References,
    embed_references,
    join_references,
    limit_references,
    warp_references,
)

# A function of type OnImage is called with each row and its image, uint8 (S, S, 3). Outside the photo, the image has
# the pixels of the target.
OnImage = Callable[[Row, np.ndarray], None]


def measure_systems(
    case: Case,
    model: Restorer,
    measure: Measure,
    systems: Sequence[System],
    recognizer: FaceModels,
    metrics: Sequence[str],
    on_image: OnImage = lambda *_: None,
) -> Iterator[Row]:
    """Yields a row for each system. A system has no row if the case has no references for the system.

    `recognizer` embeds faces and finds landmarks for the restorer. As in `restore`, references that do not seem to show
    the person of the LQ image are left out (train/restore/references/confirm_references.py). References are not left
    out if the system trusts them, or if the restorer uses no references. The column `left_out` counts the references
    that were left out. If the recipe warps references, this function warps the references to the landmarks on the LQ
    image, as in `restore`.
    """
    embed = make_embedder(recognizer)
    nothing = join_references((), case.lq.shape[0], recognizer.dim)

    @cache
    def restore_alone() -> torch.Tensor:
        return run_model(model, to_tensor(case.lq)[None], nothing)[0]

    @cache
    def embed_restored() -> np.ndarray:
        # An image with NaN or infinity gets an embedding of zeros, which confirms no reference.
        restored = restore_alone()
        return embed([to_image(restored)])[0] if is_finite(restored) else np.zeros(recognizer.dim, np.float32)

    @cache
    def embed_input() -> np.ndarray:
        return embed([case.lq])[0]

    def is_confirmed(references: References) -> bool:
        vectors, sharpness = references.embeddings.numpy(), measure_sharpness(case.lq)
        same_person = recognizer.same_person
        alone = None if needs_reference(model) else embed_restored
        return confirm_references(embed_input(), sharpness, vectors, same_person, alone).confirmed

    parts = model.config.parts
    warps, checks = warps_references(parts), bool(REFERENCE_PARTS & set(parts))

    def find_points(crop: np.ndarray) -> np.ndarray | None:
        return find_warp_points(parts, crop, find_landmarks(crop, recognizer))

    lq_points = find_points(case.lq) if warps else None
    for system in systems:
        row = _start_row(case, system.key, system.name)
        if not system.restores:
            yield measure_input(case, measure, metrics, on_image)
            continue
        references = select_references(case, system, embed)
        if references is None:
            continue
        references = limit_references(model, references)
        row["references"] = len(references.crops)
        if checks and len(references.crops) and not system.trust and not is_confirmed(references):
            row["left_out"], references = len(references.crops), nothing
        if system.source == "wrong" and len(references.crops):
            row["shown_identity_id"] = case.wrong_identity_id
        references = embed_references(model, references)
        if warps:
            own_points = tuple(find_points(to_image(crop)) for crop in references.crops)
            references = warp_references(model, replace(references, landmarks=own_points), lq_points)
        alone = not len(references.crops)
        restored = restore_alone() if alone else run_model(model, to_tensor(case.lq)[None], references)[0]
        if not is_finite(restored):
            yield _finish_unmeasured(row, "the restored image contains NaN or infinity", metrics)
            continue
        # The image is measured in 8 bits, like an image that is read from a file.
        yield _finish_measured(row, case, to_image(restored), measure, metrics, on_image)


def is_finite(image: torch.Tensor) -> bool:
    """Returns whether an image contains neither NaN nor infinity."""
    return bool(torch.isfinite(image).all())


def make_embedder(recognizer: FaceModels) -> Embed:
    """Returns a function that embeds crops in the FFHQ template."""

    def embed(crops: Sequence[np.ndarray]) -> np.ndarray:
        return recognizer.embed(np.stack([crop_for_recognizer(c, recognizer.template, recognizer.size) for c in crops]))

    return embed


def match_files(
    folder: Path, cases: Sequence[Case], without_case: Collection[str] = ()
) -> tuple[dict[str, Path], list[str]]:
    """Returns the files of `folder` that match a case, by face id, and the names of the files that match no image of
    the set.

    `without_case` has the faces of the set that have no case, because the faces have no reference. The files of these
    faces are neither measured nor returned.

    A file matches a case if its name without suffix is the face id. A file also matches if its name begins with the
    face id and an underscore, because many scripts name their results in this way. Raises BadInput if `folder` is not a
    folder, if no file matches, or if two files match the same case.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder: give a folder of restored images with --restored.")
    faces, files, unmatched = {case.face_id for case in cases}, dict[str, Path](), list[str]()
    known = faces.union(without_case)
    for path in list_photos(folder):
        face = path.stem if path.stem in known else path.stem.split("_")[0]
        if face not in known:
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


def measure_input(case: Case, measure: Measure, metrics: Sequence[str], on_image: OnImage = lambda *_: None) -> Row:
    """Returns the row of the LQ image itself."""
    return _finish_measured(_start_row(case, "lq", "LQ input"), case, case.lq, measure, metrics, on_image)


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
    if image.shape != case.target.shape:
        (height, width), (right_height, right_width) = image.shape[:2], case.target.shape[:2]
        reason = (
            f"{make_printable(path.name)} has {width} x {height} pixels, but the images of the set have "
            f"{right_width} x {right_height}"
        )
        return _finish_unmeasured(row, reason, metrics)
    return _finish_measured(row, case, image, measure, metrics, on_image)


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
    row: Row, case: Case, image: np.ndarray, measure: Measure, metrics: Sequence[str], on_image: OnImage
) -> Row:
    values: Mapping[str, float] = measure(image, case.target, case.references, case.wrong, case.valid)
    on_image(row, image if case.valid is None else np.where(case.valid[:, :, None], image, case.target))
    return row | {name: values.get(name, math.nan) for name in metrics}


def _finish_unmeasured(row: Row, reason: str, metrics: Sequence[str]) -> Row:
    return row | dict.fromkeys(metrics, math.nan) | {"reason": reason}


def select_image_metrics(names: Sequence[str]) -> list[str]:
    """Returns the metrics that have a value for each image, not only for a whole set."""
    return [name for name in names if METRICS[name].scope != "set"]
