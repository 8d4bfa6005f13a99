"""Tests commands on a full disk, under a limit of the file size, and on a read-only dataset.

A command must end with one sentence and leave no incomplete file. If the same command runs again with enough space, its
results must be the same as without the fault.
"""

import contextlib
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.doubles.faults import faults as doubles
from tests.doubles.faults.faults import (
    FULL,
    SEED,
    Point,
    Stage,
    World,
    differences,
    finish,
    paused,
    points,
    remains,
    tried,
)

pytestmark = pytest.mark.slow

MUST = (
    "The command ends with one sentence and exit code 1, and leaves no incomplete file. If the same "
    "command runs again after space is freed, its results are the same as after an undisturbed run."
)
# These files may differ from the files of an undisturbed run. Some are logs, and the others say themselves that they
# are incomplete.
UNFINISHED = ("card.json", "card.md", "restored.jsonl", "stats.jsonl", "manifest.duckdb.wal")
STAGES: dict[Stage, tuple[int, int]] = {
    doubles.curate: (6, 1),
    doubles.degrade: (4, 0),
    doubles.degrade_folder: (2, 0),
    doubles.train: (6, 0),
    doubles.freeze: (2, 0),
    doubles.restore: (2, 0),
}


def mounted(*words: str) -> None:
    ended = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"a mount is not permitted here: {ended.stderr.strip()}")


@pytest.fixture
def small_disk(world):
    """Mounts a file system of 64 MB at the folder `here` of the world."""
    mounted("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(world.here))
    yield
    subprocess.run(["umount", "--lazy", str(world.here)], check=True)


@contextlib.contextmanager
def full(folder: Path):
    """Fills the file system of the folder until no byte is free."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    yield
    filler.unlink()


def said(ended: doubles.Ended) -> None:
    """Checks that the command ended with one sentence."""
    assert ended.code == 1 and "Traceback" not in ended.err, ended
    assert ended.sentence.endswith((".", "stays.")) and "should not happen" not in ended.sentence, ended.err


def whole(world: World, undisturbed: dict, unfinished: tuple[str, ...] = UNFINISHED) -> None:
    """Checks that no temporary file is left, and that every file is equal to a file of an undisturbed run.

    Files whose names end with one of `unfinished` are not checked.
    """
    for name, found in remains(world.here).items():
        if ":" not in name and not name.endswith(unfinished) and name != "filler" and "run/checkpoint" not in name:
            assert undisturbed.get(name) == found, name


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize(
    "stage", [stage for stage, counts in STAGES.items() if counts[not FULL]], ids=lambda stage: stage.__name__
)
def test_the_disk_is_full_from_a_moment_on(world, stage):
    command, undisturbed, moments = world.undisturbed(stage)
    rng = np.random.default_rng([SEED, 200, list(STAGES).index(stage)])
    wrong = []
    for point in points(len(moments) - 2, STAGES[stage][not FULL], rng):
        try:
            with tried("the disk becomes full at a chosen moment", stage, point, MUST):
                world.begin(stage)
                with contextlib.ExitStack() as room:
                    with paused(world.bench, command, Point(point.at, "before")) as process:
                        room.enter_context(full(world.here))
                    ended = finish(process)
                    if ended.code:  # a command that needs no more space succeeds
                        said(ended)
                    whole(world, undisturbed)
                    left = set(differences(remains(world.here), undisturbed))
                    # A command that succeeded may leave the write-ahead log of the ledger if the ledger cannot grow.
                    # DuckDB reads the log together with the ledger.
                    assert ended.code or left <= {"filler", "ds/manifest.duckdb.wal"}, left
                world.ends_as(command, undisturbed)
        except AssertionError as error:
            wrong.append(f"{point}, {moments[int(point.at) - 1]}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("small_disk")
def test_the_last_whole_checkpoint_stays_when_the_disk_is_full(world):
    command, undisturbed, _ = world.undisturbed(doubles.train)
    world.begin(doubles.train)
    with tried(
        "the disk becomes full after a checkpoint",
        doubles.train,
        "rename checkpoint-00000016",
        MUST + " The training resumes from the checkpoint that was written before the disk became full.",
    ):
        with contextlib.ExitStack() as room:
            with paused(world.bench, command, Point("rename checkpoint-00000016", "after")) as process:
                room.enter_context(full(world.here))
            said(finish(process))
            assert [path.name for path in sorted((world.here / "run").glob("*checkpoint*"))] == [
                "checkpoint-00000008",
                "checkpoint-00000016",
            ]
        assert "at 16 images" in world.ends_as(command, undisturbed).out


@pytest.mark.parametrize(
    "stage", [doubles.curate, doubles.degrade, doubles.train] if FULL else [doubles.degrade_folder]
)
def test_no_file_may_grow_beyond_a_limit(world, stage):
    """Tests a command under a limit of the file size, which acts like a disk quota.

    Unlike a small disk, this limit needs no right to mount.
    """
    command, undisturbed, _ = world.undisturbed(stage)
    world.begin(stage)
    made = [data for name, data in undisturbed.items() if isinstance(data, bytes) and not (world.here / name).exists()]
    limit = max(map(len, made)) - 1
    with tried("the system limits the size of files (RLIMIT_FSIZE)", stage, f"{limit} bytes", MUST):
        said(world.bench.run(command, largest_file=limit))
        # Temporary files may be left, because the other workers are killed after the error of one worker. The next
        # command removes these files.
        whole(world, undisturbed, (*UNFINISHED, ".tmp"))
        world.ends_as(command, undisturbed)


@contextlib.contextmanager
def read_only(folder: Path):
    """Makes a folder read-only. Root may write despite permissions, so for root the folder is mounted read-only."""
    if os.geteuid():
        kept = [(path, path.stat().st_mode) for path in (folder, *folder.rglob("*"))]
        for path, mode in kept:
            path.chmod(mode & 0o555)
        yield
        for path, mode in kept:
            path.chmod(mode)
        return
    mounted("--bind", str(folder), str(folder))
    try:
        mounted("-o", "remount,bind,ro", str(folder))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("stage", [doubles.degrade, *([doubles.mend] if FULL else [])])
def test_a_ledger_that_is_read_only(world, stage):
    command, undisturbed, _ = world.undisturbed(stage)
    world.begin(stage)
    before = remains(world.here)
    with tried(
        "the dataset is read-only",
        stage,
        "from the start",
        "The command ends with one sentence and exit code 1, and changes nothing.",
    ):
        with read_only(world.here / "ds"):
            ended = world.bench.run(command)
            said(ended)
            assert "manifest.duckdb cannot be written (" in ended.sentence
            assert world.bench.run(["manifest", "show", str(world.here / "ds")]).code == 0
            assert differences(remains(world.here), before) == []
        world.ends_as(command, undisturbed)
