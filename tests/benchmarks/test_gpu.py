"""Tests that benchmarks/gpu.py measures what it can, and says why it cannot measure the rest."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from manifests.errors import BadInput
from tests.places import REPOSITORY

ALWAYS = ("precision", "osdface", "options", "degradation")  # the rows that need no option


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


def options(**given: object) -> Namespace:
    names = ("people", "run", "dataset", "vae", "weights", "set", "faces")
    return Namespace(quick=True, **{**dict.fromkeys(names), **given})


def test_a_row_without_its_options_is_not_run() -> None:
    from gpu import ROWS, measure_row

    rows = {name: measure_row(name, options()) for name in ROWS if name not in ALWAYS}
    assert {row["status"] for row in rows.values()} == {"not run"}
    assert rows["batches"]["reason"] == "give --people and --run"
    assert rows["curation"]["reason"] == "give --people and --faces"
    assert "insightface:FOLDER" in measure_row("curation", options(people=Path(), faces="dlib"))["reason"]


def test_a_row_without_its_package_is_not_run_and_a_mistake_of_ours_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gpu import ROWS, measure_row

    def lack(package: str) -> None:
        def measure(_: Namespace) -> dict:
            raise ModuleNotFoundError(name=package)

        monkeypatch.setitem(ROWS, "osdface", ("", measure))

    lack("diffusers.models")
    assert measure_row("osdface", options())["reason"] == "the package diffusers is not installed"
    lack("train.no_such_module")
    with pytest.raises(ModuleNotFoundError):
        measure_row("osdface", options())


def test_an_error_for_the_user_is_the_reason_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import ROWS, measure_row

    def refuse(_: Namespace) -> dict:
        raise BadInput("RUN contains no checkpoint.")

    monkeypatch.setitem(ROWS, "osdface", ("", refuse))
    row = measure_row("osdface", options())
    assert row["status"] == "failed" and row["reason"] == "RUN contains no checkpoint."


def test_the_degradation_is_measured_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import degradation_speed
    from gpu import measure_row

    monkeypatch.setattr(degradation_speed, "SIDE", 64)
    monkeypatch.setattr("gpu_rows.has_gpu", lambda: False)
    row = measure_row("degradation", options())
    figures = row["figures"]["gfpgan"]
    assert row["status"] == "measured" and figures["ours"] > 0 and figures["device_cpu"]["forward"] > 0
    assert figures["device_cuda"] == "not run: no GPU"


def test_the_last_line_is_the_json_of_all_rows(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--rows", "batches", "evaluation", "--quick"])
    gpu.main()
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert [row["row"] for row in result["rows"]] == ["batches", "evaluation"] and result["quick"]
    assert {row["status"] for row in result["rows"]} == {"not run"}
    monkeypatch.setattr(gpu, "__file__", "no_such_file.py")  # the process of each row fails
    with pytest.raises(SystemExit, match="A row failed"):
        gpu.main()
