"""Clean the training targets of a round: restore each that has a defect, judge it, record it as a version of its face.

A killed call goes on with the first batch that has no mark; a PNG without a row is written again, with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from curate.faces.interface import FaceModels
from manifests.ledger.cleaned_targets import select_best_versions, version_path
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import CleanedVersion
from manifests.runtime.files import sha256_bytes, sha256_file, write_atomically
from manifests.runtime.png_files import encode_png
from manifests.runtime.progress import Progress
from train.data.crops import read_cleaned_crop, read_crop
from train.data.snapshot import Snapshot
from train.data.tensors import to_image, to_tensor
from train.evaluation.rows import make_embedder
from train.iterate.acceptance import Bounds, change, defect, figures, least_identity, refused
from train.models.checkpoint_files import WEIGHTS, find_newest_checkpoint
from train.models.restorer import Restorer
from train.restore.load import load_restorer, move_to_device, run_model
from train.restore.reference_photos import References, warp_references

STAGE = "iterate"
BATCH = 64  # targets that a completion mark covers
REFERENCES = 4  # a target is restored with, at most (ours)


@dataclass(frozen=True)
class Work:
    """What stays the same from round to round."""

    dataset: Path
    iteration: str
    models: FaceModels  # the dataset's recognizer
    bounds: Bounds
    base_model: str
    steps: int  # that a target is restored in


@dataclass(frozen=True)
class RoundRestorer:
    """The restorer of a round, as the ledger names it."""

    iteration: str
    round: int
    checkpoint: str
    sha256: str


def find_defects(ledger: Ledger, targets: Sequence[str], bounds: Bounds) -> dict[str, str]:
    """What each target that is not good has, by face, in order."""
    rows = ledger.query(
        "SELECT face_id, sharpness, noise, blockiness FROM faces WHERE list_contains(?, face_id) ORDER BY face_id",
        list(targets),
    )
    found = {face: defect(sharp, noisy, blocky, bounds) for face, sharp, noisy, blocky in rows.iter_rows()}
    return {face: what for face, what in found.items() if what is not None}


def clean(
    work: Work, number: int, run: Path, snapshot: Snapshot, targets: Sequence[str], progress: Progress = lambda *_: None
) -> None:
    """Restore the targets with a defect by the restorer of a round, in batches, each one's rows with its mark.

    `snapshot` is what the round was trained on, and gives the references.
    """
    checkpoint = find_newest_checkpoint(run)
    by = RoundRestorer(work.iteration, number, str(checkpoint.resolve()), sha256_file(checkpoint / WEIGHTS))
    config = {"checkpoint": by.sha256, "bounds": asdict(work.bounds)}
    with Ledger.open(work.dataset) as ledger:
        defects = find_defects(ledger, targets, work.bounds)
        best, done = select_best_versions(ledger, work.iteration, number), ledger.find_finished(STAGE, config)
    row_of = {face: row for row, face in enumerate(snapshot.face_ids)}
    wanted = list(defects)
    model: Restorer | None = None
    for start in range(0, len(wanted), BATCH):
        batch, unit = wanted[start : start + BATCH], f"{work.iteration}/clean-{number}/{start // BATCH:05d}"
        if unit not in done:
            if model is None:
                model = move_to_device(load_restorer(checkpoint, work.base_model, work.steps))
            rows = []
            for face in batch:
                shown = _references(snapshot, row_of[face], model)
                rows.append(_attempt(work, face, defects[face], best.get(face), shown, model, by))
            with Ledger.open(work.dataset, write=True) as ledger:
                ledger.record(STAGE, unit, config, rows)
        progress("clean", start + len(batch), len(wanted))


def _attempt(
    work: Work,
    face: str,
    what: str,
    best: CleanedVersion | None,
    references: References,
    model: Restorer,
    by: RoundRestorer,
) -> CleanedVersion:
    """One target restored and judged; its PNG is written where it is kept, before its row."""
    original = read_crop(work.dataset, face, model.config.size)
    restored = run_model(model, to_tensor(original)[None], references)[0]
    before = against = figures(original)
    metrics: dict[str, Any] = {"before": asdict(before)}
    if best is not None:
        against = figures(read_cleaned_crop(work.dataset, best, model.config.size))
        metrics["best"] = {"version": best.round, **asdict(against)}
    reason, data = "not_a_number", b""
    if bool(torch.isfinite(restored).all()):
        cleaned = to_image(restored)
        after, changed = figures(cleaned), change(original, cleaned, work.bounds)
        vectors = make_embedder(work.models)([original, cleaned])
        identity, least = float(vectors[0] @ vectors[1]), least_identity(work.models.same_person, work.bounds)
        reason = refused(before, against, after, identity, changed, least, work.bounds) or ""
        metrics |= {"after": asdict(after), "identity": identity, "least_identity": least, "change": changed}
        data = encode_png(cleaned)
    if not reason:
        write_atomically(version_path(work.dataset, by.iteration, by.round, face), data)
    return CleanedVersion(
        iteration=by.iteration,
        round=by.round,
        face_id=face,
        defect=what,
        parent=sha256_file(crop_path(work.dataset, face)),
        checkpoint=by.checkpoint,
        checkpoint_sha256=by.sha256,
        metrics=json.dumps(metrics, sort_keys=True),
        sha256=None if reason else sha256_bytes(data),
        status="dropped" if reason else "ok",
        reason=reason or None,
    )


def _references(snapshot: Snapshot, row: int, model: Restorer) -> References:
    """The first of a target's references, as its restorer is shown them."""
    rows = snapshot.references[row][:REFERENCES]
    size, dim = snapshot.size, snapshot.embeddings.shape[1]
    if not len(rows):
        return References(torch.zeros(0, 3, size, size), torch.zeros(0, dim))
    crops = torch.stack([to_tensor(snapshot.crops[ref]) for ref in rows])
    own = tuple(snapshot.landmarks[ref] for ref in rows)
    return warp_references(
        model, References(crops, torch.from_numpy(snapshot.embeddings[rows]), own), snapshot.landmarks[row]
    )
