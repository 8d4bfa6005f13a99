"""How much references help, by their number, and what happens where they are not as they should be: one call."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import BadInput
from manifests.runtime.progress import Progress
from train.evaluation.aggregate import Row
from train.evaluation.evaluate import Evaluation, EvaluationOptions, write_result
from train.evaluation.plot import draw_curve
from train.evaluation.systems import REFERENCE_COUNTS, list_counterfactual_differences, list_counterfactual_systems
from train.run_folders import name_result_file

# what a counterfactual is looked at by, where nothing else is asked for
DEFAULT_METRICS = ("psnr", "id_target", "id_references", "face_restored", "copy_ratio", "takeover")


def counterfactuals(
    run: Path,
    dataset: Path,
    lq_set: str | None = None,
    options: EvaluationOptions | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """What RUN/counterfactuals.json then holds: an evaluation whose rows are K = 0, 1, 2, 4, 8 and, with
    `options.references` references, shuffled ones, one repeated, blurred, of another pose, least alike, another
    person's.

    `have` counts the images that have so many references; those with fewer are shown all they have.
    `largest_change_by_order` is the largest difference of a pixel, in 1/255, that another order makes. Raises as
    `evaluate`.
    """
    options = options or EvaluationOptions(metrics=DEFAULT_METRICS)
    if options.references > max(REFERENCE_COUNTS):
        raise BadInput(f"--max-references is {options.references}, and the curve ends at {max(REFERENCE_COUNTS)}.")
    last: dict[str, Any] = {"face": "", "image": None}
    largest = 0

    def compare_orders(row: Row, image: np.ndarray) -> None:
        """Compare the two orders of one face, which come one after the other."""
        nonlocal largest
        if row["key"] == str(options.references):
            last.update(face=row["face_id"], image=image)
        elif row["key"] == f"shuffled{options.references}" and row["face_id"] == last["face"]:
            largest = max(largest, int(np.abs(image.astype(int) - last["image"]).max()))

    found = Evaluation(dataset, lq_set, options, compare_orders, most=max(REFERENCE_COUNTS), harder=True)
    rows = found.measure_run(run, list_counterfactual_systems(options.references), progress)
    have = Counter(len(case.references) for case in found.cases)
    result = found.build_result(rows, list_counterfactual_differences(options.references)) | found.describe_run(run)
    result["have"] = {str(k): sum(count for number, count in have.items() if number >= k) for k in REFERENCE_COUNTS}
    result["largest_change_by_order"] = largest
    write_result(run / name_result_file("counterfactuals", options.judge, options.steps), result, rows)
    return result


def draw_metric_curve(result: dict[str, Any], metric: str = "id_target") -> str:
    """The curve of a metric, as SVG."""
    rows = {row["key"]: row for row in result["rows"] if row[metric] is not None}
    counts = {int(key): row[metric] for key, row in rows.items() if key.isdigit()}
    others = {row["system"]: row[metric] for key, row in rows.items() if not key.isdigit() and key != "lq"}
    lq = rows["lq"][metric] if "lq" in rows else None
    title = f"{result['metrics'][metric]['title']} ({result['judge']['spec'].rsplit('/', 1)[-1]}), 95% intervals"
    return draw_curve(counts, others, lq, title, f"{result['references']}, otherwise")
