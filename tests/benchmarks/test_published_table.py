"""Tests the benchmark that measures `tiny` on four sets.

The tests cover the page that the benchmark writes, the layout with which it imports the examples of three projects, and
the runs that it refuses.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.doubles.evaluation_results import write_run_result
from tests.places import REPOSITORY
from train.benchmark.imported.import_benchmark import import_benchmark
from train.benchmark.imported.imported_benchmark import load_imported

sys.path.append(str(REPOSITORY / "benchmarks"))
import published_table
from published_table import ABOUT, LAYOUT, METRICS, render_page


def make_record(folder: Path) -> dict[str, Any]:
    systems = {"lq": 0.25, "0": 0.5, "4": 0.75, "wrong4": 0.625}
    values = {key: {name: [value, value] for name in ("psnr", "id_references")} for key, value in systems.items()}
    reason = {"psnr": "The set has no targets."}
    sets = {}
    for number, name in enumerate(ABOUT):
        path = write_run_result(folder / f"{name}.json", values, people=2, lq_set=name)
        result = json.loads(path.read_text()) | {"images_seen": 20_000, "checkpoint": f"checkpoint-{number}"}
        if name == "lq_real":  # a set without targets
            result["rows"] = [row | {"psnr": None} for row in result["rows"]]
            result |= {
                "not_measured": reason,
                "has_targets": False,
                "with_references": False,
                "set_problems": {"gray pictures": 3},
            }
        sets[name] = result
    return {"date": "2026-11-30", "commit": "abc", "machine": "a machine", "result": {"sets": sets}}


def test_the_page_has_the_figures_and_counts_of_the_result_and_the_reason_of_each_dash(tmp_path: Path) -> None:
    page = render_page(make_record(tmp_path))
    parts = dict(zip(ABOUT, re.split(r"^## .*$", page, flags=re.MULTILINE)[1:], strict=False))
    assert all("2 images of 2 people" in part for part in parts.values())
    assert "| restored | 0.75 [0.75, 0.75] | 0.7500 [0.7500, 0.7500] |" in parts["codeformer"]
    assert "| restored | – | 0.7500 [0.7500, 0.7500] |" in parts["lq_real"]
    assert "Not measured: PSNR. The set has no targets." in parts["lq_real"] and "gray pictures: 3" in parts["lq_real"]
    assert "commit abc" in page and "20,000 images" in page and "## Conventions" in page
    assert all(len(line) <= 120 for line in page.splitlines() if not line.startswith("|"))


def test_ips_stands_beside_its_counterweights() -> None:
    place = METRICS.index("id_references")
    assert METRICS[place - 1 : place + 2] == ("id_target", "id_references", "copy_ratio")
    assert {"id_input", "input_agreement"} < set(METRICS)


def test_the_layout_joins_the_three_projects_and_every_person_has_wrong_references(tmp_path: Path) -> None:
    files = ("dmdnet_00005/lq/00005_17", "dmdnet_00005/refs/0", "asffnet_obama/lq/i1", "asffnet_obama/refs/o1")
    for number, name in enumerate((*files, "refldm_demo/lq/lq", "refldm_demo/refs/ref0", "refldm_demo/gt/gt")):
        path = tmp_path / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.full((32, 32, 3), number, np.uint8))
    (tmp_path / "three.toml").write_text(LAYOUT)
    summary = import_benchmark(tmp_path / "set", str(tmp_path / "three.toml"), tmp_path / "bench")
    assert (summary.cases, summary.people, summary.problems["unused"]) == (3, 3, 1)
    cases = load_imported(tmp_path / "bench").cases
    assert [case.columns["project"] for case in cases] == ["dmdnet", "asffnet", "refldm"]
    assert all(case.wrong_references and case.wrong_person != case.person for case in cases)


def test_a_run_without_its_training_people_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("people_crops", "lq_with_references", "lq_real", published_table.FACES, "run"):
        (tmp_path / name).mkdir(parents=True)
    words = [str(tmp_path), "--out", str(tmp_path / "out"), "--run", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["published_table.py", *words])
    with pytest.raises(SystemExit):
        published_table.main()
    assert "has no folder snapshot" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_page_in_docs_has_the_figures_of_the_kept_result() -> None:
    kept = REPOSITORY / "benchmarks" / "results" / "published_table.json"
    if not kept.is_file():
        pytest.skip("no result of benchmarks/published_table.py is kept")
    page, again = (published_table.PAGE.read_text(), render_page(json.loads(kept.read_text())))
    tables = [[line for line in text.splitlines() if line[:1] in ("|", "*", "#")] for text in (page, again)]
    assert tables[0] == tables[1]
