"""The restorer and its parts."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from train_doubles import DIM, SMALL, picture, recognizer_onnx

from curate.faces.align import ARCFACE_112, recognition_crop
from degrade.operations import shrink
from manifests.errors import BadInput, ModelUnavailable
from train.models import latent
from train.models.one_step import clean_from_noise, noise_of_correction, signal_share
from train.models.recognizer import Recognizer, load_recognizer
from train.models.references import pool
from train.models.restorer import Restorer
from train.recipes import model_config

FACTS = {"size": 112, "template": ARCFACE_112.tolist(), "mean": 127.5, "std": 127.5}


@pytest.fixture(autouse=True)
def no_gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def awake(seed: int = 0) -> Restorer:
    """A restorer whose zero-initialised ends are not zero, so that everything before them shows."""
    torch.manual_seed(seed)
    model = Restorer(model_config(SMALL, DIM), {"recipe": "small"})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def inputs(k: int, b: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(k)
    embeddings = torch.nn.functional.normalize(torch.randn(b, k, DIM, generator=rng), dim=-1)
    lq, references = torch.rand(b, 3, 32, 32, generator=rng), torch.rand(b, k, 3, 32, 32, generator=rng)
    return lq, references, torch.ones(b, k, dtype=torch.bool), embeddings


@pytest.mark.parametrize("factor", [2, 4])
def test_the_latent_loses_nothing(factor: int) -> None:
    image = torch.randint(0, 256, (2, 3, 16, 16)).float() / 255
    z = latent.encode(image, factor)
    assert z.shape == (2, 3 * factor**2, 16 // factor, 16 // factor)
    assert float(z.min()) >= -1 and float(z.max()) <= 1
    assert torch.equal((latent.decode(z, factor) * 255).round(), (image * 255).round())


def test_one_step_takes_away_exactly_the_noise_that_was_added() -> None:
    share = signal_share(399)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert share == pytest.approx(float(torch.prod(1 - betas[:400])), rel=1e-4)
    x0, noise = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    z = share**0.5 * x0 + (1 - share) ** 0.5 * noise
    assert torch.allclose(clean_from_noise(z, noise, 399), x0)
    assert torch.allclose(clean_from_noise(z, noise_of_correction(z, x0 - z, 399), 399), x0)


def test_a_new_restorer_returns_its_input() -> None:
    model = Restorer(model_config(SMALL, DIM)).eval()
    lq, *rest = inputs(2)
    assert torch.allclose(model(lq, *rest).image, lq, atol=1e-6)


@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_any_number_of_references(k: int) -> None:
    model, (lq, *rest) = awake(), inputs(k)
    out = model(lq, *rest).image
    assert out.shape == lq.shape and bool(torch.isfinite(out).all())
    assert float(out.min()) >= 0 and float(out.max()) <= 1


def test_the_order_of_references_does_not_matter_and_the_references_do() -> None:
    model, (lq, references, present, embeddings) = awake(), inputs(4)
    present[1, 2:] = False
    order = torch.tensor([2, 0, 3, 1])
    out = model(lq, references, present, embeddings).image
    turned = model(lq, references[:, order], present[:, order], embeddings[:, order]).image
    assert float((out - turned).abs().max()) <= 1e-5
    assert float((out - model(lq, references.flip(0), present, embeddings.flip(0)).image).abs().max()) > 1e-3


def test_what_lies_in_an_empty_slot_is_never_seen() -> None:
    model, (lq, references, present, embeddings) = awake(), inputs(3)
    present[:, 1:] = False
    alone = model(lq, references[:, :1], present[:, :1], embeddings[:, :1]).image
    assert torch.allclose(model(lq, references, present, embeddings).image, alone, atol=1e-5)
    nobody = torch.zeros_like(present)
    assert torch.allclose(
        model(lq, references, nobody, embeddings).image,
        model(lq, references[:, :0], nobody[:, :0], embeddings[:, :0]).image,
        atol=1e-5,
    )


def test_images_of_a_batch_do_not_see_each_other() -> None:
    model, (lq, references, present, embeddings) = awake(), inputs(3)
    present[0, 1:], present[1] = False, False
    together = model(lq, references, present, embeddings).image
    for i in range(len(lq)):
        one = slice(i, i + 1)
        assert torch.allclose(
            together[one], model(lq[one], references[one], present[one], embeddings[one]).image, atol=1e-5
        )


def test_pooling_by_hand() -> None:
    features = torch.tensor([1.0, 5.0, 100.0]).view(1, 3, 1, 1, 1)
    nothing = torch.tensor([7.0, 8.0])
    seen = pool(features, torch.tensor([[True, True, False]]), nothing)
    assert seen.flatten().tolist() == [3.0, 5.0]
    assert pool(features, torch.zeros(1, 3, dtype=torch.bool), nothing).flatten().tolist() == [7.0, 8.0]


def test_saved_and_loaded_it_restores_the_same(tmp_path: Path) -> None:
    model = awake()
    model.save_pretrained(tmp_path)
    loaded = Restorer.from_pretrained(tmp_path)
    assert loaded.config == model.config and loaded.facts == {"recipe": "small"}
    assert torch.equal(loaded(*inputs(2)).image, model(*inputs(2)).image)


def test_what_is_no_checkpoint_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no checkpoint"):
        Restorer.from_pretrained(tmp_path)
    awake().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(BadInput, match="no restorer that this version can load"):
        Restorer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model": {"base": "tiny"}}))
    with pytest.raises(BadInput, match="no restorer that this version can load"):
        Restorer.from_pretrained(tmp_path)


@pytest.mark.parametrize("size", [128, 512])
def test_the_recognizer_sees_the_crop_that_curation_showed_it(size: int) -> None:
    crop = shrink(picture(3, 1, 512), size)
    seen: list[torch.Tensor] = []

    class Watch(torch.nn.Module):
        def forward(self, crops: torch.Tensor) -> torch.Tensor:
            seen.append(crops)
            return crops.flatten(1)

    faces = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
    Recognizer(Watch(), FACTS, size)(faces)
    ours = (seen[0][0] * 127.5 + 127.5).permute(1, 2, 0).numpy()
    assert np.abs(ours - recognition_crop(crop, ARCFACE_112, 112)).max() < 3


def test_the_recognizer_is_frozen_and_lets_gradients_through(tmp_path: Path) -> None:
    recognizer = load_recognizer(recognizer_onnx(tmp_path / "r.onnx"), FACTS, 32)
    faces = torch.rand(2, 3, 32, 32, requires_grad=True)
    embeddings = recognizer(faces)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(2))
    embeddings[:, 0].sum().backward()
    assert faces.grad is not None and float(faces.grad.abs().sum()) > 0
    assert not any(parameter.requires_grad for parameter in recognizer.parameters())
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelUnavailable, match="--no-identity"):
        load_recognizer(tmp_path / "broken.onnx", FACTS, 32)
