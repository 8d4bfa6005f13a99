"""Takes a snapshot: copies the faces of a dataset that training uses into one folder."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import BadInput, LedgerBroken, ModelUnavailable
from manifests.ledger.decisions.applied_decisions import check_decisions_applied
from manifests.privacy.run_cleanup import BEFORE_PURGES
from manifests.runtime.files import LOCK, find_blocking_file, hash_config, lock_folder, sha256_file
from train.data.crops import read_cleaned_crop, read_crop
from train.data.snapshot import (
    CROPS,
    DETECTOR,
    FACES,
    FACTS,
    LARGE_CROPS,
    LARGE_SIZE,
    RECOGNIZER,
    VALID,
    VERSION,
    Snapshot,
    SnapshotConfig,
    load_snapshot,
)

if TYPE_CHECKING:
    from curate.faces.interface import FaceModels
    from manifests.ledger.ledger import Ledger
    from manifests.ledger.records import CleanedVersion


# The masks of valid pixels are computed from these keys of a row. faces.parquet does not have these keys.
_ONLY_FOR_MASKS = {"photo_landmarks5", "photo_size"}


def plan_targets(dataset: Path, size: int) -> list[str]:
    """Returns the sorted face ids of the training targets that a snapshot of `dataset` would have.

    No snapshot is taken.
    """
    from manifests.ledger.ledger import Ledger

    with Ledger.open(Path(dataset)) as ledger:
        rows = _choose_faces(ledger, SnapshotConfig(size))[0]
    return [row["face_id"] for row in rows if row["is_target"] and row["split"] == "train"]


def plan_snapshot(dataset: Path, size: int) -> dict[str, Any]:
    """Returns the counts that a snapshot of `dataset` would have. No snapshot is taken.

    The counts are the number of faces, of targets by split, of people by split, and of omitted targets by reason.
    """
    from manifests.ledger.ledger import Ledger

    with Ledger.open(Path(dataset)) as ledger:
        return _choose_faces(ledger, SnapshotConfig(size))[1]


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
    with Ledger.open(dataset) as ledger:
        rows, counts = _choose_faces(ledger, config)
        recognizer = _recorded_recognizer(ledger)
        used_versions = _select_versions(rows, versions)
        cleaned = {"versions": {face: one.sha256 for face, one in used_versions.items()}} if used_versions else {}
        manifest = hash_config({"rows": rows, "recognizer": recognizer, **cleaned})
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
        embeddings = ledger.read_embeddings([row["face_id"] for row in rows])[1]
    if models is None:
        from curate.faces.load import load_faces

        models = load_faces(recognizer["spec"])
    if models.recognizer_sha256() != recognizer["sha256"]:
        raise ModelUnavailable(
            f"The files of {recognizer['spec']} changed after {dataset} was curated: put the old files of the "
            "recognizer back."
        )
    template = {"size": models.size, "template": models.template.tolist(), "mean": models.mean, "std": models.std}
    facts = {
        "version": VERSION,
        "manifest": manifest,
        "config": vars(config),
        "counts": counts,
        "recognizer": {**recognizer, **template, "dim": models.dim},
    }
    if used_versions:
        targets = sum(row["is_target"] and row["face_id"] in used_versions for row in rows)
        facts["cleaned"] = {
            "iteration": next(iter(used_versions.values())).iteration,
            "faces": len(used_versions),
            "targets": targets,
        }
    detector = next((file for file in models.files if file.role == "detector" and file.path.suffix == ".onnx"), None)
    if detector is not None:  # the snapshot keeps the detector, because the warp of references depends on it
        facts["detector"] = {"sha256": detector.sha256, "licence": detector.licence}
    files = {RECOGNIZER: models.recognizer_onnx, DETECTOR: None if detector is None else detector.path}
    with lock_folder(folder.parent, f".{folder.name}{LOCK}"):
        _write(folder, dataset, rows, embeddings, facts, files, used_versions)
    return load_snapshot(folder)


def _choose_faces(ledger: Ledger, config: SnapshotConfig) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the rows of a snapshot, sorted by face id, and the counts that `plan_snapshot` returns.

    Raises BadInput if decisions are not applied yet.
    """
    check_decisions_applied(ledger)
    faces = {
        face: (identity, split, upsample, landmarks5, (width, height))
        for face, identity, split, upsample, landmarks5, width, height in ledger.query(
            "SELECT f.face_id, s.identity_id, s.split, f.upsample, f.landmarks5, p.width, p.height "
            "FROM faces f JOIN splits s USING (face_id) JOIN photos p USING (photo_id) "
            "WHERE f.status = 'ok' AND s.status = 'ok' AND f.duplicate_of IS NULL AND f.shard IS NOT NULL"
        ).iter_rows()
    }
    chosen: dict[str, tuple[str, ...]] = {}
    left_out: Counter[str] = Counter()
    for target, refs in ledger.query("SELECT target, refs FROM pairs ORDER BY target").iter_rows():
        if target not in faces:
            left_out["not_in_a_split"] += 1
            continue
        identity, split, upsample = faces[target][:3]
        references = tuple(ref for ref in refs if ref in faces and ref != target)
        for ref in references:
            if faces[ref][0] != identity:
                raise LedgerBroken(
                    f"Face {target} has a reference of another person, {ref}: run `likeness curate` again."
                )
            if split == "train" and faces[ref][1] != "train":
                raise LedgerBroken(
                    f"Training face {target} has the reference {ref}, which is in the split {faces[ref][1]}: run "
                    "`likeness curate` again."
                )
        if not references:
            left_out["no_reference"] += 1
        # The value of `upsample` in the ledger is for a crop of 512 px.
        elif upsample * config.size / 512 > config.max_upsample:
            left_out["too_small_in_its_photo"] += 1
        else:
            chosen[target] = references
    face_ids = sorted(set(chosen).union(*chosen.values()))
    number = {face: i for i, face in enumerate(face_ids)}
    rows = [
        {
            "row": number[face],
            "face_id": face,
            "identity_id": faces[face][0],
            "split": faces[face][1],
            "is_target": face in chosen,
            "references": [number[ref] for ref in chosen.get(face, ())],
            "upsample": float(faces[face][2]),
            "landmarks5": _map_landmarks(faces[face][3], config.size),
            "photo_landmarks5": [float(value) for value in faces[face][3]],
            "photo_size": list(faces[face][4]),
        }
        for face in face_ids
    ]
    targets = Counter(row["split"] for row in rows if row["is_target"])
    if not targets["train"]:
        raise BadInput(
            "No face of the training split can be a target"
            + (f" ({', '.join(f'{n} {why}' for why, n in sorted(left_out.items()))})" if left_out else "")
            + ": a target needs another photo of the same person. Add photos and run `likeness curate` again."
        )
    people = Counter(split for _, split in {(row["identity_id"], row["split"]) for row in rows})
    counts = {"faces": len(rows), "targets": dict(targets), "people": dict(people), "left_out": dict(left_out)}
    return rows, counts


def _select_versions(rows: list[dict[str, Any]], versions: Mapping[str, CleanedVersion]) -> dict[str, CleanedVersion]:
    """Returns the cleaned versions to use, by face id.

    A cleaned version is used if its face is in the training split, and is not a reference of a target in another split.
    """
    needed_elsewhere = {ref for row in rows if row["split"] != "train" for ref in row["references"]}
    own = (row for row in rows if row["split"] == "train" and row["row"] not in needed_elsewhere)
    return {row["face_id"]: versions[row["face_id"]] for row in own if row["face_id"] in versions}


def _map_landmarks(landmarks5: list[float], size: int) -> list[float]:
    """Maps ten coordinates from pixels of the photo to pixels of the aligned `size` x `size` crop, in float32."""
    from train.data.landmarks import map_to_crop

    points = map_to_crop(np.array(landmarks5, np.float64).reshape(5, 2), size)
    return [float(value) for value in points.astype(np.float32).ravel()]


def _recorded_recognizer(ledger: Ledger) -> dict[str, Any]:
    from manifests.ledger.queries import read_recognizer

    recognizer = read_recognizer(ledger)
    return {"spec": recognizer.spec, "sha256": recognizer.sha256, "licence": recognizer.licence}


def _write(
    folder: Path,
    dataset: Path,
    rows: list[dict[str, Any]],
    embeddings: np.ndarray,
    facts: dict[str, Any],
    files: dict[str, Path | None],
    versions: Mapping[str, CleanedVersion],
) -> None:
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):  # a killed process can leave such folders
        shutil.rmtree(stale, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = _get_old_path(folder)
    temporary.mkdir(parents=True)
    try:
        size = facts["config"]["size"]
        # If the photo has enough pixels, training degrades the face at 512 px and then shrinks it. A real photo is also
        # degraded before it is shrunk.
        large = [
            row["face_id"]
            for row in rows
            if _is_training_target(row) and row["upsample"] * size < LARGE_SIZE and row["face_id"] not in versions
        ]
        large_rows = {face: at for at, face in enumerate(large)}
        _write_crops(temporary / CROPS, dataset, [row["face_id"] for row in rows], size, versions)
        _write_crops(temporary / LARGE_CROPS, dataset, large, LARGE_SIZE, {})
        np.save(temporary / VALID, np.stack([_pack_valid_pixels(row, size) for row in rows]))
        columns = {name: [row[name] for row in rows] for name in rows[0] if name not in _ONLY_FOR_MASKS}
        columns["resolution"] = _measure_resolutions(temporary / CROPS, rows)
        columns["large_row"] = [large_rows.get(row["face_id"], -1) for row in rows]
        if versions:
            rounds = {face: one.round for face, one in versions.items()}
            columns["version"] = [rounds.get(row["face_id"]) for row in rows]
        columns["embedding"] = [row.tolist() for row in embeddings.astype(np.float32)]
        floats = pa.list_(pa.float32())
        types = {"references": pa.list_(pa.int32()), "embedding": floats, "landmarks5": floats, "row": pa.int32()}
        types |= {"large_row": pa.int32(), "resolution": pa.int32(), "version": pa.int32()}
        pq.write_table(pa.table({n: pa.array(v, types.get(n)) for n, v in columns.items()}), temporary / FACES)
        for name, file in files.items():
            if file is not None:
                shutil.copyfile(file, temporary / name)
        facts["crops_sha256"] = sha256_file(temporary / CROPS)
        facts["hash"] = hash_config(facts)
        (temporary / FACTS).write_text(json.dumps(facts, indent=2, sort_keys=True), encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _measure_resolutions(crops: Path, rows: list[dict[str, Any]]) -> list[int]:
    """Returns the resolution of each training target in pixels, and 0 for the other crops."""
    from train.data.face_measures import describe_crop, estimate_resolution

    resolutions = [0] * len(rows)
    for number, (image, row) in enumerate(zip(np.load(crops, mmap_mode="r"), rows, strict=True)):
        if _is_training_target(row):
            crop = np.array(image)
            resolutions[number] = estimate_resolution(describe_crop(crop, crop))
    return resolutions


def _is_training_target(row: dict[str, Any]) -> bool:
    return bool(row["is_target"]) and row["split"] == "train"


def _pack_valid_pixels(row: dict[str, Any], size: int) -> np.ndarray:
    """Returns the bits of `find_valid_pixels` for the crop of a row, uint8 (size^2 / 8,), rounded up."""
    from curate.faces.align import find_valid_pixels

    width, height = row["photo_size"]
    return np.packbits(find_valid_pixels(np.array(row["photo_landmarks5"]).reshape(5, 2), width, height, size))


def _get_old_path(folder: Path) -> Path:
    """Returns the path to which the old snapshot is moved before it is removed."""
    return folder.with_name(f".{folder.name}.old.tmp")


def _write_crops(
    path: Path, dataset: Path, face_ids: list[str], size: int, versions: Mapping[str, CleanedVersion]
) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(face_ids), size, size, 3)}
    with path.open("wb") as file:  # not a memory map, because a full disk would then kill the process without a message
        np.lib.format.write_array_header_1_0(file, header)
        for face_id in face_ids:
            version = versions.get(face_id)
            crop = read_crop(dataset, face_id, size) if version is None else read_cleaned_crop(dataset, version, size)
            file.write(crop.tobytes())
