"""Tests that a limit of the memory changes no group, and that a limit that is too small is refused."""

import re

import numpy as np
import pytest

import manifests.runtime.workspace
from curate.people.clustering.extend_grouping import EarlierGrouping, extend_grouping
from curate.people.clustering.group_embeddings import Grouping, group_embeddings
from curate.people.grouping_memory import choose_workspace
from manifests.errors import BadInput
from manifests.ledger.records import Identity
from manifests.runtime.workspace import Workspace
from tests.doubles.curation import album, curated, install, rows


@pytest.fixture
def in_files(tmp_path, monkeypatch) -> Workspace:
    """Returns a workspace whose arrays all lie in files, and whose pages are given back at every `trim`."""
    monkeypatch.setattr(manifests.runtime.workspace, "_LEAST_FILE", 1)
    return Workspace(1, tmp_path)


def make_crowd() -> dict[str, np.ndarray]:
    """Returns 1,500 faces of 300 people in 1,200 photos; one face in ten is weak."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(300), 5)
    vectors = rng.normal(size=(300, 64))[person] + rng.uniform(0.4, 1.2, (1500, 1)) * rng.normal(size=(1500, 64))
    vectors[1::97] = vectors[::97] + 0.01 * vectors[1::97]  # near-copies
    return {
        "embeddings": (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
        "photo_ids": rng.integers(0, 1200, 1500).astype(str),
        "worth": np.where(rng.random(1500) < 0.1, 0.4, 1.0),
        "is_main": rng.random(1500) < 0.8,
    }


def assert_equal(one: Grouping, other: Grouping) -> None:
    for name in ("labels", "confidence", "margin", "doubtful", "repeated"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert (one.threshold, one.alpha, one.recall) == (other.threshold, other.alpha, other.recall)


@pytest.mark.parametrize("arguments", [{"exact": 1000}, {"same_person": 0.4}])
def test_arrays_in_files_give_the_same_groups_bit_by_bit(in_files, arguments):
    crowd = make_crowd()
    links = {"must_link": [(0, 700), (3, 4)], "cannot_link": [(10, 11)]}
    expected = group_embeddings(**crowd, **links, **arguments)
    assert 100 < len(np.unique(expected.labels)) < 1000
    assert_equal(group_embeddings(**crowd, **links, **arguments, workspace=in_files), expected)


def test_new_faces_join_the_same_people_if_arrays_are_in_files(in_files):
    crowd = make_crowd()
    full = group_embeddings(**crowd)
    groups = full.labels.copy()
    groups[::50] = -1
    groups = np.unique(groups, return_inverse=True)[1] - 1
    assert full.evidence is not None and full.alpha is not None
    earlier = EarlierGrouping(
        groups, full.confidence, full.margin, full.evidence, full.alpha, full.threshold, 0.001, 1.0, 0
    )
    assert_equal(
        extend_grouping(earlier=earlier, **crowd, workspace=in_files), extend_grouping(earlier=earlier, **crowd)
    )


def test_a_limit_that_is_too_small_is_refused_with_the_least_limit(tmp_path):
    assert choose_workspace(tmp_path, 1000, 512, None).memory is None
    with pytest.raises(BadInput, match="too small to group 1,000,000 faces") as error:
        choose_workspace(tmp_path, 10**6, 512, 2**30)
    least = re.search(r"at least ([\d.]+)G", str(error.value))
    assert least is not None
    memory = int(float(least[1]) * 2**30)
    assert choose_workspace(tmp_path, 10**6, 512, memory).memory == memory
    assert choose_workspace(tmp_path, 10**6, 512, 2**40).memory is None


def test_a_curation_keeps_its_limit_for_the_grouping_alone(tmp_path, monkeypatch):
    install(monkeypatch)
    photos, dataset = album(tmp_path / "photos", people=2, each=2), tmp_path / "dataset"
    with pytest.raises(BadInput, match="--memory"):
        curated(photos, dataset, memory=1000)
    curated(photos, dataset, memory=2**34)  # the curation resumes
    assert len(rows(dataset, Identity)) == 2
