"""A restorer on a frozen test set: every image measured, beside the LQ input itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from curate.faces.align import recognition_crop
from curate.faces.models import FaceModels, load_faces
from degrade.presets import seeded
from manifests.errors import BadInput
from manifests.progress import Report
from manifests.storage import write_atomically
from train.cases import Case, read_cases, refuse_seen
from train.checkpoint import newest_checkpoint
from train.metrics.image import psnr, ssim
from train.metrics.intervals import bootstrap_unit, mean_interval
from train.models.restorer import Restorer
from train.reference_photos import References, landmarks_of, shown_for, to_image, to_tensor
from train.restore import load_recorded_faces, run_model

METRICS = ("psnr", "ssim", "id_target", "id_references")
INPUT = "LQ input"


def evaluate(
    run: Path,
    dataset: Path,
    *,
    lq_set: str | None = None,
    references: int = 4,
    base_model: str | None = None,
    judge: str | None = None,
    faces: str | None = None,
    seed: int = 0,
    report: Report = lambda *_: None,
) -> dict[str, Any]:
    """Measure the newest checkpoint of `run` on a frozen set of `dataset`; answers what RUN/evaluation.json then holds.

    Rows: the LQ input, restored without references, restored with up to `references` of them (train/cases.py says
    which). Identity is the cosine between embeddings: to the target, and the mean over the references. They are the
    dataset's own recognizer's, which a restorer with an identity loss has also learned through; `judge`, a --faces
    spec, names another one, and the files are then RUN/evaluation-judge.*. RUN/evaluation.parquet holds a row an image
    and a system. `base_model` says where the diffusion model lies now. Raises BadInput, LedgerError or FaceModelError.
    """
    if references < 1:
        raise BadInput("--references must be at least 1; the row without references is always there.")
    checkpoint = newest_checkpoint(run)
    model = Restorer.from_pretrained(checkpoint, base_model)
    frozen = read_cases(dataset, model.config.size, lq_set, references, seed)
    cases = frozen.cases
    checked = refuse_seen(dataset, checkpoint.parent, cases)
    models = load_recorded_faces(model, faces) if judge is None else load_faces(judge)
    learned = models.recognizer_sha256() == model.facts["recognizer"]["sha256"]
    rows: list[dict[str, Any]] = []
    warped = "warped" in model.config.parts
    finder = load_recorded_faces(model, faces) if warped and judge is not None else models
    for done, case in enumerate(cases, 1):
        rows += measure(case, model, models, finder if warped else None)
        report("evaluate", done, len(cases))
    people = [case.identity_id for case in cases]
    result = {
        "dataset": str(dataset.resolve()),
        "lq_set": frozen.name,
        "checkpoint": checkpoint.name,
        "recipe": model.facts.get("recipe"),
        "images_seen": model.facts.get("images"),
        "images": len(cases),
        "images_in_set": frozen.images,
        "unseen_in_training": "checked" if checked else "not checked: RUN/snapshot is not there",
        "people": len(set(people)),
        "references": references,
        "size": model.config.size,
        "judge": {"spec": models.spec, "sha256": models.recognizer_sha256(), "is_the_datasets_own": learned},
        "interval": f"95% percentile bootstrap over {bootstrap_unit(people)}",
        "rows": table(rows, seed),
    }
    name_of = run / ("evaluation" if judge is None else "evaluation-judge")
    write_atomically(name_of.with_suffix(".json"), json.dumps(result, indent=1).encode())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    write_atomically(name_of.with_suffix(".parquet"), sink.getvalue().to_pybytes())
    return result


def measure(case: Case, model: Restorer, judge: FaceModels, finder: FaceModels | None = None) -> list[dict[str, Any]]:
    """One row a system: the input, restored without references, restored with all of them; identity by `judge`.

    With `finder` the references are warped to the landmarks that it finds on the LQ input, as `restore` does.
    """
    lq = to_tensor(case.lq)[None]
    shown = References(
        torch.stack([to_tensor(crop) for crop in case.references]), torch.from_numpy(case.reference_embeddings)
    )
    none = References(shown.crops[:0], shown.embeddings[:0])
    if finder is not None:
        known = tuple(landmarks_of(crop, finder) for crop in case.references)
        shown = shown_for(model, replace(shown, landmarks=known), landmarks_of(case.lq, finder))
    systems = (
        (INPUT, lq, 0),
        ("restored, no reference", run_model(model, lq, none), 0),
        ("restored", run_model(model, lq, shown), len(case.references)),
    )
    images = [to_image(tensor[0]) for _, tensor, _ in systems]  # what a file would hold: 8 bits
    chips = [recognition_crop(image, judge.template, judge.size) for image in (*images, case.target, *case.references)]
    vectors = judge.embed(np.stack(chips))
    found, truth, others = vectors[: len(images)], vectors[len(images)], vectors[len(images) + 1 :]
    target = to_tensor(case.target)[None]
    rows = []
    for (system, _, count), image, vector in zip(systems, images, found, strict=True):
        rows.append(
            {
                "face_id": case.face_id,
                "identity_id": case.identity_id,
                "system": system,
                "references": count,
                "psnr": psnr(to_tensor(image)[None], target)[0],
                "ssim": ssim(to_tensor(image)[None], target)[0],
                "id_target": float(vector @ truth),
                "id_references": float((others @ vector).mean()),
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The mean and interval of every metric for every system, in order of first appearance."""
    found = []
    for system in dict.fromkeys(row["system"] for row in rows):
        own = [row for row in rows if row["system"] == system]
        people = [row["identity_id"] for row in own]
        line: dict[str, Any] = {"system": system, "images": len(own)}
        for metric in METRICS:
            interval = mean_interval([row[metric] for row in own], people, seeded(seed, "evaluate", metric))
            line[metric] = asdict(interval)
        found.append(line)
    return found
