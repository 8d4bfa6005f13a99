"""Tests the VQ autoencoder, the visual representation embedder, and the recipe `vre`, which trains two autoencoders."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from manifests.errors import BadInput
from train.losses.names import BY_MODEL
from train.models.config import ModelConfig, VreConfig
from train.models.io import Restoration
from train.models.prompts.dictionary import IDLE, Dictionary, association, restart
from train.models.prompts.vq import BETA, VQ, Quantizer
from train.models.prompts.vre import Vre, distinct
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import DIFFUSION, TINY, find_recipe

MINI = VreConfig(size=32, channels=8, multipliers=(1, 2), codes=16, dim=8, tokens=4)
PUBLISHED = find_recipe("osdface", DIFFUSION).vre


def config_of(vre: VreConfig = MINI) -> ModelConfig:
    return build_model_config(replace(find_recipe("vre", TINY), size=vre.size, vre=vre), embedding_dim=16)


def shown(count: int = 2, size: int = 32) -> tuple[torch.Tensor, ...]:
    """Returns random LQ images without references."""
    nobody = torch.zeros(count, 0, 3, size, size), torch.zeros(count, 0, dtype=torch.bool), torch.zeros(count, 0, 16)
    return torch.rand(count, 3, size, size), *nobody


def published_layout() -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the tensors `vqvae_LQ.`, except its decoder, by the defaults of lq_embed/vqvae.py."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]

    def resnet(name: str, inputs: int, outputs: int) -> None:
        layer(f"{name}.norm1", inputs)
        layer(f"{name}.conv1", outputs, inputs, 3, 3)
        layer(f"{name}.norm2", outputs)
        layer(f"{name}.conv2", outputs, outputs, 3, 3)
        if inputs != outputs:
            layer(f"{name}.nin_shortcut", outputs, inputs, 1, 1)

    def attention(name: str, width: int) -> None:
        for norm in ("norm1", "norm2"):
            layer(f"{name}.{norm}", width)
        for conv in ("q", "k", "v", "proj_out"):
            layer(f"{name}.{conv}", width, width, 1, 1)

    layer("encoder.conv_in", 64, 3, 3, 3)
    inputs = [64, 64, 128, 128, 128, 256]
    for i, (before, width) in enumerate(zip(inputs, [64, 128, 128, 128, 256, 512], strict=True)):
        resnet(f"encoder.down.{i}.block.0", before, width)
        resnet(f"encoder.down.{i}.block.1", width, width)
        if i < 5:
            layer(f"encoder.down.{i}.downsample.conv", width, width, 3, 3)
    for i in range(2):  # the last level has 512 / 2^5 = 16 px, and only this level has attention
        attention(f"encoder.down.5.attn.{i}", 512)
    resnet("encoder.mid.block_1", 512, 512)
    attention("encoder.mid.attn_1", 512)
    resnet("encoder.mid.block_2", 512, 512)
    layer("encoder.norm_out", 512)
    layer("encoder.conv_out", 512, 512, 3, 3)
    layer("quant_conv", 512, 512, 1, 1)
    shapes["quantize.embedding.weight"] = (1024, 512)
    return shapes


def test_the_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in VQ(PUBLISHED, decodes=False).state_dict().items()}
    assert ours == published_layout() and len(ours) == 173


@pytest.mark.parametrize("base", [TINY, DIFFUSION])
def test_every_base_encodes_to_16_by_16(base: str) -> None:
    config = find_recipe("vre", base).vre
    with torch.device("meta"):
        vq = VQ(config)
        vectors = vq.encode(torch.empty(1, 3, config.size, config.size))
        assert vectors.shape == (1, config.dim, 16, 16)
        assert vq.decode(vectors).shape == (1, 3, config.size, config.size)


def test_a_level_is_padded_at_the_right_and_at_the_bottom() -> None:
    down = VQ(MINI).encoder.down[0].downsample
    with torch.no_grad():
        down.conv.weight.fill_(0)
        down.conv.bias.fill_(0)
        down.conv.weight[0, 0, 2, 2] = 1  # the kernel returns the last pixel of its 3 x 3 window
        (seen,) = down(torch.arange(16.0).view(1, 1, 4, 4).expand(1, 8, 4, 4))[:, 0]
    # the first value is pixel (2, 2), and the three other values come from the padding
    assert seen.tolist() == [[10, 0], [0, 0]]


def test_the_nearest_code_and_its_squared_distance() -> None:
    quantize = Quantizer(3, 2)
    quantize.embedding.weight.data = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    vectors = torch.tensor([[0.9, 0.1], [0.0, 1.2]]).t().view(1, 2, 1, 2)
    code, distance = quantize.nearest(vectors)
    assert code.tolist() == [[1, 2]]
    assert distance[0].tolist() == pytest.approx([0.02, 0.64], abs=1e-6)


def test_codes_that_bfloat16_cannot_tell_apart_are_told_apart() -> None:
    quantize = Quantizer(2, 1)
    quantize.embedding.weight.data = torch.tensor([[1.0], [1.002]])  # bfloat16 would round both numbers to 1
    with torch.autocast("cpu", torch.bfloat16):
        code, distance = quantize.nearest(torch.full((1, 1, 1, 1), 1.003))
    assert code.item() == 1 and distance.dtype == torch.float32


def test_the_gradient_passes_straight_through_and_the_codebook_learns_from_the_loss() -> None:
    quantize = Quantizer(2, 1)
    quantize.embedding.weight.data = torch.tensor([[0.0], [10.0]])
    vectors = torch.full((1, 1, 1, 1), 2.0, requires_grad=True)
    found, loss = quantize(vectors)
    assert found.item() == 0 and loss.item() == pytest.approx((1 + BETA) * 4)
    (3 * found).sum().backward(retain_graph=True)
    assert vectors.grad is not None and vectors.grad.item() == 3
    assert quantize.embedding.weight.grad is None
    vectors.grad = None
    loss.backward()
    assert vectors.grad.item() == pytest.approx(BETA * 2 * 2)  # the derivative by z of beta (z - e)^2
    grown = quantize.embedding.weight.grad
    assert grown is not None and grown.flatten().tolist() == [-4, 0]  # the derivative by e of (e - z)^2


def test_distinct_codes_by_hand() -> None:
    code = torch.tensor([[3, 3, 1, 2, 1], [0, 0, 0, 0, 0]])
    distance = torch.tensor([[0.5, 0.1, 0.3, 0.3, 0.9], [0.4, 0.3, 0.2, 0.1, 0.0]])
    chosen, there = distinct(code, distance, codes=5, tokens=4)
    assert there.tolist() == [[True, True, True, False], [True, False, False, False]]
    # codes 1 and 2 are equally near, so the code of the earlier position comes first
    assert chosen[0, :3].tolist() == [3, 1, 2]
    assert chosen[1, 0] == 0
    assert distinct(code, distance, codes=5, tokens=2)[0].tolist()[0] == [3, 1]
    chosen, there = distinct(code, distance, codes=5, tokens=7)
    assert chosen.shape == there.shape == (2, 7) and there.sum(1).tolist() == [3, 1]


def test_distinct_codes_as_a_loop_finds_them() -> None:
    code, distance = torch.randint(0, 40, (5, 64)), torch.rand(5, 64)
    chosen, there = distinct(code, distance, codes=40, tokens=30)
    for row in range(5):
        order = sorted(range(64), key=lambda i: float(distance[row, i]))
        loop = list(dict.fromkeys(int(code[row, i]) for i in order))[:30]
        assert chosen[row][there[row]].tolist() == loop


def codes_of(vre: Vre) -> list[torch.Tensor]:
    """Returns a list. Each later input of the projection is appended to it."""
    given: list[torch.Tensor] = []
    vre.projection.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    return given


def test_the_prompt_is_rows_of_the_codebook_and_then_zeros() -> None:
    vre = Vre(MINI, 12)
    given = codes_of(vre)
    with torch.no_grad():
        # only the first two codes can be nearest codes, because all others are far away
        vre.dictionary.quantize.embedding.weight[2:] = 1e3
        prompt = vre(torch.rand(3, 3, 32, 32))
        nothing = vre.projection(torch.zeros(1, 1, MINI.dim)).squeeze()
    assert prompt.shape == (3, MINI.tokens, 12)
    rows, weight = given[0], vre.dictionary.quantize.embedding.weight
    assert all(any(torch.equal(rows[i, 0], weight[j]) for j in range(2)) for i in range(3))
    assert (rows[:, 2:] == 0).all()
    assert torch.allclose(prompt[:, 2:], nothing.expand(3, 2, 12))


def test_the_projection_is_two_layers_with_silu_after_both() -> None:
    vre = Vre(MINI, 12)
    first, second, rows = vre.projection.conv1, vre.projection.conv2, torch.randn(2, 5, MINI.dim)
    h = torch.nn.functional.silu(rows @ first.weight[:, :, 0].t() + first.bias)
    expected = torch.nn.functional.silu(h @ second.weight[:, :, 0].t() + second.bias)
    assert first.weight.shape == (4, 8, 1) and second.weight.shape == (12, 4, 1)
    assert torch.allclose(vre.projection(rows), expected, atol=1e-6)


@pytest.mark.parametrize(("doubly", "low"), [(False, -1.0), (True, -3.0)])
def test_the_input_is_normalised_once_or_as_published_twice(
    doubly: bool, low: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    vre, seen = Vre(replace(MINI, doubly_normalised=doubly), 12), list[torch.Tensor]()
    encode = vre.dictionary.encode
    monkeypatch.setattr(vre.dictionary, "encode", lambda image: seen.append(image) or encode(image))
    lq = torch.zeros(1, 3, 48, 20)  # the image may have any size
    lq[:, :, :, 10:] = 1
    vre(lq)
    assert seen[0].shape == (1, 3, 32, 32)
    assert (float(seen[0].min()), float(seen[0].max())) == (low, 1.0)


def test_gradients_reach_the_projection_and_nothing_else() -> None:
    vre = Vre(MINI, 12)
    vre(torch.rand(2, 3, 32, 32)).sum().backward()
    for name, parameter in vre.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == name.startswith("projection."), name


def test_a_face_has_the_same_prompt_in_any_company_and_in_bfloat16_one_of_codes() -> None:
    vre, lq = Vre(MINI, 12), torch.rand(3, 3, 32, 32)
    vre.dictionary.quantize.embedding.weight.data.normal_()
    together = vre(lq)
    assert torch.equal(together, vre(lq))
    assert torch.allclose(together[1:2], vre(lq[1:2]), atol=1e-5)
    given = codes_of(vre)
    with torch.autocast("cpu", torch.bfloat16):
        vre(lq)
    weight = vre.dictionary.quantize.embedding.weight
    assert all(any(torch.equal(row, code) for code in weight) for row in given[0].flatten(0, 1) if row.any())


def test_association_by_hand() -> None:
    hq = torch.eye(2).view(1, 2, 1, 2)  # Two positions with the vectors (1, 0) and (0, 1).
    right = math.log(math.e + 1) - 1  # The cross-entropy of a row of the unit matrix.
    assert association(hq, hq, temperature=1).item() == pytest.approx(right, abs=1e-6)
    assert association(hq, 7 * hq, temperature=1).item() == pytest.approx(right, abs=1e-6)
    assert association(hq, hq.flip(3), temperature=1).item() == pytest.approx(right + 1, abs=1e-6)
    # The matrix of the similarities is ((1, 0), (1, 0)). The cross-entropies are log(1 + e) - 1 and log(1 + e) for the
    # rows, and log 2 for each column.
    lq = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    rows, columns = (right + math.log(2)) / 2, (right + math.log(2)) / 2
    assert association(hq, lq, temperature=1).item() == pytest.approx((rows + columns) / 2, abs=1e-6)


def test_the_terms_by_hand() -> None:
    model = Dictionary(config_of()).train()
    lq, *nobody = shown()
    target = torch.rand_like(lq)
    with torch.no_grad():
        check_terms(model, lq, target, model(lq, *nobody, target))


def check_terms(model: Dictionary, lq: torch.Tensor, target: torch.Tensor, restored: Restoration) -> None:
    assert set(restored.terms) == set(BY_MODEL)
    error = codebook = 0.0
    vectors, pairs = [], iter(restored.pairs)
    for vq, image in ((model.hq, target), (model.lq, lq)):
        z = vq.encode(image * 2 - 1)
        code, _ = vq.quantize.nearest(z)
        rows = vq.quantize.embedding(code).transpose(1, 2).reshape(z.shape)
        codebook += (1 + BETA) * float((rows - z).square().mean())
        again = (vq.decode(rows) + 1) / 2
        error += float((again - image).abs().mean())
        for shown, expected in zip(next(pairs), (again, image), strict=True):
            torch.testing.assert_close(shown, expected, atol=1e-4, rtol=0)
        vectors.append(z)
    assert float(restored.terms["reconstruction"]) == pytest.approx(error, rel=1e-4)
    assert float(restored.terms["codebook"]) == pytest.approx(codebook, rel=1e-4)
    assert float(restored.terms["association"]) == pytest.approx(float(association(*vectors)), rel=1e-4)


def test_the_association_joins_late() -> None:
    model = Dictionary(config_of()).train()
    assert model.association_from == round(50 / 60 * find_recipe("vre", TINY).images)
    lq, *nobody = shown()

    def pull(seen: int) -> float:
        model.zero_grad()
        model.begin_step(seen)
        term = model(lq, *nobody, torch.rand_like(lq)).terms["association"]
        assert float(term.detach()) > 0
        if not term.requires_grad:
            return 0.0
        term.backward()
        return sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None)

    model.association_from = 3
    assert pull(0) == 0 and pull(2) == 0  # the association gives no gradient before 3 images
    assert pull(3) > 0


@pytest.mark.parametrize("freeze", [True, False])
def test_a_frozen_hq_autoencoder_gets_no_gradient_and_no_new_codes_while_the_association_trains(freeze: bool) -> None:
    model = Dictionary(config_of(), freeze_hq=freeze).train()
    lq, *nobody = shown()
    for seen in (model.association_from - 1, model.association_from):
        model.zero_grad()
        with torch.no_grad():
            for vq, idle in ((model.hq, model.hq_idle), (model.lq, model.lq_idle)):
                vq.quantize.embedding.weight[4:] = 1e3
                idle.fill_(IDLE)
        model.begin_step(seen)
        restored = model(lq, *nobody, torch.rand_like(lq))
        (sum(restored.terms.values()) + sum(again.mean() for again, _ in restored.pairs)).backward()
        reached = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
        frozen = freeze and seen >= model.association_from
        assert reached == ({"lq"} if frozen else {"hq", "lq"})
        assert model.lq.quantize.embedding.weight.max() < 100
        assert (model.hq.quantize.embedding.weight.max() < 100) == (not frozen)


def test_a_code_that_nothing_chooses_starts_anew_at_a_vector() -> None:
    quantize, idle = Quantizer(3, 2), torch.tensor([IDLE - 4, IDLE - 4, 0])
    quantize.embedding.weight.data = torch.tensor([[0.0, 0.0], [50.0, 0.0], [60.0, 0.0]])
    # Both vectors choose code 0, so no vector chooses code 1.
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).t().reshape(1, 2, 1, 2)
    restart(quantize, vectors, idle, images=3)
    assert idle.tolist() == [0, IDLE - 1, 3] and quantize.embedding.weight.tolist()[1:] == [[50, 0], [60, 0]]
    restart(quantize, vectors, idle, images=3)
    assert idle.tolist() == [0, 0, 6]
    assert quantize.embedding.weight.tolist()[1] in ([1, 0], [0, 1])
    assert quantize.embedding.weight.tolist()[::2] == [[0, 0], [60, 0]]


@torch.no_grad()
def test_training_restarts_codes_and_restoring_does_not() -> None:
    model = Dictionary(config_of())
    lq, *nobody = shown()
    for vq, idle in ((model.hq, model.hq_idle), (model.lq, model.lq_idle)):
        vq.quantize.embedding.weight[4:] = 1e3
        idle.fill_(IDLE - 2 * len(lq))
    model.eval()(lq, *nobody, lq)
    assert (model.hq_idle == IDLE - 2 * len(lq)).all()
    model.train()
    farthest = []
    for _ in range(2):
        model(lq, *nobody, lq)
        farthest.append([float(vq.quantize.embedding.weight.max()) for vq in (model.hq, model.lq)])
    assert farthest[0] == [1e3, 1e3] and max(farthest[1]) < 100


def test_every_parameter_that_trains_has_a_gradient() -> None:
    model = Dictionary(config_of()).train()
    model.begin_step(model.association_from)
    lq, *nobody = shown()
    sum(model(lq, *nobody, torch.rand_like(lq)).terms.values()).backward()
    assert {n for n, p in model.named_parameters() if p.grad is None} == {
        n for n, p in model.named_parameters() if not p.requires_grad
    }
    assert {n.rsplit(".", 2)[1] for n, p in model.named_parameters() if not p.requires_grad} == {"norm2"}


@pytest.mark.exhaustive
def test_a_dictionary_learns_to_reconstruct() -> None:
    model = Dictionary(config_of()).train()
    nobody = shown(4)[1:]
    target, optimizer = torch.rand(4, 3, 4, 4), torch.optim.AdamW(model.parameters(), 3e-3)
    target = torch.nn.functional.interpolate(target, size=32, mode="bilinear")
    errors = []
    for _ in range(60):
        terms = model(target, *nobody, target).terms
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        errors.append(float(terms["reconstruction"].detach()))
    assert errors[-1] < 0.6 * errors[0]


def test_restoring_reads_the_hq_codebook_through_the_hq_decoder() -> None:
    model = Dictionary(config_of()).eval()
    lq, *nobody = shown(2, 40)
    with torch.no_grad():
        restored = model(lq, *nobody)
        small = torch.nn.functional.interpolate(lq, size=(32, 32), mode="bilinear")
        code, _ = model.hq.quantize.nearest(model.lq.encode(small * 2 - 1))
        rows = model.hq.quantize.embedding(code).transpose(1, 2).reshape(2, MINI.dim, 16, 16)
        image = torch.nn.functional.interpolate((model.hq.decode(rows) + 1) / 2, size=(40, 40), mode="bilinear")
    assert isinstance(restored, Restoration) and restored.prompt is None and not restored.terms
    assert torch.allclose(restored.latent, rows, atol=1e-6)
    assert torch.allclose(restored.image, image.clamp(0, 1), atol=1e-5)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Writes a run of recipe vre with two checkpoints. The newer checkpoint must be used."""
    for images in (4, 8):
        torch.manual_seed(images)
        Dictionary(config_of(), {"recipe": "vre", "images": images}).save_pretrained(
            tmp_path / f"run/checkpoint-{images:08d}"
        )
    return tmp_path / "run"


def test_a_dictionary_comes_back_as_it_was_saved(run: Path) -> None:
    loaded = Dictionary.from_pretrained(run)
    assert loaded.facts == {"recipe": "vre", "images": 8} and loaded.config == config_of() and not loaded.training
    saved = load_file(run / "checkpoint-00000008/model.safetensors")
    assert saved.keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.state_dict().items())


def test_an_embedder_takes_the_lq_dictionary_of_a_run(run: Path) -> None:
    vre = Vre(replace(MINI, tokens=9, doubly_normalised=True), 12)
    vre.load_dictionary(run)
    dictionary = Dictionary.from_pretrained(run)
    for name, tensor in vre.dictionary.state_dict().items():
        assert torch.equal(tensor, dictionary.lq.state_dict()[name]), name
    assert not torch.equal(vre.dictionary.quantize.embedding.weight, dictionary.hq.quantize.embedding.weight)
    assert not any(parameter.requires_grad for parameter in vre.dictionary.parameters())


def test_what_is_no_dictionary_of_this_shape_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"16 codes of 8, but this recipe needs the shape .* 32 codes of 8: train recipe vre"
    ):
        Vre(replace(MINI, codes=32), 12).load_dictionary(run)
    newest = run / "checkpoint-00000008/config.json"
    written = newest.read_text()
    newest.write_text(json.dumps(json.loads(written) | {"recipe": "tiny"}))
    for load in (Vre(MINI, 12).load_dictionary, Dictionary.from_pretrained):
        with pytest.raises(BadInput, match="was trained by recipe tiny: give a run of recipe vre"):
            load(run)
        with pytest.raises(BadInput, match="contains no checkpoint"):
            load(tmp_path / "nothing")
    newest.write_text("{")
    with pytest.raises(BadInput, match="contains no dictionary that this version can load"):
        Vre(MINI, 12).load_dictionary(run)
