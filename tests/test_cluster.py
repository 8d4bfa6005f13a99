"""Tests that a Ray cluster gives the rows and files of the local engine, and that the local engine needs no Ray."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import curate.detection.detect
import curate.photos.scan
import curate.run.pipeline
from curate.config import CurateConfig
from curate.detection.face_models import check_same_models
from curate.faces.errors import FaceModelError
from curate.run.pipeline import curate as run
from degrade.frozen.dataset_sets import make_set
from manifests.errors import BadInput, ClusterLost, LikenessError, ModelUnavailable
from manifests.exit_codes import INTERRUPTED
from manifests.pictures.images import decode
from manifests.runtime.cluster import cluster_pool
from manifests.runtime.cluster.cluster_pool import open_cluster_pool
from manifests.runtime.cluster.connection import connect_to_cluster
from manifests.runtime.cluster.ray_process import MESSAGES, RayProcess
from manifests.runtime.workers import open_pool
from manifests.stores.store_path import parse_path
from tests.doubles import curation as doubles
from tests.doubles.cluster import start_double, two_nodes
from tests.doubles.cluster_restorer import LOADED, check_with_doubles, install, restore_into
from tests.doubles.cluster_work import (
    begin_failing_task,
    begin_waiting_task,
    end_as_ray_does,
    lack_models,
    raise_as_ray,
    refuse,
    work,
)
from tests.doubles.commands.misbehaviour import short
from tests.doubles.curation import album, contents, curated, find_problems
from tests.doubles.models.saved import save_restorer
from train.restore import cluster_photos, restore_photos
from train.restore.cluster_photos import check_restorer, hash_restorer, name_restorer
from train.restore.restorers.face_restorer import load_restorer_faces
from train.restore.restorers.open_restorer import open_restorer


def curate_and_list_modules(folder: Path) -> bool:
    doubles.install(pytest.MonkeyPatch())
    curated(album(folder / "photos"), folder / "dataset")
    make_set(folder / "dataset", split="test", size=32)
    return "ray" in sys.modules


def test_the_local_engine_does_not_import_ray(tmp_path):
    with open_pool(1) as map_batches:
        assert list(map_batches(curate_and_list_modules, [tmp_path])) == [False]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Any]:
    with two_nodes(**{LOADED: str(tmp_path_factory.mktemp("nodes") / "loaded.txt")}) as cluster:
        yield cluster


@pytest.mark.slow
def test_two_nodes_curate_as_the_local_engine_does(cluster, tmp_path, monkeypatch):
    doubles.install(monkeypatch)
    monkeypatch.setattr(curate.run.pipeline, "start_worker", start_double)
    monkeypatch.setattr(curate.photos.scan, "FILES_A_BATCH", 4)
    monkeypatch.setattr(curate.detection.detect, "PHOTOS_A_BATCH", 4)
    photos = album(tmp_path / "photos")
    (photos / "broken.jpg").write_text("no photo")
    local, dataset = tmp_path / "local", tmp_path / "ray"
    curated(photos, local)
    monkeypatch.chdir(tmp_path)
    for name in ("likeness", "degrade", "curate", "manifests"):  # no node imports a file of the current folder
        Path(name).mkdir()
        Path(name, "__init__.py").write_text("raise SystemExit('a stranger was imported')\n")
    with connect_to_cluster(cluster.address) as ray:
        _check_pool(ray, monkeypatch)
    run([Path("photos")], Path("ray"), CurateConfig(), 1, cluster=cluster.address)
    assert contents(dataset) == contents(local) and doubles.files(dataset) == doubles.files(local)
    assert find_problems(dataset) == [] and list(dataset.rglob("*.tmp")) == []


def _check_pool(ray: RayProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks what a pool does with a unit that kills its process, with an error, and with an unsuitable node."""
    with open_cluster_pool(ray, short) as map_batches:
        assert list(map_batches(work, [["a", "die", "b"], ["c"]])) == [["a", "crashed", "b"], ["c"]]
        with pytest.raises(BadInput, match=r"not \['e'\]"):
            list(map_batches(refuse, [["e"]]))
    with pytest.raises(BadInput, match="Start the nodes with GPUs"), open_cluster_pool(ray, on_gpu=True):
        pass
    with (
        pytest.raises(ModelUnavailable, match=r"On the node .*: The folder"),
        open_cluster_pool(ray, check=lack_models),
    ):
        pass
    missing = Path("missing.jpg").absolute()
    with (
        pytest.raises(BadInput, match=f"On the node .*: {missing} is missing"),
        open_cluster_pool(ray, files=[[missing]]),
    ):
        pass
    photos = parse_path("s3://photos/album")  # the nodes have no credentials
    with (
        pytest.raises(BadInput, match=r"On the node .*: s3://photos/album cannot be read: "),
        open_cluster_pool(ray, files=[[photos]]),
    ):
        pass
    with pytest.raises(LikenessError, match=r"cannot run Likeness \(ZeroDivisionError: "):
        cluster_pool._take(ray, ray.call(begin_failing_task), {})
    with monkeypatch.context() as patch, pytest.raises(LikenessError, match="offers a GPU to Ray"):
        patch.setattr(cluster_pool, "SECONDS_WITHOUT_RESULT", 0.1)
        cluster_pool._take(ray, ray.call(begin_waiting_task), {}, ("CPU", "GPU"))
    with pytest.raises(LikenessError, match=r"Ray cannot do the work \(ValueError: "):
        ray.call(raise_as_ray)
    with monkeypatch.context() as patch:
        versions = {**cluster_pool.find_versions(), "Likeness": "9.9"}
        patch.setattr(cluster_pool, "find_versions", lambda: versions)
        with pytest.raises(BadInput, match=r"has Likeness .* runs with Likeness 9.9"), open_cluster_pool(ray):
            pass


@pytest.mark.slow
def test_a_cluster_that_stops_gives_one_sentence(cluster, monkeypatch):
    with pytest.raises(ClusterLost, match="resumes the work") as raised, connect_to_cluster(cluster.address) as ray:
        folder = ray.folder
        ray.call(end_as_ray_does)
    assert raised.value.exit_code == INTERRUPTED and "a line of Ray" in (folder / MESSAGES).read_text()
    shutil.rmtree(folder)


@pytest.mark.slow
def test_two_nodes_restore_as_the_local_engine_does(cluster, tmp_path, monkeypatch):
    install(monkeypatch, check_with_doubles)
    monkeypatch.setattr(cluster_photos, "LEAST_PHOTOS", 2)
    monkeypatch.chdir(tmp_path)
    checkpoint = save_restorer(tmp_path / "run", "tiny")
    for number, people in enumerate(([0, 5], [], [0], [5], [0])):
        name = f"{number}.{'jpg' if number == 2 else 'png'}"
        doubles.save(Path("in", "sub" * (number % 2), name), doubles.photo(people, number))
    Path("in/letter.txt").write_text("hello")
    references = [doubles.save(Path("r.png"), doubles.photo([0], 9))]
    local = restore_into("local", references, checkpoint, batch=1)
    assert len(local[2]) == 4 and len(local[4]) == 5 and "cannot be read as a picture" in local[1]
    assert restore_into("cluster", references, checkpoint, batch=1, cluster=cluster.address) == local
    loaded = Path(os.environ[LOADED]).read_text().splitlines()
    assert loaded and len(loaded) == len(set(loaded))  # a process does not load the restorer for each task


def test_a_task_fills_the_batches_with_its_own_faces(tmp_path, monkeypatch):
    install(monkeypatch, check_with_doubles)
    monkeypatch.chdir(tmp_path)
    checkpoint = save_restorer(tmp_path / "run", "tiny")
    for number in range(5):
        doubles.save(Path("in", f"{number}.png"), doubles.photo([number % 3], number))
    local = restore_into("local", [], checkpoint, batch=4)
    # In place of a cluster, this process runs the tasks.
    monkeypatch.setattr(cluster_photos, "LEAST_PHOTOS", 3)
    monkeypatch.setattr(restore_photos, "connect_to_cluster", lambda address: nullcontext())
    monkeypatch.setattr(restore_photos, "open_restoring_pool", lambda *_: nullcontext((map, 1)))
    for name, (data, _) in restore_into("cluster", [], checkpoint, batch=2, cluster="here")[2].items():
        assert np.abs(decode(data).astype(int) - decode(local[2][name][0])).max() <= 1


def test_a_node_with_another_checkpoint_is_refused(tmp_path, monkeypatch):
    install(monkeypatch, check_with_doubles)
    checkpoint = save_restorer(tmp_path / "run", "tiny")
    model = open_restorer(checkpoint)
    models = load_restorer_faces(model.facts, None)
    restorer = name_restorer(checkpoint, None, 1, None, model, models, False)
    hashes = hash_restorer(restorer, models)
    check_restorer(None, restorer, hashes)
    (checkpoint / "config.json").write_text((checkpoint / "config.json").read_text() + " ")
    with pytest.raises(BadInput, match=r"config\.json differs from the driver's file"):
        check_restorer(None, restorer, hashes)


def test_a_node_with_other_face_models_is_refused(monkeypatch):
    doubles.install(monkeypatch)
    right = [file.sha256 for file in doubles.models("double").files]
    check_same_models(None, "double", "cpu", right)
    with pytest.raises(FaceModelError, match="differ from those of the driver"):
        check_same_models(None, "other", "cpu", right)
