"""Tests ReFine's generator and discriminator, and the gray identity encoder, against the published operations."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from manifests.errors import BadInput
from tests.doubles.models.refinefir import (
    ENCODER,
    SHAPE,
    encode_identity,
    generate,
    judge,
    make_discriminator,
    make_encoder,
    make_generator,
)
from train.models.bases.stylegan.base import StyleganBase
from train.models.bases.stylegan.discriminator import StyleganDiscriminator
from train.models.bases.stylegan.generator import Generator
from train.models.config import REFINEFIR, StyleganConfig
from train.models.identity.identity_encoder import IdentityEncoder, IrSe, embed_gray
from train.models.io import Conditions
from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import find_recipe


@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_the_generator_computes_the_published_operations(batch: int) -> None:
    state = make_generator()
    generator = Generator(SHAPE)
    generator.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("decoder.style.")})
    images, identity = torch.rand(batch, 6, 64, 64) * 2 - 1, F.normalize(torch.randn(batch, SHAPE.identity))
    expected = generate(state, images, identity)
    restored = generator(images, identity)
    assert expected.shape == (batch, 3, 64, 64) and float(expected.std()) > 0.05
    assert float((restored - expected).abs().max()) < 1e-4
    # Other images and another identity must give another result.
    assert float((generator(images.flip(1), identity) - expected).abs().max()) > 0.01
    assert float((generator(images, -identity) - expected).abs().max()) > 0.001


@pytest.mark.parametrize("batch", [2, 4, 8])
@torch.no_grad()
def test_the_discriminator_computes_the_published_operations(batch: int) -> None:
    state, discriminator = make_discriminator(), StyleganDiscriminator(SHAPE)
    discriminator.load_state_dict(state)
    images = torch.rand(batch, 3, 64, 64) * 2 - 1
    expected = judge(state, images)
    assert expected.shape == (batch, 1) and float((discriminator(images) - expected).abs().max()) < 1e-4
    assert len(discriminator(torch.rand(6, 3, 64, 64))) == 6  # this batch cannot be divided into groups of 4


def test_the_gradient_penalty_of_the_discriminator_has_a_gradient() -> None:
    discriminator = StyleganDiscriminator(SHAPE)
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    (slope,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    slope.square().sum().backward()
    first = discriminator.convs[0][0].weight
    assert first.grad is not None and float(first.grad.abs().sum()) > 0


def test_the_generator_of_the_release_has_the_released_tensors() -> None:
    """Checks the names and shapes of the tensors at 256 px against JianWang-CMU/RefineFIR and rosinality."""
    with torch.device("meta"):
        generator, discriminator = Generator(REFINEFIR), StyleganDiscriminator(REFINEFIR)
    shapes = {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}
    assert len(shapes) == 175
    widths = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128}
    expected = {
        "decoder.input.input": (1, 512, 4, 4),
        "decoder.conv1.conv.weight": (1, 512, 512, 3, 3),
        "decoder.conv1.conv.modulation.weight": (512, 512),
        "decoder.conv1.noise.weight": (1,),
        "decoder.fuser1.conv.0.weight": (512, 1024, 3, 3),
        "decoder.to_rgb1.conv.weight": (1, 3, 512, 1, 1),
        "encoder.conv1.0.weight": (128, 6, 1, 1),
        "encoder.conv1.1.bias": (128,),
        "encoder.fc.0.weight": (512, 8704),
        "encoder.fc.4.weight": (7168, 512),
        "decoder.noises.noise_0": (1, 1, 4, 4),
    }
    sizes = list(widths)
    for level, size in enumerate(sizes[1:]):
        before, own = widths[size // 2], widths[size]
        expected |= {
            f"decoder.convs.{2 * level}.conv.weight": (1, own, before, 3, 3),
            f"decoder.convs.{2 * level}.conv.blur.kernel": (4, 4),
            f"decoder.convs.{2 * level + 1}.conv.weight": (1, own, own, 3, 3),
            f"decoder.convs.{2 * level + 1}.activate.bias": (own,),
            f"decoder.fuser.{2 * level}.conv.0.weight": (own, 2 * own, 3, 3),
            f"decoder.fuser.{2 * level + 1}.conv.0.bias": (own,),
            f"decoder.to_rgbs.{level}.bias": (1, 3, 1, 1),
            f"decoder.to_rgbs.{level}.upsample.kernel": (4, 4),
            f"decoder.noises.noise_{2 * level + 1}": (1, 1, size, size),
            f"decoder.noises.noise_{2 * level + 2}": (1, 1, size, size),
        }
        step = len(sizes) - 2 - level  # the encoder counts its levels from large to small
        expected |= {
            f"encoder.convs.{step}.0.kernel": (4, 4),
            f"encoder.convs.{step}.1.weight": (before, own, 3, 3),
            f"encoder.convs.{step}.2.bias": (before,),
        }
    assert {name: shapes.get(name) for name in expected} == expected
    judging = {name: tuple(tensor.shape) for name, tensor in discriminator.state_dict().items()}
    assert judging["convs.6.conv2.1.weight"] == (512, 512, 3, 3) and judging["convs.1.skip.1.weight"] == (
        256,
        128,
        1,
        1,
    )
    assert judging["final_conv.0.weight"] == (512, 513, 3, 3) and judging["final_linear.0.weight"] == (512, 8192)
    assert sum(weight.numel() for weight in discriminator.parameters()) == 28_864_129


def test_the_small_double_has_the_tensors_of_a_small_generator() -> None:
    """Checks the tensors of the double. Only the double has a mapping network."""
    state = make_generator()
    named = {name: tensor.shape for name, tensor in state.items() if not name.startswith("decoder.style.")}
    assert {name: tensor.shape for name, tensor in Generator(SHAPE).state_dict().items()} == named
    assert len(state) == len(named) + 16


@torch.no_grad()
def test_identity_is_computed_on_the_gray_face_as_published() -> None:
    state, network = make_encoder(), IrSe(ENCODER).eval()
    network.load_state_dict(state)
    images = torch.rand(2, 3, 40, 40) * 2 - 1
    expected = encode_identity(state, images)
    embedded = embed_gray(network, images)
    assert float((embedded - expected).abs().max()) < 1e-4
    assert embedded.norm(dim=1).allclose(torch.ones(2))
    # other colours give the same embedding, because the image is made gray
    assert float((embed_gray(network, images[:, [2, 0, 1]]) - embedded).abs().max()) < 1e-5
    assert float((embedded[0] - embedded[1]).abs().max()) > 1e-3
    assert torch.equal(IdentityEncoder(network)((images + 1) / 2), embed_gray(network, 2 * ((images + 1) / 2) - 1))


def test_an_identity_loss_reaches_the_face_and_not_the_encoder() -> None:
    encoder = IdentityEncoder(IrSe(ENCODER))
    faces = torch.rand(1, 3, 32, 32, requires_grad=True)
    encoder(faces).sum().backward()
    assert faces.grad is not None and float(faces.grad.abs().sum()) > 0
    assert all(weight.grad is None for weight in encoder.parameters())


def test_ir_se50_has_the_released_tensors() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in IrSe().state_dict().items()}
    assert shapes["input_layer.0.weight"] == (64, 3, 3, 3) and shapes["input_layer.2.weight"] == (64,)
    assert (
        shapes["body.3.shortcut_layer.0.weight"] == (128, 64, 1, 1) and "body.0.shortcut_layer.0.weight" not in shapes
    )
    assert shapes["body.23.res_layer.5.fc1.weight"] == (32, 512, 1, 1) and "body.24.res_layer.0.weight" not in shapes
    assert shapes["output_layer.3.weight"] == (512, 25088) and shapes["output_layer.4.running_mean"] == (512,)


@pytest.mark.parametrize(("values", "why"), [({"size": 96}, "give 64, 128, 256, 512"), ({"limit": 0}, "1 or more")])
def test_an_impossible_shape_is_a_sentence(values: dict[str, int], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        StyleganConfig(**values)


@torch.no_grad()
def test_a_restorer_on_this_base_is_saved_and_loaded(tmp_path: Path) -> None:
    tiny = build_model_config(find_recipe("tiny"), SHAPE.identity, "tiny")
    config = replace(tiny, base="stylegan", base_model="stylegan", size=64, parts=("warped", "embedding"))
    model = Restorer(replace(config, stylegan=SHAPE), {"recipe": "refine"}).eval()
    for name, weight in model.named_parameters():
        if name.endswith("noise.weight"):
            weight.fill_(1)  # makes the result depend on the noise buffers
    model.save_pretrained(tmp_path)
    loaded = Restorer.from_pretrained(tmp_path)
    assert loaded.config == model.config and loaded.config.most_references == 1
    lq, reference, embedding = torch.rand(2, 3, 64, 64), torch.rand(2, 1, 3, 64, 64), torch.randn(2, 1, SHAPE.identity)
    some = torch.tensor([[True], [False]])
    restored = loaded(lq, reference, some, embedding).image
    assert torch.equal(restored, model(lq, reference, some, embedding).image)
    # An image with an empty slot and an image without slots give the same result.
    alone = loaded(lq[1:], reference[1:, :0], some[1:, :0], embedding[1:, :0]).image
    assert alone.allclose(restored[1:], atol=1e-5)
    images = torch.cat([2 * lq[:1] - 1, 2 * reference[:1, 0] - 1], 1)
    expected = (model.base.generator(images, embedding[:1, 0]) + 1) / 2
    assert restored[:1].allclose(expected.clamp(0, 1), atol=1e-5)
    with pytest.raises(BadInput, match="trained on the base stylegan, a part of Likeness"):
        Restorer.from_pretrained(tmp_path, "sd21")


@torch.no_grad()
def test_the_references_of_an_image_are_repeated_whatever_its_batch() -> None:
    base = StyleganBase(replace(SHAPE, references=3))
    lq, references = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 3, 64, 64)
    identity = F.normalize(torch.randn(2, SHAPE.identity))

    def predict(rows: slice, count: int, present: list[list[bool]]) -> torch.Tensor:
        conditions = Conditions(torch.tensor(present), torch.zeros(0, dtype=torch.long), ())
        conditions = replace(conditions, references=references[rows, :count], identity=identity[rows])
        return base.predict(base.encode(lq[rows]), conditions, 0)

    together = predict(slice(0, 2), 3, [[True, False, False], [True, True, True]])
    assert predict(slice(0, 1), 1, [[True]]).allclose(together[:1], atol=1e-5)
    assert predict(slice(1, 2), 3, [[True] * 3]).allclose(together[1:], atol=1e-5)
    assert not predict(slice(0, 1), 1, [[False]]).allclose(together[:1], atol=1e-3)
