"""Reads the images and embeddings of a benchmark, from its own folder or from a dataset of the same photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from degrade.frozen.jobs import Job, check_engine, run_job
from degrade.operations.pixels import shrink
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.queries import read_recognizer
from manifests.pictures.images import UndecodableImage, decode
from manifests.pictures.png_files import decode_own_png
from manifests.runtime.files import ARRAY_ERRORS, sha256_bytes
from train.benchmark.frozen_benchmark import (
    EMBEDDINGS,
    LQ,
    PICTURES,
    Benchmark,
    CaseLine,
    has_embeddings,
    hash_picture,
    map_pictures_to_faces,
)


def read_crops(
    benchmark: Benchmark, photos: Path | None, keep: Callable[[np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the crops of a benchmark by the names of their pictures, RGB uint8, area-resized to the benchmark's size.

    The crops come from the benchmark, or from the dataset `photos` if the benchmark has no pictures. `keep` is called
    with each crop, and the result of `keep` is returned in place of the crop. Raises BadInput if the benchmark has no
    pictures and `photos` is None. Raises LedgerBroken if a crop is missing or has different pixels.
    """
    crops = {}
    for picture, face in map_pictures_to_faces(benchmark).items():
        path = _find_crop_file(benchmark, picture, face, photos)
        crops[picture] = keep(shrink(_read_picture(path, picture, benchmark, photos), benchmark.card["size"]))
    return crops


def read_lq(benchmark: Benchmark, case: CaseLine, photos: Path | None) -> np.ndarray:
    """Returns the LQ image of a case, RGB uint8 (size, size, 3).

    If the benchmark has no pictures, the crop in `photos` is degraded again with θ. Raises LedgerBroken if the image is
    missing or has different pixels.
    """
    if benchmark.card["pictures"]:
        return _read_picture(benchmark.folder / LQ / f"{case.lq}.png", case.lq, benchmark, photos)
    check_engine(benchmark.card["engine"])
    path = _find_crop_file(benchmark, case.picture, case.face, photos)
    result = run_job(Job(path, benchmark.card["size"], case.theta, engine=benchmark.card["engine"]))
    pixels = None if result.problem else decode(result.png)
    if pixels is None or hash_picture(pixels) != case.lq:
        tools = ", ".join(f"{name} {version}" for name, version in benchmark.card["tools"].items())
        raise LedgerBroken(
            f"On this machine, the degradation of {path} gives an image that differs from the image in the benchmark "
            f"{benchmark.folder}. The benchmark was made with {tools}: get the benchmark with its pictures."
            if pixels is not None
            else f"{path} cannot be degraded: {result.problem}"
        )
    return pixels


def read_embeddings(benchmark: Benchmark, photos: Path | None) -> tuple[list[str], np.ndarray]:
    """Returns face ids and their unit embeddings, float32 (n, d).

    If `photos` is a dataset, the result has the faces of the benchmark that are also in the dataset. If `photos` is
    None, the result has the faces of the benchmark's crops, or no face if the benchmark has no embeddings. Raises
    BadInput if the dataset has a different recognizer. Raises LedgerBroken if the embeddings of the benchmark are
    missing or broken.
    """
    if photos is not None:
        with Ledger.open(photos) as ledger:
            check_recognizer(benchmark, ledger)
            embedded_faces = set(ledger.query("SELECT face_id FROM faces WHERE shard IS NOT NULL")["face_id"])
            return ledger.read_embeddings([line.face for line in benchmark.faces if line.face in embedded_faces])
    if not has_embeddings(benchmark.card):
        return [], np.zeros((0, 0), np.float32)
    crops = sorted(map_pictures_to_faces(benchmark).items())
    path = benchmark.folder / EMBEDDINGS
    try:
        vectors = np.load(path)
    except ARRAY_ERRORS:
        vectors = None
    shape = (len(crops), benchmark.card["recognizer"]["dim"])
    if vectors is None or vectors.dtype != np.float32 or vectors.shape != shape:
        raise LedgerBroken(f"{path} is missing, broken or of the wrong shape: get a new copy of the benchmark.")
    return [face for _, face in crops], np.asarray(vectors)


def check_recognizer(benchmark: Benchmark, ledger: Ledger) -> None:
    """Raises BadInput if the embeddings of the dataset and of the benchmark come from different recognizers."""
    if read_recognizer(ledger).sha256 != benchmark.card["recognizer"]["sha256"]:
        raise BadInput(
            f"The embeddings of {ledger.dataset} come from a different recognizer than the embeddings of "
            f"{benchmark.folder}: curate the photos again with the same face models (--faces)."
        )


def read_dataset_png(path: Path, sha256: str | None = None) -> np.ndarray:
    """Reads a PNG of a dataset as RGB uint8 (H, W, 3).

    Raises LedgerBroken if the file is missing or broken, or if the hash of the file is not `sha256`.
    """
    try:
        data = path.read_bytes()
        pixels = decode_own_png(data)
    except (OSError, cv2.error):
        data, pixels = b"", None
    if pixels is None or (sha256 is not None and sha256_bytes(data) != sha256):
        raise LedgerBroken(f"{path} is missing, broken or changed: run `likeness manifest check` on the dataset.")
    return pixels


def _find_crop_file(benchmark: Benchmark, picture: str, face: str, photos: Path | None) -> Path:
    if benchmark.card["pictures"]:
        return benchmark.folder / PICTURES / f"{picture}.png"
    if photos is None:
        raise BadInput(
            f"{benchmark.folder} contains no pictures: give a dataset of the same photos as the first argument, and "
            "the benchmark with --benchmark."
        )
    return crop_path(photos, face)


def _read_picture(path: Path, picture: str, benchmark: Benchmark, photos: Path | None) -> np.ndarray:
    try:
        pixels = decode(path)
    except (OSError, UndecodableImage):
        pixels = None
    if pixels is None or hash_picture(pixels) != picture:
        advice = (
            "Get a new copy of the benchmark."
            if benchmark.card["pictures"]
            else f"{photos} must contain the photos of {benchmark.folder}."
        )
        if not path.exists():
            raise LedgerBroken(f"{path} is missing. {advice}")
        raise LedgerBroken(f"{path} is broken, or is not the picture of the benchmark. {advice}")
    return pixels
