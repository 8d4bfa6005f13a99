"""A restorer on a frozen test set: every image measured, beside the LQ input itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.faces.align import recognition_crop
from curate.faces.models import FaceModels, load_faces
from degrade.presets import seeded
from manifests.errors import BadInput
from manifests.progress import Report
from manifests.storage import write_atomically
from train.cases import Case, read_cases, refuse_seen
from train.checkpoint import newest_checkpoint
from train.counterfactuals import System, compared, differences, shown, systems
from train.metrics.image import psnr, ssim
from train.metrics.intervals import bootstrap_unit, held, mean_interval
from train.models.restorer import Restorer
from train.reference_photos import landmarks_of, shown_for, to_image, to_tensor
from train.restore import load_recorded_faces, run_model

METRICS = ("psnr", "ssim", "id_target", "id_references")


def evaluate(
    run: Path,
    dataset: Path,
    *,
    lq_set: str | None = None,
    references: int = 4,
    base_model: str | None = None,
    counts: Sequence[int] = (),
    judge: str | None = None,
    faces: str | None = None,
    seed: int = 0,
    report: Report = lambda *_: None,
) -> dict[str, Any]:
    """Measure the newest checkpoint of `run` on a frozen set of `dataset`; answers what RUN/evaluation.json then holds.

    Rows: the LQ input, restored without references, with up to `references` of them (train/cases.py says which), with
    each number of `counts` between, and with as many of another person; and the paired differences between them.
    Identity is the cosine between embeddings: to the target, and the mean over the right references. They are the
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
    shown_to = systems(references, counts)
    known = Embeddings(models)
    warped = "warped" in model.config.parts
    finder = load_recorded_faces(model, faces) if warped and judge is not None else models
    rows: list[dict[str, Any]] = []
    for done, case in enumerate(cases, 1):
        rows += measure(case, model, known, shown_to, finder if warped else None)
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
        "interval": told_interval(people),
        "without_wrong_references": sum(not case.wrong for case in cases),
        "rows": table(rows, seed),
        "differences": differences(rows, compared(references), METRICS, seed),
    }
    name_of = run / ("evaluation" if judge is None else "evaluation-judge")
    write_atomically(name_of.with_suffix(".json"), json.dumps(result, indent=1).encode())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    write_atomically(name_of.with_suffix(".parquet"), sink.getvalue().to_pybytes())
    return result


class Embeddings:
    """What the judge says of pictures; of a photo that comes again as another's reference, what it said before."""

    def __init__(self, judge: FaceModels) -> None:
        self.judge = judge
        self.known: dict[bytes, np.ndarray] = {}

    def of(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 (N, d) unit rows of N aligned faces, uint8 (S, S, 3)."""
        keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self.known}
        if new:
            chips = [recognition_crop(image, self.judge.template, self.judge.size) for image in new.values()]
            self.known.update(zip(new, self.judge.embed(np.stack(chips)), strict=True))
        return np.stack([self.known[key] for key in keys])


def measure(
    case: Case, model: Restorer, judge: Embeddings, shown_to: Sequence[System], finder: FaceModels | None = None
) -> list[dict[str, Any]]:
    """One row a system; none for wrong references where nobody else has as many.

    With `finder` the references are warped to the landmarks that it finds on the LQ input, as `restore` does.
    """
    lq, target = to_tensor(case.lq)[None], to_tensor(case.target)[None]
    known = judge.of(case.references)
    seen_at = landmarks_of(case.lq, finder) if finder is not None else None
    points: dict[bool, tuple[np.ndarray | None, ...]] = {}
    if finder is not None:
        points = {
            wrong: tuple(landmarks_of(crop, finder) for crop in crops)
            for wrong, crops in ((False, case.references), (True, case.wrong))
        }
    rows = []
    for system in shown_to:
        references = shown(case, system)
        if references is None:
            continue
        if points:
            own = points[system.wrong][: len(references.crops)]
            references = shown_for(model, replace(references, landmarks=own), seen_at)
        # what a file would hold: 8 bits
        image = to_image(run_model(model, lq, references)[0]) if system.restored else case.lq
        vector, truth = judge.of([image, case.target])
        rows.append(
            {
                "face_id": case.face_id,
                "identity_id": case.identity_id,
                "key": system.key,
                "system": system.name,
                "references": len(references.crops),
                "shown_identity_id": case.wrong_identity_id if system.wrong else case.identity_id,
                "psnr": psnr(to_tensor(image)[None], target)[0],
                "ssim": ssim(to_tensor(image)[None], target)[0],
                "id_target": float(vector @ truth),
                "id_references": float((known @ vector).mean()),
            }
        )
    return rows


def told_interval(people: Sequence[str]) -> str:
    """What the intervals are, and how far they can be trusted: few people say little, however many images they have."""
    unit, count = bootstrap_unit(people), len(set(people))
    told = f"95% percentile bootstrap over {f'{count} people' if unit == 'people' else 'images'}"
    if unit == "images":
        return f"{told}, of {count} {'person' if count == 1 else 'people'} only: nothing is said of other people"
    # 30 people: .94 (ours)
    return told if count >= 30 else f"{told}, few: of normal values such intervals hold {held(count):.0%}, not 95%"


def table(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The mean and interval of every metric for every system, in order of first appearance."""
    found = []
    for system in dict.fromkeys(row["system"] for row in rows):
        own = [row for row in rows if row["system"] == system]
        people = [row["identity_id"] for row in own]
        line: dict[str, Any] = {"key": own[0]["key"], "system": system, "images": len(own)}
        for metric in METRICS:
            interval = mean_interval([row[metric] for row in own], people, seeded(seed, "evaluate", metric))
            line[metric] = asdict(interval)
        found.append(line)
    return found
