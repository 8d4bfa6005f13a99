"""Makes the datasets and the results of undisturbed commands once for all tests of faults."""

import pytest

from tests.doubles.faults.faults import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("faults"))
