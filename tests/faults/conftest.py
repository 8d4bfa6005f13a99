"""One world for all tests of faults: its datasets and undisturbed runs are made once."""

import pytest

from tests.doubles.faults import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("faults"))
