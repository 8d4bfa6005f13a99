"""Writes result files as `likeness evaluate` does, with chosen values for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.evaluation.results.aggregate import average_systems
from train.evaluation.results.write_result import describe_metric, write_result

NO_OVERLAP = {
    "checked": True, "how": {}, "set_faces": 1, "training_faces": 1, "alike_pairs": 0, "expected_pairs": 0.0,
    "seen_targets": [], "unchecked": [],
}  # fmt: skip


def write_run_result(
    path: Path,
    values: Mapping[str, Mapping[str, Sequence[float]]],
    people: int = 10,
    reason: str | None = None,
    **changes: Any,
) -> Path:
    """Writes the result of one run. `values` maps a system ("lq", "0", "4") to the values of each metric.

    Image number n shows the person n % people. `reason` says why the restored images have no values. `changes`
    replaces keys of the result.
    """
    rows = [
        {
            "face_id": f"{n:032x}", "identity_id": f"p{n % people}", "key": key, "system": "restored",
            "reason": reason if key != "lq" else None,
            "references": 0, "left_out": 0, **{name: column[n] for name, column in metrics.items()},
        }
        for key, metrics in values.items()
        for n in range(len(next(iter(metrics.values()))))
    ]  # fmt: skip
    names = list(next(iter(values.values())))
    images = len({row["face_id"] for row in rows})
    result = {
        "dataset": "somewhere", "lq_set": "set", "set_argument": None, "seed": 0, "benchmark": "b-1",
        "benchmark_with_references": "b-2", "images": images, "images_in_set": images, "people": people,
        "references": 4, "size": 32, "judge": {"spec": "dlib", "sha256": "1", "is_the_datasets_own": False},
        "interval": "none", "without_wrong_references": 0, "left_out": {}, "not_measured": {}, "unmeasured": [],
        "metrics": {name: describe_metric(name) for name in names}, "differences": [],
        "rows": average_systems(rows, names, 0), "training_overlap": NO_OVERLAP, **changes,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_result(path.with_suffix(""), result, rows)
    return path
