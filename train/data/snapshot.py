"""Reads a snapshot: a folder with all faces, references, embeddings and crops that a training run needs.

`take_snapshot` makes the snapshot before the training, and this module only reads it. Training on a snapshot does not
need the ledger, duckdb, polars or insightface. So a snapshot can be copied to another machine to train there.

All large files are mapped into memory. A process reads a row of a file only when a sample needs the row, and all
processes of a machine share the rows that are in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from manifests.errors import BadInput
from manifests.runtime.files import ARRAY_ERRORS
from manifests.runtime.snapshot_files import (
    CROPS,
    EMBEDDINGS,
    FACES,
    FACTS,
    LANDMARKS,
    LARGE_CROPS,
    VALID,
    VERSION,
    read_codes,
    read_dictionary,
    read_faces,
    to_array,
)

if TYPE_CHECKING:
    from curate.faces.interface import FaceDetector

Value = TypeVar("Value", covariant=True)

LARGE_SIZE = 512  # The side of the crops in `large_crops.npy`, in pixels.
RECOGNIZER, DETECTOR = "recognizer.onnx", "detector.onnx"

# The columns of `faces.arrow`. Row i describes crop i. The dictionaries of `identity_id` and `split` are sorted.
FACE_COLUMNS = pa.schema(
    [
        ("face_id", pa.string()),
        ("identity_id", pa.dictionary(pa.int32(), pa.string())),
        ("split", pa.dictionary(pa.int8(), pa.string())),
        ("is_target", pa.bool_()),
        # The rows of each target's references, in the order of the table `pairs`; empty for a face that is no target.
        ("references", pa.list_(pa.int32())),
        ("upsample", pa.float32()),  # pixels of the 512 px crop per photo pixel, along a side
        ("large_row", pa.int32()),  # row in `large_crops.npy`, or -1 without a crop of 512 px
        # the result of `estimate_resolution`, in pixels, for each training target, and 0 for other crops
        ("resolution", pa.int32()),
        # the round of `likeness iterate` that made the crop, or NULL if the crop is the original
        ("version", pa.int32()),
    ]
)


@dataclass(frozen=True)
class SnapshotConfig:
    """Holds the settings of a snapshot.

    The ledger and these settings determine which faces the snapshot contains.
    """

    size: int  # The side of the crops in pixels.
    # A face can be a target if its crop has at most this number of crop pixels per photo pixel (ours) along a side. A
    # crop with more crop pixels per photo pixel was enlarged too much to be sharp.
    max_upsample: float = 1.5
    version: int = VERSION


class Column(Sequence[Value]):
    """A column of a table whose values stay in the file. `column[i]` reads only the value of row i."""

    def __init__(self, values: pa.ChunkedArray, read: Callable[[pa.Scalar], Value]) -> None:
        self._values, self._read = values, read

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self._read(value) for value in self._values[row]]
        return self._read(self._values[int(row)])

    def __iter__(self) -> Iterator[Value]:
        for chunk in self._values.iterchunks():
            yield from map(self._read, chunk)


@dataclass(frozen=True)
class People:
    """Holds the people of a split, in the order of their ids."""

    numbers: np.ndarray  # (p,) int32, the number of each person in `Snapshot.person_numbers`, ascending
    starts: np.ndarray  # (p + 1,) int64; the rows of person i are rows[starts[i]:starts[i + 1]], ascending
    rows: np.ndarray  # (n,) int32
    _with_photos: dict[int, np.ndarray] = field(default_factory=dict)

    def get_rows(self, place: int) -> np.ndarray:
        """Returns the rows of the person whose number is `numbers[place]`, ascending, int32."""
        return self.rows[self.starts[place] : self.starts[place + 1]]

    def list_people(self, photos: int) -> np.ndarray:
        """Returns the indices into `numbers` of the people with at least `photos` photos, ascending, int64."""
        if photos not in self._with_photos:
            self._with_photos[photos] = np.flatnonzero(np.diff(self.starts) >= photos)
        return self._with_photos[photos]


@dataclass(frozen=True)
class Snapshot:
    """Holds the contents of a snapshot folder. Row i of the table and of each array describes crop i of `crops.npy`.

    The arrays are memory maps. If a purge replaces the files, an open snapshot still has the rows of the old files.
    """

    folder: Path
    facts: dict[str, Any]  # contents of snapshot.json
    faces: pa.Table  # the columns FACE_COLUMNS
    embeddings: np.ndarray  # (n, d) float32 unit rows.
    landmarks: np.ndarray  # (n, 5, 2) float32, pixels of the crops.
    crops: np.ndarray  # (n, size, size, 3) uint8 RGB, aligned to the FFHQ template
    large_crops: np.ndarray  # (m, 512, 512, 3) uint8 RGB; `large_rows` has the row of each face in this array
    valid_bits: np.ndarray  # (n, bytes) uint8; `valid` unpacks a row

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen_snapshot, (self.folder, self.hash)  # another process maps the files itself

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
    def face_ids(self) -> Sequence[str]:
        return self._column("face_id", _get_value)

    @cached_property
    def identity_ids(self) -> Sequence[str]:
        return self._column("identity_id", _get_value)

    @cached_property
    def splits(self) -> Sequence[str]:
        return self._column("split", _get_value)

    @cached_property
    def references(self) -> Sequence[np.ndarray]:
        """Returns the rows of each target's references, int32, in the order of the table `pairs`.

        A face that is no target has an empty array.
        """
        return self._column("references", lambda rows: to_array(rows.values))

    @cached_property
    def versions(self) -> Sequence[int | None]:
        """Returns for each crop the round of `likeness iterate` that made it, or None if it is the original."""
        return self._column("version", _get_value)

    @cached_property
    def upsample(self) -> Sequence[np.float32]:
        """Returns the number of crop pixels per photo pixel of each crop."""
        return self._column("upsample", lambda value: np.float32(value.as_py()) * self.size / 512)

    @cached_property
    def large_rows(self) -> Sequence[int]:
        """Returns the row of each face in `large_crops`, or -1 if the face has no crop at 512 px."""
        return self._column("large_row", _get_value)

    def _column(self, name: str, read: Callable[[pa.Scalar], Value]) -> Sequence[Value]:
        return Column(self.faces[name], read)

    @cached_property
    def is_target(self) -> np.ndarray:
        """Returns whether each face is a target, bool (n,)."""
        return to_array(self.faces["is_target"].cast(pa.uint8())).view(bool)

    @cached_property
    def resolution(self) -> np.ndarray:
        """Returns the result of `estimate_resolution` in pixels for each training target, and 0 for other crops."""
        return to_array(self.faces["resolution"])

    @cached_property
    def person_numbers(self) -> np.ndarray:
        """Returns the number of each face's person, int32 (n,). The people are numbered in the order of their ids."""
        return read_codes(self.faces["identity_id"])

    @cached_property
    def people(self) -> dict[str, People]:
        """Returns the people of each split."""
        return {split: self._list_people(split) for split in read_dictionary(self.faces["split"])}

    def _list_people(self, split: str) -> People:
        rows = self.find_rows(split)
        rows = rows[np.argsort(self.person_numbers[rows], kind="stable")]
        numbers, starts = np.unique(self.person_numbers[rows], return_index=True)
        return People(numbers, np.append(starts, len(rows)), rows)

    def valid(self, row: int) -> np.ndarray:
        """Returns which pixels of a crop come from its photo, bool (size, size)."""
        bits = np.unpackbits(self.valid_bits[row], count=self.size**2)
        return bits.reshape(self.size, self.size).astype(bool)

    def find_rows(self, split: str) -> np.ndarray:
        """Returns the rows of all faces in a split, int32, in the order of their face ids."""
        names = read_dictionary(self.faces["split"])
        code = names.index(split) if split in names else -1
        return np.flatnonzero(read_codes(self.faces["split"]) == code).astype(np.int32)

    def targets(self, split: str) -> np.ndarray:
        """Returns the rows of the targets in a split, int32, in the order of their face ids."""
        rows = self.find_rows(split)
        return rows[self.is_target[rows]]


def load_snapshot(folder: Path) -> Snapshot:
    """Opens all files of a snapshot folder.

    Raises BadInput if the folder has no snapshot, if its snapshot has another version, or if the snapshot is replaced
    while this function opens the files.
    """
    folder = Path(folder)
    try:
        text = (folder / FACTS).read_bytes()
        facts = json.loads(text)
        if facts.get("version") != VERSION:
            raise BadInput(
                f"Another version of Likeness made {folder}: remove this folder. Then you can evaluate, but the set is "
                "not compared with the training. To train, start again with another --out."
            )
        snapshot = Snapshot(
            folder=folder,
            facts=facts,
            faces=read_faces(folder / FACES),
            embeddings=np.asarray(np.load(folder / EMBEDDINGS, mmap_mode="r")),
            landmarks=np.asarray(np.load(folder / LANDMARKS, mmap_mode="r")),
            crops=np.load(folder / CROPS, mmap_mode="r"),
            large_crops=np.load(folder / LARGE_CROPS, mmap_mode="r"),
            valid_bits=np.load(folder / VALID, mmap_mode="r"),
        )
        is_changed = (folder / FACTS).read_bytes() != text
    except ARRAY_ERRORS as error:
        raise BadInput(
            f"{folder} contains no snapshot: give a dataset, or the folder `snapshot` of a training run."
        ) from error
    if is_changed:
        raise BadInput(f"{folder} changed while Likeness opened it: run the same command again.")
    return snapshot


def reopen_snapshot(folder: Path, expected_hash: str) -> Snapshot:
    """Opens a snapshot in another process. Raises the errors of `load_snapshot`, and BadInput if the hash is not
    `expected_hash`.
    """
    snapshot = load_snapshot(folder)
    if snapshot.hash != expected_hash:
        raise BadInput(f"{folder} changed while Likeness used it: run the same command again.")
    return snapshot


def _get_value(value: pa.Scalar) -> Any:
    return value.as_py()
