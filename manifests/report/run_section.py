"""What a run's folder holds for the page: curves, sample grids, results, sheets of restored photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manifests.report.pictures import curve, whole
from manifests.report.result_tables import make_notices, make_tables, make_title

GRIDS = 2  # newest sample grids a run
FACES = 48  # of a sheet of restored photos
RESULTS = ("evaluation*.json", "counterfactuals*.json")  # what `evaluate` and `counterfactuals` write into a run
SHEETS = "restored/*.json"  # what `restore --page-data` was told to write there


def read_run(run: Path) -> dict[str, Any]:
    """Everything that is there, each empty where it is not there yet; a file of another form is a sentence."""
    lines = _json_lines(run / "stats.jsonl")
    learned = [line for line in lines if line.get("kind") == "train"]
    looked = [line for line in lines if line.get("kind") == "val"]

    def series(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
        return [(row["images"], row[key]) for row in rows if isinstance(row.get(key), int | float)]

    def versus(measure: str) -> dict[str, list[tuple[float, float]]]:
        names = {"references": "restored", "no reference": "alone", "LQ": "lq"}
        return {name: found for name, key in names.items() if (found := series(looked, f"{measure}_{key}"))}

    curves = [curve({key: series(learned, key)}, f"{key} loss") for key in ("pixel", "edge", "identity")]
    curves += [curve(versus("psnr"), "val PSNR, dB"), curve(versus("identity"), "val identity, by the loss's judge")]
    grids = sorted((run / "samples").glob("*.png"))[-GRIDS:]
    results, odd = _all(sorted(path for pattern in RESULTS for path in run.glob(pattern)), _result)
    sheets, broken = _all(sorted(run.glob(SHEETS)), _sheet)
    return {
        "name": run.name,
        "config": json.loads((run / "config.json").read_text(encoding="utf-8")),
        "curves": [drawn for drawn in curves if drawn],
        "grids": [(grid.stem, whole(grid)) for grid in grids],
        "results": results,
        "sheets": sheets,
        "unreadable": [*odd, *broken],
    }


def _all(
    paths: list[Path], read: Callable[[Path, dict[str, Any]], dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """What could be read, and the names of the files that are broken or of another version's form."""
    found, odd = [], []
    for path in paths:
        try:
            found.append(read(path, json.loads(path.read_bytes())))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            odd.append(path.name)
    return found, odd


def _result(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": make_title(result),
        "kind": path.stem,
        "tables": make_tables(result, 3),
        "notes": make_notices(result),
        "conventions": [(one["title"], one["convention"], one["source"]) for one in result["metrics"].values()],
    }


def _sheet(path: Path, sheet: dict[str, Any]) -> dict[str, Any]:
    faces = [
        {
            "photo": str(face["photo"]),
            "reason": str(face["reason"]),
            "lq": _picture(face["lq"]),
            "restored": _picture(face["restored"]),
            "references": [_picture(one) for one in face["references"]],
            "figures": [(str(name), str(before), str(after)) for name, before, after in face["figures"]],
        }
        for face in sheet["faces"][:FACES]
    ]
    return {
        "name": path.stem,
        "photos": int(sheet["photos"]),
        "all": len(sheet["faces"]),
        "faces": faces,
        "undone": {str(reason): int(count) for reason, count in sheet["undone"].items()},
        "missing": {str(name): str(why) for name, why in sheet["missing"].items()},
        "metrics": [(str(one["title"]), str(one["convention"]), str(one["source"])) for one in sheet["metrics"]],
    }


def _picture(url: str) -> str:
    """A picture inside the sheet; nothing that a page would fetch."""
    if not url.startswith("data:image/"):
        raise ValueError("no picture")
    return url


def _json_lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:  # the line that a kill cut short
            continue
    return found
