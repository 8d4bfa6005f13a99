"""Writes a restorer as ONNX files, and compares the files with torch before anybody can use them.

The exporter is torch's older exporter, which traces the model (`dynamo=False`). For recipe tiny at 256 px, this
exporter takes 1.2 s of CPU time. The exporter of torch.export takes 28 s and needs the package onnxscript. Both
exporters give files whose largest difference to torch is below 1e-6. A trace can be wrong for other numbers of faces or
references, so the check uses several numbers.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from manifests.errors import BadInput
from manifests.export.output_folder import OutputFolder, publish_folder
from manifests.runtime.files import find_blocking_file, sha256_file
from manifests.runtime.text import make_printable
from train.data.tensors import to_tensors
from train.export.graphs import Graph, divide
from train.export.precision import FULL, PRECISIONS, store_weights
from train.export.stable_sort import stable_sort
from train.models.restorer import Restorer
from train.restore.references.reference_photos import References
from train.restore.restorers.exported.manifest import (
    MANIFEST,
    REFERENCES,
    Manifest,
    Part,
    format_manifest,
    name_data,
    name_file,
)
from train.restore.restorers.exported.onnx_restorer import OnnxParts
from train.restore.restorers.load_restorer import load_restorer, run_model

OPSET = 18  # The version of ONNX's operators (ours). ONNX Runtime 1.20 and later run this version.
# The largest allowed difference to torch of a restored image in 0..1, if the weights are stored as float32. The limit
# is a quarter (ours) of an 8-bit level.
LIMIT = 1e-3
# Each comparison with torch has these numbers of faces and of references. A restorer that reads no references is
# compared without references.
CHECKS = ((1, 0), (2, 1), (1, 2), (2, 3), (1, 4))
# A part whose weights have more bytes gets a file of its own for the weights, because protobuf holds at most 2 GB.
MOST_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Exported:
    """Tells what an export wrote."""

    folder: str
    files: tuple[str, ...]  # the names of all files
    opset: int
    precision: str
    bytes: int
    difference: float  # the largest difference to torch of an image in 0..1
    checks: tuple[tuple[int, int], ...]  # (faces, references) of each comparison


def check_export_folder(out: Path) -> None:
    """Raises BadInput if `out` is a file or a folder that is not empty."""
    if (file := find_blocking_file(out)) is not None:
        raise BadInput(f"{make_printable(file)} is a file, but an export is a folder: give another folder with --out.")
    if out.is_dir() and any(out.iterdir()):
        raise BadInput(f"--out {make_printable(out)} is not empty: give a new or an empty folder.")


def list_files(run: str | Path, base_model: str | None = None) -> list[str]:
    """Returns the names of the files that `export_onnx` writes, except the extra files for weights above MOST_BYTES.

    Raises BadInput if the restorer cannot be loaded or exported.
    """
    return [*(name_file(graph.name) for graph in divide(load_restorer(run, base_model))), MANIFEST]


def export_onnx(run: str | Path, out: Path, base_model: str | None = None, precision: str = FULL) -> Exported:
    """Writes the restorer of a run or a checkpoint, or released weights, as ONNX files into the folder `out`.

    `run` and `base_model` are those of `load_restorer`. `precision` is a name in PRECISIONS. The folder appears only
    when all files are written and compared with torch. Raises BadInput if `out` is not empty, if the restorer cannot be
    exported, or if an image of fp32 files differs from the image of torch by more than LIMIT.
    """
    check_export_folder(out)
    if precision not in PRECISIONS:
        raise BadInput(f"--precision {precision} is not possible: give {', '.join(PRECISIONS)}.")
    model = load_restorer(run, base_model).eval()
    with publish_folder(out) as folder, torch.inference_mode():
        parts = _write_parts(model, folder, precision)
        difference, checks = _compare(model, folder.root, parts)
        # Images in 0..1 differ by at most 1, so the limit 1 refuses only NaN.
        limit = LIMIT if precision == FULL else 1
        if not difference <= limit:
            raise BadInput(
                "The ONNX files were not written, because a restored image in 0..1 differs from the image of torch by "
                f"{difference:.1e} (at most {limit:.0e} allowed): restore with --run {make_printable(run)} instead."
            )
        manifest = Manifest(model.config, model.facts, tuple(parts), OPSET, precision, difference)
        folder.add_bytes(MANIFEST, format_manifest(manifest))
    files = list[str]()
    for part in parts:
        files += [part.file] if part.data_sha256 is None else [part.file, name_data(part.name)]
    return Exported(str(out), (*files, MANIFEST), OPSET, precision, folder.bytes, difference, checks)


def _write_parts(model: Restorer, folder: OutputFolder, precision: str) -> list[Part]:
    """Writes an ONNX file for each part of the restorer. The values of one example pass from part to part."""
    size, config = model.config.size, model.config
    draw = torch.Generator().manual_seed(0)
    values = {
        "lq": torch.rand(2, 3, size, size, generator=draw),
        "pictures": torch.rand(3, 3, size, size, generator=draw),
        "embeddings": nn.functional.normalize(torch.randn(3, config.embedding_dim, generator=draw), dim=1),
        "present": torch.ones(1, 3, dtype=torch.bool),
    }
    parts = []
    for graph in divide(model):
        arguments = tuple(values[name] for name in graph.inputs)
        written = graph.module.eval()(*arguments)
        parts.append(_write_part(graph, arguments, folder, precision))
        values |= dict(zip(graph.outputs, written if isinstance(written, tuple) else (written,), strict=True))
        if graph.name == REFERENCES:  # both faces have the same references
            for name in ("present", *graph.outputs):
                values[name] = values[name].expand(2, *values[name].shape[1:]).contiguous()
    return parts


def _write_part(graph: Graph, arguments: tuple[torch.Tensor, ...], folder: OutputFolder, precision: str) -> Part:
    # A part with more than 2 GB is traced into a file for each tensor, which `onnx.load` reads.
    with tempfile.TemporaryDirectory(dir=folder.root) as scratch:
        traced = Path(scratch) / "traced.onnx"
        # The exporter warns that it is the older one, and that a trace is only right for some shapes.
        with warnings.catch_warnings(), stable_sort(OPSET):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.module,
                arguments,
                traced,
                dynamo=False,
                opset_version=OPSET,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_axes={name: graph.find_dimensions(name) for name in (*graph.inputs, *graph.outputs)},
            )
        model = onnx.load(traced)
    store_weights(model.graph, precision)
    file, data = name_file(graph.name), name_data(graph.name)
    is_large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MOST_BYTES
    large: dict[str, Any] = {"save_as_external_data": True, "location": data} if is_large else {}
    onnx.save_model(model, folder.root / file, **large)
    for name in (file, data) if is_large else (file,):
        folder.count_file(name)
    data_sha256 = sha256_file(folder.root / data) if is_large else None
    return Part(graph.name, sha256_file(folder.root / file), graph.inputs, graph.outputs, data_sha256)


def _compare(model: Restorer, folder: Path, parts: Sequence[Part]) -> tuple[float, tuple[tuple[int, int], ...]]:
    """Returns the largest difference between an image of the ONNX files and the image of torch, and the numbers of
    faces and of references in each check.

    The pictures are random blocks and ramps, so that they have flat areas, edges and slow changes.
    """
    reads = any(part.name == REFERENCES for part in parts)
    most = np.inf if model.config.most_references is None else model.config.most_references
    checks = tuple((faces, count) for faces, count in (CHECKS if reads else ((1, 0), (2, 0))) if count <= most)
    exported, random = OnnxParts(folder, parts, model.config), np.random.default_rng(0)
    differences = []
    for faces, count in checks:
        crops = _draw_pictures(random, faces, model.config.size)
        vectors = random.normal(size=(count, model.config.embedding_dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        references = References(_draw_pictures(random, count, model.config.size), vectors)
        expected = run_model(model, to_tensors(crops), references).permute(0, 2, 3, 1).numpy()
        differences.append(np.abs(exported.restore(crops, [references] * faces) - expected).max())
    return float(np.max(differences)), checks  # NaN if an image has NaN


def _draw_pictures(random: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Returns random pictures, uint8 (count, size, size, 3)."""
    blocks = random.uniform(0, 255, (count, 8, 8, 3)).repeat(-(-size // 8), 1).repeat(-(-size // 8), 2)
    ramps = np.linspace(0, 1, size)[:, None, None] * random.uniform(-80, 80, (count, 1, 1, 3))
    return np.clip(blocks[:, :size, :size] + ramps, 0, 255).astype(np.uint8)
