"""Tests reading OSDFace's released files. The files have random weights, and the published operations give the expected
results."""

import collections
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from manifests.errors import BadInput
from train.models.config import VreConfig
from train.models.prompts.vq import VQ
from train.models.released.osdface import (
    EMBEDDER,
    LORA,
    PROJECTION,
    embedder_config,
    load_osdface,
    merge,
    read_adapters,
    read_embedder,
    read_tensors,
)

MINI = VreConfig(size=32, channels=32, multipliers=(1, 2), codes=90, dim=24, tokens=77, doubly_normalised=True)
PROMPT = 16  # the cross_attention_dim of the small UNet
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
RANK = 3

State = dict[str, torch.Tensor]


def embedder_state() -> State:
    """Returns random tensors `vqvae_LQ.`, with random norm layers and distinct codes."""
    state = VQ(MINI, decodes=False).state_dict()
    state = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in state.items()}
    # The codes are near outputs of the encoder, so that many codes are used.
    seen = vectors(state, torch.rand(4, 3, 32, 32) * 4 - 3)
    chosen = seen.permute(0, 2, 3, 1).flatten(0, 2)[torch.randperm(4 * 256)[: MINI.codes]]
    state["quantize.embedding.weight"] = chosen + 0.05 * seen.std() * torch.randn_like(chosen)
    return state


def lightning(state: State) -> dict[str, Any]:
    """Returns a checkpoint with the tensors of `state` and with tensors that must not be read.

    The other tensors are from the decoder, the HQ autoencoder and the discriminator.
    """
    others = {name: torch.randn(2) for name in ("vqvae.encoder.conv_in.weight", "vqvae_LQ.decoder.conv_in.bias")}
    others |= {"vqvae_LQ.post_quant_conv.bias": torch.randn(2), "loss.discriminator.weight": torch.randn(2)}
    named = {f"vqvae_LQ.{name}": tensor for name, tensor in state.items()}
    return {"epoch": 9, "global_step": 10, "state_dict": collections.OrderedDict(others | named)}


def projection_state() -> State:
    half = MINI.dim // 2
    shapes = {"conv1.weight": (half, MINI.dim, 1), "conv1.bias": (half,)}
    shapes |= {"conv2.weight": (PROMPT, half, 1), "conv2.bias": (PROMPT,)}
    return {name: 0.5 * torch.randn(shape) for name, shape in shapes.items()}


def small_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=PROMPT,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        use_linear_projection=True,
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a small random model in the layout of Stable Diffusion 2.1-base."""
    folder = tmp_path_factory.mktemp("base")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=512,
            scaling_factor=0.18215,
        )
        small_unet().save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    DDIMScheduler(num_train_timesteps=1000, **SCHEDULE).save_pretrained(folder / "scheduler")
    return folder


def lora_state(style: str) -> State:
    """Returns LoRA weights for attention, feed-forward and convolution layers, with the names of peft or diffusers."""
    names = {"peft": ("lora_A", "lora_B"), "diffusers": ("lora.down", "lora.up")}[style]
    state: State = {}
    for name, parameter in small_unet().named_parameters():
        adapted = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "proj_in", *(("conv1",) if style == "peft" else ()))
        if name.removesuffix(".weight").endswith(adapted) and parameter.ndim in (2, 4):
            out, *rest = parameter.shape
            point = (1, 1) * (parameter.ndim == 4)
            matrices = 0.3 * torch.randn(RANK, *rest), 0.3 * torch.randn(out, RANK, *point)
            for half, matrix in zip(names, matrices, strict=True):
                state[f"unet.{name.removesuffix('.weight')}.{half}.weight"] = matrix
    return state


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes a folder of released files."""

    def write(style: str = "peft") -> Path:
        folder = tmp_path / "osdface"
        folder.mkdir(exist_ok=True)
        save_file(lora_state(style), folder / LORA)
        torch.save(projection_state(), folder / PROJECTION)
        torch.save(lightning(embedder_state()), folder / EMBEDDER)
        return folder

    return write


# The functions below compute the published operations from the files, without our code.


def group_norm(state: State, name: str, h: torch.Tensor) -> torch.Tensor:
    return F.group_norm(h, 32, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)


def conv(state: State, name: str, h: torch.Tensor, **how: int) -> torch.Tensor:
    return F.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], **how)


def resnet(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    h = conv(state, f"{name}.conv1", F.silu(group_norm(state, f"{name}.norm1", x)), padding=1)
    h = conv(state, f"{name}.conv2", F.silu(group_norm(state, f"{name}.norm2", h)), padding=1)
    return h + (conv(state, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in state else x)


def attention(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    h = group_norm(state, f"{name}.norm1", x)
    q, k, v = (conv(state, f"{name}.{layer}", h).flatten(2) for layer in "qkv")
    share = torch.softmax(q.transpose(1, 2) @ k * x.shape[1] ** -0.5, dim=2)
    return x + conv(state, f"{name}.proj_out", (share @ v.transpose(1, 2)).transpose(1, 2).reshape(x.shape))


def vectors(state: State, image: torch.Tensor) -> torch.Tensor:
    """Runs the encoder of the autoencoder MINI, one level after the other."""
    h = conv(state, "encoder.conv_in", image, padding=1)
    for block in range(2):
        h = resnet(state, f"encoder.down.0.block.{block}", h)
    h = conv(state, "encoder.down.0.downsample.conv", F.pad(h, (0, 1, 0, 1)), stride=2)
    for block in range(2):
        h = resnet(state, f"encoder.down.1.block.{block}", h)
        h = attention(state, f"encoder.down.1.attn.{block}", h)
    h = resnet(state, "encoder.mid.block_1", h)
    h = attention(state, "encoder.mid.attn_1", h)
    h = resnet(state, "encoder.mid.block_2", h)
    h = conv(state, "encoder.conv_out", F.silu(group_norm(state, "encoder.norm_out", h)), padding=1)
    return conv(state, "quant_conv", h)


def prompt_of(embedder: State, projection: State, lq: torch.Tensor) -> torch.Tensor:
    """Returns the prompt of an LQ image (1, 3, H, W) in -1..1.

    The published embedder treats the values as values in 0..1, and normalises them a second time.
    """
    image = F.interpolate(lq, size=(MINI.size, MINI.size), mode="bilinear", align_corners=False)
    z = vectors(embedder, (image - 0.5) / 0.5)[0].flatten(1).t()
    codes = embedder["quantize.embedding.weight"]
    distance, code = torch.cdist(z.double(), codes.double()).min(1)
    distinct = list(dict.fromkeys(code[distance.argsort()].tolist()))[:77]
    rows = torch.zeros(77, MINI.dim)
    rows[: len(distinct)] = codes[distinct]
    h = F.silu(F.conv1d(rows.t()[None], projection["conv1.weight"], projection["conv1.bias"]))
    return F.silu(F.conv1d(h, projection["conv2.weight"], projection["conv2.bias"])).transpose(1, 2)


def published(folder: Path, base: Path, lora: State, lq: torch.Tensor) -> torch.Tensor:
    """Returns the restored image of lq (1, 3, H, W) in 0..1. `lora` has the names of peft."""
    embedder = torch.load(folder / EMBEDDER, weights_only=True)["state_dict"]
    embedder = {name.removeprefix("vqvae_LQ."): tensor for name, tensor in embedder.items()}
    unet, vae = UNet2DConditionModel.from_pretrained(base / "unet"), AutoencoderKL.from_pretrained(base / "vae")
    state = unet.state_dict()
    for name, down in lora.items():
        if "lora_A" in name:
            weight = state[name.replace("unet.", "").replace(".lora_A", "")]
            up = lora[name.replace("lora_A", "lora_B")]
            weight += torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(weight.shape)
    unet.load_state_dict(state)

    lq = lq * 2 - 1
    if lq.shape[2] == lq.shape[3]:
        lq = F.interpolate(lq, (512, 512), mode="bilinear", align_corners=True)
    prompt = prompt_of(embedder, torch.load(folder / PROJECTION, weights_only=True), lq)
    z = vae.encode(lq).latent_dist.mode() * vae.config.scaling_factor
    noise = unet(z, 399, encoder_hidden_states=prompt).sample
    share = DDIMScheduler.from_pretrained(base, subfolder="scheduler").alphas_cumprod.double()[399]
    clean = (z.double() - (1 - share) ** 0.5 * noise.double()) / share**0.5
    image = vae.decode(clean.float() / vae.config.scaling_factor).sample.clamp(-1, 1)
    return (image * 0.5 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("style", ["peft", "diffusers"])
# A square input is resized to 512 px. Any other input keeps its size.
@pytest.mark.parametrize("shape", [(40, 40), (48, 64)])
@torch.no_grad()
def test_released_weights_restore_as_published(
    style: str, shape: tuple[int, int], release: Callable[..., Path], base: Path
) -> None:
    folder, lq = release(style), torch.rand(1, 3, *shape)
    lora = {
        name.replace("lora.down", "lora_A").replace("lora.up", "lora_B"): tensor
        for name, tensor in load_file(folder / LORA).items()
    }
    expected = published(folder, base, lora, lq)
    model = load_osdface(folder, str(base))
    assert model.vre is not None and model.vre.config == MINI and not model.training
    nobody = torch.zeros(1, 0, 3, 8, 8), torch.zeros(1, 0, dtype=torch.bool), torch.zeros(1, 0, 0)
    restored = model(lq, *nobody)
    plain = published(folder, base, {}, lq)
    assert restored.prompt is not None and restored.prompt.shape == (1, 77, PROMPT)
    assert float((expected - plain).abs().max()) > 0.01  # the adapters must change the result
    assert float((restored.image - expected).abs().max()) < 1e-4
    assert torch.equal(model(lq, *nobody).image, restored.image)


def test_the_embedder_is_read_by_its_prefix_and_its_shape_by_its_tensors(release: Callable[..., Path]) -> None:
    folder = release()
    state = read_embedder(folder / EMBEDDER)
    assert embedder_config(state, folder) == MINI
    assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in VQ(MINI, False).state_dict().items()}
    saved = torch.load(folder / EMBEDDER, weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, saved[f"vqvae_LQ.{name}"]) for name, tensor in state.items())


def test_the_shape_of_the_released_embedder_is_found() -> None:
    shape = VreConfig(512, 64, (1, 2, 2, 2, 4, 8), 1024, 512, 77, doubly_normalised=True)
    with torch.device("meta"):
        assert embedder_config(VQ(shape, decodes=False).state_dict(), Path("x")) == shape


@pytest.mark.parametrize("prefix", ["", "unet.", "base_model.model.unet."])
@pytest.mark.parametrize(
    "halves", [("lora_A", "lora_B"), ("lora_A.default", "lora_B.default"), ("lora.down", "lora.up")]
)
def test_either_style_of_lora_is_merged_by_hand(prefix: str, halves: tuple[str, str], tmp_path: Path) -> None:
    unet = torch.nn.ModuleDict({"mid": torch.nn.Linear(2, 2, bias=False), "conv": torch.nn.Conv2d(1, 1, 3)})
    with torch.no_grad():
        unet["mid"].weight.zero_()
        unet["conv"].weight.zero_()
    down, up = halves
    state = {
        f"{prefix}mid.{down}.weight": torch.tensor([[1.0, 2.0]]),
        f"{prefix}mid.{up}.weight": torch.tensor([[3.0], [5.0]]),
        f"{prefix}conv.{down}.weight": torch.arange(9.0).view(1, 1, 3, 3),
        f"{prefix}conv.{up}.weight": torch.full((1, 1, 1, 1), 2.0),
    }
    save_file(state, tmp_path / LORA)
    merge(unet, read_adapters(tmp_path / LORA), tmp_path / LORA, "base")
    assert unet["mid"].weight.tolist() == [[3, 6], [5, 10]]
    assert unet["conv"].weight.flatten().tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16]


def test_adapters_that_are_there_already_do_not_hide_the_weights(tmp_path: Path) -> None:
    layer = torch.nn.Module()
    layer.base_layer = torch.nn.Linear(2, 1, bias=False)
    layer.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(2, 4, bias=False)})
    before = layer.base_layer.weight.detach().clone()
    unet = torch.nn.ModuleDict({"to_q": layer})
    merge(unet, {"to_q": (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]]))}, tmp_path, "base")
    assert torch.allclose(layer.base_layer.weight, before + torch.tensor([[1.0, 2.0]]))


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"unet.mid.alpha": torch.ones(())}, "has a tensor unet.mid.alpha, which is not a LoRA matrix"),
        ({"mid.lora_A.weight": torch.ones(1, 2)}, "no matching pair of LoRA matrices for mid"),
        ({"mid.lora_A.weight": torch.ones(1, 2), "mid.lora_B.weight": torch.ones(2, 3)}, "no matching pair"),
        (
            {"far.lora_A.weight": torch.ones(1, 2), "far.lora_B.weight": torch.ones(2, 1)},
            "which the UNet of base lacks",
        ),
        ({"mid.lora_A.weight": torch.ones(1, 9), "mid.lora_B.weight": torch.ones(2, 1)}, "has in another shape"),
        ({}, "contains no tensor"),
    ],
)
def test_adapters_of_something_else_are_refused(state: State, why: str, tmp_path: Path) -> None:
    save_file(state, tmp_path / LORA)
    unet = torch.nn.ModuleDict({"mid": torch.nn.Linear(2, 2)})
    with pytest.raises(BadInput, match=why):
        merge(unet, read_adapters(tmp_path / LORA), tmp_path / LORA, "base")


@pytest.mark.parametrize("name", [LORA, PROJECTION, EMBEDDER])
def test_a_missing_or_broken_file_is_a_sentence(name: str, release: Callable[..., Path], base: Path) -> None:
    folder = release()
    (folder / name).write_bytes(b"no file of tensors")
    with pytest.raises(BadInput, match=f"{name} "):
        load_osdface(folder, str(base))
    (folder / name).unlink()
    with pytest.raises(BadInput, match=f"lacks {name}: put OSDFace's"):
        load_osdface(folder, str(base))


class Evil:
    """Creates a file when its pickle is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("form", ["pickle", "zip", "old"])
def test_a_hostile_file_runs_nothing(form: str, tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / EMBEDDER
    if form == "pickle":
        file.write_bytes(pickle.dumps(Evil(mark)))
    else:
        torch.save(Evil(mark), file, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(BadInput, match="contains no readable tensors"):
        read_tensors(file, "state_dict")
    with pytest.raises(BadInput, match="contains no readable tensors"):
        read_tensors(file)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))  # without our protection, the pickle creates the file
    assert mark.exists()


@pytest.mark.parametrize("form", ["zip", "old"])
def test_an_old_lightning_file_gives_its_tensors_and_nothing_else(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("pytorch_lightning_of_old")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = callback  # type: ignore[attr-defined]
    listing = type("Listing", (list,), {"__module__": module.__name__})
    mapping = type("AttributeDict", (dict,), {"__module__": module.__name__})
    module.Listing, module.AttributeDict = listing, mapping  # type: ignore[attr-defined]
    instance, parameter = callback(), torch.nn.Parameter(torch.randn(3))
    instance.best, instance.itself = torch.ones(1), instance
    states = collections.OrderedDict(a=torch.randn(2, 3).t(), b=parameter, half=torch.ones(2).half(), n="no tensor")
    states._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    whole = {
        "callbacks": {callback: {"best_model_score": torch.ones(1)}, "seen": instance},
        "hparams": [mapping(rate=1.0), listing([1, 2])],
        "evil": Evil(tmp_path / "mark"),
        "state_dict": states,
    }
    torch.save(whole, tmp_path / EMBEDDER, _use_new_zipfile_serialization=form == "zip")
    monkeypatch.delitem(sys.modules, module.__name__)
    found = read_tensors(tmp_path / EMBEDDER, "state_dict")
    assert list(found) == ["a", "b", "half"]
    assert all(torch.equal(tensor, states[name]) for name, tensor in found.items())
    assert not (tmp_path / "mark").exists() and module.__name__ not in sys.modules


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / EMBEDDER)
    with pytest.warns(UserWarning), pytest.raises(BadInput, match="TorchScript"):
        read_tensors(tmp_path / EMBEDDER, "state_dict")


def test_an_embedder_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"encoder.weight": torch.ones(1)}}, tmp_path / EMBEDDER)
    with pytest.raises(BadInput, match=r"contains no vqvae_LQ\.encoder"):
        read_embedder(tmp_path / EMBEDDER)
    with pytest.raises(BadInput, match="is not an embedder in OSDFace's layout"):
        embedder_config({"encoder.conv_in.weight": torch.ones(1, 1, 1, 1)}, tmp_path)
