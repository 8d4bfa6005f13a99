"""Reads the images for the page of a comparison: the set, and the images that the evaluations have kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from manifests.errors import BadInput
from manifests.pictures.images import UndecodableImage, decode
from manifests.runtime.text import make_printable
from train.evaluation.comparison.compare_results import Comparison
from train.evaluation.comparison.read_results import LoadedResult
from train.evaluation.options import EvaluationOptions
from train.evaluation.results.result_images import PageImages
from train.evaluation.sets.load_set import name_set, read_set

_IMAGE_FOLDER = re.compile(r"[a-z0-9-]+-images/\d+")  # the form of a folder in `image_folders`


def check_kept_images(loaded: Sequence[LoadedResult]) -> None:
    """Raises BadInput if the kept images of any system are missing."""
    for one in loaded:
        folders = one.content.get("image_folders", {})
        for key in one.old_keys.values():
            if not _IMAGE_FOLDER.fullmatch(str(folders.get(key))) or not (one.path.parent / folders[key]).is_dir():
                raise BadInput(
                    f"{make_printable(one.path)} has no images of the system {make_printable(key)}. --page needs the "
                    "images of all systems. Evaluate again with --keep-images."
                )


def read_page_images(loaded: Sequence[LoadedResult], comparison: Comparison) -> PageImages:
    """Reads the cases of the set and the kept images of all systems.

    Raises BadInput or LedgerError if the set cannot be read, or is not the set of the results any more.
    """
    content, result = loaded[0].content, comparison.result
    options = EvaluationOptions(references=content["references"], seed=content["seed"])
    lq_set = content["set_argument"] or content["lq_set"]
    frozen_set = read_set(Path(content["dataset"]), lq_set, options, content["size"], None)
    if name_set(frozen_set.cases, content["references"])[0] != result["benchmark"]:
        raise BadInput(
            f"The set {content['lq_set']} of {content['dataset']} changed after the evaluation. Evaluate again."
        )
    faces = {row["face_id"] for row in comparison.rows}
    images = PageImages(tuple(case for case in frozen_set.cases if case.face_id in faces), comparison.rows)
    for one in loaded:
        for key, old in one.old_keys.items():
            for face in sorted(faces):
                path = one.path.parent / one.content["image_folders"][old] / f"{face}.png"
                try:
                    images.restored[face, key] = decode(path)
                except (OSError, UndecodableImage):
                    raise BadInput(
                        f"{make_printable(path)} is missing or damaged. Evaluate again with --keep-images."
                    ) from None
    return images
