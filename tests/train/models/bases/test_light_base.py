"""Tests light bases: the VAE is an AutoencoderTiny, and the UNet can be pruned."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from manifests.errors import BadInput
from tests.doubles.models.stable_diffusion import write_light_sd, write_mini_sd
from tests.doubles.training import DIM, small
from train.models.bases.base_folder import base_fingerprint
from train.models.released.instantrestore import load_instantrestore
from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import DIFFUSION

SIZE = 64
PRUNED = {"mid_block_type": None, "layers_per_block": 1}  # The blocks that BK-SDM-Small removes are missing.
FLUX2 = {"latent_channels": 32}  # As in FLUX.2.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_light_sd(tmp_path_factory.mktemp("light"))


def restorer(recipe: str, folder: Path) -> Restorer:
    torch.manual_seed(0)
    return Restorer(build_model_config(small(recipe, DIFFUSION), DIM, str(folder)), {"recipe": recipe})


def inputs(k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(k)
    lq, references = torch.rand(2, 3, SIZE, SIZE, generator=draw), torch.rand(2, k, 3, SIZE, SIZE, generator=draw)
    embeddings = torch.nn.functional.normalize(torch.randn(2, k, DIM, generator=draw), dim=-1)
    return lq, references, torch.ones(2, k, dtype=torch.bool), embeddings


@torch.no_grad()
def test_encode_and_decode_are_those_of_the_autoencoder_tiny_in_training_too(folder: Path) -> None:
    base, image = restorer("osdface", folder).base, torch.rand(1, 3, SIZE, SIZE)
    vae = AutoencoderTiny.from_pretrained(folder / "vae")
    z = vae.encode(image * 2 - 1).latents
    assert z.shape == (1, 4, SIZE // 8, SIZE // 8)
    assert torch.equal(base.eval().encode(image), z)
    assert torch.allclose(base.decode(z), (vae.decode(z).sample + 1) / 2, atol=1e-6)
    with torch.enable_grad():  # with gradient checkpointing, diffusers would expect images in 0..1
        assert torch.equal(base.train().encode(image), z)


@pytest.mark.parametrize("recipe", ["osdface", "instant"])
def test_a_recipe_learns_restores_and_is_saved_on_a_light_base(recipe: str, folder: Path, tmp_path: Path) -> None:
    model, seen = restorer(recipe, folder), inputs(2)
    model(*seen).image.square().mean().backward()
    assert any(bool(p.grad.abs().max() > 0) for p in model.base.parameters() if p.grad is not None)
    with torch.no_grad():
        done = model.eval()(*seen)
        assert done.image.shape == (2, 3, SIZE, SIZE) and bool(torch.isfinite(done.image).all())
        model.save_pretrained(tmp_path)
        again = Restorer.from_pretrained(tmp_path)
        assert isinstance(again.base.vae, AutoencoderTiny)
        assert torch.equal(again(*seen).image, done.image)


@pytest.mark.parametrize(
    ("unet", "vae"), [(PRUNED, {}), ({"in_channels": 32, "out_channels": 32}, FLUX2)], ids=["pruned", "32 channels"]
)
@torch.no_grad()
def test_the_unet_can_be_pruned_and_the_latent_can_have_other_channels(unet, vae, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = restorer("instant", write_light_sd(tmp_path, unet, vae)).eval()
    done = model(*inputs(1))
    assert done.latent.shape[1] == vae.get("latent_channels", 4)
    assert done.image.shape == (2, 3, SIZE, SIZE) and bool(torch.isfinite(done.image).all())


def test_the_fingerprint_knows_the_autoencoder(folder: Path, tmp_path: Path) -> None:
    assert base_fingerprint(str(write_light_sd(tmp_path / "copy"))) == base_fingerprint(str(folder))
    others = (
        write_mini_sd(tmp_path / "full"),
        write_light_sd(tmp_path / "wide", vae={"num_encoder_blocks": (1, 2, 2, 2)}),
    )
    assert len({base_fingerprint(str(one)) for one in (folder, *others)}) == 3


def test_a_checkpoint_of_the_full_base_is_refused_on_the_light_base(folder: Path, tmp_path: Path) -> None:
    restorer("osdface", write_mini_sd(tmp_path / "full")).save_pretrained(tmp_path / "run")
    with pytest.raises(BadInput, match=r"is not the base that .* was trained on, because its configuration differs"):
        Restorer.from_pretrained(tmp_path / "run", str(folder))


def test_an_unsuitable_autoencoder_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    three = dict.fromkeys(("encoder_block_out_channels", "decoder_block_out_channels"), (8,) * 3)
    three |= dict.fromkeys(("num_encoder_blocks", "num_decoder_blocks"), (1,) * 3)
    with pytest.raises(BadInput, match="the base's VAE has 3 levels, but the recipe needs 4"):
        restorer("osdface", write_light_sd(tmp_path / "three", vae=three))
    with pytest.raises(BadInput, match="4 output channels, but the base's VAE has 32 latent channels"):
        restorer("osdface", write_light_sd(tmp_path / "flux", vae=FLUX2))
    config = write_light_sd(tmp_path / "other") / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "VQModel"}))
    with pytest.raises(BadInput, match="VAE is of the class VQModel: give a base whose VAE is of the class Auto"):
        restorer("osdface", tmp_path / "other")
    (tmp_path / "x_ckpt.pt").write_bytes(b"")
    with pytest.raises(BadInput, match="VAE is of the class AutoencoderTiny, and InstantRestore adapts an Auto"):
        load_instantrestore(tmp_path / "x_ckpt.pt", str(folder))
