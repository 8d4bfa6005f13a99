"""Keeps the restored images of an evaluation: in folders beside its result, and in a temporary file for its
page.

`likeness review` shows the images in the folders. The images of a result STEM.json are
STEM-images/<number>/<face_id>.png. Each system has a number.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from manifests.pictures.png_files import encode_png
from manifests.runtime.files import write_atomically
from train.evaluation.sets.cases import Case
from train.evaluation.sets.picture_file import PictureFile
from train.evaluation.systems.row import Row


class ImageFolders:
    """Writes the images of one evaluation into a temporary folder. `publish` gives this folder its final name.

    `publish` removes the images of an earlier evaluation with the same name, because the new result replaces the result
    of that evaluation.
    """

    def __init__(self, stem: Path, is_wanted: bool) -> None:
        self._folder = stem.with_name(f"{stem.name}-images")
        self._temporary = stem.with_name(f".{stem.name}-images.tmp")
        self._is_wanted = is_wanted
        self._numbers: dict[str, int] = {}  # key of a system -> number of its folder
        shutil.rmtree(self._temporary, ignore_errors=True)

    def write(self, row: Row, image: np.ndarray) -> None:
        """Writes the image of a row, uint8 (S, S, 3). The LQ image is not written, because the set has it."""
        if self._is_wanted and row["key"] != "lq":
            number = self._numbers.setdefault(row["key"], len(self._numbers))
            write_atomically(self._temporary / str(number) / f"{row['face_id']}.png", encode_png(image))

    def publish(self) -> dict[str, Any]:
        """Gives the temporary folder its final name. Returns {"image_folders": {key of a system: its folder}} for the
        result, or {} if no image was written.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        if not self._numbers:
            return {}
        self._temporary.rename(self._folder)
        return {"image_folders": {key: f"{self._folder.name}/{number}" for key, number in self._numbers.items()}}


@dataclass
class PageImages:
    """Collects the images of an evaluation for its HTML page, in a temporary file."""

    cases: tuple[Case, ...] = ()
    rows: Sequence[Row] = ()
    restored: dict[tuple[str, str], np.ndarray] = field(
        default_factory=dict
    )  # the keys are the face id and the key of the system
    pictures: PictureFile = field(default_factory=PictureFile)

    def keep(self, row: Row, image: np.ndarray) -> None:
        """Keeps the image of a row."""
        self.restored[row["face_id"], row["key"]] = self.pictures.keep(image)
