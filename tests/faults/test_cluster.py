"""Tests commands on a Ray cluster of two nodes: nodes die, the driver is killed, and photos misbehave.

The commands are `curate`, `degrade` and `restore`. The results must be equal to the results of the local engine. `make
faults` runs these tests.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.runtime.cluster.cluster_pool import open_cluster_pool
from manifests.runtime.cluster.connection import connect_to_cluster
from tests.doubles.cluster import start_node, two_nodes
from tests.doubles.cluster_restorer import LOADED, check_with_odd_reader, install, read_oddly, restore_into
from tests.doubles.cluster_work import work
from tests.doubles.commands.misbehaviour import ODD, RIGHT, short
from tests.doubles.curation import photo, save
from tests.doubles.faults import faults as doubles
from tests.doubles.faults.faults import FULL, PATHS, ROOT, Point, differences, finish, paused, remains, tried
from tests.doubles.models.saved import save_restorer
from train.restore import cluster_photos

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FULL, reason="`make faults` tries it")]

MUST = (
    "The ledger and the files are the same as after an undisturbed run of the local engine, and no file is left over."
)


# The hook installs the doubles in the nodes. The moments of the nodes are not counted, so their log is not kept.
VARIABLES = {"PYTHONPATH": PATHS, "FAULTS_LOG": os.devnull, "FAULTS_DO": "kill", LOADED: os.devnull}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_nodes(**VARIABLES, DOUBLES_DELAY="0.2") as cluster:
        yield cluster


def on_cluster(command: list[str], cluster: Any) -> list[str]:
    """Returns the command with the cluster in place of its worker processes."""
    place = command.index("--workers")
    return [*command[:place], *command[place + 2 :], "--engine", "ray", "--address", cluster.address]


@pytest.mark.parametrize("moment", ["record scan", "record detect", "3"])
def test_a_node_that_dies_costs_only_its_batches(world, cluster, moment):
    command, undisturbed, _ = world.undisturbed(doubles.curate)
    world.begin(doubles.curate)
    with tried("a node of the cluster is killed", doubles.curate, moment, MUST):
        with paused(world.bench, on_cluster(command, cluster), Point(moment, "after")) as process:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        ended = finish(process)
        start_node(cluster)
        assert ended.code == 0, ended.err
        assert differences(remains(world.here), undisturbed) == []
        assert "Traceback" not in ended.err and "raylet" not in ended.out + ended.err


def test_a_head_node_that_stops_ends_the_command_with_one_sentence(world):
    command, undisturbed, _ = world.undisturbed(doubles.curate)
    world.begin(doubles.curate)
    fault = tried("the head node of the cluster is killed", doubles.curate, "record scan", MUST)
    with fault, two_nodes(**VARIABLES, DOUBLES_DELAY="0.2") as cluster:
        words = [*on_cluster(command, cluster), "--log-json"]
        with paused(world.bench, words, Point("record scan", "after")) as process:
            cluster.remove_node(cluster.head_node, allow_graceful=False)
        ended = finish(process)
        last = [json.loads(line) for line in ended.err.splitlines()][-1]
        assert (ended.code, last["event"], last["exit_code"]) == (130, "failed", 130), ended.err
        assert "resumes the work" in last["message"]
        world.ends_as(command, undisturbed)


@pytest.mark.parametrize("moment", ["record scan", "record detect", "record screen"])
def test_a_driver_that_is_killed_resumes(world, cluster, moment):
    command, undisturbed, _ = world.undisturbed(doubles.curate)
    world.begin(doubles.curate)
    with tried("the driver of the cluster is killed", doubles.curate, moment, MUST):
        assert world.bench.strike(on_cluster(command, cluster), Point(moment, "after"))
        world.ends_as(on_cluster(command, cluster), undisturbed)


@pytest.mark.parametrize("stage", [doubles.degrade, doubles.degrade_folder], ids=lambda stage: stage.__name__)
def test_degrade_gives_the_same_bytes_also_after_a_kill(world, cluster, stage):
    command, undisturbed, _ = world.undisturbed(stage)
    world.begin(stage)
    with tried("the driver of the cluster is killed", stage, "10", MUST):
        assert world.bench.strike(on_cluster(command, cluster), Point("10", "after"))
        world.ends_as(on_cluster(command, cluster), undisturbed)


@pytest.mark.parametrize("moment", [1, 4, 9], ids=["first photo", "fourth photo", "ninth photo"])
def test_a_node_that_dies_costs_only_its_running_photos(cluster, tmp_path, monkeypatch, moment):
    install(monkeypatch, check_with_odd_reader)
    read_oddly(monkeypatch)
    monkeypatch.setattr(cluster_photos, "LEAST_PHOTOS", 1)
    monkeypatch.chdir(tmp_path)
    checkpoint = save_restorer(tmp_path / "run", "tiny")
    for number in range(12):
        save(Path("in", f"{number:02d}.png"), photo([number % 3, 5], number))
    for what in ("die", "hang"):
        save(Path("in", f"05-{what}.png"), np.zeros((*ODD[what], 3), np.uint8))
    references = [save(Path("r.png"), photo([0], 20))]
    local = restore_into("local", references, checkpoint, batch=1)
    assert "ends the process that decodes it" in local[1] and "takes more than" in local[1]

    def kill(_: str, done: int, total: int) -> None:
        if done == moment:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    with tried("a node of the cluster is killed", "restore", moment, MUST):
        there = restore_into("cluster", references, checkpoint, batch=1, cluster=cluster.address, progress=kill)
        start_node(cluster)
        assert there == local


def test_a_second_driver_is_refused(world, cluster):
    command, undisturbed, _ = world.undisturbed(doubles.curate)
    world.begin(doubles.curate)
    with tried("a second driver writes into the same dataset", doubles.curate, "record scan", MUST):
        with paused(world.bench, on_cluster(command, cluster), Point("record scan", "after")) as process:
            second = world.bench.run(on_cluster(command, cluster))
            assert second.code == 1 and "another process" in second.sentence.lower(), second
        assert finish(process).code == 0
        assert differences(remains(world.here), undisturbed) == []


def test_a_unit_that_hangs_dies_or_starves_costs_itself_alone(cluster):
    with connect_to_cluster(cluster.address) as ray, open_cluster_pool(ray, short) as map_batches:
        batches = [["a", "hang", "b"], ["c"], ["die", "d", "starve"], ["e", "f"], ["abort"]]
        assert list(map_batches(work, batches)) == [[RIGHT.get(unit, unit) for unit in batch] for batch in batches]


def test_ray_on_this_machine_listens_only_to_this_machine():
    script = "from manifests.runtime.cluster.connection import connect_to_cluster\nimport os\n"
    script += "with connect_to_cluster('local', 1) as ray:\n    print(ray.head)\n"
    environment = {"PATH": os.environ["PATH"], "TMPDIR": "/tmp", "RAY_USAGE_STATS_ENABLED": "7"}
    for before in ("", "import ray\n"):
        words = [sys.executable, "-c", before + script + "print(os.environ['RAY_USAGE_STATS_ENABLED'])"]
        ran = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert ran.stdout.startswith("127.0.0.1:") and ran.stdout.endswith("7\n"), ran.stderr


def test_ray_on_this_machine_leaves_nothing(world, tmp_path):
    command, undisturbed, _ = world.undisturbed(doubles.curate)
    world.begin(doubles.curate)
    environment = {**os.environ, "PYTHONPATH": PATHS, "FAULTS_LOG": os.devnull, "FAULTS_DO": "kill"}
    environment |= {"TMPDIR": "/tmp", "HOME": str(tmp_path)}
    words = [sys.executable, "-m", "likeness", *command, "--engine", "ray", "--json"]
    ran = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    json.loads(ran.stdout)  # Ray prints nothing
    assert ran.stderr == "" and list(tmp_path.iterdir()) == []
    assert differences(remains(world.here), undisturbed) == []
    time.sleep(2)  # the processes of Ray end soon after the command
    assert not list(Path("/tmp").glob("likeness-ray-*"))
