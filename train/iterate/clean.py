"""Clean the training targets of a round: restore each target with a defect, check the result, and record the result in
the ledger.

Each result becomes a row of the table `versions`, whether it was accepted or rejected. After a kill, the same command
continues with the first unfinished batch. If the killed command left a PNG without a row, the PNG is written again with
the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curate.faces.interface import FaceModels
from manifests.ledger.cleaned_targets import select_best_versions, version_path
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import CleanedVersion
from manifests.pictures.png_files import encode_png
from manifests.runtime.files import sha256_bytes, sha256_file, write_atomically
from manifests.runtime.progress import Progress
from train.data.mesh import find_warp_points
from train.data.snapshot import Snapshot
from train.data.taking.crops import read_cleaned_crop, read_crop
from train.data.tensors import to_image, to_tensor
from train.evaluation.sets.embedder import make_embedder
from train.iterate.acceptance import (
    Bounds,
    compute_min_identity,
    find_defect,
    find_rejection,
    measure_change,
    measure_crop,
)
from train.models.checkpoint_files import WEIGHTS, find_newest_checkpoint
from train.models.restorer import Restorer
from train.restore.references.reference_photos import (
    References,
    join_references,
    limit_references,
    warp_references,
)
from train.restore.restorers.load_restorer import (
    embed_references,
    load_restorer,
    move_to_device,
    run_model,
    speed_up_on_cpu,
)

STAGE = "iterate"
BATCH = 64  # Number of targets that are recorded in one transaction.
REFERENCES = 4  # A target is restored with at most this number (ours) of references.

MEASURES = "SELECT face_id, sharpness, noise, blockiness FROM faces WHERE list_contains(?, face_id) ORDER BY face_id"


@dataclass(frozen=True)
class CleaningJob:
    """Holds the data and the settings that are the same in all rounds of an iteration."""

    dataset: Path
    iteration: str
    models: FaceModels  # the face models, with the recognizer of the dataset
    bounds: Bounds
    base_model: str | None
    steps: int  # number of steps in which a target is restored


@dataclass(frozen=True)
class RoundRestorer:
    """Holds facts about the restorer of a round. The ledger records these facts with each version."""

    iteration: str
    round: int
    checkpoint: str
    sha256: str


def find_defects(ledger: Ledger, targets: Sequence[str], bounds: Bounds) -> dict[str, str]:
    """Returns a dict from face id to defect, in order of the face ids. Targets without a defect are not in the dict."""
    rows = ledger.query(MEASURES, list(targets)).iter_rows()
    defects = {face: find_defect(sharpness, noise, blocks, bounds) for face, sharpness, noise, blocks in rows}
    return {face: defect for face, defect in defects.items() if defect is not None}


def clean_targets(
    job: CleaningJob,
    number: int,
    run: Path,
    snapshot: Snapshot,
    targets: Sequence[str],
    progress: Progress = lambda *_: None,
) -> None:
    """Restores each target that has a defect, and records each finished batch. The restorer is that of round `number`.

    `run` is the folder of the round. `snapshot` has the training data of the round, including the references.
    """
    checkpoint = find_newest_checkpoint(run)
    restorer = RoundRestorer(job.iteration, number, str(checkpoint.resolve()), sha256_file(checkpoint / WEIGHTS))
    config = {"checkpoint": restorer.sha256, "bounds": asdict(job.bounds)}
    with Ledger.open(job.dataset) as ledger:
        defects = find_defects(ledger, targets, job.bounds)
        best_versions = select_best_versions(ledger, job.iteration, number)
        finished_units = ledger.find_finished(STAGE, config)
    row_of = {face: row for row, face in enumerate(snapshot.face_ids)}
    faces = list(defects)
    model: Restorer | None = None
    for start in range(0, len(faces), BATCH):
        batch, unit = faces[start : start + BATCH], f"{job.iteration}/clean-{number}/{start // BATCH:05d}"
        if unit not in finished_units:
            if model is None:  # loaded once, and only if a batch is unfinished
                model = speed_up_on_cpu(move_to_device(load_restorer(checkpoint, job.base_model, job.steps)))
            versions = []
            for face in batch:
                references = take_references(snapshot, row_of[face], model)
                best, valid = best_versions.get(face), snapshot.valid(row_of[face])
                versions.append(_clean_target(job, face, defects[face], best, references, valid, model, restorer))
            with Ledger.open(job.dataset, write=True) as ledger:
                ledger.record(STAGE, unit, config, versions)
        progress("clean", start + len(batch), len(faces))


def _clean_target(
    job: CleaningJob,
    face: str,
    defect: str,
    best: CleanedVersion | None,
    references: References,
    valid: np.ndarray,
    model: Restorer,
    restorer: RoundRestorer,
) -> CleanedVersion:
    """Restores and checks one target. If the result is accepted, its PNG is written before its row.

    `valid`, bool (S, S), is True for the pixels that come from the photo. The other pixels stay as in the original.
    """
    # Restore the original. Measure the original, and the version that the training of this round used.
    original = read_crop(job.dataset, face, model.config.size)
    restored = run_model(model, to_tensor(original)[None], references)[0]
    original_measures = best_measures = measure_crop(original, valid)
    metrics: dict[str, Any] = {"before": asdict(original_measures)}
    if best is not None:
        best_measures = measure_crop(read_cleaned_crop(job.dataset, best, model.config.size), valid)
        metrics["best"] = {"version": best.round, **asdict(best_measures)}
    # Measure the result, and decide if it is accepted.
    reason, data = "not_a_number", b""
    if bool(torch.isfinite(restored).all()):
        cleaned = np.where(valid[:, :, None], to_image(restored), original)
        measures, change = measure_crop(cleaned, valid), measure_change(original, cleaned, job.bounds, valid)
        vectors = make_embedder(job.models)([original, cleaned])
        identity = float(vectors[0] @ vectors[1])
        min_identity = compute_min_identity(job.models.same_person, job.bounds)
        reason = (
            find_rejection(original_measures, best_measures, measures, identity, change, min_identity, job.bounds) or ""
        )
        metrics |= {"after": asdict(measures), "identity": identity, "least_identity": min_identity, "change": change}
        data = encode_png(cleaned)
    if not reason:
        write_atomically(version_path(job.dataset, restorer.iteration, restorer.round, face), data)
    return CleanedVersion(
        iteration=restorer.iteration,
        round=restorer.round,
        face_id=face,
        defect=defect,
        parent=sha256_file(crop_path(job.dataset, face)),
        checkpoint=restorer.checkpoint,
        checkpoint_sha256=restorer.sha256,
        metrics=json.dumps(metrics, sort_keys=True),
        sha256=None if reason else sha256_bytes(data),
        status="dropped" if reason else "ok",
        reason=reason or None,
    )


def take_references(snapshot: Snapshot, row: int, model: Restorer) -> References:
    """Returns at most REFERENCES references of a target. The references are warped to the target if the restorer uses
    warped references."""
    rows = snapshot.references[row][:REFERENCES]
    size, dim = snapshot.size, snapshot.embeddings.shape[1]
    if not len(rows):
        return join_references((), size, dim)
    crops = np.stack([snapshot.crops[ref] for ref in rows])

    def find_points(face: int) -> np.ndarray | None:
        return find_warp_points(model.config.parts, np.array(snapshot.crops[face]), snapshot.landmarks[face])

    points = tuple(find_points(ref) for ref in rows)
    references = References(crops, np.asarray(snapshot.embeddings[rows]), points)
    references = embed_references(model, limit_references(model.config, references))
    return warp_references(model.config, references, find_points(row))
