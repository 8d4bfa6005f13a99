"""Restores photos on the nodes of a Ray cluster, with the functions of the local engine.

A task has a few photos. A node restores the photos of a task, writes them into the folder of the results, and returns
their outcomes. The faces of a task fill the batches of the network. Therefore the results do not depend on the number
of nodes. A worker process of a node loads the restorer once. Like the local engine, the worker process has its own
reader process.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.faces.interface import FaceModels
from manifests.errors import BadInput
from manifests.pictures.untrusted_images import ReadOriginal, open_readers
from manifests.runtime.cluster.cluster_pool import count_cores_of_batch, list_first_files, open_cluster_pool
from manifests.runtime.cluster.ray_process import RayProcess
from manifests.runtime.files import LOCK, sha256_file
from manifests.runtime.workers import BatchMap
from train.models.checkpoint_files import CONFIG, WEIGHTS, find_newest_checkpoint
from train.models.released import PREFIXES
from train.recipes.recipes import TINY
from train.restore.batches.face_batches import FaceBatches
from train.restore.batches.photo_pipeline import restore_in_batches
from train.restore.output_paths import PhotoOutput
from train.restore.restore_face import RestoreSetup
from train.restore.restore_photo import RestoredPhoto, restore_or_explain
from train.restore.restorers.exported.manifest import ONNX
from train.restore.restorers.face_restorer import FaceRestorer, load_restorer_faces
from train.restore.restorers.open_restorer import open_restorer

if TYPE_CHECKING:
    from manifests.privacy.kept_out import KeptOutList

LEAST_PHOTOS = 8  # A task has as many photos as a batch has faces, and at least LEAST_PHOTOS (ours).


@dataclass(frozen=True)
class NodeRestorer:
    """Names the restorer and the face models of the driver, which a worker process of a node loads too."""

    prefix: str  # the prefix in `--run`: onnx:, one of PREFIXES, or "" for a checkpoint
    folder: Path  # the folder of the checkpoint, or the path that follows the prefix in `--run`
    base_model: str | None
    steps: int
    seed: int | None
    precision: str | None
    device: str
    faces: str
    limited: bool  # as in `restore`


@dataclass(frozen=True)
class NodeWork:
    """Holds what a node needs to know about a call of `restore`."""

    restorer: NodeRestorer
    # Makes the setup of the call from the arguments `model`, `models` and `read`.
    make_setup: Callable[..., RestoreSetup]
    kept_out: KeptOutList | None
    batch: int  # the number of faces in a batch
    cores: int
    keeps_faces: bool  # whether the restored faces are returned; they are large


_held = ExitStack()  # holds the readers of this process until its end


@cache
def _load(restorer: NodeRestorer) -> tuple[FaceRestorer, FaceModels, ReadOriginal]:
    """Loads the restorer, the face models and the reader. A process keeps them until its end."""
    one = restorer
    checkpoint = Path(f"{one.prefix}{one.folder}")
    model = open_restorer(checkpoint, one.base_model, one.steps, one.seed, one.precision, device=one.device)
    atexit.register(_held.close)
    _, read_original = _held.enter_context(open_readers(one.limited))
    return model, load_restorer_faces(model.facts, one.faces), read_original


def check_restorer(_: None, restorer: NodeRestorer, hashes: dict[str, str]) -> None:
    """Loads the restorer on a node. Raises BadInput if the files of the restorer on the node differ from the driver's
    files."""
    there = hash_restorer(restorer, _load(restorer)[1])
    if different := [name for name in hashes if there.get(name) != hashes[name]]:
        raise BadInput(
            f"{different[0]} differs from the driver's file. Every node must have the files of the command at the same "
            "paths."
        )


def hash_restorer(restorer: NodeRestorer, models: FaceModels) -> dict[str, str]:
    """Returns the sha256 of each file of a restorer and of its face models, by the path of the file.

    If the base is a diffusion model in another folder, the files of the base are left out, because `open_restorer`
    compares them with the checkpoint.
    """
    folder = restorer.folder
    paths = sorted(folder.iterdir()) if restorer.prefix else [folder / CONFIG, folder / WEIGHTS]
    hashes = {str(path): sha256_file(path) for path in paths if path.is_file()}
    return hashes | {str(file.path): file.sha256 for file in models.files}


def restore_task(outputs: Sequence[PhotoOutput], work: NodeWork) -> tuple[list[RestoredPhoto], int]:
    """Restores the photos of a task in a worker process of a node.

    Returns the photos, and the size of the last batch, which is halved if the memory is too small.
    """
    model, models, read_original = _load(work.restorer)
    setup = work.make_setup(model=model, models=models, read=read_original)
    batches, finished = FaceBatches(model, work.batch), dict[int, RestoredPhoto]()
    photos = [partial(restore_or_explain, output, setup, work.kept_out) for output in outputs]
    for _ in restore_in_batches(photos, batches, finished, work.cores):
        pass
    restored = [finished[index] for index in range(len(outputs))]
    return [photo if work.keeps_faces else replace(photo, faces=()) for photo in restored], batches.size


def name_restorer(
    checkpoint: Path,
    base_model: str | None,
    steps: int,
    seed: int | None,
    model: FaceRestorer,
    models: FaceModels,
    limited: bool,
) -> NodeRestorer:
    """Returns the names of the driver's restorer. If `checkpoint` is the folder of a run, its newest checkpoint is
    named."""
    name = str(checkpoint)
    prefix = next((prefix for prefix in (ONNX, *PREFIXES) if name.startswith(prefix)), "")
    folder = Path(name.removeprefix(prefix)).absolute()
    folder = folder if prefix else find_newest_checkpoint(folder)
    base = base_model and (str(Path(base_model).absolute()) if Path(base_model).is_dir() else base_model)
    precision = None if prefix == ONNX else model.precision
    return NodeRestorer(prefix, folder, base, steps, seed, precision, model.device, models.spec, limited)


@contextmanager
def open_restoring_pool(
    ray: RayProcess,
    restorer: NodeRestorer,
    model: FaceRestorer,
    models: FaceModels,
    inputs: Sequence[Path],
    out: Path,
) -> Iterator[tuple[BatchMap, int]]:
    """Yields a map over the cluster of `ray`, and the cores of each of its worker processes.

    With a GPU, each process has a GPU of its own. On CPUs, a process of a restorer on base `tiny` has one core, and a
    process of any other restorer has all cores of a node, because such a restorer needs much memory. `out` must be
    locked. Raises BadInput or ModelUnavailable if a node cannot restore the photos.
    """
    on_gpu = model.device == "cuda"
    alone = on_gpu or model.config.base != TINY
    check = partial(check_restorer, restorer=restorer, hashes=hash_restorer(restorer, models))
    files = [*list_first_files(inputs), [out / LOCK]]
    with open_cluster_pool(ray, check=check, on_gpu=on_gpu, files=files, alone=alone, nested=True) as run:
        yield run, count_cores_of_batch(ray, on_gpu) if alone else 1


def restore_on_cluster(
    run: BatchMap,
    outputs: Sequence[PhotoOutput],
    work: NodeWork,
    batches: FaceBatches,
    finished: dict[int, RestoredPhoto],
) -> Generator[None]:
    """Restores photos on a cluster. The results are the same as those of `restore_in_batches`.

    If a node used smaller batches, because its memory was too small, `batches` gets the smallest size of a node.
    """
    size = max(LEAST_PHOTOS, work.batch)
    tasks = [outputs[start : start + size] for start in range(0, len(outputs), size)]
    results: Iterator[Any] = run(partial(restore_task, work=work), tasks)
    for photos, least in results:
        batches.size = min(batches.size, least)
        for photo in photos:
            finished[len(finished)] = photo
        yield
