"""Measure how the result depends on the number of references, and how wrong or changed references change the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import BadInput
from manifests.runtime.progress import Progress
from train.evaluation.evaluator import Evaluator
from train.evaluation.options import EvaluationOptions
from train.evaluation.presentation.plot import draw_curve
from train.evaluation.results.write_result import write_result
from train.evaluation.systems.row import Row
from train.evaluation.systems.system import (
    REFERENCE_COUNTS,
    list_counterfactual_differences,
    list_counterfactual_systems,
)

# `counterfactuals` computes these metrics if the user does not give --metrics.
DEFAULT_METRICS = ("psnr", "id_target", "same_person", "id_references", "face_restored", "copy_ratio", "takeover")


def counterfactuals(
    run: Path,
    dataset: Path,
    lq_set: str | None = None,
    options: EvaluationOptions | None = None,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures a run with 0, 1, 2, 4 and 8 references, measures the counterfactual systems, and returns the result.

    Each counterfactual system gets `options.references` references. Depending on the system, these references have
    another order, are copies of one reference, are blurred, show another pose, are least similar to the target, or show
    another person. The result is written to RUN, into a JSON file and a Parquet file whose names begin with
    counterfactuals. The key `have` maps each number K of references on the curve to the number of images with at least
    K references. If an image has fewer references than a system can use, the system uses all references of the image.
    The key `largest_change_by_order` is the largest difference of a pixel value between two orders of the same
    references, in levels of 0..255. Restored images and values are kept as in `evaluate`. Raises the same errors as
    `evaluate`.
    """
    options = options or EvaluationOptions(metrics=DEFAULT_METRICS)
    if options.references > max(REFERENCE_COUNTS):
        raise BadInput(
            f"--max-references {options.references} is too large: the curve ends at {max(REFERENCE_COUNTS)}, so "
            f"give {max(REFERENCE_COUNTS)} or less."
        )
    last: dict[str, Any] = {"face": "", "image": None}
    largest = 0

    def compare_orders(row: Row, image: np.ndarray) -> None:
        """Compares two restorations of a face that use the same references in different orders. The usual order is
        measured first."""
        nonlocal largest
        if row["key"] == str(options.references):
            last.update(face=row["face_id"], image=image)
        elif row["key"] == f"shuffled{options.references}" and row["face_id"] == last["face"]:
            largest = max(largest, int(np.abs(image.astype(int) - last["image"]).max()))

    evaluator = Evaluator(dataset, lq_set, options, compare_orders, max(REFERENCE_COUNTS), True, say=say)
    rows = evaluator.measure_run(run, list_counterfactual_systems(options.references), progress)
    differences = list_counterfactual_differences(options.references)
    result = evaluator.build_result(rows, differences) | evaluator.describe_run(run)
    images_by_count = Counter(len(case.references) for case in evaluator.cases)
    result["have"] = {
        str(k): sum(images for count, images in images_by_count.items() if count >= k) for k in REFERENCE_COUNTS
    }
    result["largest_change_by_order"] = largest
    name = evaluator.name_result_file("counterfactuals")
    result["file"] = f"{name}.json"
    write_result(run / name, result, rows)
    return result


def draw_metric_curve(result: dict[str, Any], metric: str = "id_target") -> str:
    """Returns the curve of a metric over the number of references, as SVG.

    Raises BadInput if the metric was not measured, for example because the set has no targets.
    """
    averages = {average["key"]: average for average in result["rows"] if average[metric] is not None}
    counts = {int(key): average[metric] for key, average in averages.items() if key.isdigit()}
    if not counts:
        reason = result["not_measured"].get(metric, "No image has a value.")
        raise BadInput(f"--plot draws {result['metrics'][metric]['title']}, which was not measured. {reason}")
    others = {
        average["system"]: average[metric] for key, average in averages.items() if not key.isdigit() and key != "lq"
    }
    lq = averages["lq"][metric] if "lq" in averages else None
    title = f"{result['metrics'][metric]['title']} ({result['judge']['spec'].rsplit('/', 1)[-1]}), 95% intervals"
    return draw_curve(counts, others, lq, title, f"{result['references']} references, changed")
