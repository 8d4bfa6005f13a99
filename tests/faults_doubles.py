"""Commands that are killed, stopped, starved of disk or run twice at once, and what has to remain of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from curate_doubles import album, contents, photo, save
from faults_hook import LINE

from manifests.storage import LEDGER_NAME

ROOT = Path(__file__).resolve().parents[1]
FULL = os.environ.get("LIKENESS_FAULTS") == "full"  # `make faults`
SEED = 7


@dataclass(frozen=True)
class Point:
    """When a command is struck: at which moment of faults_hook.py, or so many seconds after its start."""

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
        """What a person is told: the last line of standard error, when it ended with a word of ours."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return lines[-1] if lines else ""


class Bench:
    """A folder to try faults in, and how commands are started there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        hook = folder / "hook"
        hook.mkdir(parents=True)
        (hook / "sitecustomize.py").write_text("import faults_hook\n\nfaults_hook.install()\n")
        self.paths = os.pathsep.join(map(str, (hook, ROOT, ROOT / "tests")))
        self.log = folder / "moments"

    def start(self, command: list[str], point: Point | None = None, do: str = "kill", **options: Any) -> Any:
        """`python -m likeness` in a process group of its own; nothing of it survives this test."""
        self.log.unlink(missing_ok=True)
        told = {"FAULTS_LOG": str(self.log), "FAULTS_DO": do}
        if point is not None and point.at:
            told |= {"FAULTS_AT": point.at, "FAULTS_WHEN": point.when}
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FAULTS_", "LIKENESS_"))},
            **{"PYTHONPATH": self.paths, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": ""},
            **told,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "likeness", *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def run(self, command: list[str], timeout: float = 300, **options: Any) -> Ended:
        """To its end."""
        return finish(self.start(command, **options), timeout)

    def strike(self, command: list[str], point: Point) -> bool:
        """Run it until it is killed at the point; False where it had ended before."""
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
        """The lines of the last command."""
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
    """The command, stopped at a point; it goes on where the block ends."""
    process = bench.start(command, point, do="stop")
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"It never came to {point}: {process.communicate()}"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)


def points(moments: int, count: int, rng: np.random.Generator) -> list[Point]:
    """`count` moments spread over all of them, one drawn from each of as many equal parts; before, after, or up to
    ten milliseconds into what follows."""
    edges = np.linspace(1, moments + 1, count + 1)
    found = []
    for low, high in itertools.pairwise(edges):
        at = int(rng.integers(int(low), max(int(high), int(low) + 1)))
        when = str(rng.choice(["before", "after", f"{rng.uniform(0.1, 10):.2f}"]))
        found.append(Point(str(min(at, moments)), when))
    return found


def many_photos(folder: Path) -> Path:
    """Some people, pictures of several of them, a copy, a letter, a truncated file, a broken link."""
    album(folder, people=4, each=5)
    save(folder / "all.png", photo([0, 1, 2, 3], 200))
    shutil.copy(folder / "person0" / "0.png", folder / "copy.png")
    whole = (folder / "person1" / "1.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "letter.jpg").write_text("Dear photograph")
    (folder / "broken").symlink_to("nowhere")
    return folder


# what is allowed to differ: clocks and paces in logs, and the ledger's own bytes, which are compared table by table
_CLOCKS = {"seconds", "images_per_second", "data_wait"}


def remains(folder: Path) -> dict[str, Any]:
    """All that a command left in a folder, to compare with what another left: tables without clocks, files as bytes."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name.startswith("events.out.tfevents"):
            continue
        if path.name == LEDGER_NAME:
            found |= {f"{name}:{table}": rows for table, rows in contents(path.parent).items()}
        elif path.name == "stats.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key not in _CLOCKS} for line in lines]
        else:
            found[name] = path.read_bytes()
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of what is not the same, `tmp` files among them."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


@contextlib.contextmanager
def tried(fault: str, where: str, point: object = "", must: str = "") -> Iterator[None]:
    """Note a fault that was tried, and whether what had to hold held, in the file that LIKENESS_FAULTS_LOG names."""
    outcome = "failed"
    try:
        yield
        outcome = "survived"
    finally:
        if (log := os.environ.get("LIKENESS_FAULTS_LOG")) is not None:
            line = {"fault": fault, "where": where, "point": str(point), "must": must, "outcome": outcome}
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
