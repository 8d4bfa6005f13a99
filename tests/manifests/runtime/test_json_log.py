"""Tests that `--log-json` writes one JSON object per line in every case, and nothing without the option."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manifests.ledger.ledger import Ledger
from manifests.ledger.records import File
from manifests.runtime import progress as bars
from manifests.runtime.json_log import is_logging, log
from tests.doubles.json_log import json_log
from tests.places import Run


@pytest.fixture
def lines() -> Iterator[Any]:
    """Yields a function that returns all lines of the log so far."""
    with json_log() as read_lines:
        yield read_lines


def test_nothing_is_written_until_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    log("started", command=["a"])
    assert not is_logging() and capsys.readouterr() == ("", "")


def test_a_line_has_its_fields_and_names_that_are_no_utf8(lines: Any) -> None:
    log("failed", logging.ERROR, message="caf\udce9", path=Path("a"), exit_code=2)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("of a library", stacklevel=1)
    failed, warned = lines()
    assert (failed["level"], failed["event"], failed["path"], failed["exit_code"]) == ("error", "failed", "a", 2)
    assert failed["message"].startswith("caf") and failed["time"].endswith("+00:00")
    assert warned["event"] == "warning" and "of a library" in warned["message"]


def test_every_record_tells_its_configuration_and_versions(lines: Any, tmp_path: Path) -> None:
    with Ledger.open(tmp_path, write=True) as ledger:
        before = len(lines())
        ledger.record("scan", ["a", "b"], {"x": 1}, [File("file:///a", None, 1, 1, "failed", "empty_file")])
        (stage,) = ledger.query("SELECT DISTINCT config_hash, code_version FROM stages WHERE stage = 'scan'").rows()
    (line,) = lines()[before:]
    assert line["event"] == "recorded" and line["stage"] == "scan" and line["units"] == 2
    assert line["rows"] == {"files": 1} and (line["config_hash"], line["code_version"]) == stage
    assert line["tool_versions"]["duckdb"]


def test_progress_is_a_line_at_the_ends_and_every_ten_seconds(lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(second) for second in range(100))
    monkeypatch.setattr(bars.time, "monotonic", lambda: next(clock))
    with bars.show_progress("items") as progress:
        for done in range(31):
            progress("scan", done, 30)
    assert [line["done"] for line in lines()] == [0, 10, 20, 30]
    assert lines()[-1]["units_per_second"] == 1.0 and lines()[-1]["stage"] == "scan"


@pytest.mark.slow
def test_the_flag_works_on_either_side_of_a_command(likeness: Run, tmp_path: Path) -> None:
    for words in (("--log-json", "manifest", "show", tmp_path), ("manifest", "show", tmp_path, "--log-json")):
        found = likeness(*words)
        first, last = (json.loads(line) for line in found.stderr.splitlines())
        assert found.returncode == 2 == last["exit_code"] and found.stdout == ""
        assert first["event"] == "started" and first["tool_versions"]["duckdb"]
        assert last["event"] == "failed" and "likeness curate" in last["message"]
    (tmp_path / "photo.jpg").write_bytes(b"")  # without this file, the command would refuse the empty folder
    found = likeness("curate", tmp_path, "--out", tmp_path / "d", "--dry-run", "--json", "--log-json")
    assert json.loads(found.stdout) and json.loads(found.stderr.splitlines()[-1])["event"] == "finished"
