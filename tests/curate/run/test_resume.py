"""Tests `kill -9` at any moment: the next run of the command gives the ledger and the files of an undisturbed run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from manifests.check import check_ledger
from manifests.ledger.ledger import Ledger
from tests.doubles.commands.forked_commands import Process, start_python
from tests.doubles.curation import album, contents, files, photo, save
from tests.places import REPOSITORY

ROOT = REPOSITORY
SCRIPT = REPOSITORY / "tests" / "doubles" / "curation.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(photos: Path, dataset: Path, workers: int = 1, delay: float = 0) -> Process:
    words = [str(SCRIPT), str(photos), str(dataset), str(workers)]
    return start_python(words, {**ENVIRONMENT, "DOUBLES_DELAY": str(delay)})


def finish(photos: Path, dataset: Path, workers: int = 1) -> None:
    assert start(photos, dataset, workers).wait(timeout=120) == 0


def crops(dataset: Path) -> int:
    return len(list((dataset / "faces").glob("*/*.png")))


def kill_when(process: Process, reached: Callable[[], bool]) -> bool:
    """Kills all processes of the command as soon as `reached` returns True.

    Returns False if the command ended before `reached` returned True.
    """
    end = time.monotonic() + 60
    while not reached():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end
        time.sleep(0.001)
    os.killpg(process.pid, 9)
    process.wait()
    return True


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = album(tmp_path_factory.mktemp("resume") / "photos", people=5, each=4)
    for number in range(2):
        save(folder / f"all{number}.png", photo([0, 1, 2, 3, 4], 200 + number))
    shutil.copy(folder / "person0" / "0.png", folder / "copy.png")
    (folder / "letter.jpg").write_text("Dear photograph")
    (folder / "loop").symlink_to(folder)
    (folder / "broken").symlink_to("nowhere")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(photos, tmp_path_factory):
    dataset = tmp_path_factory.mktemp("whole") / "dataset"
    finish(photos, dataset)
    return contents(dataset), files(dataset)


def test_one_and_two_workers_give_the_same_ledger_and_the_same_bytes(photos, uninterrupted, tmp_path):
    finish(photos, tmp_path / "dataset", workers=2)
    assert contents(tmp_path / "dataset") == uninterrupted[0] and files(tmp_path / "dataset") == uninterrupted[1]


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "as the ledger is made": lambda dataset: (dataset / "manifest.duckdb").exists(),
    "while files are scanned": lambda dataset: (
        (dataset / "manifest.duckdb.wal").exists() and (dataset / "manifest.duckdb.wal").stat().st_size > 30_000
    ),
    "at the first crop": lambda dataset: crops(dataset) >= 1,
    "after some batches": lambda dataset: crops(dataset) >= 17,
    "as the last embeddings are written": lambda dataset: len(list((dataset / "embeddings").glob("*"))) >= 2,
}


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(moment, marks=() if moment == "after some batches" else pytest.mark.exhaustive)
        for moment in MOMENTS
    ],
)
def test_killed_at_any_moment_it_resumes_to_the_same_end(photos, uninterrupted, tmp_path, moment):
    dataset = tmp_path / "dataset"
    process = start(photos, dataset, workers=1, delay=0.002)
    assert kill_when(process, lambda: MOMENTS[moment](dataset)), "it had ended before"
    if (dataset / "manifest.duckdb").exists() and moment != "as the ledger is made":
        with Ledger.open(dataset) as ledger:  # even after the kill, the ledger can be read
            assert ledger.query("SELECT count(*) AS n FROM files")["n"][0] >= 0
    finish(photos, dataset)
    assert contents(dataset) == uninterrupted[0] and files(dataset) == uninterrupted[1] and check_ledger(dataset) == []


@pytest.mark.exhaustive
def test_killed_again_and_again_with_two_workers(photos, uninterrupted, tmp_path):
    dataset = tmp_path / "dataset"
    kills = 0
    for target in (1, 10, 20):
        process = start(photos, dataset, workers=2, delay=0.005)
        if not kill_when(process, lambda target=target: crops(dataset) >= target):
            break
        kills += 1
    assert kills >= 2
    finish(photos, dataset)
    assert contents(dataset) == uninterrupted[0] and files(dataset) == uninterrupted[1] and check_ledger(dataset) == []


def test_a_second_curation_of_the_same_dataset_is_refused_and_the_first_is_unharmed(photos, uninterrupted, tmp_path):
    dataset = tmp_path / "dataset"
    first = start(photos, dataset, delay=0.02)
    while crops(dataset) < 1:
        assert first.poll() is None
        time.sleep(0.005)
    # the first command is stopped, so that it cannot end before the second command has started
    first.send_signal(signal.SIGSTOP)
    second = start(photos, dataset)
    _, err = second.communicate(timeout=120)
    first.send_signal(signal.SIGCONT)
    assert second.returncode != 0 and "Another process is using" in err.splitlines()[-1]
    assert first.wait(timeout=120) == 0
    assert contents(dataset) == uninterrupted[0] and files(dataset) == uninterrupted[1]


AS_NOBODY = """
import os, sys
from pathlib import Path
from tests.doubles import curation as curate_doubles
from manifests.errors import LikenessError
curate_doubles.install(curate_doubles.pytest.MonkeyPatch())
warm = Path(sys.argv[3])
curate_doubles.curated(Path(sys.argv[1]), warm)  # now all modules are imported
os.setgid(65534); os.setuid(65534)
for dataset in (Path(sys.argv[2]) / "new", warm):
    try: curate_doubles.curated(Path(sys.argv[1]), dataset)
    except LikenessError as error: print(type(error).__name__, error)
print(len(curate_doubles.rows(warm, curate_doubles.Face)))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="dropping privileges needs root")
def test_a_folder_that_may_not_be_written_is_a_sentence_and_can_still_be_read(public_folder):
    photos, closed = album(public_folder / "photos", people=1, each=2), public_folder / "closed"
    closed.mkdir()
    script = AS_NOBODY.replace("curate_doubles.Face", "Face").replace(
        "from pathlib", "from manifests.ledger.records import Face\nfrom pathlib"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(photos), str(closed), str(public_folder / "warm")],
        env={**ENVIRONMENT, "PYTHONPATH": f"{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    lines = ran.stdout.splitlines()
    assert ran.stderr == "" and len(lines) == 3 and lines[2] == "2", ran.stderr
    assert all(line.startswith("LedgerError") and "ermission denied" in line for line in lines[:2])
