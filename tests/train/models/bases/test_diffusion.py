"""Tests every recipe on the diffusion base, with a small Stable Diffusion of random weights."""

import inspect
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file

from manifests.errors import BadInput
from tests.doubles.models.stable_diffusion import PROMPT, WIDTHS, write_mini_sd
from tests.doubles.training import DIM, small
from train.models.bases.base_folder import base_fingerprint
from train.models.bases.diffusion import TOKENS
from train.models.config import ModelConfig
from train.models.io import join_encoded
from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import DIFFUSION, PARTS, RECIPES, STYLEGAN_RECIPES

SIZE = 64
RESTORING = [name for name in RECIPES if name not in ("vre", *STYLEGAN_RECIPES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mini_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture(autouse=True)
def no_gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def config_of(recipe: str, folder: Path, parts: tuple[str, ...] | None = None) -> ModelConfig:
    told = small(recipe, DIFFUSION)
    return build_model_config(told if parts is None else replace(told, parts=parts), DIM, str(folder))


def awake(config: ModelConfig, recipe: str = "x") -> Restorer:
    """Returns a restorer with random weights instead of zeros, which would hide the layers before them."""
    torch.manual_seed(0)
    model = Restorer(config, {"recipe": recipe})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def inputs(k: int, b: int = 2, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(k)
    embeddings = torch.nn.functional.normalize(torch.randn(b, k, DIM, generator=rng), dim=-1)
    lq, references = torch.rand(b, 3, size, size, generator=rng), torch.rand(b, k, 3, size, size, generator=rng)
    return lq, references, torch.ones(b, k, dtype=torch.bool), embeddings


@pytest.mark.parametrize("recipe", RESTORING)
@pytest.mark.parametrize("k", [0, 1, 3])
def test_any_number_of_references(recipe: str, k: int, folder: Path) -> None:
    done = awake(config_of(recipe, folder))(*inputs(k))
    assert done.image.shape == (2, 3, SIZE, SIZE) and done.latent.shape == (2, 4, SIZE // 8, SIZE // 8)
    assert bool(((done.image >= 0) & (done.image <= 1)).all())


@pytest.mark.parametrize("recipe", RESTORING)
def test_the_order_of_references_does_not_matter_and_the_references_do(recipe: str, folder: Path) -> None:
    model, (lq, references, present, embeddings) = awake(config_of(recipe, folder)), inputs(4)
    present[1, 2:] = False
    order = torch.tensor([2, 0, 3, 1])
    done = model(lq, references, present, embeddings).image
    turned = model(lq, references[:, order], present[:, order], embeddings[:, order]).image
    assert float((done - turned).abs().max()) <= 1e-5
    others = float((done - model(lq, references.flip(0), present, embeddings.flip(0)).image).abs().max())
    assert others == 0 if recipe in ("osdface", "idm") else others > 1e-4


@pytest.mark.parametrize("recipe", RESTORING)
def test_references_can_be_encoded_one_by_one_before_the_faces_are_known(recipe: str, folder: Path) -> None:
    model, (lq, references, present, embeddings) = awake(config_of(recipe, folder)), inputs(3)
    present[1, 1:] = False
    done = model(lq, references, present, embeddings).image
    encoded = join_encoded([model.encode_references(one[None]) for one in references[present]])
    black = torch.zeros_like(references)
    again = model(lq, black, present, embeddings, encoded=encoded).image
    assert float((done - again).abs().max()) <= 1e-5


@pytest.mark.parametrize("recipe", RESTORING)
def test_images_of_a_batch_do_not_see_each_other_nor_what_lies_in_an_empty_slot(recipe: str, folder: Path) -> None:
    model, (lq, references, present, embeddings) = awake(config_of(recipe, folder)), inputs(3)
    present[1, 1:] = False
    together = model(lq, references, present, embeddings).image
    for i, slots in ((0, 3), (1, 1)):
        one = slice(i, i + 1)
        alone = model(lq[one], references[one, :slots], present[one, :slots], embeddings[one, :slots]).image
        assert torch.allclose(together[one], alone, atol=1e-5)
    nobody = model(lq, references, torch.zeros_like(present), embeddings).image
    assert torch.allclose(nobody, model(lq, *inputs(0)[1:]).image, atol=1e-5)


def test_every_part_at_once(folder: Path) -> None:
    model = awake(config_of("honestface", folder, PARTS))
    done, nobody = model(*inputs(2)), model(*inputs(0))
    assert done.prompt is not None and done.prompt.shape[-1] == PROMPT
    assert bool(torch.isfinite(done.image).all()) and bool(torch.isfinite(nobody.image).all())


def test_as_new_the_parts_change_nothing_of_what_the_frozen_model_gives(folder: Path) -> None:
    lq, *seen = inputs(2)
    torch.manual_seed(3)
    plain = Restorer(config_of("refine-unet", folder, ("warped",))).eval()
    torch.manual_seed(3)
    whole = Restorer(config_of("refine-unet", folder, ("maps", "warped", "embedding"))).eval()
    assert plain.base.prompt is not None and plain.base.prompt.shape == (1, TOKENS, PROMPT)
    whole.base.prompt.copy_(plain.base.prompt)
    assert torch.allclose(whole(lq, *seen).image, plain(lq, *seen).image, atol=1e-6)


def test_encode_and_decode_are_the_vaes(folder: Path) -> None:
    base, vae, image = Restorer(config_of("instant", folder)).eval().base, None, torch.rand(1, 3, SIZE, SIZE)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    z = vae.encode(image * 2 - 1).latent_dist.mode() * 0.18215
    assert torch.allclose(base.encode(image), z, atol=1e-6)
    assert torch.allclose(base.decode(z), (vae.decode(z / 0.18215).sample + 1) / 2, atol=1e-5)


def test_references_are_seen_without_the_adapters(folder: Path) -> None:
    """Tests that adapters change the result, but not the keys and values that a layer keeps of a reference."""
    model, (lq, references, present, embeddings) = awake(config_of("instant", folder)), inputs(2)
    model(lq, references, present, embeddings)
    kept = model.base.extension.layers[0].references[0].clone()
    for name, parameter in model.named_parameters():
        if "lora" in name:
            parameter.mul_(3)
    model(lq, references, present, embeddings)
    assert torch.equal(model.base.extension.layers[0].references[0], kept)
    assert all(p.requires_grad for name, p in model.named_parameters() if "lora" in name)


def test_the_decoders_self_attention_sees_what_attention_over_all_keys_sees(folder: Path) -> None:
    model, (lq, references, present, embeddings) = awake(config_of("instant", folder)), inputs(2)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    layer = next(m for n, m in model.base.unet.up_blocks.named_modules() if n.endswith(".attn1"))
    hook = layer.register_forward_hook(lambda _, args, kwargs, out: seen.append((args[0], out)), with_kwargs=True)
    model(lq, references, present, embeddings)
    hook.remove()
    (theirs, _), (own, out) = seen
    model.base.unet.disable_adapters()
    k, v = (getattr(layer, name)(theirs).unflatten(0, (2, 2)) for name in ("to_k", "to_v"))
    model.base.unet.enable_adapters()
    # In each channel, scale the values of each reference to the mean and the standard deviation of the input (AdaIN).
    spread, middle = (v - v.mean(2, keepdim=True)) / v.std(2, keepdim=True), layer.to_v(own)[:, None]
    v = spread * middle.std(2, keepdim=True) + middle.mean(2, keepdim=True)
    k, v = k.flatten(1, 2), v.flatten(1, 2)
    k, v = torch.cat([layer.to_k(own), k], 1), torch.cat([layer.to_v(own), v], 1)
    heads = [t.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for t in (layer.to_q(own), k, v)]
    share = torch.softmax(heads[0] @ heads[1].transpose(-1, -2) * heads[0].shape[-1] ** -0.5, -1)
    assert torch.allclose(out, layer.to_out[0]((share @ heads[2]).transpose(1, 2).flatten(2)), atol=1e-5)


@pytest.mark.parametrize("recipe", RESTORING)
def test_gradients_reach_all_that_trains_and_nothing_else(recipe: str, folder: Path) -> None:
    # At 128 px, the deepest level has several positions, so its attention is tested too.
    model, (lq, references, present, embeddings) = awake(config_of(recipe, folder)).train(), inputs(3, size=128)
    present[1] = False
    weights = torch.randn(lq.shape, generator=torch.Generator().manual_seed(5))
    (model(lq, references, present, embeddings).image * weights).sum().backward()
    added = ("base.prompt", "base.joins", "base.unet.class_embedding", "base.unet.conv_in.lq", "vre.projection")
    parts = ("references.", "embedding.", "identity.")
    for name, parameter in model.named_parameters():
        trains = "lora" in name or name.startswith(added + parts)
        assert parameter.requires_grad == trains and (parameter.grad is not None) == trains, name
        if trains and not name.endswith("to_k.bias"):
            assert float(parameter.grad.abs().max()) > 0, name  # type: ignore[union-attr]


def test_gradients_through_recomputed_layers_are_those_of_kept_ones(folder: Path) -> None:
    model, seen = awake(config_of("instant", folder)).train(), inputs(2)
    found, kept = [], {True: 0, False: 0}
    for recomputed in (True, False):
        if not recomputed:
            model.base.unet.disable_gradient_checkpointing()
            model.base.vae.disable_gradient_checkpointing()
        model.zero_grad(set_to_none=True)

        def count(tensor: torch.Tensor, recomputed: bool = recomputed) -> torch.Tensor:
            kept[recomputed] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(*seen).image.square().sum()
        loss.backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert kept[True] < 0.5 * kept[False]
    assert all(torch.allclose(found[0][name], found[1][name], rtol=1e-4, atol=1e-6) for name in found[0])


@pytest.mark.parametrize("recipe", RESTORING)
def test_bfloat16_where_autocast_wants_it_has_gradients_too(recipe: str, folder: Path) -> None:
    model, seen = awake(config_of(recipe, folder)).train(), inputs(2)
    with torch.autocast("cpu", torch.bfloat16):
        done = model(*seen)
    assert done.image.dtype == torch.float32 and done.latent.dtype == torch.float32
    done.image.sum().backward()
    grown = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(grad is not None and bool(torch.isfinite(grad).all()) for grad in grown)


@pytest.mark.parametrize("recipe", RESTORING)
def test_saved_and_loaded_it_restores_the_same_and_the_frozen_base_stays_where_it_is(
    recipe: str, folder: Path, tmp_path: Path
) -> None:
    model, seen = awake(config_of(recipe, folder), recipe), inputs(2)
    model.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained <= names and all(name.startswith("vre.dictionary.") for name in names - trained)
    assert json.loads((tmp_path / "config.json").read_text())["base_sha256"] == base_fingerprint(str(folder))
    assert torch.equal(Restorer.from_pretrained(tmp_path)(*seen).image, model(*seen).image)


def test_the_fingerprint_is_of_what_the_configs_say_by_whatever_diffusers_they_were_saved(
    folder: Path, tmp_path: Path
) -> None:
    copy = write_mini_sd(tmp_path / "copy")
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        path = copy / part / "config.json"
        written = json.loads(path.read_text())
        defaults = {name: told.default for name, told in inspect.signature(kind.__init__).parameters.items()}
        # A file of an older version has fewer options, and an option that does not exist any more.
        few = {name: value for name, value in written.items() if defaults.get(name) != value}
        assert len(few) < len(written) - 5
        path.write_text(json.dumps({**few, "_diffusers_version": "0.1", "_name_or_path": "x", "gone": 1}))
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({n: v for n, v in json.loads(path.read_text()).items() if n != "prediction_type"}))
    assert base_fingerprint(str(copy)) == base_fingerprint(str(folder))
    for part, change in (
        ("unet", {"norm_eps": 1e-6}),
        ("vae", {"scaling_factor": 0.2}),
        ("scheduler", {"beta_end": 1}),
    ):
        other = write_mini_sd(tmp_path / part) / part
        path = next(other.glob("*config.json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        assert base_fingerprint(str(other.parent)) != base_fingerprint(str(folder))


@pytest.mark.parametrize(
    ("unet", "vae", "schedule", "why"),
    [
        ({"in_channels": 9}, {}, {}, "has 9 input channels and 4 output channels, but the base's VAE has 4"),
        ({}, {"latent_channels": 8}, {}, "has 4 input channels and 4 output channels, but the base's VAE has 8"),
        ({}, {}, {"prediction_type": "v_prediction"}, "prediction_type is v_prediction and should be epsilon"),
        ({}, {}, {"beta_end": 0.02}, "beta_end is 0.02 and should be 0.012"),
        (
            {},
            {
                "block_out_channels": (8, 8, 16),
                "down_block_types": ("DownEncoderBlock2D",) * 3,
                "up_block_types": ("UpDecoderBlock2D",) * 3,
            },
            {},
            "the base's VAE has 3 levels, but the recipe needs 4",
        ),
    ],
)
def test_a_base_of_another_kind_is_refused(unet, vae, schedule, why, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_mini_sd(tmp_path, unet, vae, schedule)
    with pytest.raises(BadInput, match=why):
        Restorer(config_of("refine-unet", tmp_path))


def test_a_base_that_cannot_be_had_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"contains no unet \(config\): give a folder in diffusers' layout"):
        base_fingerprint(str(tmp_path))
    write_mini_sd(tmp_path / "pickled", safe=False)
    with pytest.raises(BadInput, match="pickled weights are never read"):
        Restorer(config_of("instant", tmp_path / "pickled"))
    write_mini_sd(tmp_path / "broken")
    (tmp_path / "broken" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="has an unusable vae"):
        Restorer(config_of("instant", tmp_path / "broken"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("nobody/nothing", str(tmp_path / "nowhere")):
        with pytest.raises(BadInput, match="is not a folder, and no model of that name could be loaded from the hub"):
            base_fingerprint(name)


def test_the_levels_that_maps_join_have_the_unets_widths(folder: Path) -> None:
    joins = Restorer(config_of("refine-unet", folder)).base.joins
    assert [join.weight.shape[:2] for join in joins] == [(w, 2 * c) for w, c in zip(WIDTHS, (8, 16, 16), strict=False)]
