"""The snapshot that the tests of the training loop share, and one thread, so that runs can be compared bit for bit."""

import pytest
import torch

from tests.doubles.training import snapshot
from train.data.snapshot import Snapshot


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot(tmp_path_factory.mktemp("fit"), upsample=16.0)  # faces of 32 px, as large as the model


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
