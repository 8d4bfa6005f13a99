"""Tests reading InstantRestore's checkpoint. The checkpoint of the tests has random weights. The expected results are
computed with the published operations."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from manifests.errors import BadInput
from tests.doubles.models.instantrestore import (
    MODEL,
    RANK,
    SIZE,
    UNET,
    State,
    published,
    released_state,
    write,
    write_base,
)
from tests.doubles.models.stable_diffusion import PROMPT, write_mini_sd
from train.models.released.instantrestore import FINAL, load_instantrestore


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("sd-turbo"))


@pytest.fixture(scope="module")
def state(base: Path) -> State:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        return released_state(base)


def run(model: Any, lq: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    count = len(references)
    image: torch.Tensor = model(
        lq, references[None], torch.ones(1, count, dtype=torch.bool), torch.zeros(1, count, 0)
    ).image
    return image


@pytest.mark.parametrize(("adain", "own", "count"), [(True, False, 2), (False, True, 1), (True, False, 0)])
def test_released_weights_restore_as_published(
    adain: bool, own: bool, count: int, state: State, base: Path, tmp_path: Path
) -> None:
    lq, references = torch.rand(1, 3, SIZE, SIZE), torch.rand(count, 3, SIZE, SIZE)
    folder = write(tmp_path / "weights", state, use_adain=adain, train_input=own)
    model = load_instantrestore(folder, str(base), seed=5)
    assert model.config.size == 512 and model.config.most_references == 4
    assert model.config.timestep == 249 and not model.training
    restored = run(model, lq, references)
    assert float((restored - published(state, base, lq, references, 5, adain, own)).abs().max()) < 1e-4
    if count == 2:  # other options or another seed change the result; another order of the references does not
        for other in ((5, not adain, own), (5, adain, not own), (6, adain, own)):
            assert float((restored - published(state, base, lq, references, *other)).abs().max()) > 1e-3
        assert torch.allclose(run(model, lq, references.flip(0)), restored, atol=1e-5)
        assert torch.equal(run(model, lq, references), restored)


@pytest.mark.parametrize("schedule", [{"clip_sample": True, "clip_sample_range": 0.5}, None])
def test_the_clean_latent_is_clipped_as_the_schedule_says(
    schedule: dict[str, Any] | None, state: State, base: Path, tmp_path: Path
) -> None:
    folder, lq, references = (
        write(tmp_path / "weights", state),
        torch.rand(1, 3, SIZE, SIZE),
        torch.rand(1, 3, SIZE, SIZE),
    )
    clipping = write_base(tmp_path / "base", schedule)
    if schedule is None:  # without the key clip_sample, a DDPMScheduler clips to -1..1
        file = clipping / "scheduler" / "scheduler_config.json"
        file.write_text(file.read_text().replace("clip_sample", "unknown"))
    restored = run(load_instantrestore(folder, str(clipping)), lq, references)
    assert float((restored - published(state, clipping, lq, references, 0, True, False)).abs().max()) < 1e-4
    assert float((restored - published(state, base, lq, references, 0, True, False)).abs().max()) > 1e-3


def test_an_image_without_references_does_not_disturb_a_batch(state: State, base: Path, tmp_path: Path) -> None:
    model = load_instantrestore(write(tmp_path / "weights", state), str(base))
    lq, references = torch.rand(2, 3, 64, 64), torch.rand(2, 2, 3, 64, 64)
    together = model(lq, references, torch.tensor([[True, False], [False, False]]), torch.zeros(2, 2, 0)).image
    assert torch.allclose(together[:1], run(model, lq[:1], references[0, :1]), atol=1e-5)
    assert torch.allclose(together[1:], run(model, lq[1:], references[1, :0]), atol=1e-5)


class EarlierTextModel(torch.nn.Module):
    """Acts as a text encoder that has the part `text_model`, as in transformers 5.0."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.text_model = CLIPTextModel(config)

    def forward(self, ids: torch.Tensor) -> Any:
        return self.text_model(ids)


def test_both_layouts_of_the_text_encoder_are_read(
    state: State, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "weights", state)
    prompt = load_instantrestore(folder, str(base)).base.prompt
    monkeypatch.setattr("transformers.CLIPTextModel", EarlierTextModel)
    assert torch.equal(load_instantrestore(folder, str(base)).base.prompt, prompt)


class Evil:
    """Creates a file when its pickle is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_checkpoint_with_code_runs_nothing(state: State, base: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": state, "cfg": {"model": MODEL}, "optimizer": Evil(tmp_path / "mark")}, tmp_path / FINAL)
    with pytest.raises(
        BadInput, match=r"names posix\.system, and Likeness reads only tensors and .*: take InstantRestore's"
    ):
        load_instantrestore(tmp_path, str(base))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda s: [s.pop(name) for name in list(s)[:5]],
            r"lacks net\.unet\..*, net\.unet\..*, net\.unet\..* and 2 more",
        ),
        (lambda s: s.update(a=torch.ones(1), b=torch.ones(1)), "has unknown tensors: a, b: take InstantRestore's own"),
        (lambda s: s.update({"net.unet.conv_in.bias": torch.ones(3)}), r"net\.unet\.conv_in\.bias \(3,\) instead of"),
        (lambda s: s["net.unet.conv_in.bias"].fill_(torch.nan), r"NaN or infinity: net\.unet\.conv_in\.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    change: Callable[[State], Any], why: str, state: State, base: Path, tmp_path: Path
) -> None:
    changed = state | {"net.unet.conv_in.bias": state["net.unet.conv_in.bias"].clone()}
    change(changed)
    with pytest.raises(BadInput, match=why):
        load_instantrestore(write(tmp_path / "weights", changed), str(base))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"use_shortcuts": True}, "was trained with use_shortcuts True, and Likeness supports only False"),
        ({"condition_on_face_embeds": True}, "condition_on_face_embeds True"),
        ({"lora_rank_vae": 0}, "the setting lora_rank_vae 0, which is not possible"),
        ({"use_adain": "yes"}, "the setting use_adain 'yes', which is not possible"),
        ({"lora_rank_unet": 2 * RANK}, r"has tensors with another shape: net\.unet\."),
    ],
)
def test_settings_that_need_other_operations_are_refused(
    settings: dict[str, Any], why: str, state: State, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=why):
        load_instantrestore(write(tmp_path / "weights", state, **settings), str(base))


def test_one_checkpoint_of_a_folder_is_read(state: State, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    with pytest.raises(BadInput, match=rf"weights contains no file \*_ckpt\.pt: put InstantRestore's {FINAL} there"):
        load_instantrestore(folder, str(base))
    # This file has the names of a training on several GPUs, and no optimizer.
    names = {name.replace("net.unet.", "net.unet.module."): tensor for name, tensor in state.items()}
    folder.mkdir()
    torch.save({"state_dict": names, "cfg": {"model": MODEL}}, folder / "adain_ablation_ckpt.pt")
    expected = load_instantrestore(write(tmp_path / "plain", state), str(base)).base.unet.conv_in.weight
    for source in (folder, folder / "adain_ablation_ckpt.pt"):
        assert torch.equal(load_instantrestore(source, str(base)).base.unet.conv_in.weight, expected)
    (folder / "base_ablation_ckpt.pt").write_bytes(b"no checkpoint")
    with pytest.raises(
        BadInput, match=r"several checkpoints \(adain_ablation_ckpt\.pt, base_ablation_ckpt\.pt\): write"
    ):
        load_instantrestore(folder, str(base))
    with pytest.raises(BadInput, match=r"base_ablation_ckpt\.pt is not a readable file of torch\.save"):
        load_instantrestore(folder / "base_ablation_ckpt.pt", str(base))
    for content, why in (({}, "no settings under cfg"), ({"cfg": {"model": {}}}, "no tensors under state_dict")):
        torch.save(content, folder / FINAL)
        with pytest.raises(BadInput, match=f"{FINAL} contains {why}"):
            load_instantrestore(folder, str(base))


def test_a_base_of_another_shape_is_refused(state: State, base: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "weights", state)
    with pytest.raises(BadInput, match=r"nowhere is not a folder.*--base-model"):
        load_instantrestore(folder, str(tmp_path / "nowhere"))
    other = write_mini_sd(tmp_path / "other", UNET, schedule={"prediction_type": "v_prediction"})
    with pytest.raises(BadInput, match="prediction_type is v_prediction and should be epsilon: give sd-turbo"):
        load_instantrestore(folder, str(other))
    wide = write_mini_sd(tmp_path / "wide", UNET | {"cross_attention_dim": 2 * PROMPT})
    with pytest.raises(BadInput, match=r"wide has no usable tokenizer .*: give sd-turbo .* as --base-model"):
        load_instantrestore(folder, str(wide))
    (wide / "tokenizer").symlink_to(base / "tokenizer")
    with pytest.raises(BadInput, match="wide has no usable text_encoder"):
        load_instantrestore(folder, str(wide))
    (wide / "text_encoder").symlink_to(base / "text_encoder")
    with pytest.raises(BadInput, match=r"another shape: net\.unet\..*give sd-turbo as --base-model"):
        load_instantrestore(folder, str(wide))
