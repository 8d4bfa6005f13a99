"""Tests that the device of the training degrades the targets, and that no worker does."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

import train.data.dataset
import train.data.to_device
from degrade.operations.pixels import shrink
from tests.doubles.training import SMALL, snapshot
from train.data.dataset import TrainingFaces, batches, collate
from train.data.sampling import draw_sample, draw_theta
from train.data.snapshot import Snapshot
from train.data.to_device import to_device

CPU = torch.device("cpu")
# A preset without noise, so that both engines make nearly the same image.
QUIET = {"down": [1, 4], "blur": [0.5, 3], "jpeg": [40, 90], "resize": "bilinear"}
RECIPE = replace(SMALL, preset="quiet", presets={"quiet": QUIET}, gray_share=0.5)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot(tmp_path_factory.mktemp("device"), upsample=0.2)  # the large crops have 512 px


def test_the_device_makes_nearly_the_input_of_the_workers(taken: Snapshot) -> None:
    exact, ours = (TrainingFaces(taken, RECIPE, 5, on_device=on_device) for on_device in (False, True))
    samples = list(islice(ours, 6))
    assert all("lq" not in sample and "source" in sample for sample in samples)
    assert {sample["source"].shape[-1] for sample in samples} == {512}
    batch = to_device(collate(samples), CPU)
    truth = to_device(collate(list(islice(exact, 6))), CPU)
    assert batch["device_noise"] is True and "device_noise" not in truth and "source" not in batch
    assert batch["lq"].dtype == torch.float32 and batch["lq"].shape == truth["lq"].shape
    apart = (batch["lq"] - truth["lq"]).abs() * 255
    assert float(apart.mean()) < 0.02 and float(apart.quantile(0.99)) <= 1
    assert float((truth["lq"] - truth["target"]).abs().mean()) * 255 > 0.2  # the images are degraded
    assert all(torch.equal(batch[name], truth[name]) for name in ("target", "references", "valid", "row"))


def test_images_of_two_sizes_share_a_batch(taken: Snapshot) -> None:
    faces = TrainingFaces(taken, RECIPE, 0, on_device=True)
    samples = []
    for index in range(4):
        sample = draw_sample(taken, faces.targets, RECIPE, 0, index)
        theta = draw_theta(faces.presets["quiet"], 0, 0, str(index))
        samples.append(faces.pack(sample, theta, 4, large=bool(index % 2), on_device=True))
    assert {sample["source"].shape[-1] for sample in samples} == {32, 512}
    lq = to_device(collate(samples), CPU)["lq"]
    for number, sample in enumerate(samples):
        assert torch.equal(to_device(collate([sample]), CPU)["lq"][0], lq[number])


@pytest.mark.parametrize("side", [64, 96, 100])
def test_a_large_image_is_shrunk_as_the_workers_shrink_it(side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    ours = train.data.to_device._shrink(image, 32)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - shrink(pixels, 32)).max() < 1.001 and (np.abs(ours - shrink(pixels, 32)) > 0.5).mean() < 1e-3


@pytest.mark.parametrize("workers", [0, 1])
def test_no_worker_degrades(taken: Snapshot, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a worker degraded an image")

    recipe = replace(SMALL, preset="real-esrgan", mixture={"severe": 0.4, "mild": 0.2, "clean": 0.2})
    monkeypatch.setattr(train.data.dataset, "apply", refuse)  # a forked worker inherits this function
    with pytest.raises(AssertionError, match="degraded an image"):
        next(batches(TrainingFaces(taken, recipe, 0), 0, 2, workers))
    one, again = (next(batches(TrainingFaces(taken, recipe, 0, on_device=True), 0, 2, workers)) for _ in range(2))
    assert torch.equal(to_device(one, CPU)["lq"], to_device(again, CPU)["lq"])
