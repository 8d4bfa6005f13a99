"""Makes the datasets for the tests of the review once. A test that changes a dataset works on a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.doubles.curation import album, curated, install
from tests.doubles.review.reviewed_dataset import make_dataset


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calls `make_dataset` once for all tests. A test that changes the dataset works on a copy."""
    return make_dataset(tmp_path_factory.mktemp("reviewed"))


@pytest.fixture(scope="session")
def curated_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with `photos` and their `dataset`: four people with five photos each.

    No test changes this folder.
    """
    folder = tmp_path_factory.mktemp("review")
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        curated(album(folder / "photos", people=4, each=5), folder / "dataset")
    return folder


@pytest.fixture
def dataset(curated_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a copy of the dataset of `curated_once`. The photos are not copied."""
    install(monkeypatch)
    shutil.copytree(curated_once / "dataset", tmp_path / "dataset")
    return tmp_path / "dataset"
