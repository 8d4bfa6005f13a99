"""Tests the restorer and its parts on the base tiny, and the contents of a checkpoint."""

import hashlib
import json
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from curate.faces.align import ARCFACE_112, crop_for_recognizer
from degrade.operations.pixels import shrink
from manifests.errors import BadInput, ModelUnavailable
from tests.doubles.training import DIM, SMALL, picture, recognizer_onnx
from tests.places import REPOSITORY
from train.models import latent
from train.models.config import ModelConfig, VreConfig
from train.models.identity.recognizer import Recognizer, load_recognizer
from train.models.io import Conditions, Restoration, join_encoded
from train.models.prompts.honestface import GRID, TOKENS
from train.models.references import pool
from train.models.restorer import Restorer
from train.models.timesteps.one_step import add_noise, clean_from_noise, signal_share
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import RECIPES, STYLEGAN_RECIPES, TINY, find_recipe

FACTS = {"size": 112, "template": ARCFACE_112.tolist(), "mean": 127.5, "std": 127.5}
RESTORING = [name for name in RECIPES if name not in ("vre", *STYLEGAN_RECIPES)]
VRE = VreConfig(size=32, channels=4, multipliers=(1, 2), codes=8, dim=6, tokens=5)


class Vre(torch.nn.Module):
    """Acts as the embedder: it has a frozen dictionary and a trained projection."""

    def __init__(self, config: VreConfig, prompt_dim: int) -> None:
        super().__init__()
        self.encoder = torch.nn.Conv2d(3, config.dim, 8, stride=8).requires_grad_(False)
        self.projection = torch.nn.Linear(config.dim, prompt_dim)
        self.tokens = config.tokens

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        return self.projection(self.encoder(lq).flatten(2).transpose(1, 2)[:, : self.tokens])


class DiffusionBase(torch.nn.Module):
    """Acts as a diffusion base with a frozen UNet and a trained adapter.

    The folder of the base contains its weights and its width.
    """

    prompt_dim, latent_channels = 8, 3

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = json.loads((Path(config.base_model) / "config.json").read_text())["width"]
        self.frozen = torch.nn.Conv2d(3, width, 1).requires_grad_(False)
        torch.nn.init.constant_(self.frozen.weight, 0.1)
        torch.nn.init.zeros_(self.frozen.bias)  # type: ignore[arg-type]
        self.adapter = torch.nn.Conv2d(width, 3, 1)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return image * 2 - 1

    def predict(self, z: torch.Tensor, conditions: Conditions, timestep: int | torch.Tensor) -> torch.Tensor:
        assert conditions.references is not None and conditions.tokens is None
        return self.adapter(self.frozen(z))

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        return (x0 + 1) / 2


def base_fingerprint(folder: str) -> str:
    try:
        return hashlib.sha256((Path(folder) / "config.json").read_bytes()).hexdigest()
    except OSError:
        raise BadInput(f"{folder} is no folder in diffusers' layout.") from None


@pytest.fixture(autouse=True)
def doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.models.restorer.Vre", Vre)
    # Replace the real modules before they are imported, which happens when a diffusion base is built.
    for name, member in (("diffusion", DiffusionBase), ("base_folder", base_fingerprint)):
        module = ModuleType(f"train.models.bases.{name}")
        setattr(module, member.__name__, member)
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture(autouse=True)
def no_gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def config_of(recipe: str = "tiny") -> ModelConfig:
    small = replace(
        find_recipe(recipe, TINY),
        size=SMALL.size,
        channels=SMALL.channels,
        reference_channels=SMALL.reference_channels,
        refine_channels=SMALL.refine_channels,
        vre=VRE,
    )
    return build_model_config(small, DIM)


def awake(recipe: str = "tiny", seed: int = 0) -> Restorer:
    """Returns a restorer with random weights instead of zeros, which would hide the layers before them."""
    torch.manual_seed(seed)
    model = Restorer(config_of(recipe), {"recipe": recipe})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def inputs(k: int, b: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(k)
    embeddings = torch.nn.functional.normalize(torch.randn(b, k, DIM, generator=rng), dim=-1)
    lq, references = torch.rand(b, 3, 32, 32, generator=rng), torch.rand(b, k, 3, 32, 32, generator=rng)
    return lq, references, torch.ones(b, k, dtype=torch.bool), embeddings


@pytest.mark.parametrize(("factor", "inner"), [(2, 2), (4, 4), (4, 2), (8, 2), (4, 1)])
def test_the_latent_loses_nothing(factor: int, inner: int) -> None:
    image = torch.randint(0, 256, (2, 3, 16, 16)).float() / 255
    z = latent.encode(image, factor, inner)
    assert z.shape == (2, 3 * factor**2, 16 // factor, 16 // factor)
    assert float(z.min()) >= -1 and float(z.max()) <= 1
    assert torch.equal((latent.decode(z, factor, inner) * 255).round(), (image * 255).round())
    squares = latent.open_squares(z, factor, inner)
    assert torch.equal(squares, torch.nn.functional.pixel_unshuffle(image * 2 - 1, inner))
    assert torch.equal(latent.close_squares(squares, factor, inner), z)


def test_a_latent_of_one_small_square_has_the_order_of_torch() -> None:
    image = torch.rand(2, 3, 16, 16)
    assert torch.equal(latent.encode(image, 4, 4), torch.nn.functional.pixel_unshuffle(image * 2 - 1, 4))


def test_one_step_takes_away_exactly_the_noise_that_was_added() -> None:
    share = signal_share(399)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert share == pytest.approx(float(torch.prod(1 - betas[:400])), rel=1e-4)
    x0, noise = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    z = share**0.5 * x0 + (1 - share) ** 0.5 * noise
    assert torch.allclose(clean_from_noise(z, noise, 399), x0) and torch.equal(add_noise(x0, noise, 399), z)
    timestep = torch.tensor([399, 100])  # a timestep for each image
    both = add_noise(x0, noise, timestep)
    # For a tensor of timesteps, the share is float32, so the results differ by up to 1e-6 even where they are near 0.
    assert torch.allclose(both[0], z[0], atol=1e-6)
    assert torch.allclose(both[1], add_noise(x0, noise, 100)[1], atol=1e-6)
    assert torch.allclose(clean_from_noise(both, noise, timestep), x0, atol=1e-6)


@pytest.mark.parametrize("recipe", RESTORING)
def test_references_can_be_encoded_one_by_one_before_the_faces_are_known(recipe: str) -> None:
    model, (lq, references, present, embeddings) = awake(recipe), inputs(3)
    present[1, 1:] = False
    done = model(lq, references, present, embeddings).image
    encoded = join_encoded([model.encode_references(one[None]) for one in references[present]])
    black = torch.zeros_like(references)
    again = model(lq, black, present, embeddings, encoded=encoded).image
    assert float((done - again).abs().max()) <= 1e-3


@pytest.mark.parametrize("recipe", RESTORING)
def test_a_new_restorer_returns_its_input(recipe: str) -> None:
    model = Restorer(config_of(recipe)).eval()
    lq, *rest = inputs(2)
    assert torch.allclose(model(lq, *rest).image, lq, atol=1e-6)


@pytest.mark.parametrize("recipe", RESTORING)
@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_any_number_of_references(recipe: str, k: int) -> None:
    model, (lq, *rest) = awake(recipe), inputs(k)
    done = model(lq, *rest)
    assert done.image.shape == lq.shape and bool(torch.isfinite(done.image).all())
    assert float(done.image.min()) >= 0 and float(done.image.max()) <= 1
    lengths = {"vre": VRE.tokens, "identity": TOKENS, "features": GRID**2}
    length = sum(lengths.get(part, 0) for part in model.config.parts)
    assert (None if done.prompt is None else done.prompt.shape) == ((3, length, 128) if length else None)


@pytest.mark.parametrize("recipe", RESTORING)
def test_the_order_of_references_does_not_matter_and_the_references_do(recipe: str) -> None:
    model, (lq, references, present, embeddings) = awake(recipe), inputs(4)
    present[1, 2:] = False
    order = torch.tensor([2, 0, 3, 1])
    done = model(lq, references, present, embeddings)
    turned = model(lq, references[:, order], present[:, order], embeddings[:, order])
    assert float((done.image - turned.image).abs().max()) <= 1e-5
    if done.prompt is not None:
        assert float((done.prompt - turned.prompt).abs().max()) <= 1e-5
    others = float((done.image - model(lq, references.flip(0), present, embeddings.flip(0)).image).abs().max())
    assert others == 0 if recipe in ("osdface", "idm") else others > 1e-4


@pytest.mark.parametrize("recipe", RESTORING)
def test_what_lies_in_an_empty_slot_is_never_seen(recipe: str) -> None:
    model, (lq, references, present, embeddings) = awake(recipe), inputs(3)
    present[:, 1:] = False
    alone = model(lq, references[:, :1], present[:, :1], embeddings[:, :1]).image
    assert torch.allclose(model(lq, references, present, embeddings).image, alone, atol=1e-5)
    nobody = torch.zeros_like(present)
    assert torch.allclose(
        model(lq, references, nobody, embeddings).image,
        model(lq, references[:, :0], nobody[:, :0], embeddings[:, :0]).image,
        atol=1e-5,
    )


@pytest.mark.parametrize("recipe", RESTORING)
def test_images_of_a_batch_do_not_see_each_other(recipe: str) -> None:
    model, (lq, references, present, embeddings) = awake(recipe), inputs(3)
    present[0, 1:], present[1] = False, False
    together = model(lq, references, present, embeddings).image
    for i in range(len(lq)):
        one = slice(i, i + 1)
        assert torch.allclose(
            together[one], model(lq[one], references[one], present[one], embeddings[one]).image, atol=1e-5
        )


@pytest.mark.parametrize("recipe", RESTORING)
def test_gradients_reach_all_that_trains_and_nothing_else(recipe: str) -> None:
    model, (lq, references, present, embeddings) = awake(recipe).train(), inputs(3)
    present[1] = False
    weights = torch.randn(lq.shape, generator=torch.Generator().manual_seed(5))
    for slots in (3, 0):
        model.zero_grad(set_to_none=True)
        seen = (references[:, :slots], present[:, :slots], embeddings[:, :slots])
        (model(lq, *seen).image * weights).sum().backward()
        for name, parameter in model.named_parameters():
            frozen = name.startswith("vre.encoder")
            assert parameter.requires_grad != frozen and (parameter.grad is None) == frozen, name
            # The bias of the keys has no gradient, because it adds the same number to all scores of a query.
            if slots and parameter.grad is not None and not name.endswith("to_k.bias"):
                assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("recipe", RESTORING)
def test_bfloat16_where_autocast_wants_it_has_gradients_too(recipe: str) -> None:
    model, (lq, references, present, embeddings) = awake(recipe).train(), inputs(3)
    present[1] = False
    exact = model(lq, references, present, embeddings).image
    with torch.autocast("cpu", torch.bfloat16):
        done = model(lq, references, present, embeddings)
        nobody = model(lq, references[:, :0], present[:, :0], embeddings[:, :0])
    # The tolerance for `refine-unet` is large, because its features are large here, and bf16 rounds large numbers
    # coarsely.
    assert done.image.dtype == torch.float32
    assert torch.allclose(done.image, exact, atol=0.15 if recipe == "refine-unet" else 0.02)
    (done.image.sum() + nobody.image.sum()).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.requires_grad)


def test_a_part_that_a_recipe_does_not_name_does_not_exist() -> None:
    def holds(recipe: str) -> set[str]:
        names = Restorer(config_of(recipe)).state_dict()
        tops = {name.split(".")[0] for name in names}
        return tops | {name.split(".")[2] for name in names if name.startswith("base.unet.")}

    plain = {"base", "first", "down", "smaller", "middle", "larger", "up", "last"}
    assert holds("tiny") == plain | {"references", "join", "attend", "embedding", "modulate"}
    assert holds("osdface") == plain | {"vre", "prompted"}
    assert holds("honestface") == plain | {"vre", "identity", "prompted"}
    assert holds("refine-unet") == plain | {"references", "join", "embedding", "modulate"}
    assert holds("instant") == plain | {"references", "attend"}
    extended = Restorer(config_of("instant")).state_dict()
    assert not any(name.startswith(("references.nothing", "references.encoder.blocks.2")) for name in extended)


@pytest.mark.parametrize(
    ("part", "tokens", "reads_pictures", "reads_embeddings"),
    [("identity", TOKENS, False, True), ("features", GRID**2, True, False)],
)
def test_each_branch_of_honestface_works_without_the_other(
    part: str, tokens: int, reads_pictures: bool, reads_embeddings: bool
) -> None:
    torch.manual_seed(0)
    model = Restorer(replace(config_of("honestface"), parts=("vre", part))).eval()
    assert {name.split(".")[1] for name in model.state_dict() if name.startswith("identity.")} == {
        part,
        "kinds",
        "fuse",
    }
    lq, references, present, embeddings = inputs(3)
    prompt = model(lq, references, present, embeddings).prompt
    assert prompt is not None and prompt.shape == (3, tokens + VRE.tokens, 128)

    def changes_prompt(others: torch.Tensor, theirs: torch.Tensor) -> bool:
        other = model(lq, others, present, theirs).prompt
        assert other is not None
        return not torch.equal(other, prompt)

    assert changes_prompt(references.flip(0), embeddings) == reads_pictures
    assert changes_prompt(references, embeddings.flip(0)) == reads_embeddings


def test_recipe_tiny_is_the_network_of_the_published_figures() -> None:
    laptop = Restorer(build_model_config(find_recipe("tiny"), 512))
    # the number of weights of the network for 256 px
    assert sum(parameter.numel() for parameter in laptop.parameters()) == 4_948_780
    model = Restorer(build_model_config(replace(find_recipe("tiny"), size=128, latent_factor=4), 512))
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_720_540

    def before(name: str) -> str:
        return (
            name.replace("base.", "").replace("embedding.", "references.").replace("references.encoder", "references")
        )

    tensors = sorted(f"{before(name)} {tuple(tensor.shape)}" for name, tensor in model.state_dict().items())
    assert hashlib.sha256("\n".join(tensors).encode()).hexdigest().startswith("e573487dc9f11eb0")


def test_tiny_never_waits_for_peft_or_transformers() -> None:
    code = (
        "import sys; from train.models.restorer import Restorer; from train.recipes.recipes import find_recipe; "
        "from train.recipes.model_configs import build_model_config; "
        "Restorer(build_model_config(find_recipe('tiny'), 16)); assert not {'peft', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_pooling_by_hand() -> None:
    features = torch.tensor([1.0, 5.0, 100.0]).view(1, 3, 1, 1, 1)
    nothing = torch.tensor([7.0, 8.0])
    seen = pool(features, torch.tensor([[True, True, False]]), nothing)
    assert seen.flatten().tolist() == [3.0, 5.0]
    assert pool(features, torch.zeros(1, 3, dtype=torch.bool), nothing).flatten().tolist() == [7.0, 8.0]


@pytest.mark.parametrize("recipe", RESTORING)
def test_saved_and_loaded_it_restores_the_same(recipe: str, tmp_path: Path) -> None:
    model = awake(recipe)
    # averaged weights do not require gradients, and must be saved too
    model.requires_grad_(False).save_pretrained(tmp_path)
    loaded = Restorer.from_pretrained(tmp_path)
    assert loaded.config == model.config and loaded.facts == {"recipe": recipe} and not loaded.training
    # On some CPUs (for example an Intel Xeon with AMX), a sum in float32 depends on the memory addresses of the
    # weights.
    assert torch.allclose(loaded(*inputs(2)).image, model(*inputs(2)).image, rtol=0, atol=2e-6)
    weights = loaded.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_the_lines_of_docs_train_restore_a_batch(tmp_path: Path) -> None:
    awake().save_pretrained(tmp_path / "checkpoint-00000008")
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "train.md").read_text(), re.DOTALL)
    names = dict(zip(("lq", "references", "present", "embeddings"), inputs(2), strict=True))
    exec(code.replace('"RUN"', repr(str(tmp_path))), names)
    image = names["result"].image
    assert image.shape == (3, 3, 32, 32) and 0 <= float(image.min()) <= float(image.max()) <= 1
    assert all(part in code for part in Restoration._fields)


def test_what_is_no_checkpoint_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="contains no checkpoint"):
        Restorer.from_pretrained(tmp_path)
    with pytest.raises(BadInput, match="contains no checkpoint"):
        Restorer.from_pretrained(tmp_path / "nowhere")
    awake().save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="leave --base-model out"):
        Restorer.from_pretrained(tmp_path, "some/folder")
    with pytest.raises(BadInput, match=r"is a file \(a checkpoint is a folder\)"):
        Restorer.from_pretrained(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(BadInput, match="no restorer that this version can load"):
        Restorer.from_pretrained(tmp_path)
    for broken in ("[]", "no json", json.dumps({"model": {"base": "tiny"}})):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(BadInput, match="no restorer that this version can load"):
            Restorer.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_a_weight_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    model = awake().requires_grad_(False)
    name, weight = next(iter(model.weights().items()))
    weight.view(-1)[0] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=f"weight {name} contains NaN or infinity"):
        Restorer.from_pretrained(tmp_path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("pytorch_model.bin", "model.ckpt", "model.pt"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(pickle.dumps(Trap()))
        for offered in (folder, folder / name):
            with pytest.raises(BadInput, match="pickled weights can run code"):
                Restorer.from_pretrained(offered)
    awake().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BadInput, match="no restorer that this version can load"):
        Restorer.from_pretrained(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_holds_every_weight_of_its_recipe_and_no_other(tmp_path: Path) -> None:
    awake("honestface").save_pretrained(tmp_path / "honestface")
    weights = load_file(tmp_path / "honestface" / "model.safetensors")
    # the frozen encoder must be saved too, because no other file contains its weights
    assert "vre.encoder.weight" in weights
    first = sorted(weights)[0]
    for change, said in (
        (
            {name: value for name, value in weights.items() if name != first},
            f"it lacks {first}; tensors that do not fit: 1",
        ),
        ({**weights, "zzz": torch.zeros(1)}, "it also has zzz"),
        ({**weights, first: torch.zeros(1, 2, 3)}, rf"{first} is \(1, 2, 3\) and should be"),
    ):
        save_file(change, tmp_path / "honestface" / "model.safetensors")
        with pytest.raises(BadInput, match=said):
            Restorer.from_pretrained(tmp_path / "honestface")


def test_a_dictionary_is_no_restorer(tmp_path: Path) -> None:
    model = awake()
    model.facts["recipe"] = "vre"
    model.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="give the folder to `likeness train` as --vre"):
        Restorer.from_pretrained(tmp_path)


def on_diffusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Restorer:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps({"width": 4}))
    monkeypatch.chdir(tmp_path)
    config = replace(config_of("instant"), base="diffusion", base_model="base", channels=(), refine_channels=0)
    return Restorer(config, {"recipe": "instant"}).eval()


def test_the_frozen_base_stays_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_diffusion(tmp_path, monkeypatch)
    model.save_pretrained(tmp_path / "checkpoint")
    assert set(load_file(tmp_path / "checkpoint" / "model.safetensors")) == {
        "base.adapter.weight",
        "base.adapter.bias",
    }
    described = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert described["base_sha256"] == base_fingerprint("base")
    assert described["model"]["base_model"] == str(tmp_path / "base")
    monkeypatch.chdir("/")
    loaded = Restorer.from_pretrained(tmp_path / "checkpoint")
    assert torch.equal(loaded(*inputs(2)).image, model(*inputs(2)).image)


def test_a_base_that_moved_is_asked_for_and_another_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = on_diffusion(tmp_path, monkeypatch)
    model.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(BadInput, match=r"cannot be read .*: give the folder of the base with --base-model FOLDER"):
        Restorer.from_pretrained(tmp_path / "checkpoint")
    loaded = Restorer.from_pretrained(tmp_path / "checkpoint", str(tmp_path / "moved"))
    assert torch.equal(loaded(*inputs(2)).image, model(*inputs(2)).image)
    assert loaded.config.base_model == str(tmp_path / "moved")
    (tmp_path / "moved" / "config.json").write_text(json.dumps({"width": 6}))
    with pytest.raises(BadInput, match=r"is not the base that .* was trained on"):
        Restorer.from_pretrained(tmp_path / "checkpoint", str(tmp_path / "moved"))


def test_what_a_step_gives_has_no_losses_of_its_own() -> None:
    assert dict(awake()(*inputs(1)).terms) == {}
    assert dict(Restoration(torch.zeros(1), torch.zeros(1), None).terms) == {}


@pytest.mark.parametrize("size", [128, 512])
def test_the_recognizer_sees_the_crop_that_curation_showed_it(size: int) -> None:
    crop = shrink(picture(3, 1, 512), size)
    seen: list[torch.Tensor] = []

    class Watch(torch.nn.Module):
        def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            seen.append(crops)
            return crops.flatten(1), ()

    faces = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
    Recognizer(Watch(), FACTS, size)(faces)
    ours = (seen[0][0] * 127.5 + 127.5).permute(1, 2, 0).numpy()
    assert np.abs(ours - crop_for_recognizer(crop, ARCFACE_112, 112)).max() < 3


def test_a_map_moves_the_recognizers_crop() -> None:
    faces = torch.from_numpy(picture(3, 1, 128)).permute(2, 0, 1)[None].float() / 255
    crops: list[torch.Tensor] = []

    def watch(seen: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        crops.append(seen)
        return seen.flatten(1), ()

    network = torch.nn.Identity()
    network.forward = watch  # type: ignore[method-assign, assignment]
    recognizer = Recognizer(network, FACTS, 128)
    step = 2 / 111  # one pixel of a crop of 112 px whose corners are -1 and 1
    for moves in (None, [[1, 0, 0], [0, 1, 0]], [[-1, 0, 0], [0, 1, 0]], [[1, 0, 9 * step], [0, 1, -4 * step]]):
        recognizer.embed_with_maps(faces, None if moves is None else torch.tensor([moves], dtype=torch.float32))
    plain, same, mirrored, moved = crops
    assert torch.allclose(same, plain, atol=1e-3)
    assert torch.allclose(mirrored, plain.flip(3), atol=1e-3)
    assert torch.allclose(moved[:, :, 4:, :-9], plain[:, :, :-4, 9:], atol=1e-3)


def test_the_recognizer_is_frozen_and_lets_gradients_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `load_recognizer` must not write a file, because the folder of a snapshot can be read-only.
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda *_, **__: pytest.fail("a file was written"))
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
