"""One image of a frozen set at a time: restored, or found in somebody's folder, and measured, a row a system."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curate.faces.align import crop_for_recognizer
from curate.faces.interface import FaceModels
from manifests.errors import BadInput
from manifests.runtime.text import make_printable
from manifests.runtime.untrusted_images import Read
from train.data.landmarks import find_landmarks
from train.data.tensors import to_image, to_tensor
from train.evaluation.cases import Case
from train.evaluation.systems import Embed, System, select_references
from train.metrics.measure import Measure
from train.metrics.registry import METRICS
from train.models.restorer import Restorer
from train.restore.load import run_model
from train.restore.output_paths import list_photos
from train.restore.reference_photos import warp_references

Row = dict[str, Any]
OnImage = Callable[[Row, np.ndarray], None]  # what is done with a row's picture


def measure_systems(
    case: Case,
    model: Restorer,
    measure: Measure,
    systems: Sequence[System],
    recognizer: FaceModels,
    names: Sequence[str],
    keep: OnImage = lambda *_: None,
) -> Iterator[Row]:
    """A row a system; none where a system has no references of its kind to show.

    `recognizer` embeds and finds landmarks for the restorer, as in `restore`: where the recipe warps, references are
    warped to those found on the LQ input.
    """
    embed = make_embedder(recognizer)
    warps = "warped" in model.config.parts
    seen_at = find_landmarks(case.lq, recognizer) if warps else None
    for system in systems:
        row = _row(case, system.key, system.name)
        if not system.restored:
            yield measure_input(case, measure, names, keep)
            continue
        references = select_references(case, system, embed)
        if references is None:
            continue
        row["references"] = len(references.crops)
        if system.of == "wrong":
            row["shown_identity_id"] = case.wrong_identity_id
        if warps:
            own = tuple(find_landmarks(to_image(crop), recognizer) for crop in references.crops)
            references = warp_references(model, replace(references, landmarks=own), seen_at)
        found = run_model(model, to_tensor(case.lq)[None], references)[0]
        if not bool(torch.isfinite(found).all()):
            yield _unmeasured(row, "the restorer gave numbers that are none", names)
            continue
        # what a file would hold: 8 bits
        yield _measured(row, case, to_image(found), measure, names, keep)


def make_embedder(recognizer: FaceModels) -> Embed:
    """What embeds crops in the FFHQ template."""

    def embed(crops: Sequence[np.ndarray]) -> np.ndarray:
        return recognizer.embed(np.stack([crop_for_recognizer(c, recognizer.template, recognizer.size) for c in crops]))

    return embed


def match_files(folder: Path, cases: Sequence[Case]) -> tuple[dict[str, Path], list[str]]:
    """The file of each case in somebody's folder, by face, and the names of files that belong to none.

    A file belongs to the case whose face id its name without suffix is, or begins with before an underscore, as many
    scripts name their outputs. Raises BadInput where there is no folder, or two files for one case.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder: name one with restored images, called as those of the frozen set.")
    faces, found, extra = {case.face_id for case in cases}, dict[str, Path](), list[str]()
    for path in list_photos(folder):
        face = path.stem if path.stem in faces else path.stem.split("_")[0]
        if face not in faces:
            extra.append(path.name)
        elif face in found:
            raise BadInput(f"{folder} has two files for one image, {found[face].name} and {path.name}: remove one.")
        else:
            found[face] = path
    if not found:
        raise BadInput(f"No file in {folder} is called as an image of the frozen set ({cases[0].face_id}.png, ...).")
    return found, extra


def measure_input(case: Case, measure: Measure, names: Sequence[str], keep: OnImage = lambda *_: None) -> Row:
    """The row of the LQ input itself."""
    return _measured(_row(case, "lq", "LQ input"), case, case.lq, measure, names, keep)


def measure_file(
    case: Case,
    path: Path | None,
    key: str,
    name: str,
    measure: Measure,
    names: Sequence[str],
    read: Read,
    keep: OnImage = lambda *_: None,
) -> Row:
    """The row of an image that somebody else restored, with a reason where `read` or the measures cannot have it."""
    row = _row(case, key, name)
    if path is None:
        return _unmeasured(row, "there is no file for it", names)
    try:
        image = read(path)
    except BadInput as error:
        return _unmeasured(row, str(error), names)
    if image.shape != case.target.shape:
        sizes = f"{image.shape[1]} x {image.shape[0]}, and the set {case.target.shape[1]} x {case.target.shape[0]}"
        return _unmeasured(row, f"{make_printable(path.name)} is {sizes}", names)
    return _measured(row, case, image, measure, names, keep)


def _row(case: Case, key: str, name: str) -> Row:
    return {
        "face_id": case.face_id,
        "identity_id": case.identity_id,
        "key": key,
        "system": name,
        "references": 0,
        "shown_identity_id": case.identity_id,
        "reason": None,
    }


def _measured(row: Row, case: Case, image: np.ndarray, measure: Measure, names: Sequence[str], keep: OnImage) -> Row:
    values: Mapping[str, float] = measure(image, case.target, case.references, case.wrong)
    keep(row, image)
    return row | {name: values.get(name, math.nan) for name in names}


def _unmeasured(row: Row, reason: str, names: Sequence[str]) -> Row:
    return row | dict.fromkeys(names, math.nan) | {"reason": reason}


def select_image_metrics(names: Sequence[str]) -> list[str]:
    """Those of the metrics that an image has."""
    return [name for name in names if METRICS[name].scope != "set"]
