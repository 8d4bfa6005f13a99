from __future__ import annotations

from pathlib import Path

import pytest

from tests.doubles.reviewed_dataset import make_dataset


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes the dataset of `make_dataset` once. A test that changes the dataset works on a copy."""
    return make_dataset(tmp_path_factory.mktemp("reviewed"))
