"""Computes the score and the identity gate of the NTIRE challenge on face restoration, and adds them to a result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from train.benchmark.imported.imported_benchmark import find_imported, load_imported
from train.evaluation.results.aggregate import Average
from train.evaluation.systems.row import Row
from train.metrics.ntire import FID_CONVENTION, GATE, MOST_BELOW, PARTS, THRESHOLDS, apply_gate, compute_terms
from train.metrics.registry import METRICS

NAME = "ntire"
# Some imported sets are a subset of the challenge. Maps the name of the layout of such a set to the subset.
_SETS = {
    "lfw-test": "LFW-Test",
    "wider-test": "Wider-Test",
    "webphoto-test": "WebPhoto-Test",
    "celebchild-test": "CelebChild-Test",
}


def add_parts(metrics: Sequence[str]) -> tuple[str, ...]:
    """Returns the metrics to measure. If `metrics` contains the score, the parts of the score and the metric of the
    identity gate are added.
    """
    if NAME not in metrics:
        return tuple(metrics)
    return tuple(dict.fromkeys([name for name in metrics if name != NAME] + [*PARTS, GATE, NAME]))


def add_score(averages: Sequence[Average], fid_convention: str) -> None:
    """Adds the score to the average of each system, with its six terms.

    A system has no score if a part is missing for an image, because a mean over fewer images could not be compared.
    Raises BadInput if a part was not measured at all, or if FID has another convention than the challenge.
    """
    if missing := [METRICS[part].title for part in PARTS if all(average.get(part) is None for average in averages)]:
        raise BadInput(f"The score is the sum of {len(PARTS)} parts. Not measured: {', '.join(missing)}.")
    if fid_convention != FID_CONVENTION:
        raise BadInput(
            f"The challenge computes FID by the convention {FID_CONVENTION}, but the statistics have the convention "
            f"{fid_convention}. Give other statistics."
        )
    for average in averages:
        figures = [average.get(part) for part in PARTS]
        measured = average["images"] - average["unmeasured"]
        average[NAME] = None
        if all(figure is not None and figure["images"] == measured for figure in figures):
            terms = compute_terms({part: average[part]["mean"] for part in PARTS})
            average[NAME] = {"mean": sum(terms.values()), "images": measured, "terms": terms}


def describe_gate(
    rows: Sequence[Row], metrics: Sequence[str], missing: Mapping[str, str], dataset: Path, lq_set: str | None
) -> dict[str, Any]:
    """Returns the part of a result that describes the gate, or {} if the user did not ask for the score.

    The key `systems` has the result of each system: the number of images, whether the system passes, and for each
    subset the number of faces whose cosine is below the threshold of the subset. An image that could not be measured
    counts as below the threshold (ours). If the images cannot be judged, the key `reason` says why.
    """
    if NAME not in metrics:
        return {}
    if GATE in missing:
        return {"ntire_gate": {"reason": "AdaFace could not be used. The thresholds hold for AdaFace only."}}
    subsets = _read_subsets(dataset, lq_set)
    if any(subsets.get(row["face_id"]) not in THRESHOLDS for row in rows):
        return {"ntire_gate": {"reason": "The set does not say which subset of the challenge each image belongs to."}}
    systems = {}
    for key in dict.fromkeys(row["key"] for row in rows if row["key"] != "lq"):
        own = [row for row in rows if row["key"] == key]
        cosines = [row[GATE] if math.isfinite(row[GATE]) else -1.0 for row in own]
        gate = apply_gate(cosines, [subsets[row["face_id"]] for row in own])
        systems[key] = {"images": gate.images, "below": gate.below, "passes": gate.passes}
    return {"ntire_gate": {"thresholds": THRESHOLDS, "most_below": MOST_BELOW, "systems": systems}}


def _read_subsets(dataset: Path, lq_set: str | None) -> dict[str, str]:
    """Returns the subset of each image of an imported set, by the name of the image. An unknown subset is left out."""
    if (found := find_imported(dataset, lq_set)) is None:
        return {}
    benchmark = load_imported(found[0])
    subset_of_set = _SETS.get(benchmark.card["name"])
    subsets = {case.name: case.columns.get("subset", subset_of_set) for case in benchmark.cases}
    return {name: subset for name, subset in subsets.items() if subset is not None}
