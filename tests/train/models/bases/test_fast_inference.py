"""Tests that the fast layers for restoring on a CPU compute what the published layers compute."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from tests.doubles.models.stable_diffusion import write_light_sd, write_mini_sd
from tests.doubles.training import DIM, small
from train.models.bases import winograd
from train.models.bases.fast_inference import PlainBlock, speed_up
from train.models.bases.joined_upsampling import JoinedUpsampling
from train.models.bases.winograd import WinogradConv2d, suits_winograd
from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import DIFFUSION

SIZE = 64


def restorer(recipe: str, folder: Path) -> Restorer:
    """Returns a restorer with random weights, so that its adapters change the result."""
    torch.manual_seed(0)
    model = Restorer(build_model_config(small(recipe, DIFFUSION), DIM, str(folder)), {"recipe": recipe})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def inputs(k: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(k)
    lq, references = torch.rand(2, 3, SIZE, SIZE, generator=draw), torch.rand(2, k, 3, SIZE, SIZE, generator=draw)
    embeddings = F.normalize(torch.randn(2, k, DIM, generator=draw), dim=-1)
    return lq, references, torch.ones(2, k, dtype=torch.bool), embeddings


@pytest.mark.parametrize("shape", [(2, 256, 8, 12), (1, 256, 72, 4)])
@torch.no_grad()
def test_winograd_is_the_convolution(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(256, 320, 3, padding=1), torch.randn(shape)
    expected = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)  # type: ignore[union-attr]
    assert float((WinogradConv2d(conv)(x) - expected).abs().max()) < 1e-4
    assert not torch.equal(WinogradConv2d(conv)(x), conv(x))  # Winograd's algorithm was really used
    odd = torch.randn(1, 256, 6, 8)
    assert torch.equal(WinogradConv2d(conv)(odd), conv(odd))
    last = x.to(memory_format=torch.channels_last)
    assert torch.allclose(WinogradConv2d(conv)(last), WinogradConv2d(conv)(x), atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(WinogradConv2d(conv)(x), conv(x))


@torch.no_grad()
def test_a_joined_upsampling_is_the_upsampling_and_the_convolution() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(5, 7, 3, padding=1).double(), torch.randn(2, 5, 6, 9).double()
    expected = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    assert torch.allclose(JoinedUpsampling(conv)(x), expected, atol=1e-12)


def test_winograd_is_for_plain_wide_convolutions() -> None:
    assert suits_winograd(nn.Conv2d(256, 256, 3, padding=1))
    for other in (
        nn.Conv2d(256, 256, 3),
        nn.Conv2d(256, 256, 3, padding=1, stride=2),
        nn.Conv2d(256, 256, 1),
        nn.Conv2d(128, 256, 3, padding=1),
        nn.Conv2d(640, 1280, 3, padding=1),
        nn.Conv2d(256, 256, 3, padding=1, groups=2),
        nn.Linear(256, 256),
    ):
        assert not suits_winograd(other)


@pytest.mark.parametrize("recipe", ["osdface", "instant", "idm"])
@torch.no_grad()
def test_a_fast_restorer_restores_the_same(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "FEWEST_CHANNELS", 8)
    model, seen = restorer(recipe, write_mini_sd(tmp_path)), inputs()
    before, kept = model(*seen).image, dict(model.base.vae.state_dict())
    speed_up(model)
    vae = model.base.vae
    assert isinstance(vae, AutoencoderKL)
    blocks = [layer for layer in vae.decoder.modules() if isinstance(layer, PlainBlock)]
    assert blocks and all(isinstance(block.conv2, WinogradConv2d) for block in blocks)
    assert sum(isinstance(layer, JoinedUpsampling) for layer in vae.modules()) == 3
    # Part `extended` needs the UNet without its adapters, so they are not merged.
    unet = model.base.unet
    assert any("lora" in name for name, _ in unet.named_modules()) == (recipe == "instant")
    for kind in (WinogradConv2d, JoinedUpsampling):
        assert any(isinstance(layer, kind) for layer in unet.modules()) == (recipe != "instant")
    assert torch.allclose(model(*seen).image, before, atol=1e-4)
    z = torch.randn(1, 4, 8, 8)
    plain = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert kept.keys() == plain.state_dict().keys()
    assert torch.allclose(vae.decode(z).sample, plain.decode(z).sample, atol=1e-4)


@pytest.mark.parametrize("write", [write_mini_sd, write_light_sd])
@torch.no_grad()
def test_in_bfloat16_the_result_differs_by_little(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, seen = restorer("osdface", write(tmp_path)), inputs()
    before = model(*seen).image
    speed_up(model, bfloat16=True)
    assert {weight.dtype for weight in model.base.unet.parameters()} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        after = model(*seen)
    assert after.image.dtype == torch.float32 and after.latent.dtype == torch.float32
    assert 0 < float((after.image - before).abs().mean()) * 255 < 5
