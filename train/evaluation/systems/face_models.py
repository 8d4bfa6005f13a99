"""Chooses the device of the judge, checks the recognizers of restorers, and lists the failures of face models."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from curate.faces.interface import FaceModels
from manifests.errors import BadInput


def choose_judge_device() -> str:
    """Returns the value of --device for the judge: `auto` if the restorer runs on a GPU, else `cpu`."""
    return "auto" if torch.cuda.is_available() else "cpu"


def list_failures(models: Iterable[FaceModels]) -> list[str]:
    """Returns a sentence for each device that failed. After a failure, the CPU runs the models."""
    return [notice for one in models for notice in one.list_failures()]


def check_recognizer(recognizer: FaceModels, expected: str, dataset: str) -> None:
    """Raises BadInput if a restorer uses the embeddings of another recognizer than the set.

    `recognizer` is the restorer's recognizer, and `expected` is the sha256 of the set's recognizer. `dataset` is the
    folder of the dataset. For an imported set, `dataset` is empty, and `expected` is the recognizer of the first
    restorer.
    """
    if recognizer.recognizer_sha256() == expected:
        return
    if not dataset:
        raise BadInput(
            "The restorers use embeddings of different recognizers. Evaluate each run alone with the same --judge, "
            "then compare the results with `likeness compare`."
        )
    raise BadInput(
        f"The restorer uses embeddings of {recognizer.spec}, but {dataset} was curated with a different recognizer: "
        f"curate the photos with --faces {recognizer.spec}."
    )
