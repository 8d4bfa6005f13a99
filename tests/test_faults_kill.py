"""SIGKILL at any moment, then the same command: everything as if nothing had happened, and nothing left over.

Ten points here; `make faults` tries all of FULL_POINTS (docs/faults.md has what came of it).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curate_doubles import photo, save
from faults_doubles import FULL, SEED, Bench, Point, differences, many_photos, points, remains, tried

from manifests.check import check
from manifests.ledger import Ledger
from manifests.records import Face
from manifests.storage import LEDGER_NAME, crop_path

pytestmark = pytest.mark.slow

LQ = ("--size", "64", "--workers", "1")


class World:
    """What the stages begin with, made once by the commands themselves, and a folder that every try begins anew in."""

    def __init__(self, folder: Path) -> None:
        self.bench = Bench(folder)
        self.photos = many_photos(folder / "photos")
        self.here = folder / "here"
        self._made: dict[str, Path] = {}

    def made(self, name: str, *command: object) -> Path:
        """The folder that a command made, at its first call."""
        if name not in self._made:
            ended = self.bench.run([str(word) for word in command])
            assert ended.code == 0, ended.err
            self._made[name] = self.bench.folder / name
        return self._made[name]

    def dataset(self) -> Path:
        return self.made("ds", "curate", self.photos, "--into", self.bench.folder / "ds", "--workers", "1")

    def frozen(self) -> Path:
        dataset = self.dataset()
        self.made("ds/lq", "degrade", dataset, "--split", "test", "--size", "32", "--workers", "1")
        return dataset

    def run(self) -> Path:
        return self.made("run", "train", self.dataset(), "--out", self.bench.folder / "run", "--images", "24")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("kill"))


# What a stage finds before it begins, put into world.here, and its command. All of world.here is compared.


def curate(world: World, workers: int = 1) -> list[object]:
    return ["curate", world.photos, "--into", world.here / "ds", "--workers", workers]


def curate_in_two(world: World) -> list[object]:
    return curate(world, workers=2)


def mend(world: World) -> list[object]:
    """A dataset that has lost a shard and crops, with photos replaced, taken away and added."""
    dataset, photos = world.here / "ds", world.here / "photos"
    shutil.copytree(world.photos, photos, symlinks=True)
    begin = world.made("mend/ds", "curate", photos, "--into", world.bench.folder / "mend" / "ds", "--workers", "1")
    shutil.copytree(begin, dataset)
    save(photos / "person0" / "1.png", photo([1, 2], 300))
    save(photos / "person2" / "9.png", photo([2], 301))
    (photos / "person3" / "4.png").unlink()
    with Ledger.open(dataset) as ledger:
        faces = [face for face in ledger.rows(Face) if face.status == "ok"]
    sorted((dataset / "embeddings").iterdir())[0].unlink()
    for face in faces[::5]:
        crop_path(dataset, face.face_id).unlink()
    return ["curate", photos, "--into", dataset, "--workers", 1]


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
    return ["freeze", world.frozen(), "--into", world.here / "benchmark", "--with-pictures"]


def evaluate(world: World) -> list[object]:
    shutil.copytree(world.run(), world.here / "run")
    return ["evaluate", world.here / "run", "--dataset", world.frozen(), "--metrics", "psnr,ssim"]


def restore(world: World) -> list[object]:
    return ["restore", world.photos / "person0", "--checkpoint", world.run(), "--out", world.here / "restored"]


# stage -> points in full, points otherwise
STAGES: dict[Callable[[World], list[object]], tuple[int, int]] = {
    curate: (16, 3),
    curate_in_two: (6, 0),
    mend: (8, 1),
    degrade: (10, 2),
    degrade_in_two: (3, 0),
    degrade_folder: (6, 1),
    replay: (3, 0),
    train: (12, 2),
    freeze: (5, 1),
    evaluate: (3, 0),
    restore: (4, 0),
}
MUST = (
    "the same command again ends with the ledger and the bytes of an undisturbed run; check passes; nothing left over"
)


def begin(world: World, stage: Callable[[World], list[object]]) -> list[str]:
    """The command of a stage, in a folder as it finds it."""
    shutil.rmtree(world.here, ignore_errors=True)
    world.here.mkdir()
    return [str(word) for word in stage(world)]


def ended_as(world: World, command: list[str], undisturbed: dict[str, Any]) -> None:
    ended = world.bench.run(command)
    assert ended.code == 0, ended.err
    assert differences(remains(world.here), undisturbed) == []
    if (world.here / "ds" / LEDGER_NAME).exists():
        assert check(world.here / "ds") == []


@pytest.mark.parametrize(
    "stage", [stage for stage, counts in STAGES.items() if counts[not FULL]], ids=lambda s: s.__name__
)
def test_a_killed_command_ends_as_if_it_had_not_been(world, stage):
    command = begin(world, stage)
    ended = world.bench.run(command)
    assert ended.code == 0, ended.err
    undisturbed, moments = remains(world.here), len(world.bench.moments())
    count = STAGES[stage][not FULL]
    rng = np.random.default_rng([SEED, list(STAGES).index(stage)])
    wrong = []
    for point in points(moments, count, rng):
        try:
            with tried("SIGKILL", stage.__name__, point, MUST):
                begin(world, stage)
                world.bench.strike(command, point)
                ended_as(world, command, undisturbed)
        except AssertionError as error:
            wrong.append(f"{point}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(not FULL, reason="`make faults` tries it")
@pytest.mark.parametrize("stage", [curate, degrade, train], ids=lambda s: s.__name__)
def test_a_command_that_is_killed_again_and_again(world, stage):
    command = begin(world, stage)
    assert world.bench.run(command).code == 0
    undisturbed = remains(world.here)
    rng = np.random.default_rng([SEED, 100])
    begin(world, stage)
    with tried("SIGKILL, five times in a row", stage.__name__, "a few moments further each time", MUST):
        for _ in range(5):  # each counts its moments anew
            world.bench.strike(command, Point(str(int(rng.integers(3, 14))), "after"))
        ended_as(world, command, undisturbed)


@pytest.mark.skipif(not FULL, reason="`make faults` tries it")
@pytest.mark.parametrize("stage", [curate, degrade, train], ids=lambda s: s.__name__)
def test_a_command_that_is_killed_by_the_clock(world, stage):
    command = begin(world, stage)
    assert world.bench.run(command).code == 0
    undisturbed = remains(world.here)
    for share in np.random.default_rng([SEED, 101]).uniform(0.3, 0.95, 3):
        begin(world, stage)
        point = Point(seconds=float(share) * (12 if stage is train else 3))
        with tried("SIGKILL by the clock", stage.__name__, point, MUST):
            world.bench.strike(command, point)
            ended_as(world, command, undisturbed)
