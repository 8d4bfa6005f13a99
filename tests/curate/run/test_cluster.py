"""Tests that a Ray cluster gives the rows and files of the local engine, and that the local engine needs no Ray."""

import sys
from pathlib import Path

import pytest

import curate.detection.detect
import curate.photos.scan
import curate.run.pipeline
from curate.config import CurateConfig
from curate.detection.face_models import check_same_models
from curate.faces.errors import FaceModelError
from curate.run.pipeline import curate as run
from degrade.frozen.dataset_sets import make_set
from manifests.errors import BadInput, ModelUnavailable
from manifests.runtime.cluster import cluster_pool
from manifests.runtime.cluster.cluster_pool import open_cluster_pool
from manifests.runtime.cluster.connection import connect_to_cluster
from manifests.runtime.workers import open_pool
from tests.doubles import curation as doubles
from tests.doubles.cluster import start_double, two_nodes
from tests.doubles.cluster_work import lack_models, refuse, work
from tests.doubles.commands.misbehaviour import short
from tests.doubles.curation import album, contents, curated, find_problems


def curate_and_list_modules(folder: Path) -> bool:
    doubles.install(pytest.MonkeyPatch())
    curated(album(folder / "photos"), folder / "dataset")
    make_set(folder / "dataset", split="test", size=32)
    return "ray" in sys.modules


def test_the_local_engine_does_not_import_ray(tmp_path):
    with open_pool(1) as map_batches:
        assert list(map_batches(curate_and_list_modules, [tmp_path])) == [False]


@pytest.mark.slow
def test_two_nodes_give_what_the_local_engine_gives(tmp_path, monkeypatch):
    doubles.install(monkeypatch)
    monkeypatch.setattr(curate.run.pipeline, "start_worker", start_double)
    monkeypatch.setattr(curate.photos.scan, "FILES_A_BATCH", 4)
    monkeypatch.setattr(curate.detection.detect, "PHOTOS_A_BATCH", 4)
    photos = album(tmp_path / "photos")
    (photos / "broken.jpg").write_text("no photo")
    local, dataset = tmp_path / "local", tmp_path / "ray"
    curated(photos, local)
    with two_nodes() as cluster:
        with connect_to_cluster(cluster.address):
            _check_pool(monkeypatch)
        run([photos], dataset, CurateConfig(), 1, cluster=cluster.address)
    assert contents(dataset) == contents(local) and doubles.files(dataset) == doubles.files(local)
    assert find_problems(dataset) == [] and list(dataset.rglob("*.tmp")) == []


def _check_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks what a pool does with a unit that kills its process, with an error, and with an unsuitable node."""
    with open_cluster_pool(short) as map_batches:
        assert list(map_batches(work, [["a", "die", "b"], ["c"]])) == [["a", "crashed", "b"], ["c"]]
        with pytest.raises(BadInput, match=r"not \['e'\]"):
            list(map_batches(refuse, [["e"]]))
    with pytest.raises(BadInput, match="Start the nodes with GPUs"), open_cluster_pool(on_gpu=True):
        pass
    with pytest.raises(ModelUnavailable, match=r"On the node .*: The folder"), open_cluster_pool(check=lack_models):
        pass
    with monkeypatch.context() as patch:
        versions = {**cluster_pool.find_versions(), "Likeness": "9.9"}
        patch.setattr(cluster_pool, "find_versions", lambda: versions)
        with pytest.raises(BadInput, match=r"has Likeness .* runs with Likeness 9.9"), open_cluster_pool():
            pass


def test_a_node_with_other_face_models_is_refused(monkeypatch):
    doubles.install(monkeypatch)
    right = [file.sha256 for file in doubles.models("double").files]
    check_same_models(None, "double", "cpu", right)
    with pytest.raises(FaceModelError, match="differ from those of the driver"):
        check_same_models(None, "other", "cpu", right)
