"""Reads the folder of a training run for the report: curves, sample grids, results, and sheets of restored photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manifests.report.plots import draw_curves
from manifests.report.result_notices import make_notices
from manifests.report.result_tables import make_tables, make_title
from manifests.report.thumbnails import embed_image

GRIDS = 2  # Number of newest sample grids that the page shows for each run.
FACES = 48  # Largest number of faces that the page shows of each sheet of restored photos.
RESULTS = ("evaluation*.json", "counterfactuals*.json")  # `likeness evaluate` and `counterfactuals` write these files.
SHEETS = "restored/*.json"  # `likeness restore --page-data` writes these files.

# the errors that are raised for a JSON file that is broken, or that another version of Likeness wrote
_FORM_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError)


def read_run(run: Path) -> dict[str, Any]:
    """Returns the content of the page about a run. If a part of the run does not exist yet, its list is empty.

    The key `unreadable` has the names of the results and sheets that cannot be read, because they are broken or because
    another version of Likeness wrote them.
    """
    results, broken_results = _read_all(sorted(path for glob in RESULTS for path in run.glob(glob)), _read_result)
    sheets, broken_sheets = _read_all(sorted(run.glob(SHEETS)), _read_sheet)
    grids = sorted((run / "samples").glob("*.png"))[-GRIDS:]
    return {
        "name": run.name,
        "config": json.loads((run / "config.json").read_text(encoding="utf-8")),
        "curves": _draw_stats(run / "stats.jsonl"),
        "grids": [(grid.stem, embed_image(grid)) for grid in grids],
        "results": results,
        "sheets": sheets,
        "unreadable": [*broken_results, *broken_sheets],
    }


def _draw_stats(stats: Path) -> list[str]:
    """Returns the curves of the training losses, and of PSNR and identity on validation images."""
    lines = _read_json_lines(stats)
    train = [line for line in lines if line.get("kind") == "train"]
    val = [line for line in lines if line.get("kind") == "val"]

    def curve(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
        return [(row["images"], row[key]) for row in rows if isinstance(row.get(key), int | float)]

    def compare(measure: str) -> dict[str, list[tuple[float, float]]]:
        names = {"with references": "restored", "no reference": "alone", "LQ": "lq"}
        return {name: points for name, key in names.items() if (points := curve(val, f"{measure}_{key}"))}

    plots = [draw_curves({key: curve(train, key)}, f"{key} loss") for key in ("pixel", "edge", "identity")]
    plots.append(draw_curves(compare("psnr"), "PSNR on validation, dB"))
    plots.append(draw_curves(compare("identity"), "identity on validation, by the loss's recognizer"))
    return [plot for plot in plots if plot]


def _read_all(
    paths: list[Path], read: Callable[[Path, dict[str, Any]], dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Calls `read` for each JSON file. Returns the results of the calls, and the names of unreadable files."""
    contents, unreadable = [], []
    for path in paths:
        try:
            contents.append(read(path, json.loads(path.read_bytes())))
        except _FORM_ERRORS:
            unreadable.append(path.name)
    return contents, unreadable


def _read_result(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": make_title(result),
        "kind": path.stem,
        "tables": make_tables(result, 3),
        "notices": make_notices(result),
        "conventions": _list_conventions(result["metrics"].values()),
    }


def _read_sheet(path: Path, sheet: dict[str, Any]) -> dict[str, Any]:
    faces = [
        {
            "photo": str(face["photo"]),
            "reason": str(face["reason"]),
            "lq": _check_data_url(face["lq"]),
            "restored": _check_data_url(face["restored"]),
            "references": [_check_data_url(url) for url in face["references"]],
            "figures": [(str(title), str(before), str(after)) for title, before, after in face["figures"]],
        }
        for face in sheet["faces"][:FACES]
    ]
    return {
        "name": path.stem,
        "photos": int(sheet["photos"]),
        "total_faces": len(sheet["faces"]),
        "faces": faces,
        "not_restored": {str(reason): int(count) for reason, count in sheet["undone"].items()},
        "missing_metrics": {str(title): str(reason) for title, reason in sheet["missing"].items()},
        "conventions": _list_conventions(sheet["metrics"]),
    }


def _list_conventions(metrics: Any) -> list[tuple[str, str, str]]:
    """Returns the title, the convention and the source of each metric.

    The convention says how its figures are computed.
    """
    return [(str(metric["title"]), str(metric["convention"]), str(metric["source"])) for metric in metrics]


def _check_data_url(url: str) -> str:
    """Returns `url` if it contains the picture itself. Raises ValueError for any URL that a browser would fetch."""
    if not url.startswith("data:image/"):
        raise ValueError("The sheet contains a picture that is not a data URL.")
    return url


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the values of a JSON lines file, without a line that a killed process has left unfinished."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
