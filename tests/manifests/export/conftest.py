"""Makes the dataset that the tests of this folder export."""

import shutil
from pathlib import Path

import pytest

from tests.doubles.curation import install
from tests.doubles.exports import dataset_of, freeze, mark, splits_of


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """Makes a dataset of five people with four photos each, with 68 landmarks and a frozen test set."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        dataset = dataset_of(tmp_path_factory.mktemp("exports"))
        freeze(dataset)
    mark(dataset)
    assert set(splits_of(dataset).values()) == {"train", "val", "test"}
    return dataset


@pytest.fixture
def own(made, tmp_path) -> Path:
    """Makes a copy of the dataset, so that a test can change it."""
    shutil.copytree(made, tmp_path / "dataset")
    return tmp_path / "dataset"
