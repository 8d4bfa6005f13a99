"""Runs a restorer that was exported to ONNX files, with ONNX Runtime on the CPU.

Outside curate/faces, only this file of Likeness imports onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from manifests.errors import BadInput
from manifests.runtime.files import sha256_bytes, sha256_file
from manifests.runtime.text import make_printable
from train.data.mesh import MESH, check_landmark_model
from train.models.config import ModelConfig
from train.restore.references.reference_photos import References
from train.restore.restorers.exported.manifest import MANIFEST, REFERENCES, SLOT_VALUES, Part, read_manifest
from train.restore.restorers.face_restorer import FaceRestorer

# The encoded references of at most this number of people (ours) stay in memory. Four references of a person need about
# 1 MB at 256 px.
PEOPLE = 16

Values = dict[str, np.ndarray]


class OnnxParts:
    """Holds the parts of a restorer, and restores faces with them."""

    def __init__(self, folder: Path, parts: Sequence[Part], config: ModelConfig) -> None:
        """Opens the parts in `folder`. Raises BadInput if ONNX Runtime cannot open a part."""
        self.config = config
        self._parts = [(part, _open(folder / part.file)) for part in parts]
        self._encoded: dict[tuple[int, str, str], Values] = {}

    def restore(self, crops: np.ndarray, references: Sequence[References]) -> np.ndarray:
        """Restores crops, uint8 (B, S, S, 3), and returns the restored crops, float32 (B, S, S, 3) in 0..1.

        `references` has the references of each crop. The crops can have different numbers of references.
        """
        values = _join([self._encode(one) for one in references])
        values["lq"] = to_planes(crops)
        for part, run in self._parts:
            if part.name != REFERENCES:
                values |= run(part, values)
        return values["image"].transpose(0, 2, 3, 1)

    def _encode(self, references: References) -> Values:
        """Returns `present` and the values that the part `references` writes, all with a first dimension of 1."""
        count, size = len(references.crops), self.config.size
        crops, embeddings = references.crops, references.embeddings
        if not count:  # one empty slot
            crops = np.zeros((1, size, size, 3), np.uint8)
            embeddings = np.zeros((1, self.config.embedding_dim), np.float32)
        key = (count, sha256_bytes(crops.tobytes()), sha256_bytes(embeddings.tobytes()))
        if key not in self._encoded:
            if len(self._encoded) >= PEOPLE:
                self._encoded.clear()
            present = np.full((1, len(crops)), count > 0)
            values = {"pictures": to_planes(crops), "embeddings": embeddings.astype(np.float32), "present": present}
            encoded = {"present": present}
            for part, run in self._parts:
                if part.name == REFERENCES:
                    encoded |= run(part, values)
            self._encoded[key] = encoded
        return self._encoded[key]


def _join(encoded: Sequence[Values]) -> Values:
    """Joins the values of all faces along the first dimension. A face with fewer slots for references than another
    face gets empty slots."""
    slots = max(one["present"].shape[1] for one in encoded)
    joined = dict[str, np.ndarray]()
    for name in encoded[0]:
        values = [one[name] for one in encoded]
        if name in SLOT_VALUES:
            more = [slots - one.shape[1] for one in values]
            values = [
                np.pad(one, [(0, 0), (0, n), *[(0, 0)] * (one.ndim - 2)]) for one, n in zip(values, more, strict=True)
            ]
        joined[name] = np.concatenate(values)
    return joined


def to_planes(crops: np.ndarray) -> np.ndarray:
    """Converts uint8 (N, H, W, 3) to float32 (N, 3, H, W) in 0..1."""
    return np.ascontiguousarray(crops.transpose(0, 3, 1, 2).astype(np.float32) / 255)


def _open(path: Path) -> Callable[[Part, Mapping[str, np.ndarray]], Values]:
    """Returns a function that runs the ONNX file `path`. The function gets a part, and the inputs and the values of the
    earlier parts. The function returns the values that the part writes."""
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, which have no common base
        why = " ".join(str(error).split())[:200]
        raise BadInput(
            f"ONNX Runtime cannot open {make_printable(path)} ({why}): export the run again with `likeness export`."
        ) from error

    def run(part: Part, values: Mapping[str, np.ndarray]) -> Values:
        written = session.run(list(part.outputs), {name: values[name] for name in part.inputs})
        return dict(zip(part.outputs, written, strict=True))

    return run


def load_onnx_restorer(folder: Path) -> FaceRestorer:
    """Loads the restorer of a folder that `likeness export` wrote. Raises BadInput if the folder cannot be used.

    The restorer gets a further fact, `onnx`: the sha256 of restorer.json, which has the sha256 of each part.
    """
    manifest = read_manifest(folder)
    if MESH in manifest.model.parts:
        check_landmark_model("This restorer")
    parts = OnnxParts(folder, manifest.parts, manifest.model)

    def restore_crops(crops: Sequence[np.ndarray], references: Sequence[References]) -> np.ndarray:
        return np.ascontiguousarray(parts.restore(np.stack(crops), references) * np.float32(255))

    facts = {**manifest.facts, "onnx": sha256_file(folder / MANIFEST)}
    return FaceRestorer(manifest.model, facts, 0, restore_crops, lambda references: references)
