"""Disturbs commands (kill, stop, full disk, a second writer) and compares the results with an undisturbed run.

If this file is started as a script, it prints the table of the tested faults: `python tests/doubles/faults/faults.py
faults.jsonl`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from manifests.check import check_ledger
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME, crop_path
from manifests.ledger.records import Face
from manifests.privacy.run_cleanup import EVALUATION_CACHE
from tests.doubles.commands.forked_commands import CAN_FORK, ForkedCommand, find_forker
from tests.doubles.curation import album, contents, photo, save
from tests.doubles.faults.hook import LINE
from tests.places import REPOSITORY

ROOT = REPOSITORY
FULL = os.environ.get("LIKENESS_FAULTS") == "full"  # True if `make faults` runs the tests
SEED = 7
# A command looks for modules first in these folders.
PATHS = os.pathsep.join((str(ROOT / "tests" / "doubles" / "faults" / "startup"), str(ROOT)))


@dataclass(frozen=True)
class Point:
    """Describes when a command is disturbed: at a moment that hook.py counts, or some seconds after the start."""

    at: str = ""
    when: str = "before"
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s" if self.seconds else f"moment {self.at}, {self.when}"


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """Returns the last line of standard error.

        If a command refuses something, this line is the sentence of the command.
        """
        lines = [line for line in self.err.splitlines() if line.strip()]
        return lines[-1] if lines else ""


class Bench:
    """Starts commands for the tests of faults, and reads the moments of the commands from a log in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "moments"

    def start(self, command: list[str], point: Point | None = None, do: str = "kill", largest_file: int = -1) -> Any:
        """Starts `python -m likeness` with these words in a process group of its own.

        In `make test`, the process is forked from a process that has imported the libraries. In `make faults`, Python
        is started anew.
        """
        self.log.unlink(missing_ok=True)
        told = {"FAULTS_LOG": str(self.log), "FAULTS_DO": do}
        if point is not None and point.at:
            told |= {"FAULTS_AT": point.at, "FAULTS_WHEN": point.when}
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FAULTS_", "LIKENESS_"))},
            **{"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": ""},
            **told,
        }
        words = ["-m", "likeness", *command]
        if CAN_FORK and not FULL and largest_file < 0:
            return find_forker(PATHS).start(words, environment)
        limit = (
            (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file)))
            if largest_file >= 0
            else None
        )
        return subprocess.Popen(
            [sys.executable, *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=limit,
        )

    def run(self, command: list[str], timeout: float = 300, largest_file: int = -1) -> Ended:
        """Runs a command to its end."""
        return finish(self.start(command, largest_file=largest_file), timeout)

    def strike(self, command: list[str], point: Point) -> bool:
        """Runs a command until it is killed at the point. Returns False if the command ended before the point."""
        process = self.start(command, point)
        if point.seconds:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(point.seconds)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        ended = finish(process)
        assert ended.code in (-signal.SIGKILL, 0), ended.err
        return ended.code != 0

    def moments(self) -> list[str]:
        """Returns the lines of the log, one for each moment of the last command."""
        data = self.log.read_bytes() if self.log.exists() else b""
        return [data[at : at + LINE].decode(errors="replace").rstrip() for at in range(0, len(data), LINE)]


def finish(process: Any, timeout: float = 300) -> Ended:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"The command did not end within {timeout:.0f} s: {err[-2000:]}") from None
    return Ended(process.returncode, out, err)


@contextlib.contextmanager
def paused(bench: Bench, command: list[str], point: Point) -> Iterator[Any]:
    """Starts a command, stops it at a point, and yields the process. After the block, the command continues."""
    process = bench.start(command, point, do="stop")
    try:
        stopped = (
            process.wait_until_stopped()
            if isinstance(process, ForkedCommand)
            else os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        )
        assert stopped, f"It never came to {point}: {process.communicate()}"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)


def points(moments: int, count: int, rng: np.random.Generator) -> list[Point]:
    """Returns `count` points that are spread over all moments of a command.

    The moments are divided into `count` parts of equal size, and one moment is drawn from each part. The fault comes
    before the call of this moment, after the call, or up to ten milliseconds after the start of the call.
    """
    edges = np.linspace(1, moments + 1, count + 1)
    found = []
    for low, high in itertools.pairwise(edges):
        at = int(rng.integers(int(low), max(int(high), int(low) + 1)))
        when = str(rng.choice(["before", "after", f"{rng.uniform(0.1, 10):.2f}"]))
        found.append(Point(str(min(at, moments)), when))
    return found


def many_photos(folder: Path) -> Path:
    """Writes photos of four people, a photo of all of them, a copy, a text file, a truncated file and a broken link."""
    album(folder, people=4, each=5)
    save(folder / "all.png", photo([0, 1, 2, 3], 200))
    shutil.copy(folder / "person0" / "0.png", folder / "copy.png")
    whole = (folder / "person1" / "1.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "letter.jpg").write_text("Dear photograph")
    (folder / "broken").symlink_to("nowhere")
    return folder


# These keys of stats.jsonl may differ between two runs, because they are times or speeds. `remains` does not compare
# the bytes of the ledger, but its tables.
_CLOCKS = {"seconds", "images_per_second", "data_wait"}


def remains(folder: Path) -> dict[str, Any]:
    """Returns what a command wrote: all data of the ledger except times, the rows of the evaluation cache, and the
    bytes of the other files.

    The bytes of the evaluation cache depend on the number of transactions that wrote its rows.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name.startswith("events.out.tfevents"):
            continue
        if path.name == LEDGER_NAME:
            found |= {f"{name}:{table}": rows for table, rows in contents(path.parent).items()}
        elif path.name == EVALUATION_CACHE:
            with contextlib.closing(sqlite3.connect(path)) as cache:
                found[name] = sorted(cache.execute("SELECT key, value FROM entries"))
        elif path.name == "stats.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key not in _CLOCKS} for line in lines]
        else:
            found[name] = path.readlink() if path.is_symlink() else path.read_bytes()
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Compares two results of `remains`. Returns the names that have different contents, or are in only one of the
    two."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


@contextlib.contextmanager
def tried(fault: str, where: Stage | str, point: object = "", must: str = "") -> Iterator[dict[str, str]]:
    """Writes a tested fault and its outcome into the file that LIKENESS_FAULTS_LOG names.

    If the block raises an error, the outcome is `failed`. Otherwise the outcome is `survived`, or another text that the
    block stores under `outcome` in the yielded dict.
    """
    note = {"outcome": "survived"}
    outcome = "failed"
    try:
        yield note
        outcome = note["outcome"]
    finally:
        if (log := os.environ.get("LIKENESS_FAULTS_LOG")) is not None:
            name = where if isinstance(where, str) else where.__name__
            line = {"fault": fault, "where": name, "point": str(point), "must": must, "outcome": outcome}
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


Stage = Callable[["World"], list[object]]

LQ = ("--size", "64", "--workers", "1")


class World:
    """Holds the photos, datasets and runs with which the stages begin, and the results of undisturbed commands.

    Each dataset and each run is made once, by a command. Every attempt of a stage begins in the folder `here`, which is
    emptied first.
    """

    def __init__(self, folder: Path) -> None:
        self.bench = Bench(folder)
        self.photos = many_photos(folder / "photos")
        self.here = folder / "here"
        self.here.mkdir()
        self._made: dict[str, Path] = {}
        self._undisturbed: dict[Stage, tuple[dict[str, Any], list[str]]] = {}
        self.seconds: dict[Stage, float] = {}  # the time that the undisturbed command of each stage took

    def made(self, name: str, *command: object) -> Path:
        """Returns the folder `name`. At the first call, runs the command that makes this folder."""
        if name not in self._made:
            ended = self.bench.run([str(word) for word in command])
            assert ended.code == 0, ended.err
            self._made[name] = self.bench.folder / name
        return self._made[name]

    def dataset(self) -> Path:
        return self.made("ds", "curate", self.photos, "--out", self.bench.folder / "ds", "--workers", "1")

    def frozen(self) -> Path:
        """Returns a copy of the dataset with a frozen set."""
        dataset = self.bench.folder / "frozen" / "ds"
        if "frozen/ds/lq" not in self._made:
            shutil.copytree(self.dataset(), dataset)
        self.made("frozen/ds/lq", "degrade", dataset, "--split", "test", "--size", "32", "--workers", "1")
        return dataset

    def run(self) -> Path:
        return self.made("run", "train", self.dataset(), "--out", self.bench.folder / "run", "--images", "24")

    def begin(self, stage: Stage) -> list[str]:
        """Empties the folder `here`, prepares it for a stage, and returns the command of the stage."""
        for left in self.here.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return [str(word) for word in stage(self)]

    def undisturbed(self, stage: Stage) -> tuple[list[str], dict[str, Any], list[str]]:
        """Returns the command of a stage, the files that an undisturbed command leaves in `here`, and its moments."""
        command = self.begin(stage)
        if stage not in self._undisturbed:
            began = time.monotonic()
            ended = self.bench.run(command)
            self.seconds[stage] = time.monotonic() - began
            assert ended.code == 0, ended.err
            self._undisturbed[stage] = remains(self.here), self.bench.moments()
        return command, *self._undisturbed[stage]

    def ends_as(self, command: list[str], undisturbed: dict[str, Any]) -> Ended:
        """Runs a command again, and checks that its files are equal to the files of the undisturbed command.

        `check_ledger` must find no problem.
        """
        ended = self.bench.run(command)
        assert ended.code == 0, ended.err
        different = differences(remains(self.here), undisturbed)
        assert not different, f"These files differ: {different}"
        if (self.here / "ds" / LEDGER_NAME).exists():
            problems = check_ledger(self.here / "ds")
            assert not problems, problems
        return ended


# Each function below is a stage. The function writes what the command needs into world.here, and returns the command.
# After the command, all files in world.here are compared.


def curate(world: World, workers: int = 1) -> list[object]:
    return ["curate", world.photos, "--out", world.here / "ds", "--workers", workers]


def curate_in_two(world: World) -> list[object]:
    return curate(world, workers=2)


def mend(world: World) -> list[object]:
    """Prepares a dataset that has lost a shard and some crops, and whose photos were replaced, removed or added."""
    dataset, photos = world.here / "ds", world.here / "photos"
    shutil.copytree(world.photos, photos, symlinks=True)
    begin = world.made("mend/ds", "curate", photos, "--out", world.bench.folder / "mend" / "ds", "--workers", "1")
    shutil.copytree(begin, dataset)
    for path, image in (
        (photos / "person0" / "1.png", photo([1, 2], 300)),
        (photos / "person2" / "9.png", photo([2], 301)),
    ):
        os.utime(save(path, image), (0, 0))  # the times of the files are fixed, because the ledger stores them
    (photos / "person3" / "4.png").unlink()
    with Ledger.open(dataset) as ledger:
        faces = [face for face in ledger.read_rows(Face) if face.status == "ok"]
    sorted((dataset / "embeddings").iterdir())[0].unlink()
    for face in faces[::5]:
        crop_path(dataset, face.face_id).unlink()
    return ["curate", photos, "--out", dataset, "--workers", 1]


def degrade(world: World, workers: int = 1) -> list[object]:
    shutil.copytree(world.dataset(), world.here / "ds")
    return ["degrade", world.here / "ds", "--split", "train", "--size", 64, "--workers", workers]


def degrade_in_two(world: World) -> list[object]:
    return degrade(world, workers=2)


def degrade_folder(world: World) -> list[object]:
    return ["degrade", world.photos, "--out", world.here / "lq", *LQ]


def replay(world: World) -> list[object]:
    made = world.made("lq", "degrade", world.photos, "--out", world.bench.folder / "lq", *LQ)
    return ["degrade", world.photos, "--replay", made / "theta.jsonl", "--out", world.here / "again", "--workers", 1]


def train(world: World) -> list[object]:
    return ["train", world.dataset(), "--out", world.here / "run", "--images", 40]


def freeze(world: World) -> list[object]:
    return ["freeze", world.frozen(), "--out", world.here / "benchmark", "--with-images"]


def evaluate(world: World) -> list[object]:
    shutil.copytree(world.run(), world.here / "run")
    return ["evaluate", world.frozen(), "--run", world.here / "run", "--metrics", "psnr,ssim"]


def restore(world: World) -> list[object]:
    return ["restore", world.photos / "person0", "--run", world.run(), "--out", world.here / "restored"]


def iterate(world: World) -> list[object]:
    dataset = world.here / "ds"
    shutil.copytree(world.dataset(), dataset)
    with Ledger.open(dataset, write=True) as ledger:
        soft = [replace(face, sharpness=0.1) for face in ledger.read_rows(Face)[::2]]
        ledger.record("soft", "all", {}, soft)
    return ["iterate", dataset, "--out", world.here / "iteration", "--images", 16, "--rounds", 1]


def export(world: World) -> list[object]:
    return ["manifest", "export", world.frozen(), "--format", "imagefolder", "--out", world.here / "folder"]


def purge(world: World) -> list[object]:
    dataset = world.here / "ds"
    shutil.copytree(world.frozen(), dataset)
    return ["manifest", "purge", dataset, "--photo", world.photos / "person0" / "1.png", "--yes"]


def table(log: Path) -> str:
    """Returns a Markdown table of the tested faults and their outcomes, from the lines that `tried` wrote."""
    tries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout
    kinds = list(dict.fromkeys((one["fault"], one["must"]) for one in tries))
    lines = ["| fault | tested on | points | what must be true | survived |", "|---|---|---|---|---|"]
    for fault, must in kinds:
        mine = [one for one in tries if (one["fault"], one["must"]) == (fault, must)]
        counts = Counter(one["where"].replace("_", " ") for one in mine)
        places = ", ".join(f"{where} ({count})" if len(counts) > 1 else where for where, count in counts.items())
        survived = sum(one["outcome"] == "survived" for one in mine)
        lines.append(f"| {fault} | {places} | {len(mine)} | {must} | {survived} |")
    survived = sum(one["outcome"] == "survived" for one in tries)
    when = f"commit {commit.strip()}, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores"
    return "\n".join([*lines, "", f"{survived} of {len(tries)} survived; {when}."])


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
