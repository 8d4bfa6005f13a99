"""Tests the losses of a recipe: their names, where their gradients go, what they leave out, and the discriminator."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from degrade.presets import find_preset
from manifests.errors import BadInput
from tests.doubles.models.weights import load_backbones_once, random_vgg16
from train.fit.adversary import build_discriminator, discriminator_loss, generator_term
from train.fit.objective import Objective, check_weights, list_backbones
from train.losses.identity import identity_loss, reference_identity_loss
from train.losses.names import BY_MODEL, LOSSES, OF_DICTIONARY
from train.losses.pixel import sobel_magnitude
from train.models.config import IrSeShape
from train.models.discriminator import DictionaryDiscriminator, LatentDiscriminator, PatchDiscriminator
from train.models.identity.identity_encoder import IdentityEncoder, IrSe
from train.models.io import Restoration
from train.recipes.recipes import RECIPES, STYLEGAN_RECIPES, TINY, Recipe, find_recipe

SIZE, BATCH, SLOTS, DIM = 32, 4, 3, 8
ALL = tuple(name for name in LOSSES if name not in ("gan", *OF_DICTIONARY))
READ_REFERENCES = ("reference_identity", "spatial_min")


class Recognizer(nn.Module):
    """Acts as a recognizer, and counts the calls with and without gradients."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.network = nn.Linear(3 * 16, DIM).requires_grad_(False)
        self.asked = {True: 0, False: 0}

    has_maps = True

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return self.embed_with_maps(faces)[0]

    def embed_with_maps(
        self, faces: torch.Tensor, moves: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        self.asked[torch.is_grad_enabled()] += 1
        small = F.adaptive_avg_pool2d(faces, 4)
        return F.normalize(self.network(small.flatten(1))), (small, F.adaptive_avg_pool2d(faces, 8))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_vgg16(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    load_backbones_once(monkeypatch)


TABLE = {name: find_recipe(name, None if name in STYLEGAN_RECIPES else TINY) for name in RECIPES}


def recipe_of(*losses: str, **changes: Any) -> Recipe:
    return replace(find_recipe("tiny"), size=SIZE, losses=dict.fromkeys(losses, 1.0), **changes)


def objective_of(weights: Path, *losses: str) -> Objective:
    return Objective(recipe_of(*losses), SIZE, Recognizer(), weights)  # type: ignore[arg-type]


def batch_of(seed: int = 0) -> dict[str, Any]:
    """Returns a batch of four faces with 3, 1, 2 and 0 references.

    The 2 references of the third face show another person.
    """
    draw = torch.Generator().manual_seed(seed)
    preset = find_preset("codeformer")
    return {
        "lq": torch.rand(BATCH, 3, SIZE, SIZE, generator=draw),
        "target": torch.rand(BATCH, 3, SIZE, SIZE, generator=draw),
        "references": torch.rand(BATCH, SLOTS, 3, SIZE, SIZE, generator=draw),
        "present": torch.arange(SLOTS) < torch.tensor([[3], [1], [2], [0]]),
        "embeddings": F.normalize(torch.randn(BATCH, SLOTS, DIM, generator=draw), dim=-1),
        "row": torch.arange(BATCH),
        "upsample": torch.tensor([1.0, 0.7, 1.4, 1.0]),
        "right": torch.tensor([True, True, False, True]),
        "landmarks": torch.tensor([[10.0, 13], [20, 13], [15, 19], [11, 24], [19, 24]]).expand(BATCH, -1, -1).clone(),
        "theta": [preset.sample(np.random.default_rng([seed, i])) for i in range(BATCH)],
    }


def restored_of(seed: int = 1, prompt: int | None = 16, **terms: torch.Tensor) -> Restoration:
    draw = torch.Generator().manual_seed(seed)
    return Restoration(
        torch.rand(BATCH, 3, SIZE, SIZE, generator=draw).requires_grad_(),
        torch.randn(BATCH, 48, 8, 8, generator=draw).requires_grad_(),
        None if prompt is None else torch.randn(BATCH, 5, prompt, generator=draw).requires_grad_(),
        terms,
    )


def taken(batch: dict[str, Any], restored: Restoration, order: list[int]) -> tuple[dict[str, Any], Restoration]:
    """Returns the samples at the positions `order` of a batch and of its restoration."""
    picked = {k: [v[i] for i in order] if isinstance(v, list) else v[order] for k, v in batch.items()}
    return picked, Restoration(restored.image[order], restored.latent[order], None)


# --- the losses ---


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_trained_by_its_own_losses(weights: Path, name: str) -> None:
    recipe = TABLE[name]
    by_model = {term: torch.tensor(2.0, dtype=torch.bfloat16) for term in BY_MODEL}
    objective = Objective(recipe, SIZE, Recognizer(), weights)  # type: ignore[arg-type]
    restored = restored_of(**by_model)._replace(pairs=((torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)),) * 2)
    terms = objective(batch_of(), restored)
    assert list(terms) == [loss for loss in recipe.losses if loss != "gan"]
    assert all(term.shape == () and term.dtype == torch.float32 and term.isfinite() for term in terms.values())


@pytest.mark.parametrize("loss", ALL)
def test_gradients_reach_what_was_restored_and_nothing_else(weights: Path, loss: str) -> None:
    objective, batch, restored = objective_of(weights, loss), batch_of(), restored_of()
    for part in ("lq", "target", "references", "embeddings"):
        batch[part].requires_grad_()
    objective(batch, restored)[loss].backward()
    assert restored.image.grad is not None and restored.image.grad.isfinite().all()
    assert restored.image.grad[0].abs().sum() > 0
    assert all(batch[part].grad is None for part in ("lq", "target", "references", "embeddings"))
    assert not any(parameter.requires_grad for parameter in objective.parameters())


@pytest.mark.parametrize("loss", ALL)
def test_the_order_of_a_batch_and_its_parts_do_not_matter(weights: Path, loss: str) -> None:
    objective, batch, restored = objective_of(weights, loss), batch_of(), restored_of()
    with torch.no_grad():
        whole = objective(batch, restored)[loss]
        torch.testing.assert_close(objective(*taken(batch, restored, [2, 0, 3, 1]))[loss], whole)
        parts = [objective(*taken(batch, restored, part))[loss] for part in ([0, 1], [2, 3])]
        torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)


@pytest.mark.parametrize("loss", ALL)
def test_references_that_are_absent_or_wrong_change_nothing(weights: Path, loss: str) -> None:
    objective, batch, restored = objective_of(weights, loss), batch_of(), restored_of()
    before = objective(batch, restored)[loss]
    before.backward()
    slope = restored.image.grad
    restored.image.grad = None
    for name in ("references", "embeddings"):
        batch[name][~batch["present"]] = torch.nan
        batch[name][2] = torch.nan  # the references of this sample show another person
    after = objective(batch, restored)[loss]
    after.backward()
    assert torch.equal(before, after) and torch.equal(slope, restored.image.grad)  # type: ignore[arg-type]
    batch["references"][0, 0], batch["embeddings"][0, 0] = restored.image[0].detach(), -batch["embeddings"][0, 0]
    assert torch.equal(objective(batch, restored)[loss], before) == (loss not in READ_REFERENCES)


@pytest.mark.parametrize("loss", ALL)
def test_the_order_of_references_does_not_matter(weights: Path, loss: str) -> None:
    objective, batch, restored = objective_of(weights, loss), batch_of(), restored_of()
    with torch.no_grad():
        before = objective(batch, restored)[loss]
        for name in ("references", "embeddings", "present"):
            batch[name] = batch[name].flip(1)
        torch.testing.assert_close(objective(batch, restored)[loss], before)


@pytest.mark.parametrize("loss", ALL)
def test_without_slots_for_references(weights: Path, loss: str) -> None:
    objective, batch, restored = objective_of(weights, loss), batch_of(), restored_of()
    for name in ("references", "embeddings", "present"):
        batch[name] = batch[name][:, :0]
    assert objective(batch, restored)[loss].isfinite()


def test_all_terms_are_computed_in_float32_under_autocast(weights: Path) -> None:
    objective, batch, restored = objective_of(weights, *ALL), batch_of(), restored_of()
    with torch.no_grad():
        plain = objective(batch, restored)
        with torch.autocast("cpu", torch.bfloat16):
            cast = objective(batch, restored)
        assert all(torch.equal(plain[name], cast[name]) for name in ALL)
        # The losses are in float32, even if the images are in bfloat16.
        coarse = objective(batch, restored._replace(image=restored.image.bfloat16()))
    assert all(term.dtype == torch.float32 for term in coarse.values())


@pytest.mark.parametrize("loss", ["lpips", "ea_dists", "spatial_min"])
def test_in_bf16_a_loss_of_vgg16_stays_near_the_loss_in_float32(weights: Path, loss: str) -> None:
    terms, gradients = [], []
    for precision in ("fp32", "bf16"):
        objective = Objective(recipe_of(loss), SIZE, Recognizer(), weights, precision)  # type: ignore[arg-type]
        restored = restored_of()
        term = objective(batch_of(), restored)[loss]
        gradients.append(torch.autograd.grad(term, restored.image)[0].flatten())
        terms.append(term.detach())
    assert terms[1].dtype == torch.float32 and terms[1] != terms[0]
    torch.testing.assert_close(terms[1], terms[0], rtol=0.02, atol=0.0)
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.9


def test_identity_and_reference_identity_share_one_look(weights: Path) -> None:
    objective, batch, restored = objective_of(weights, "identity", "reference_identity"), batch_of(), restored_of()
    recognizer: Any = objective.recognizer
    terms = objective(batch, restored)
    # The recognizer is called twice: with gradients for the restored faces, and without gradients for the true faces.
    assert recognizer.asked == {True: 1, False: 1}
    embedding = recognizer(restored.image)
    usable = batch["present"] & batch["right"][:, None]
    assert torch.equal(terms["identity"], identity_loss(embedding, recognizer(batch["target"])))
    assert torch.equal(terms["reference_identity"], reference_identity_loss(embedding, batch["embeddings"], usable))


def test_shown_detail_counts_the_images_with_a_reference_of_their_own_person(weights: Path) -> None:
    objective, batch, restored = objective_of(weights, "detail", "shown_detail"), batch_of(), restored_of()
    # The references of the third image show another person, and the fourth image has no reference.
    with torch.no_grad():
        both = objective(*taken(batch, restored, [0, 1]))
        assert both["detail"].item() > 0 and both["shown_detail"].item() == pytest.approx(both["detail"].item())
        assert objective(batch, restored)["shown_detail"].item() == pytest.approx(both["detail"].item() / 2)
        assert objective(*taken(batch, restored, [2, 3]))["shown_detail"].item() == 0


def test_ea_dists_is_the_sum_over_image_and_edges(weights: Path) -> None:
    objective, batch, restored = objective_of(weights, "ea_dists"), batch_of(), restored_of()
    assert objective.dists is not None
    pairs = (restored.image, batch["target"]), (sobel_magnitude(restored.image), sobel_magnitude(batch["target"]))
    by_hand = sum(objective.dists(a[i : i + 1], b[i : i + 1]) for a, b in pairs for i in range(BATCH)) / BATCH
    assert objective(batch, restored)["ea_dists"].item() == pytest.approx(by_hand.item(), rel=1e-5)  # type: ignore[union-attr]


# --- losses that cannot be computed ---


def test_a_loss_that_does_not_exist_is_named_beside_those_that_do() -> None:
    with pytest.raises(BadInput, match=r"no loss vgg.*pixel.*ea_dists.*gan"):
        Objective(recipe_of("pixel", "vgg"), SIZE, None)


def test_identity_maps_needs_a_recognizer_with_maps() -> None:
    mapless = Recognizer()
    mapless.has_maps = False
    with pytest.raises(BadInput, match=r"has no feature maps.*--loss identity_maps=0"):
        Objective(recipe_of("identity_maps"), SIZE, mapless)  # type: ignore[arg-type]
    gray = IdentityEncoder(IrSe(IrSeShape(widths=(8,), units=(1,), squeeze=2)))
    with pytest.raises(BadInput, match=r'set identity_encoder = "recognizer", or give --loss identity_maps=0'):
        Objective(recipe_of("identity_maps"), SIZE, gray)


@pytest.mark.parametrize("loss", ["identity", "identity_maps", "reference_identity"])
def test_a_loss_through_a_recognizer_needs_one(loss: str) -> None:
    with pytest.raises(BadInput, match=rf"{loss} needs a recognizer.*--no-identity"):
        Objective(recipe_of(loss), SIZE, None)


def test_ms_ssim_needs_a_window() -> None:
    with pytest.raises(BadInput, match="11 px or more, not 8"):
        Objective(recipe_of("ms_ssim"), 8, None)


def test_which_recipes_need_a_backbone() -> None:
    table = {name: list_backbones(recipe) for name, recipe in TABLE.items()}
    assert {name for name, found in table.items() if found == {"vgg16"}} == {
        "osdface",
        "honestface",
        "refine",
        "refine-small",
        "refine-unet",
        "instant",
        "vre",
    }
    assert {name for name, found in table.items() if not found} == {"idm", "tiny"}


def test_every_loss_of_every_recipe_is_known() -> None:
    assert {loss for recipe in TABLE.values() for loss in recipe.losses} <= set(LOSSES)


@pytest.mark.parametrize("checked", [check_weights, lambda recipe, folder: Objective(recipe, SIZE, None, folder)])
def test_a_missing_backbone_stops_a_recipe_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: Any
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(BadInput, match=r"vgg16.*no route to host.*put vgg16-397923af.pth.*--weights FOLDER"):
        checked(recipe_of("lpips"), None)
    checked(recipe_of("pixel"), None)


# --- the discriminator ---


def test_each_recipe_has_the_discriminator_it_names() -> None:
    kinds = {name: build_discriminator(recipe, 48, 16) for name, recipe in TABLE.items()}
    assert {name for name, kind in kinds.items() if kind is None} == {"idm", "tiny"}
    assert {name for name, kind in kinds.items() if isinstance(kind, DictionaryDiscriminator)} == {"vre"}
    assert {name for name, kind in kinds.items() if isinstance(kind, LatentDiscriminator)} == {"osdface", "honestface"}
    assert {name for name, kind in kinds.items() if isinstance(kind, PatchDiscriminator)} == {"refine-unet", "instant"}
    with pytest.raises(BadInput, match="no discriminator pixel"):
        build_discriminator(recipe_of(discriminator="pixel"), 48, None)


@pytest.mark.parametrize(("channels", "side"), [(4, 64), (48, 32), (48, 8), (48, 4)])
@pytest.mark.parametrize("prompt_dim", [None, 1024])
def test_a_latent_discriminator_takes_any_latent(channels: int, side: int, prompt_dim: int | None) -> None:
    parts = ("vre",) if prompt_dim else ()
    discriminator = build_discriminator(recipe_of(discriminator="latent", parts=parts), channels, prompt_dim)
    prompt = torch.randn(2, 77, prompt_dim) if prompt_dim else None
    assert discriminator is not None
    assert discriminator(torch.zeros(2, 3, 8, 8), torch.randn(2, channels, side, side), prompt).shape == (
        2, 1, side // 4, side // 4,
    )  # fmt: skip


def test_a_recipe_without_a_prompt_has_a_discriminator_without_one() -> None:
    discriminator = build_discriminator(recipe_of(discriminator="latent", parts=()), 48, 16)
    assert discriminator is not None and generator_term(discriminator, batch_of(), restored_of(prompt=None)).isfinite()


def discriminator_of(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = build_discriminator(recipe_of(discriminator=kind, parts=("vre",)), 48, 16)
    assert discriminator is not None
    return discriminator.eval()  # in eval mode, two calls give equal results


@pytest.mark.parametrize("kind", ["latent", "image"])
def test_the_two_sides_of_the_adversary_by_hand(kind: str) -> None:
    discriminator, batch, restored, truth = (
        discriminator_of(kind),
        batch_of(),
        restored_of(),
        torch.randn(BATCH, 48, 8, 8),
    )
    made = discriminator(restored.image, restored.latent, restored.prompt).detach().double().numpy()
    true = discriminator(batch["target"], truth, restored.prompt).detach().double().numpy()
    assert generator_term(discriminator, batch, restored).item() == pytest.approx(
        np.log1p(np.exp(-made)).mean(), rel=1e-5
    )
    by_hand = (np.log1p(np.exp(-true)).mean() + np.log1p(np.exp(made)).mean()) / 2
    assert discriminator_loss(discriminator, batch, restored, truth).item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("kind", ["latent", "image"])
def test_each_side_teaches_itself_alone(kind: str) -> None:
    discriminator, batch, restored, truth = (
        discriminator_of(kind),
        batch_of(),
        restored_of(),
        torch.randn(BATCH, 48, 8, 8),
    )
    truth.requires_grad_()
    discriminator_loss(discriminator, batch, restored, truth).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in discriminator.parameters())
    assert all(part.grad is None for part in (restored.image, restored.latent, restored.prompt, truth))  # type: ignore[union-attr]
    generator_term(discriminator, batch, restored).backward()
    scored, ignored = (restored.latent, restored.image) if kind == "latent" else (restored.image, restored.latent)
    assert scored.grad is not None and scored.grad.abs().sum() > 0 and ignored.grad is None
    assert restored.prompt is not None and restored.prompt.grad is None


def test_the_discriminator_reads_the_prompt_in_any_order() -> None:
    discriminator, restored = discriminator_of("latent"), restored_of()
    assert restored.prompt is not None
    logits = discriminator(restored.image, restored.latent, restored.prompt)
    torch.testing.assert_close(discriminator(restored.image, restored.latent, restored.prompt.flip(1)), logits)
    assert not torch.allclose(discriminator(restored.image, restored.latent, restored.prompt.flip(0)), logits)


@pytest.mark.parametrize("kind", ["latent", "image"])
def test_no_image_depends_on_its_batch(kind: str) -> None:
    discriminator, restored = discriminator_of(kind), restored_of()
    assert restored.prompt is not None
    whole = discriminator(restored.image, restored.latent, restored.prompt)
    torch.testing.assert_close(
        discriminator(restored.image[1:2], restored.latent[1:2], restored.prompt[1:2]), whole[1:2]
    )


@pytest.mark.parametrize("kind", ["latent", "image"])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_discriminator_learns_to_tell_true_from_restored(kind: str, autocast: bool) -> None:
    discriminator, batch, restored = discriminator_of(kind).train(), batch_of(), restored_of()
    # true images are darker than restored images, so the discriminator can learn the difference
    batch["target"] = batch["target"] * 0.3
    truth = 0.3 * torch.randn(BATCH, 48, 8, 8, generator=torch.Generator().manual_seed(2))
    optimizer, told = torch.optim.Adam(discriminator.parameters(), 1e-3), []
    for _ in range(12):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = discriminator_loss(discriminator, batch, restored, truth)
        assert loss.dtype == torch.float32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(loss.item())
    assert told[-1] < 0.8 * told[0]


def test_whether_prompt_and_latent_agree_can_be_learned() -> None:
    """Tests pairs of a latent and a prompt. In half of the pairs, both are of the same kind.

    A discriminator that uses only the latent or only the prompt cannot reach a loss below ln 2.
    """
    discriminator, draw = discriminator_of("latent").train(), torch.Generator().manual_seed(4)
    kinds, words = torch.randn(2, 48, 1, 1, generator=draw), torch.randn(2, 5, 16, generator=draw)
    latents, prompts = kinds[[0, 1, 1, 0]].expand(-1, -1, 4, 4), words[[0, 1, 0, 1]]
    optimizer, picture = torch.optim.Adam(discriminator.parameters(), 1e-3), torch.zeros(4, 3, 4, 4)
    for _ in range(32):
        true, made = discriminator(picture, latents, prompts).chunk(2)
        loss = (F.softplus(-true).mean() + F.softplus(made).mean()) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6
