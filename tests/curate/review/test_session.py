"""Tests the review of a dataset that is read-only, deleted, unfinished, or used by another command."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import curate.review.session.ledger_access
import curate.review.session.session
from curate.review.server import serve
from curate.review.session.session import Session
from manifests.errors import BadInput, LedgerLocked, LedgerMissing
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME, THUMBNAILS, VISIT_NAME
from manifests.ledger.records import DecisionRow
from tests.doubles.curation import rows
from tests.doubles.review.client import review_dataset
from tests.places import Run

_HOLD = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def hold_ledger(dataset: Path) -> subprocess.Popen[str]:
    """Starts a process that keeps the ledger open for writing until its standard input is closed."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(dataset / LEDGER_NAME)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def test_another_command_delays_no_page_and_no_decision_is_lost(dataset: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(curate.review.session.ledger_access, "PATIENCE", 0.1)
    with review_dataset(dataset) as review:
        person = review.list_people()[0]["id"]
        request = {"kind": "rename", "faces": [person], "name": "Ada"}
        holder = hold_ledger(dataset)
        try:
            assert len(review.list_people()) == 4
            assert "Another process is using" in review.refuse(requests=[request])
            with pytest.raises(LedgerLocked):
                Session(dataset)
        finally:
            holder.communicate()
        review.decide(request)
        # this is possible, because the review holds no lock between two requests
        with Ledger.open(dataset, write=True):
            pass
    assert [row.name for row in rows(dataset, DecisionRow)] == ["Ada"]


def test_a_dataset_that_is_deleted_while_it_is_open_gives_a_sentence(dataset: Path):
    with review_dataset(dataset) as review:
        shutil.rmtree(dataset)
        for answer in (review.client.get("/api/people"), review.client.post("/api/act", json={"act": "undo"})):
            assert answer.status_code == 409 and LEDGER_NAME in answer.json()["error"]
        page = review.client.get("/sets")
        assert page.status_code == 409 and "<h1>Problem" in page.text
    assert not dataset.exists()


def test_a_read_only_dataset_is_shown_and_not_changed(dataset: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(curate.review.session.session, "find_read_only", lambda folder: f"{folder} is read-only.")
    with review_dataset(dataset) as review:
        row = review.list_people()[0]
        assert "is read-only" in review.client.get("/").text
        assert "is read-only" in review.refuse(requests=[{"kind": "drop", "faces": [row["best"]]}])
        assert review.client.get(f"/thumbnail/{row['best']}.webp").status_code == 200
    assert not (dataset / THUMBNAILS).exists() and not (dataset / VISIT_NAME).exists()


def test_an_unfinished_curation_is_said_or_refused(dataset: Path, tmp_path: Path):
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("curate", "all", {}, detail={"finished": False})
    with review_dataset(dataset) as review:
        assert "has not finished" in review.client.get("/").text
    with Ledger.open(tmp_path / "half", write=True):
        pass
    with pytest.raises(BadInput, match="has finished yet"):
        Session(tmp_path / "half")


def test_a_port_that_is_taken_gives_a_sentence(dataset: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"The port {port} of 127"):
            serve(dataset, "127.0.0.1", port, False, print)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--host", "0.0.0.0"], "Add --token if you want this"),
        (["--token"], "The option --token belongs to --host"),
        (["--port", "70000"], "70000 is too large"),
    ],
)
def test_options_that_do_not_fit_are_refused(command: Run, dataset: Path, words: list[str], sentence: str):
    done = command("review", dataset, *words)
    assert done.returncode == 2 and sentence in done.stderr


def test_a_missing_dataset_is_refused(command: Run, tmp_path: Path):
    done = command("review", tmp_path / "nothing")
    assert done.returncode == 2 and LEDGER_NAME in done.stderr
    with pytest.raises(LedgerMissing):
        Session(tmp_path / "nothing")
