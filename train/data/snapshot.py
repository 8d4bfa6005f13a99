"""Reads a snapshot: a folder with all faces, references, embeddings and crops that a training run needs.

`take_snapshot` makes the snapshot of a dataset once. Training on a snapshot does not need the ledger, duckdb, polars or
insightface. So a snapshot can be copied to another machine to train there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from manifests.errors import BadInput

if TYPE_CHECKING:
    from curate.faces.interface import FaceDetector

FACES = "faces.parquet"
CROPS = "crops.npy"
LARGE_SIZE = 512
LARGE_CROPS = "large_crops.npy"  # Crops at 512 px, for faces that are larger in their photo than in `crops.npy`.
VALID = "valid.npy"  # A bit for each pixel of a crop: 1 if the pixel comes from the photo.
FACTS = "snapshot.json"
RECOGNIZER, DETECTOR = "recognizer.onnx", "detector.onnx"
VERSION = 4  # the version of the folder layout


@dataclass(frozen=True)
class SnapshotConfig:
    """Holds the settings of a snapshot.

    The ledger and these settings determine which faces the snapshot contains.
    """

    size: int  # The side of the crops in pixels.
    # A face can be a target if its crop has at most this number of crop pixels per photo pixel along a side (ours).
    # A crop with more crop pixels per photo pixel was enlarged too much to be sharp.
    max_upsample: float = 1.5
    version: int = VERSION


@dataclass(frozen=True)
class Snapshot:
    """Holds the contents of a snapshot folder. Entry i of each list and array describes crop i of `crops.npy`."""

    folder: Path
    facts: dict[str, Any]  # contents of snapshot.json
    face_ids: list[str]
    identity_ids: list[str]
    splits: list[str]
    is_target: np.ndarray  # (n,) bool
    references: list[
        np.ndarray
    ]  # The rows of each target's references, in the order of the table `pairs`; empty for a face that is no target.
    embeddings: np.ndarray  # (n, d) float32 unit rows.
    landmarks: np.ndarray  # (n, 5, 2) float32, pixels of the crops.
    # For each crop, the round of `likeness iterate` that made the crop, or None if the crop is the original.
    versions: list[int | None] = field(default_factory=list)
    upsample: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # (n,) crop pixels per photo pixel.
    large_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (n,) row in `large_crops`, or -1.
    # (n,) the result of `estimate_resolution`, in pixels, for each training target, and 0 for other crops
    resolution: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def hash(self) -> str:
        return str(self.facts["hash"])

    @property
    def size(self) -> int:
        return int(self.facts["config"]["size"])

    @property
    def recognizer(self) -> dict[str, Any]:
        """Returns the facts about the recognizer: spec, sha256, licence, size, template, mean, std, dim."""
        return dict(self.facts["recognizer"])

    @property
    def recognizer_onnx(self) -> Path | None:
        path = self.folder / RECOGNIZER
        return path if path.is_file() else None

    @property
    def detector_onnx(self) -> Path | None:
        path = self.folder / DETECTOR
        return path if path.is_file() else None

    def load_detector(self) -> FaceDetector:
        """Returns the face detector of the dataset.

        The detector is loaded from the file `detector.onnx` in this folder. If the folder has no `detector.onnx` (for
        example with dlib), the spec in `snapshot.json` names the detector to load. Raises FaceModelError if the
        detector cannot be loaded.
        """
        if self.detector_onnx is not None:
            from curate.faces.models.insightface_models import load_detector

            return load_detector(self.detector_onnx)
        from curate.faces.interface import FaceDetector
        from curate.faces.load import load_faces_once

        models = load_faces_once(self.recognizer["spec"])
        return FaceDetector(models.detect, models.min_score)

    @cached_property
    def people(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns a dict split -> person -> rows of this person in this split. People and rows are sorted."""
        rows_by_person: dict[str, dict[str, list[int]]] = {}
        for row, (split, person) in enumerate(zip(self.splits, self.identity_ids, strict=True)):
            rows_by_person.setdefault(split, {}).setdefault(person, []).append(row)
        return {
            split: {person: np.array(rows, np.int64) for person, rows in sorted(people.items())}
            for split, people in rows_by_person.items()
        }

    @cached_property
    def crops(self) -> np.ndarray:
        """Returns the crops, aligned to the FFHQ template, as a memory map, RGB uint8 (n, size, size, 3)."""
        return np.load(self.folder / CROPS, mmap_mode="r")

    @cached_property
    def large_crops(self) -> np.ndarray:
        """Returns the crops at 512 px, (m, 512, 512, 3) uint8 RGB, as a memory map.

        `large_rows` tells which of these crops belongs to each face.
        """
        return np.load(self.folder / LARGE_CROPS, mmap_mode="r")

    @cached_property
    def _valid_bits(self) -> np.ndarray:
        return np.load(self.folder / VALID, mmap_mode="r")

    def valid(self, row: int) -> np.ndarray:
        """Returns which pixels of a crop come from its photo, bool (size, size)."""
        bits = np.unpackbits(self._valid_bits[row], count=self.size**2)
        return bits.reshape(self.size, self.size).astype(bool)

    def targets(self, split: str) -> np.ndarray:
        """Returns the rows of the targets in a split, in the order of their face ids."""
        return np.array([i for i, s in enumerate(self.splits) if s == split and self.is_target[i]], np.int64)


def load_snapshot(folder: Path) -> Snapshot:
    """Reads a snapshot folder. Raises BadInput if the folder has no snapshot, or a snapshot of another version."""
    folder = Path(folder)
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        table = pq.read_table(folder / FACES)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{folder} contains no snapshot: give a dataset, or the folder `snapshot` of a training run."
        ) from error
    if facts.get("version") != VERSION:
        raise BadInput(f"{folder} was made by another version of Likeness: remove this folder and train again.")
    columns = table.to_pydict()
    return Snapshot(
        folder=folder,
        facts=facts,
        face_ids=columns["face_id"],
        identity_ids=columns["identity_id"],
        splits=columns["split"],
        is_target=np.array(columns["is_target"], bool),
        references=[np.array(rows, np.int64) for rows in columns["references"]],
        embeddings=np.array(columns["embedding"], np.float32).reshape(len(columns["row"]), -1),
        landmarks=np.array(columns["landmarks5"], np.float32).reshape(-1, 5, 2),
        versions=columns.get("version", [None] * len(columns["row"])),
        upsample=np.array(columns["upsample"], np.float32) * facts["config"]["size"] / 512,
        large_rows=np.array(columns["large_row"], np.int64),
        resolution=np.array(columns["resolution"], np.int64),
    )
