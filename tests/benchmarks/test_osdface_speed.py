"""Tests the published order of operations, and the reader of TAEF2, in the benchmarks of the light base."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from tests.places import REPOSITORY
from train.models.config import VreConfig
from train.models.prompts.vre import Vre


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


@torch.no_grad()
def test_the_published_prompt_is_the_prompt_of_the_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    import published_osdface

    monkeypatch.setattr(published_osdface, "SIZE", 32)
    torch.manual_seed(0)
    shape = VreConfig(32, 32, (1, 2), 90, 24, 77, doubly_normalised=True)
    vre, image = Vre(shape, 16), torch.rand(1, 3, 32, 32)
    seen = vre.dictionary.encode(torch.rand(1, 3, 32, 32) * 4 - 3)[0].flatten(1).t()
    vre.dictionary.quantize.embedding.weight.copy_(seen[:90] + 0.05 * seen.std() * torch.randn(90, 24))
    published = published_osdface.PublishedOsdface.__new__(published_osdface.PublishedOsdface)
    published.embedder, published.projection = vre.dictionary.state_dict(), vre.projection.state_dict()
    prompt = published.embed(image * 2 - 1)
    assert prompt.shape == (1, 77, 16)
    assert torch.allclose(prompt, vre(image), atol=1e-5)
    assert not torch.allclose(prompt, vre(image.flip(2)), atol=1e-3)


@torch.no_grad()
def test_taef2_is_read_with_its_branch(tmp_path: Path) -> None:
    from light_ceiling import TAEF2, load_autoencoder, reconstruct

    torch.manual_seed(0)
    vae = AutoencoderTiny(latent_channels=32)
    for part, network, shift in (("encoder", vae.encoder, 0), ("decoder", vae.decoder, 1)):
        state = {}
        for name, tensor in network.layers.state_dict().items():
            number, rest = name.split(".", 1)
            state[f"{int(number) + shift}.{rest}"] = tensor
        number = 11 if part == "encoder" else 3
        state[f"{number}.pool.0.weight"] = 0.1 * torch.randn(256, 64, 1, 1)
        state |= {f"{number}.pool.1.weight": torch.ones(256), f"{number}.pool.1.bias": torch.zeros(256)}
        state[f"{number}.pool.3.weight"] = 0.1 * torch.randn(64, 256, 1, 1)
        torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / TAEF2.format(part))
    image = torch.rand(1, 3, 32, 32)
    made = reconstruct(load_autoencoder(tmp_path), image, False)
    expected = vae.decode(vae.encode(image * 2 - 1).latents).sample / 2 + 0.5
    assert made.shape == image.shape
    assert float((made - expected.clamp(0, 1)).abs().max()) > 1e-3  # the branch changes the reconstruction
