"""Every loss against a calculation by hand."""

import pytest
import torch

from train.losses.edge import edge_loss
from train.losses.identity import identity_loss
from train.losses.pixel import pixel_loss


def test_pixel() -> None:
    a, b = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    b[0, 0, 0, 0] = 0.6
    assert float(pixel_loss(a, b)) == pytest.approx(0.6 / 12)


def test_edge_at_one_scale() -> None:
    # one column steps up by .4: its gradient along x is .4 in every row, along y there is none
    a, b = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    b[..., 2:] = 0.4
    assert float(edge_loss(a, b, scales=1)) == pytest.approx((0.4 / 3 + 0) / 2)


def test_edge_over_two_scales() -> None:
    a, b = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    b[..., 2:] = 0.4
    # halved, the step fills the only gradient there is
    assert float(edge_loss(a, b, scales=2)) == pytest.approx((0.4 / 3 + 0.4) / 4)


def test_edge_ignores_brightness_and_sees_a_grid() -> None:
    image = torch.rand(1, 3, 16, 16)
    assert float(edge_loss(image, image + 0.1)) == pytest.approx(0, abs=1e-6)
    grid = image.clone()
    grid[..., ::4] += 0.1
    assert float(edge_loss(grid, image)) > 0.5 * float(pixel_loss(grid, image))


def test_identity() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(identity_loss(a, b)) == pytest.approx(0.5)
