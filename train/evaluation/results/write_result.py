"""Describes the metrics of a result, and writes a result and its rows as files."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from curate.faces.interface import FaceModels
from manifests.runtime.files import remove_temporary_files, write_atomically
from train.evaluation.options import EvaluationOptions
from train.evaluation.systems.row import Row
from train.metrics.fid.conventions import DEFAULT, describe_resizing
from train.metrics.measure import describe_convention
from train.metrics.provenance import describe_provenance
from train.metrics.registry import INCEPTION, METRICS


def describe_metric(
    name: str, options: EvaluationOptions | None = None, judge: FaceModels | None = None
) -> dict[str, Any]:
    """Returns the entry of a metric in a result: its title, unit, convention and source, its libraries with their
    versions, and its files of weights with their sha256 and licence (train/metrics/provenance.py)."""
    options, metric = options or EvaluationOptions(), METRICS[name]
    convention = describe_convention(name, options.crop_border)
    if metric.requirement == INCEPTION:
        convention = f"{convention}. {describe_resizing(options.fid_convention or DEFAULT)}"
    return {
        "title": metric.title,
        "unit": metric.unit,
        "better": metric.better,
        "digits": metric.digits,
        "convention": convention,
        "source": metric.source,
        "without_a_figure": metric.nan_reason,
        **describe_provenance(name, options.weights, judge),
    }


def write_result(stem: Path, result: dict[str, Any], rows: Sequence[Row]) -> None:
    """Writes the result to STEM.json and its rows to STEM.parquet.

    The table is a polars frame, because pyarrow would import pandas.
    """
    remove_temporary_files(stem.parent, recursive=False, shared=True)
    write_atomically(stem.with_suffix(".json"), json.dumps(result, indent=1).encode())
    buffer = io.BytesIO()
    pl.DataFrame(list(rows), infer_schema_length=None).write_parquet(buffer)
    write_atomically(stem.with_suffix(".parquet"), buffer.getvalue())
