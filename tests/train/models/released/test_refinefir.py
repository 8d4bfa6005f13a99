"""Tests reading ReFineFIR's released files: files with random weights in the same layout, and bad files."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from manifests.errors import BadInput
from tests.doubles.models.refinefir import (
    ENCODER,
    SHAPE,
    State,
    encode_identity,
    generate,
    make_discriminator,
    make_encoder,
    make_generator,
    write_release,
)
from train.models.bases.stylegan.discriminator import StyleganDiscriminator
from train.models.bases.stylegan.generator import Generator
from train.models.config import StyleganConfig
from train.models.released.refinefir import load_refinefir
from train.models.released.stylegan2 import load_stylegan2
from train.models.restorer import Restorer


def load(folder: Path, shape: StyleganConfig = SHAPE) -> Restorer:
    return load_refinefir(folder, shape, ENCODER)


@pytest.mark.parametrize("alone", [False, True])
@torch.no_grad()
def test_released_weights_restore_as_published(alone: bool, tmp_path: Path) -> None:
    generator, encoder = make_generator(), make_encoder()
    if alone:  # old versions of model_ir_se50.pth do not have these counters
        encoder = {name: tensor for name, tensor in encoder.items() if not name.endswith("num_batches_tracked")}
    model = load(write_release(tmp_path, generator, encoder, alone))
    lq, reference, warped = torch.rand(3, 2, 3, 64, 64)
    identity = encode_identity(encoder, 2 * reference - 1)
    expected = (generate(generator, torch.cat([2 * lq - 1, 2 * warped - 1], 1), identity) + 1) / 2
    assert model.identity_encoder is not None and not model.training
    embeddings = model.identity_encoder(reference)[:, None]
    restored = model(lq, warped[:, None], torch.ones(2, 1, dtype=torch.bool), embeddings)
    assert float((restored.image - expected.clamp(0, 1)).abs().max()) < 1e-4
    assert float((restored.latent - (2 * expected - 1)).abs().max()) < 1e-4


class Evil:
    """Creates a file when its pickle is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("name", ["latest.pt", "model_ir_se50.pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_is_refused_and_runs_nothing(name: str, zipped: bool, tmp_path: Path) -> None:
    folder, mark = write_release(tmp_path / "release", make_generator(), make_encoder()), tmp_path / "mark"
    state = {"g": make_generator(), "args": Evil(mark)} if name == "latest.pt" else {"x": Evil(mark)}
    torch.save(state, folder / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        BadInput, match=rf"{name} names posix\.system, and Likeness reads only tensors and .*: take"
    ) as why:
        load(folder)
    assert "\n" not in str(why.value) and not mark.exists()
    torch.save({"g": {}, "args": slice(3)}, folder / "latest.pt")  # an object of a harmless class is also refused
    with pytest.raises(BadInput, match=r"latest\.pt"):
        load(folder)
    pickle.loads(pickle.dumps(Evil(mark)))  # without our protection, the pickle creates the file
    assert mark.exists()


def drop(state: State) -> None:
    for name in [name for name in state if ".fc" in name]:
        del state[name]


def add(state: State) -> None:
    state.update({f"gfpunet.{letter}": torch.ones(1) for letter in "abcd"})


def resize(state: State) -> None:
    state["encoder.conv1.0.weight"] = torch.ones(8, 9, 1, 1)


def swap_bias(make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], None]:
    """Returns a function that replaces a bias of a state dict by `make(bias)`."""
    name = "encoder.conv1.1.bias"
    return lambda state: state.update({name: make(state[name])})


def break_value(state: State) -> None:
    state["encoder.conv1.1.bias"][2] = torch.nan


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (drop, r"lacks encoder\.fc\.0\.weight, encoder\.fc\.0\.bias, encoder\.fc\.1\.weight and 7 more: take"),
        (add, r"has unknown tensors: gfpunet\.a, gfpunet\.b, gfpunet\.c and 1 more: take"),
        (resize, r"another shape: encoder\.conv1\.0\.weight \(8, 9, 1, 1\) instead of \(8, 6, 1, 1\): take"),
        (break_value, r"NaN or infinity: encoder\.conv1\.1\.bias: take"),
        (lambda state: state.update({"encoder.conv1.1.bias": 3}), r"values that are not tensors: encoder\.conv1"),
        (
            swap_bias(lambda bias: torch.full_like(bias, 1e300, dtype=torch.float64)),
            r"infinity: encoder\.conv1\.1\.bias",
        ),
        (
            swap_bias(lambda bias: (bias * torch.nan).to(torch.float8_e4m3fn)),
            r"NaN or infinity: encoder\.conv1\.1\.bias",
        ),
        (
            swap_bias(lambda bias: bias.to(torch.complex64)),
            r"not dense arrays of real numbers: encoder\.conv1\.1\.bias",
        ),
        (swap_bias(lambda bias: bias.to_sparse()), "not dense arrays of real numbers"),
        (swap_bias(lambda bias: bias.to("meta")), "not dense arrays of real numbers"),
        (swap_bias(lambda bias: torch.quantize_per_tensor(bias, 0.1, 0, torch.qint8)), "not dense arrays of real"),
    ],
)
def test_a_generator_of_another_layout_is_a_sentence(change: Callable[[State], None], why: str, tmp_path: Path) -> None:
    state = make_generator()
    change(state)
    with pytest.raises(BadInput, match=why):
        load(write_release(tmp_path, state, make_encoder()))


def test_other_files_are_a_sentence(tmp_path: Path) -> None:
    folder = write_release(tmp_path, make_generator(), make_encoder())
    with pytest.raises(BadInput, match=r"a generator for images of 64 px, and Likeness reads .* for 256 px"):
        load(folder, StyleganConfig())
    torch.save({"output_layer.3.bias": torch.ones(1)}, folder / "model_ir_se50.pth")
    with pytest.raises(BadInput, match=r"model_ir_se50\.pth lacks input_layer\.0\.weight, .* more: take"):
        load(folder)
    torch.save({"g": [1]}, folder / "latest.pt")
    with pytest.raises(BadInput, match=r"The value g of .* is not a dict"):
        load(folder)
    torch.save([1], folder / "latest.pt")
    with pytest.raises(BadInput, match="contains no dict of tensors"):
        load(folder)


@pytest.mark.parametrize("name", ["latest.pt", "model_ir_se50.pth"])
def test_a_broken_or_missing_file_is_a_sentence(name: str, tmp_path: Path) -> None:
    folder = write_release(tmp_path, make_generator(), make_encoder())
    whole = (folder / name).read_bytes()
    for broken in (b"no file of tensors", b"", whole[: len(whole) // 2]):
        (folder / name).write_bytes(broken)
        with pytest.raises(BadInput, match=f"{name} is not a readable file of torch.save"):
            load(folder)
    (folder / name).unlink()
    with pytest.raises(BadInput, match=f"lacks {name}: put ReFineFIR's latest.pt and model_ir_se50.pth there"):
        load(folder)


def test_training_can_start_from_stylegan2(tmp_path: Path) -> None:
    file, generator, discriminator = tmp_path / "start.pt", Generator(SHAPE), StyleganDiscriminator(SHAPE)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    released = {
        name.removeprefix("decoder."): tensor
        for name, tensor in make_generator().items()
        if name.startswith("decoder.") and ".fuser" not in name
    }
    torch.save({"g_ema": released, "d": make_discriminator(), "g_optim": {}}, file)
    load_stylegan2(file, generator, discriminator)
    after = generator.state_dict()
    for name, tensor in after.items():
        old = name.startswith("encoder.") or ".fuser" in name
        assert torch.equal(tensor, before[name] if old else released[name.removeprefix("decoder.")]), name
    saved = torch.load(file, weights_only=True)["d"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in discriminator.state_dict().items())
    del released["conv1.noise.weight"]
    torch.save({"g_ema": released, "d": saved}, file)
    with pytest.raises(BadInput, match=r"start\.pt lacks conv1\.noise\.weight: take"):
        load_stylegan2(file, generator, discriminator)
    torch.save({"g_ema": released}, file)
    with pytest.raises(BadInput, match="has no dict of tensors with the name d: take"):
        load_stylegan2(file, generator, discriminator)
    with pytest.raises(BadInput, match="does not exist: put the stylegan2-256-550000"):
        load_stylegan2(tmp_path / "none.pt", generator, discriminator)
