"""Takes a snapshot: copies the faces of a dataset that training uses into one folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from manifests.errors import BadInput, ModelUnavailable
from manifests.runtime.files import LOCK, find_blocking_file, hash_config, lock_folder, sha256_file
from manifests.runtime.snapshot_files import BEFORE_PURGES, CROPS, FACTS, VERSION
from train.data.snapshot import DETECTOR, RECOGNIZER, Snapshot, SnapshotConfig, load_snapshot
from train.data.taking.choose_faces import (
    choose_faces,
    hash_faces,
    list_people,
    list_training_only,
    list_training_targets,
    stream_faces,
)
from train.data.taking.write_faces import write_chosen_faces, write_faces

if TYPE_CHECKING:
    from curate.faces.interface import FaceModels, ModelFile
    from manifests.ledger.ledger import Ledger
    from manifests.ledger.records import CleanedVersion


def plan_targets(dataset: Path, size: int) -> list[str]:
    """Returns the sorted face ids of the training targets that a snapshot of `dataset` would have.

    No snapshot is taken.
    """
    from manifests.ledger.ledger import Ledger

    with Ledger.open(Path(dataset)) as ledger:
        choose_faces(ledger, SnapshotConfig(size))
        return list_training_targets(ledger)


def plan_snapshot(dataset: Path, size: int) -> dict[str, Any]:
    """Returns the counts that a snapshot of `dataset` would have. No snapshot is taken.

    The counts are the number of faces, of targets by split, of people by split, and of omitted targets by reason.
    """
    from manifests.ledger.ledger import Ledger

    with Ledger.open(Path(dataset)) as ledger:
        return choose_faces(ledger, SnapshotConfig(size))


def take_snapshot(
    dataset: Path,
    folder: Path,
    size: int,
    models: FaceModels | None = None,
    replace: bool = True,
    versions: Mapping[str, CleanedVersion] = MappingProxyType({}),
) -> Snapshot:
    """Takes a snapshot of a dataset into `folder` and returns the snapshot.

    If `folder` already has a snapshot of the same ledger rows and settings, that snapshot is returned. A new folder
    appears only when its snapshot is complete. `models` are the face models of the dataset. If `models` is None,
    the models that the ledger records are loaded. `versions` maps face ids to cleaned versions. A cleaned version
    replaces the original crop, but only for faces in the training split.

    Raises BadInput if the dataset has no training target, or if `folder` contains other files. Raises BadInput also if
    `replace` is False and `folder` has a different snapshot, because a run must keep its first snapshot. Raises
    ModelUnavailable if the recognizer is not the recognizer in the ledger. Raises LedgerBroken if a target has a
    reference of another person, or if a training target has a reference in another split.
    """
    from manifests.ledger.ledger import Ledger

    dataset, folder, config = Path(dataset), Path(folder), SnapshotConfig(size)
    with ExitStack() as stack:
        with Ledger.open(dataset) as ledger:
            # Choose the faces. If an earlier snapshot has the same faces, return it.
            counts = choose_faces(ledger, config)
            recognizer = _recorded_recognizer(ledger)
            used_versions = _select_versions(ledger, versions)
            cleaned = {"versions": {face: one.sha256 for face, one in used_versions.items()}} if used_versions else {}
            people = list_people(ledger)
            rows = hash_faces(stream_faces(ledger), people)
            manifest = hash_config({"rows": rows, "recognizer": recognizer, **cleaned})
            if (earlier := _find_earlier(dataset, folder, manifest, config, replace)) is not None:
                return earlier

            # Describe the snapshot, and copy what is needed from the ledger.
            models = models or _load_models(recognizer["spec"])
            if models.recognizer_sha256() != recognizer["sha256"]:
                raise ModelUnavailable(
                    f"The files of {recognizer['spec']} changed after {dataset} was curated: put the old files of the "
                    "recognizer back."
                )
            template = {
                "size": models.size,
                "template": models.template.tolist(),
                "mean": models.mean,
                "std": models.std,
            }
            facts = {
                "version": VERSION,
                "manifest": manifest,
                "config": vars(config),
                "counts": counts,
                "recognizer": {**recognizer, **template, "dim": models.dim},
            }
            if used_versions:
                facts["cleaned"] = {
                    "iteration": next(iter(used_versions.values())).iteration,
                    "faces": len(used_versions),
                    "targets": len(used_versions.keys() & set(list_training_targets(ledger))),
                }
            detector = _find_detector(models)
            if detector is not None:  # the snapshot keeps the detector, because the warp of references depends on it
                facts["detector"] = {"sha256": detector.sha256, "licence": detector.licence}
            stack.enter_context(lock_folder(folder.parent, f".{folder.name}{LOCK}"))
            temporary = stack.enter_context(_replace_at_end(folder))
            write_chosen_faces(temporary, ledger)

        # Other commands can write to the ledger again. Now read the crops, which can take hours.
        write_faces(temporary, dataset, people, size, used_versions)
        files = {RECOGNIZER: models.recognizer_onnx, DETECTOR: None if detector is None else detector.path}
        for name, file in files.items():
            if file is not None:
                shutil.copyfile(file, temporary / name)
        facts["crops_sha256"] = sha256_file(temporary / CROPS)
        facts["hash"] = hash_config(facts)
        (temporary / FACTS).write_text(json.dumps(facts, indent=2, sort_keys=True), encoding="utf-8")
    return load_snapshot(folder)


def _find_earlier(dataset: Path, folder: Path, manifest: str, config: SnapshotConfig, replace: bool) -> Snapshot | None:
    """Returns the snapshot in `folder` if it has the same faces and settings, otherwise None.

    Raises BadInput if `folder` contains other files, or if `replace` is False and `folder` has a different snapshot.
    """
    if (folder / FACTS).is_file():
        earlier = load_snapshot(folder)
        if earlier.facts["manifest"] == manifest and earlier.facts["config"] == vars(config):
            shutil.rmtree(_get_old_path(folder), ignore_errors=True)  # a killed process can leave this folder
            return earlier
        if not replace and BEFORE_PURGES in earlier.facts:
            raise BadInput(
                f"A purge or an opt-out removed faces from {folder} after the training in {folder.parent} began: "
                "train again from the start, with another --out."
            )
        if not replace:
            raise BadInput(
                f"{dataset} or the size of the crops changed after the training in {folder.parent} began: continue "
                f"with the old data (`likeness train {folder} --out {folder.parent}`), or give another --out."
            )
    elif (file := find_blocking_file(folder)) is not None:
        raise BadInput(f"{file} is a file: give a folder for the snapshot.")
    elif folder.is_dir() and any(folder.iterdir()):
        raise BadInput(f"{folder} contains files but no snapshot: give another folder with --snapshot.")
    return None


def _select_versions(ledger: Ledger, versions: Mapping[str, CleanedVersion]) -> dict[str, CleanedVersion]:
    """Returns the cleaned versions to use, by face id.

    A cleaned version is used if its face is in the training split, and is not a reference of a target in another split.
    """
    if not versions:
        return {}
    return {face: versions[face] for face in list_training_only(ledger) if face in versions}


def _recorded_recognizer(ledger: Ledger) -> dict[str, Any]:
    from manifests.ledger.queries import read_recognizer

    recognizer = read_recognizer(ledger)
    return {"spec": recognizer.spec, "sha256": recognizer.sha256, "licence": recognizer.licence}


def _load_models(spec: str) -> FaceModels:
    from curate.faces.load import load_faces

    return load_faces(spec)


def _find_detector(models: FaceModels) -> ModelFile | None:
    return next((file for file in models.files if file.role == "detector" and file.path.suffix == ".onnx"), None)


@contextmanager
def _replace_at_end(folder: Path) -> Iterator[Path]:
    """Yields an empty temporary folder, which replaces `folder` at the end. After an error, `folder` is unchanged."""
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):  # a killed process can leave such folders
        shutil.rmtree(stale, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = _get_old_path(folder)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _get_old_path(folder: Path) -> Path:
    """Returns the path to which the old snapshot is moved before it is removed."""
    return folder.with_name(f".{folder.name}.old.tmp")
