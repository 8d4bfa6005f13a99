"""Tests the main task as a user does it: `likeness demo`, and then the commands that use the results of the demo."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

import curate.demo
from tests.doubles.commands.forked_commands import start_python
from tests.places import Run

pytestmark = pytest.mark.slow


VARIATIONS = 8  # the number of photos of each person; the demo of a user has more
DEMO_WITH_FEWER_PHOTOS = f"""
import functools, curate.demo, likeness
curate.demo.write_demo_photos = functools.partial(curate.demo.write_demo_photos, variations={VARIATIONS})
likeness.main()
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "dataset"


def test_the_demo_runs_to_the_end_and_resumes(command: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = partial(curate.demo.write_demo_photos, variations=VARIATIONS)
    monkeypatch.setattr(curate.demo, "write_demo_photos", fewer)
    first = command("demo", "--out", dataset, "--images", 16)
    assert first.returncode == 0, first.stderr
    assert "variations" in first.stdout and "say nothing about quality" in first.stdout
    assert "restored" in first.stdout and str(dataset / "report" / "index.html") in first.stdout
    for reason in ("same_file", "truncated", "not_an_image", "no_face", "near_duplicate"):
        assert reason in first.stdout
    weights = next((dataset / "run").glob("checkpoint-*/model.safetensors"))
    before = weights.stat().st_mtime_ns
    # The second call runs in a process of its own, so its exit code is the exit code that a user gets.
    words = ["-c", DEMO_WITH_FEWER_PHOTOS, "demo", "--out", str(dataset), "--images", "16"]
    again = start_python(words, dict(os.environ))
    _, err = again.communicate(300)
    assert again.returncode == 0, err
    assert weights.stat().st_mtime_ns == before
    page = (dataset / "report" / "index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and 'src="data:image' in page


def test_the_ledger_of_the_demo_is_sound_and_its_frozen_set_replays(command: Run, dataset: Path) -> None:
    assert command("manifest", "check", dataset).returncode == 0
    verified = command("verify", dataset)
    assert verified.returncode == 0
    assert "The files, and the images that were made again, have the recorded bytes." in verified.stdout
    why = command("manifest", "why", dataset, "truncated.jpg")
    assert "truncated" in why.stdout
    shown = json.loads(command("manifest", "show", dataset, "--json").stdout)
    assert {row["kind"] for row in shown} >= {"files", "photos", "faces", "identities", "splits", "pairs"}


def test_a_photo_is_restored_with_references(command: Run, dataset: Path, tmp_path: Path) -> None:
    photos = sorted((dataset / "photos").glob("h-*.jpg"))
    done = command(
        "restore", photos[0], "--reference", photos[1], "--reference", photos[2], "--run", dataset / "run",
        "--out", tmp_path / "restored", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["status"] == "ok" and Path(row["output"]).is_file() and row["faces"][0]["similarity"] > 0.9


def test_an_evaluation_prints_json(command: Run, dataset: Path) -> None:
    done = command("evaluate", dataset, "--run", dataset / "run", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [row["system"] for row in result["rows"]][:3] == ["LQ input", "restored, no reference", "restored"]
    assert "right - none" in {line["difference"] for line in result["differences"]}
