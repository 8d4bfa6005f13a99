"""Tests restorations of several steps: the timesteps, the exact repetition, and that one step works as before."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from manifests.errors import BadInput
from tests.doubles.training import SMALL, snapshot
from train.data.dataset import TrainingFaces, batches
from train.data.sampling import draw_sample
from train.data.snapshot import Snapshot
from train.fit.loop import train
from train.models.checkpoint_files import find_newest_checkpoint
from train.models.restorer import Restorer
from train.models.timesteps import one_step
from train.models.timesteps.step_schedule import MOST_STEPS, Schedule, add_noise
from train.recipes.model_configs import build_model_config
from train.restore.load_restorer import load_restorer

SEVERAL = replace(SMALL, name="several", steps=4)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    torch.set_num_threads(1)
    return snapshot(tmp_path_factory.mktemp("steps"))


def shown(model: Restorer, count: int = 3) -> tuple[torch.Tensor, ...]:
    draw, size = torch.Generator().manual_seed(1), model.config.size
    faces = torch.rand(count, 3, size, size, generator=draw)
    references = torch.rand(count, 2, 3, size, size, generator=draw)
    embeddings = torch.nn.functional.normalize(torch.randn(count, 2, 16, generator=draw), dim=-1)
    return faces, references, torch.ones(count, 2, dtype=torch.bool), embeddings


def stirred(recipe=SEVERAL) -> Restorer:  # type: ignore[no-untyped-def]
    """Returns a restorer with random changes to its weights. A restorer without these changes returns its input."""
    torch.manual_seed(0)
    model = Restorer(build_model_config(recipe, 16)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


@given(st.integers(100, 999), st.integers(1, MOST_STEPS), st.data())
def test_a_restoration_visits_only_timesteps_that_were_trained_from_the_first_one_down(
    first: int, trained: int, data: st.DataObject
) -> None:
    schedule = Schedule(first, trained)
    assert schedule.timesteps[0] == first and len(set(schedule.timesteps)) == trained
    visited = schedule.visited(data.draw(st.integers(1, trained)))
    assert visited[0] == first and set(visited) <= set(schedule.timesteps)
    assert list(visited) == sorted(set(visited), reverse=True) and visited[-1] > 0
    assert schedule.visited(1) == (first,) and schedule.visited(trained) == schedule.timesteps
    with pytest.raises(BadInput, match="was trained for" if trained < MOST_STEPS else "give 1 to 8"):
        schedule.visited(trained + 1)


def test_renoising_at_the_same_timestep_gives_back_what_was_there_and_lower_ones_hold_more_of_the_answer() -> None:
    z, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    x0 = one_step.clean_from_noise(z, noise, 399)
    assert torch.allclose(add_noise(x0, noise, 399), z, atol=1e-5)
    apart = [float((add_noise(x0, noise, t) - x0).norm()) for t in (300, 200, 100)]
    assert apart == sorted(apart, reverse=True)
    told = torch.tensor([399, 100])
    both = add_noise(x0, noise, told)
    assert torch.allclose(both[1], add_noise(x0, noise, 100)[1], atol=1e-5) and torch.allclose(both[0], z[0], atol=1e-5)
    assert torch.allclose(one_step.clean_from_noise(both, noise, told), x0, atol=1e-4)


def test_steps_refine_with_every_condition_and_the_same_answer_in_any_batch() -> None:
    model = stirred()
    seen = shown(model)
    with torch.no_grad():
        one = model(*seen).image
        model.set_steps(4)
        four = model(*seen).image
        alone = torch.cat([model(*(part[i : i + 1] for part in seen)).image for i in range(3)])
        assert not torch.equal(one, four)
        assert torch.equal(four, model(*seen).image) and torch.allclose(four, alone, atol=1e-5)
        model.set_steps(1)
        assert torch.equal(one, model(*seen).image)

        # In each step, the references must change the prediction for the same latent.
        faces, references, present, embeddings = seen
        asked = []
        predict = model.base.predict
        model.base.predict = lambda z, conditions, timestep: (  # type: ignore[method-assign]
            asked.append((timestep, predict(z, conditions, timestep) - predict(z, nobody, timestep)))
            or predict(z, conditions, timestep)
        )
        nobody = model.condition(faces, references, torch.zeros_like(present), embeddings)
        model.set_steps(4)
        model(*seen)
    assert [timestep for timestep, _ in asked] == [399, 299, 200, 100]
    assert all(float(change.abs().max()) > 1e-4 for _, change in asked)


def test_the_model_knows_the_timestep_it_is_asked_at() -> None:
    model = stirred()
    faces, references, present, embeddings = shown(model)
    conditions = model.condition(faces, references, present, embeddings)
    z = model.base.encode(faces)
    answers = [one_step.clean_from_noise(z, model.base.predict(z, conditions, t), t) for t in (399, 100)]
    assert not torch.allclose(*answers, atol=1e-3)
    mixed = torch.tensor([399, 100, 399])
    both = one_step.clean_from_noise(z, model.base.predict(z, conditions, mixed), mixed)
    assert torch.allclose(both[0], answers[0][0], atol=1e-4) and torch.allclose(both[1], answers[1][1], atol=1e-4)


def test_a_restorer_of_one_step_has_no_weights_for_several() -> None:
    one, several = (set(Restorer(build_model_config(recipe, 16)).state_dict()) for recipe in (SMALL, SEVERAL))
    assert one < several and all("time" in name for name in several - one)


def test_a_step_in_training_is_the_step_of_a_restoration() -> None:
    model = stirred()
    seen = shown(model)
    with torch.no_grad():
        model.set_steps(4)
        latents = []
        # With these timesteps, the restoration stops after the second of four steps.
        model.timesteps = model.schedule.timesteps[:2]
        latents.append(model(*seen).latent)
        latents.append(model(*seen, None, torch.tensor([1, 1, 1])).latent)
        model.set_steps(1)
        first = model(*seen).latent
        mixed = model(*seen, None, torch.tensor([0, 1, 0])).latent
    assert torch.allclose(latents[0], latents[1], atol=1e-4)
    assert torch.allclose(mixed[1], latents[0][1], atol=1e-4) and torch.allclose(mixed[::2], first[::2], atol=1e-4)


def test_what_a_later_step_is_given_learns_nothing() -> None:
    model = stirred().train()
    seen = shown(model)
    calls = []
    predict = model.base.predict
    model.base.predict = lambda z, conditions, timestep: (  # type: ignore[method-assign]
        calls.append((len(z), torch.is_grad_enabled())) or predict(z, conditions, timestep)
    )
    model(*seen, None, torch.tensor([0, 2, 3])).image.sum().backward()
    # the first call has no gradients, and is only for the two samples that start at a later step
    assert calls == [(2, False), (3, True)]
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "time" in name)


def test_in_lower_precision_a_later_step_teaches_every_weight_that_it_teaches_in_full() -> None:
    model = stirred().train()
    seen, taught = shown(model), []
    for low in (False, True):  # before torch 2.11, this pass would use the casts of the pass without gradients again
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            image = model(*seen, None, torch.tensor([0, 2, 3])).image
        image.float().square().sum().backward()
        taught.append({n for n, w in model.named_parameters() if w.grad is not None and bool(w.grad.any())})
    assert taught[0] == taught[1] and any("unet.first" in name for name in taught[0])


def test_half_of_the_images_train_the_first_step_and_the_rest_all_others(taken: Snapshot) -> None:
    targets = taken.targets("train")
    steps = [draw_sample(taken, targets, SEVERAL, 0, index).step for index in range(1200)]
    assert {0, 1, 2, 3} == set(steps) and 0.45 < steps.count(0) / 1200 < 0.55
    assert min(steps.count(step) for step in (1, 2, 3)) > 150
    # A recipe with one step draws the same values, except the step.
    for index in range(40):
        one, several = (draw_sample(taken, targets, recipe, 0, index) for recipe in (SMALL, SEVERAL))
        assert replace(several, step=0) == one
    assert "step" not in TrainingFaces(taken, SMALL, 0)[0]
    found = [next(batches(TrainingFaces(taken, SEVERAL, 0), 8, 4, workers))["step"] for workers in (0, 1)]
    assert torch.equal(*found)


def test_interrupted_and_uninterrupted_runs_of_several_steps_end_in_the_same_weights(
    tmp_path: Path, taken: Snapshot
) -> None:
    for name, ends in (("whole", (24,)), ("parts", (12, 24))):
        for images in ends:
            train(tmp_path / name, taken.folder, SEVERAL, images, workers=int(name == "parts"), say=lambda _: None)
    files = [find_newest_checkpoint(tmp_path / name) for name in ("whole", "parts")]
    for name in ("model.safetensors", "training/weights.safetensors", "training/optimizer.safetensors"):
        one, other = (load_file(folder / name) for folder in files)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)

    model = load_restorer(tmp_path / "whole", steps=4)
    assert model.config.steps == 4 and model.timesteps == (399, 299, 200, 100)
    assert load_restorer(tmp_path / "whole", steps=2).timesteps == (399, 200)
    with pytest.raises(BadInput, match="trained for at most 4 steps, not for 5: give --steps 4 or less"):
        load_restorer(tmp_path / "whole", steps=5)
    with pytest.raises(BadInput, match="belongs to another recipe"):
        train(tmp_path / "whole", taken.folder, SMALL, 32, workers=0)


def test_a_restorer_of_one_step_refuses_two() -> None:
    with pytest.raises(BadInput, match="trained for one step, not for 2"):
        Restorer(build_model_config(SMALL, 16)).set_steps(2)


@pytest.mark.parametrize("steps", [0, 9])
def test_a_number_of_steps_that_there_is_not_is_refused(tmp_path: Path, taken: Snapshot, steps: int) -> None:
    with pytest.raises(BadInput, match=f"--steps {steps} is out of range: give 1 to 8"):
        train(tmp_path / "run", taken.folder, replace(SMALL, steps=steps), 8, workers=0)
    assert not (tmp_path / "run").exists()
