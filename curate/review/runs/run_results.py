"""Reads the results of runs for the review: the figures of each image, and the paths of the restored images.

`likeness evaluate --keep-images` writes the restored images beside its result
(train/evaluation/results/result_images.py). The key `image_folders` of the result has the folder of each system. A
restored image is called `<face_id>.png`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from manifests.ledger.ledger import Ledger
from manifests.report.result_notices import make_notices
from manifests.report.result_tables import make_title

RESULTS = ("evaluation*.json", "comparison*.json", "counterfactuals*.json")
_IMAGE_FOLDER = re.compile(r"[a-z0-9-]+-images/\d+")  # the form of a folder in `image_folders`
_FORM_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, pl.exceptions.PolarsError)


@dataclass(frozen=True)
class Metric:
    """A metric of a result."""

    name: str
    title: str
    unit: str
    better: str  # which figures are better: "higher", "lower", or "" if neither is better
    digits: int

    def format(self, value: float | None) -> str:
        """Returns a figure as text, or a dash if the figure could not be measured."""
        return "–" if value is None or not math.isfinite(value) else f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Result:
    """A result of `likeness evaluate` or `likeness counterfactuals` that belongs to a frozen set of the dataset."""

    folder: Path
    stem: str  # name of the JSON file without its suffix
    title: str
    lq_set: str
    notices: tuple[str, ...]
    systems: dict[str, str]  # Maps the key of a system to its name. The LQ input is not in this dict.
    metrics: dict[str, Metric]  # The metrics that have a figure for each image.
    image_folders: dict[str, Path]  # Maps the key of a system to the folder of its restored images.
    first_system: str
    rows: pl.DataFrame  # a row for each image and system

    @property
    def first_metric(self) -> str:
        """Returns the metric by which the page sorts at first: the identity to the target, if it was measured."""
        return "id_target" if "id_target" in self.metrics else next(iter(self.metrics), "")


@dataclass(frozen=True)
class ResultImage:
    """An image of a frozen set, and its restoration by one system."""

    face_id: str
    figures: tuple[
        tuple[str, str, str], ...
    ]  # For each metric: its title, the figure of the LQ image and that of the restored image.
    reason: str | None  # Why the image was not measured. None if it was measured.
    file: Path | None  # The file of the restored image. None if the file does not exist.


def list_run_folders(ledger: Ledger, named: Sequence[Path]) -> list[Path]:
    """Returns the folders that may have results: those in `named`, runs inside the dataset, and runs of `iterate`."""
    inside = [path.parent for pattern in RESULTS for path in ledger.dataset.glob(f"*/{pattern}")]
    checkpoints = ledger.query("SELECT DISTINCT checkpoint FROM versions ORDER BY 1")["checkpoint"]
    folders = [*named, *sorted(inside), *(Path(checkpoint).parent for checkpoint in checkpoints)]
    unique = {folder.resolve(): folder for folder in reversed(folders) if folder.is_dir()}
    return list(reversed(unique.values()))


def read_results(ledger: Ledger, folders: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """Returns the results in these folders, and a sentence for each result that the page cannot show."""
    sets = set(ledger.query("SELECT DISTINCT lq_set FROM degradations")["lq_set"])
    results, sentences = [], []
    for path in [path for folder in folders for pattern in RESULTS for path in sorted(folder.glob(pattern))]:
        place = f"{path.parent.name}/{path.name}"
        try:
            result = _read_result(path, *(one.stat().st_mtime_ns for one in (path, path.with_suffix(".parquet"))))
        except _FORM_ERRORS:
            sentences.append(f"{place} is damaged, or another version of Likeness wrote it: run the evaluation again.")
            continue
        if result.lq_set in sets:
            results.append(result)
        else:
            sentences.append(f"{place} belongs to the set {result.lq_set}, which is not a set of this dataset.")
    return results, sentences


@lru_cache(maxsize=64)  # every request for an image needs the whole result
def _read_result(path: Path, *changed: int) -> Result:
    """Returns the result of a JSON file. `changed` are the modification times of its files.

    With these times, the cache does not return the result of a file that has changed.
    """
    content: dict[str, Any] = json.loads(path.read_bytes())
    rows = pl.read_parquet(path.with_suffix(".parquet"))
    metrics = {
        name: Metric(name, str(one["title"]), str(one["unit"]), str(one["better"]), int(one["digits"]))
        for name, one in content["metrics"].items()
        if name in rows.columns
    }
    systems = {str(row["key"]): str(row["system"]) for row in content["rows"] if row["key"] != "lq"}
    folders = {
        key: path.parent / folder
        for key, folder in content.get("image_folders", {}).items()
        if key in systems and _IMAGE_FOLDER.fullmatch(folder)
    }
    most = str(content["references"])
    first = next((key for key in systems if key.split("/")[-1] == most), next(iter(systems)))
    rows.select("face_id", "key", "reason")  # raises an error if a column is missing
    return Result(
        path.parent, path.stem, make_title(content), str(content["lq_set"]), tuple(make_notices(content)), systems,
        metrics, folders, first, rows,
    )  # fmt: skip


def list_images(result: Result, system: str, metric: str, start: int, limit: int) -> list[ResultImage]:
    """Returns up to `limit` images of a system, from number `start` on, from the worst figure to the best.

    Images without a figure come first. `system` is a key of `result.systems`. `metric` is a key of `result.metrics`.
    """
    own = result.rows.filter(pl.col("key") == system)
    before = {row["face_id"]: row for row in result.rows.filter(pl.col("key") == "lq").iter_rows(named=True)}
    sign = -1 if result.metrics[metric].better == "lower" else 1

    def rank(row: dict[str, Any]) -> tuple[float, str]:
        value = row[metric]
        return (sign * value if value is not None and math.isfinite(value) else -math.inf, row["face_id"])

    return [
        ResultImage(
            row["face_id"],
            tuple(
                (
                    f"{one.title}{f', {one.unit}' if one.unit else ''}",
                    one.format(before.get(row["face_id"], {}).get(one.name)),
                    one.format(row[one.name]),
                )
                for one in result.metrics.values()
            ),
            row["reason"],
            find_image(result, system, row["face_id"]),
        )
        for row in sorted(own.iter_rows(named=True), key=rank)[start : start + limit]
    ]


def count_images(result: Result, system: str) -> int:
    """Returns the number of images that the result has for a system."""
    return int((result.rows["key"] == system).sum())


def find_image(result: Result, system: str, face_id: str) -> Path | None:
    """Returns the file of a restored image, or None if the result has no such image.

    The path is made from the face id in the result, because `face_id` comes from the browser.
    """
    folder = result.image_folders.get(system)
    known = result.rows.filter((pl.col("key") == system) & (pl.col("face_id") == face_id))["face_id"]
    if folder is None or not len(known) or not re.fullmatch(r"[0-9a-f]{32}", known[0]):
        return None
    path = folder / f"{known[0]}.png"
    return path if path.is_file() and not path.is_symlink() else None
