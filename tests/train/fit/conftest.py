"""Makes the snapshot for the tests of the training loop.

The tests use one thread, so that two runs can be compared bit for bit.
"""

import pytest
import torch

from tests.doubles.training import snapshot
from train.data.snapshot import Snapshot


@pytest.fixture(scope="session")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    # The crops have the size of the model, 32 px. No test changes the snapshot.
    return snapshot(tmp_path_factory.mktemp("fit"), upsample=16.0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
