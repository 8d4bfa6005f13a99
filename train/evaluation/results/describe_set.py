"""Describes the set of a result, and the images that could not be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from train.evaluation.options import DEFAULT_METRICS, EvaluationOptions
from train.evaluation.results.aggregate import describe_interval
from train.evaluation.sets.cases import FrozenSet
from train.evaluation.systems.row import Row
from train.metrics.measure import reads_target
from train.metrics.registry import METRICS

NO_TARGETS = "The set has no targets."


def describe_set(frozen_set: FrozenSet, options: EvaluationOptions, missing: Mapping[str, str]) -> dict[str, Any]:
    """Returns the part of a result that describes the measured cases of a set.

    `missing` has the reason for each metric that cannot be measured.
    """
    cases = frozen_set.cases
    people = [case.identity_id for case in cases]
    # True if the user asked for metrics that need a target. `not_measured` of the result then has the reason.
    asked = NO_TARGETS in missing.values()
    absent = [METRICS[name].title for name in DEFAULT_METRICS if reads_target(name)]
    return {
        "lq_set": frozen_set.name,
        "seed": options.seed,
        "images": len(cases),
        "images_in_set": frozen_set.images,
        "people": len(set(people)),
        "people_known": frozen_set.people_known,
        "has_targets": frozen_set.has_targets,
        "with_references": sum(bool(case.references) for case in cases),
        # if the set has no targets and the user asked for no metric that needs one: the titles of the default metrics
        # that need one
        "needs_targets": [] if frozen_set.has_targets or asked else absent,
        "references": options.references,
        "size": cases[0].size,
        "interval": describe_interval(people, frozen_set.people_known),
        "without_wrong_references": sum(not case.wrong for case in cases),
    }


def describe_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the part of a result that says which references were left out, and which images were not measured."""
    return {
        # key of a system with references -> number of images for which some references were left out
        "left_out": {
            key: sum(row["left_out"] > 0 for row in rows if row["key"] == key)
            for key in dict.fromkeys(row["key"] for row in rows if row["references"])
        },
        "unmeasured": [
            {"key": row["key"], "face_id": row["face_id"], "reason": row["reason"]}
            for row in rows
            if row["reason"] is not None
        ],
    }
