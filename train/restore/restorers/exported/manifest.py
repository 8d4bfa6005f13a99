"""Reads and formats FOLDER/restorer.json, which describes the ONNX files that `likeness export` wrote into FOLDER.

The file lists the parts of the restorer in the order in which they run. Each part is an ONNX file. A part reads named
values, and writes values that later parts read. The main values are listed below. B is the number of faces, and K is
the number of slots for references, at least 1. S is the size of the restorer.

    lq          float32 (B, 3, S, S) in 0..1: the faces
    present     bool (B, K): False for a slot without a reference
    pictures    float32 (K, 3, S, S) in 0..1: the references of one person; only the part `references` reads them
    embeddings  float32 (K, d): the unit embeddings of these references; only the part `references` reads them
    tokens      float32 (B, K, N, C): the features of the references, of which empty slots are not read
    image       float32 (B, 3, S, S) in 0..1: the restored faces

The part `references` runs once for all faces of a person. The input `present` of this part has the shape (1, K), and
the first dimension of all outputs of this part is 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from manifests.runtime.files import sha256_file
from manifests.runtime.text import make_printable
from train.models.config import ModelConfig

ONNX = "onnx:"  # the prefix of --run for a folder of ONNX files
MANIFEST = "restorer.json"
VERSION = 1  # Increase this number when the meaning of restorer.json or of a value changes.
REFERENCES = "references"  # The name of the part that encodes the references.
SLOT_VALUES = ("present", "tokens")  # The values whose second dimension is K.


@dataclass(frozen=True)
class Part:
    """Describes one ONNX file, `<name>.onnx`."""

    name: str
    sha256: str  # The sha256 of the file, as hex.
    inputs: tuple[str, ...]  # The names of the values that the part reads.
    outputs: tuple[str, ...]  # The names of the values that the part writes.
    # The sha256 of `<name>.onnx.data`, which has the weights of a large part. None for a part without this file.
    data_sha256: str | None = None

    @property
    def file(self) -> str:
        """Returns the name of the ONNX file."""
        return name_file(self.name)


@dataclass(frozen=True)
class Manifest:
    """Holds the content of restorer.json."""

    model: ModelConfig
    facts: Mapping[str, Any]  # See train/models/restorer.py.
    parts: tuple[Part, ...]  # In the order in which they run.
    opset: int
    precision: str  # How the weights are stored, see train/export/precision.py.
    # The largest difference between the images of torch and of ONNX that the export measured, in 0..1.
    difference: float


def strip_prefix(checkpoint: Path) -> Path:
    """Returns FOLDER for onnx:FOLDER. Other paths are returned unchanged."""
    return Path(str(checkpoint).removeprefix(ONNX))


def name_file(part: str) -> str:
    """Returns the name of the ONNX file of a part."""
    return f"{part}.onnx"


def name_data(part: str) -> str:
    """Returns the name of the file that has the weights of a large part."""
    return f"{part}.onnx.data"


def format_manifest(manifest: Manifest) -> bytes:
    """Returns the bytes of restorer.json."""
    return (json.dumps({"version": VERSION, **asdict(manifest)}, indent=2, sort_keys=True) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Reads FOLDER/restorer.json, and checks that the files of all parts are those that the export wrote.

    Raises BadInput if restorer.json is missing or broken, or if a part is missing, changed or from another export.
    """
    path, name = folder / MANIFEST, make_printable(folder)
    again = "export the run again with `likeness export`."
    if not path.is_file():
        raise BadInput(f"{name} contains no {MANIFEST}: give a folder that `likeness export` wrote.")
    try:
        fields = json.loads(path.read_bytes())
        if fields.pop("version") != VERSION:
            raise BadInput(f"{name} was exported by another version of Likeness: {again}")
        model = ModelConfig.from_json(fields.pop("model"))
        parts = tuple(Part(**{**part, **_make_tuples(part)}) for part in fields.pop("parts"))
        manifest = Manifest(model=model, parts=parts, **fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{make_printable(path)} is broken ({error}): {again}") from error
    for part in manifest.parts:
        hashes = {part.file: part.sha256}
        if part.data_sha256 is not None:
            hashes[name_data(part.name)] = part.data_sha256
        for file, expected in hashes.items():
            if not (folder / file).is_file():
                raise BadInput(f"{name} lacks the part {file}: copy the whole folder again, or {again}")
            if sha256_file(folder / file) != expected:
                raise BadInput(
                    f"{file} in {name} is not the part that was exported with the other parts. The file was changed, "
                    f"or it belongs to another run: copy the whole folder again, or {again}"
                )
    return manifest


def _make_tuples(part: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(part[key]) for key in ("inputs", "outputs")}
