"""How much references help, by their number, and what happens where they are not as they should be: one call."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import BadInput
from manifests.runtime.progress import Progress
from train.evaluation.aggregate import Row
from train.evaluation.evaluate import Asked, Evaluation, write_result
from train.evaluation.plot import curve
from train.evaluation.systems import CURVE, counterfactual_differences, counterfactual_systems
from train.restore.output_paths import result_name

# what a counterfactual is looked at by, where nothing else is asked for
METRICS_ASKED = ("psnr", "id_target", "id_references", "face_restored", "copy_ratio", "takeover")


def counterfactuals(
    run: Path,
    dataset: Path,
    lq_set: str | None = None,
    asked: Asked | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """What RUN/counterfactuals.json then holds: an evaluation whose rows are K = 0, 1, 2, 4, 8 and, with
    `asked.references` references, shuffled ones, one repeated, blurred, of another pose, least alike, another person's.

    `have` counts the images that have so many references; those with fewer are shown all they have.
    `largest_change_by_order` is the largest difference of a pixel, in 1/255, that another order makes. Raises as
    `evaluate`.
    """
    asked = asked or Asked(metrics=METRICS_ASKED)
    if asked.references > max(CURVE):
        raise BadInput(f"--max-references is {asked.references}, and the curve ends at {max(CURVE)}.")
    last: dict[str, Any] = {"face": "", "image": None}
    largest = 0

    def watch(row: Row, image: np.ndarray) -> None:
        """Compare the two orders of one face, which come one after the other."""
        nonlocal largest
        if row["key"] == str(asked.references):
            last.update(face=row["face_id"], image=image)
        elif row["key"] == f"shuffled{asked.references}" and row["face_id"] == last["face"]:
            largest = max(largest, int(np.abs(image.astype(int) - last["image"]).max()))

    found = Evaluation(dataset, lq_set, asked, watch, most=max(CURVE), harder=True)
    rows = found.of_run(run, counterfactual_systems(asked.references), progress)
    have = Counter(len(case.references) for case in found.cases)
    result = found.result(rows, counterfactual_differences(asked.references)) | found.about(run)
    result["have"] = {str(k): sum(count for number, count in have.items() if number >= k) for k in CURVE}
    result["largest_change_by_order"] = largest
    write_result(run / result_name("counterfactuals", asked.judge, asked.steps), result, rows)
    return result


def plot(result: dict[str, Any], metric: str = "id_target") -> str:
    """The curve of a metric, as SVG."""
    rows = {row["key"]: row for row in result["rows"] if row[metric] is not None}
    counts = {int(key): row[metric] for key, row in rows.items() if key.isdigit()}
    others = {row["system"]: row[metric] for key, row in rows.items() if not key.isdigit() and key != "lq"}
    lq = rows["lq"][metric] if "lq" in rows else None
    title = f"{result['metrics'][metric]['title']} ({result['judge']['spec'].rsplit('/', 1)[-1]}), 95% intervals"
    return curve(counts, others, lq, title, f"{result['references']}, otherwise")
