"""Compare the results of several evaluations of one set: align the images, average, and test the paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from degrade.sampling import make_generator
from manifests.errors import BadInput
from manifests.runtime.text import format_count
from train.evaluation.comparison.paired_tests import LEVEL, RESAMPLES, adjust_p_values, compute_p_value
from train.evaluation.comparison.read_results import LoadedResult
from train.evaluation.results.aggregate import (
    Average,
    Difference,
    average_differences,
    average_systems,
    describe_interval,
)
from train.evaluation.systems.row import Row
from train.metrics.intervals import MIN_UNITS, bootstrap_unit
from train.metrics.measure import reads_judge, reads_references
from train.metrics.registry import METRICS


@dataclass(frozen=True)
class Comparison:
    """Holds the results of several evaluations as one result.

    `result` has the keys of a result of `likeness evaluate`.
    """

    result: dict[str, Any]
    rows: list[Row]


def compare_results(loaded: Sequence[LoadedResult], seed: int) -> Comparison:
    """Compares results on the images that all systems have.

    Every system is compared with the first system of the first result, image by image. A metric is compared only if all
    results computed it in the same way. Raises BadInput if there is only one system, if no image or no metric is common
    to all systems, or if two results name different images.
    """
    first = loaded[0]
    names = {key: name for one in loaded for key, name in one.systems.items()}
    if len(names) < 2:
        raise BadInput("There is only one system. Give several results, or give --all-systems.")
    rows = [row for one in loaded for row in one.rows if row["key"] != "lq"]
    faces = _find_common_faces(rows, names)
    if not faces:
        raise BadInput("No image has a value for every system. Compare systems that restored the same images.")
    metrics, not_compared = _choose_metrics(loaded)
    if not metrics:
        reasons = " ".join(f"{name}: {why}." for name, why in not_compared.items())
        raise BadInput(f"The results have no metric that can be compared. {reasons}")
    lq = [row for row in first.rows if row["key"] == "lq"]
    kept = _keep_common_values([row for row in [*lq, *rows] if row["face_id"] in faces], metrics)
    ordered = ["lq", *names] if lq else list(names)
    kept.sort(key=lambda row: (ordered.index(row["key"]), row["face_id"]))
    averages = average_systems(kept, metrics, seed)
    measured = {row["face_id"] for one in loaded for row in one.rows}
    if len(faces) == len(measured):
        metrics = _add_set_metrics(loaded, averages, metrics, not_compared)
    baseline, *others = names
    pairs = [(f"{names[other]} - {names[baseline]}", other, baseline) for other in others]
    differences = average_differences(kept, pairs, [name for name in metrics if METRICS[name].scope != "set"], seed)
    _test_differences(differences, kept, seed)
    people = [row["identity_id"] for row in kept if row["key"] == baseline]
    result = {
        **{key: first.content[key] for key in _KEPT_KEYS if key in first.content},
        "images": len(faces),
        "people": len(set(people)),
        "images_left_out": {"not_in_every_result": _count_usable_images(first.content) - len(faces)},
        "interval": describe_interval(people, first.content.get("people_known", True)),
        "left_out": {},
        "metrics": {name: first.content["metrics"][name] for name in metrics},
        "not_measured": {},
        "not_compared": not_compared,
        "unmeasured": [],
        "rows": averages,
        "differences": differences,
        "test_limit": _describe_test_limit(differences, people),
        "test": f"paired permutation test with up to {RESAMPLES} sign flips, Benjamini-Yekutieli at {LEVEL:g}",
        "runs": _collect_runs(loaded),
        "baseline": baseline,
        "results": [str(one.path) for one in loaded],
    }
    return Comparison(result, kept)


# These keys have the same values in all results of one set, so they are copied from the first result.
_KEPT_KEYS = (
    "dataset", "lq_set", "set_argument", "seed", "benchmark", "benchmark_with_references", "images_in_set",
    "people_known", "has_targets", "with_references", "set_problems", "needs_targets", "references", "size", "judge",
    "without_wrong_references",
)  # fmt: skip


def _count_usable_images(content: dict[str, Any]) -> int:
    """Returns the number of images of the set that could be measured: the images of the result, and the images that
    were left out because of its systems. Images without references are not counted, because no result can contain them.
    """
    return int(content["images"]) + sum(content.get("images_left_out", {}).values())


def _find_common_faces(rows: Sequence[Row], systems: dict[str, str]) -> set[str]:
    """Returns the images that every system has restored and that could be measured."""
    faces: dict[str, set[str]] = {key: set() for key in systems}
    for row in rows:
        if row["reason"] is None:
            faces[row["key"]].add(row["face_id"])
    return set.intersection(*faces.values())


def _choose_metrics(loaded: Sequence[LoadedResult]) -> tuple[list[str], dict[str, str]]:
    """Returns the metrics that all results computed in the same way, and why other metrics are missing.

    The metrics of whole sets are left out.
    """
    first, metrics, reasons = loaded[0].content, list[str](), dict[str, str]()
    for name in dict.fromkeys(name for one in loaded for name in one.content["metrics"]):
        described = [one.content["metrics"].get(name) for one in loaded]
        if name not in METRICS or METRICS[name].scope == "set":
            continue
        if any(
            one is None or name in result.content["not_measured"] for one, result in zip(described, loaded, strict=True)
        ):
            reasons[name] = "not every result has it"
        elif any(one["convention"] != described[0]["convention"] for one in described):
            reasons[name] = "the results computed it by different conventions"
        elif reads_judge(name) and any(one.content["judge"]["sha256"] != first["judge"]["sha256"] for one in loaded):
            reasons[name] = "the results have different judges"
        elif any(_list_weights(one) != _list_weights(described[0]) for one in described):
            reasons[name] = "the results computed it with different weights"
        elif (reads_references(name) or METRICS[name].scope == "wrong") and any(
            one.content["benchmark_with_references"] != first["benchmark_with_references"] for one in loaded
        ):
            reasons[name] = "the results have different references (--max-references or --seed)"
        else:
            metrics.append(name)
    return metrics, reasons


def _list_weights(described: dict[str, Any]) -> list[str]:
    """Returns the sha256 of each file of weights of a metric."""
    return sorted(file["sha256"] for file in described.get("weights", ()))


def _keep_common_values(rows: Sequence[Row], metrics: Sequence[str]) -> list[Row]:
    """Returns the rows. If one system has no value of a metric for an image, the image loses the values of this metric
    in all systems. Two means of one metric are therefore means over the same images. A missing value of the LQ images
    removes nothing.
    """
    missing = {
        (row["face_id"], name)
        for row in rows
        for name in metrics
        if row["key"] != "lq" and not math.isfinite(row[name])
    }
    return [row | {name: math.nan for name in metrics if (row["face_id"], name) in missing} for row in rows]


def _add_set_metrics(
    loaded: Sequence[LoadedResult], averages: Sequence[Average], metrics: list[str], reasons: dict[str, str]
) -> list[str]:
    """Adds the metrics of whole sets to the averages, and returns all metrics.

    All systems must have the same images.
    """
    added = []
    for name in loaded[0].content["metrics"]:
        if name not in METRICS or METRICS[name].scope != "set":
            continue
        values = {
            key: next((row.get(name) for row in one.content["rows"] if row["key"] == old), None)
            for one in loaded
            for key, old in {"lq": "lq", **one.old_keys}.items()
        }
        if any(value is None for key, value in values.items() if key != "lq"):
            reasons[name] = "not every result has it"
            continue
        described = [one.content["metrics"][name] for one in loaded]
        if any(one["convention"] != described[0]["convention"] for one in described):
            reasons[name] = "the results computed it by different conventions"
            continue
        if any(_list_weights(one) != _list_weights(described[0]) for one in described):
            reasons[name] = "the results computed it with different weights"
            continue
        against = [value.get("against") for value in values.values() if value is not None]
        if any(one != against[0] for one in against):
            reasons[name] = "the results did not all compare with the same images or statistics"
            continue
        for average in averages:
            average[name] = values.get(average["key"])
        added.append(name)
    return [*metrics, *added]


def _test_differences(differences: Sequence[Difference], rows: Sequence[Row], seed: int) -> None:
    """Adds `p`, `adjusted_p` and `is_significant` to each figure of the differences.

    `adjusted_p` is `p` after a correction for all tests of the table.
    """
    by_system: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_system.setdefault(row["key"], {})[row["face_id"]] = row
    figures = []
    for difference in differences:
        one, other = (by_system[key] for key in difference["keys"])
        for name, figure in difference.items():
            if not isinstance(figure, dict):
                continue
            faces = [face for face in one if math.isfinite(one[face][name]) and math.isfinite(other[face][name])]
            values = [one[face][name] - other[face][name] for face in faces]
            rng = make_generator(seed, "test", name)
            figure["p"] = compute_p_value(values, [one[face]["identity_id"] for face in faces], rng)
            figures.append(figure)
    for figure, adjusted in zip(figures, adjust_p_values([figure["p"] for figure in figures]), strict=True):
        figure["adjusted_p"] = adjusted
        figure["is_significant"] = adjusted <= LEVEL and figure["images"] >= MIN_UNITS


def _describe_test_limit(differences: Sequence[Difference], people: Sequence[str]) -> str:
    """Returns a sentence with a space at its end, or "" if a difference of the table can be significant.

    `people` names the person of each image. With n people, the smallest p-value of a sign flip test is 2 / 2**n. If all
    m tests of a table have this p-value, Benjamini and Yekutieli's correction multiplies it by 1 + 1/2 + ... + 1/m.
    """
    tests = sum(isinstance(figure, dict) for difference in differences for figure in difference.values())
    unit = bootstrap_unit(people)
    units = len(set(people)) if unit == "people" else len(people)
    count = format_count(units, "person", "people") if unit == "people" else format_count(units, "image")
    smallest = min(1.0, 2.0 ** (1 - units))
    if smallest * sum(1 / n for n in range(1, tests + 1)) <= LEVEL:
        return ""
    return (
        f"With {count}, no difference can be significant, because the smallest p-value is "
        f"{smallest:.4f}, before the correction for {format_count(tests, 'test')}. "
    )


def _collect_runs(loaded: Sequence[LoadedResult]) -> dict[str, Any]:
    """Returns the descriptions of all runs, by the names that the comparison uses."""
    runs: dict[str, Any] = {}
    for one in loaded:
        label = next(iter(one.systems)).split("/")[0]
        own = one.content.get("runs")
        if own is None:
            own = {label: {key: one.content[key] for key in _RUN_KEYS if key in one.content}}
        runs |= own
    return {name: run for name, run in runs.items() if "training_overlap" in run}


_RUN_KEYS = ("checkpoint", "recipe", "images_seen", "steps", "training_overlap")
