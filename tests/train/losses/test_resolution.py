"""Tests that both images lose the detail that an enlarged target cannot have, before a loss compares them."""

import pytest
import torch
from torch.nn import functional as F

from train.losses.resolution import LEAST_ENLARGED, find_enlarged, limit_resolution


def test_an_image_that_was_hardly_enlarged_stays_as_it_is() -> None:
    image = torch.rand(4, 3, 32, 32)
    upsample = torch.tensor([1.0, 0.5, 1.6, LEAST_ENLARGED])
    assert find_enlarged(upsample).tolist() == [2]
    limited = limit_resolution(image, upsample)
    assert torch.equal(limited[[0, 1, 3]], image[[0, 1, 3]]) and not torch.equal(limited[2], image[2])
    assert torch.equal(limit_resolution(image, upsample, find_enlarged(upsample)), limited)


def test_an_image_just_above_the_least_enlargement_changes_by_less_than_a_tenth_of_a_level() -> None:
    image = torch.rand(1, 3, 64, 64)
    limited = limit_resolution(image, torch.tensor([LEAST_ENLARGED + 1e-4]))
    assert 0 < float((limited - image).abs().max()) < 0.1 / 255


def test_each_image_has_its_own_resolution_and_keeps_its_mean() -> None:
    image = torch.rand(2, 3, 64, 64)
    soft = limit_resolution(image, torch.tensor([1.0, 2.0]))
    assert torch.allclose(soft[0], image[0], atol=1e-5)
    assert soft[1].std() < 0.6 * image[1].std()
    torch.testing.assert_close(soft[1].mean(), image[1].mean(), atol=0.01, rtol=0)


@pytest.mark.parametrize("upsample", [1.5, 2.0, 3.0])
def test_detail_that_enlarging_lost_is_hardly_punished(upsample: float) -> None:
    sharp = F.avg_pool2d(torch.rand(1, 3, 192, 192), 2)
    small = F.interpolate(sharp, scale_factor=1 / upsample, mode="area")
    target = F.interpolate(small, size=sharp.shape[-2:], mode="bilinear")
    factor = torch.tensor([upsample])
    full = (sharp - target).abs().mean()
    limited = (limit_resolution(sharp, factor) - limit_resolution(target, factor)).abs().mean()
    assert limited < 0.6 * full


def test_gradients_reach_the_image() -> None:
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    limit_resolution(image, torch.tensor([1.2, 2.0])).sum().backward()
    assert image.grad is not None and bool(image.grad.abs().sum() > 0)
