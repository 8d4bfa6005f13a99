"""Reads results of `likeness evaluate`, and checks that the results can be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import BadInput
from manifests.report.result_tables import list_main_systems
from manifests.runtime.text import make_printable
from train.evaluation.systems.row import Row, label_key, label_row, label_system
from train.run_folders import split_name

_KEYS = ("benchmark", "benchmark_with_references", "lq_set", "images", "judge", "metrics", "rows", "references")


@dataclass(frozen=True)
class LoadedResult:
    """Holds one result. In `rows` and `systems`, each system has the key and the name that the comparison gives it.

    In `content`, each system has the key that it has in the file.
    """

    path: Path
    content: dict[str, Any]
    rows: list[Row]  # rows of the selected systems and of the LQ image
    systems: dict[str, str]  # key -> name; without the LQ image
    old_keys: dict[str, str]  # key of a system -> its key in `content`


def read_results(arguments: Sequence[str], with_all_systems: bool) -> list[LoadedResult]:
    """Reads the results that the user named, each as FILE.json or as NAME=FILE.json.

    Without `with_all_systems`, only the main systems of a result are read (`list_main_systems`). The systems of a run
    are named after the folder of the run, or after NAME. Raises BadInput if a file is not a result, if the results are
    of different sets, or if two systems have the same name.
    """
    loaded = [_read_result(*split_name(argument), with_all_systems) for argument in arguments]
    first = loaded[0]
    for other in loaded[1:]:
        if other.content["benchmark"] != first.content["benchmark"]:
            raise BadInput(
                f"{make_printable(first.path)} and {make_printable(other.path)} are results of different sets "
                f"({_describe_set(first)} and {_describe_set(other)}). Compare results of one set only."
            )
    keys = [key for one in loaded for key in one.systems]
    if repeated := next((key for key in keys if keys.count(key) > 1), None):
        raise BadInput(f"Two of the results have a system {make_printable(repeated)}. Give names: NAME=RESULT.")
    return loaded


def _describe_set(loaded: LoadedResult) -> str:
    return make_printable(f"{loaded.content['lq_set']} {loaded.content['benchmark']}")


def _read_result(name: str | None, path: Path, with_all_systems: bool) -> LoadedResult:
    if not path.is_file():
        raise BadInput(f"{make_printable(path)} is not a file. Give JSON files that `likeness evaluate` wrote.")
    try:
        content = json.loads(path.read_bytes())
        missing = [key for key in _KEYS if key not in content]
        table = pq.read_table(path.with_suffix(".parquet")).to_pylist()
        systems = list_main_systems(content)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException):
        raise BadInput(
            f"{make_printable(path)} or the Parquet file beside it is damaged or missing, or is not a result. Run the "
            "evaluation again."
        ) from None
    if missing:
        raise BadInput(f"Another version of Likeness wrote {make_printable(path)}. Run the evaluation again.")
    if with_all_systems:
        systems = {row["key"]: row["system"] for row in content["rows"] if row["key"] != "lq"}
    # In the result of one run, the keys do not contain the name of the run.
    is_one_run = "runs" not in content
    label = name or (path.resolve().parent.name if is_one_run else "")

    new_names = {label_key(key, label): label_system(system, label) for key, system in systems.items()}
    rows = [
        label_row(row | {"system": systems.get(row["key"], row["system"])}, label)
        for row in table
        if row["key"] in systems or row["key"] == "lq"
    ]
    return LoadedResult(path, content, rows, new_names, {label_key(key, label): key for key in systems})
