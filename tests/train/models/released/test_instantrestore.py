"""Tests the reader of InstantRestore's checkpoint: random weights in the layout, and the published operations."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from manifests.errors import BadInput
from tests.doubles.models.stable_diffusion import PROMPT, write_mini_sd
from train.models.released.instantrestore import FINAL, load_instantrestore

RANK = 6
SIZE = 64  # pixels
# two levels instead of sd-turbo's four, so that the tests are fast
UNET = {
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": (2, 4),
}
WORDS = ["a", "high", "-", "quality", "photo", "of", "a", "person", ";", "professional", ",", "8", "k"]
LETTERS = sorted({letter for word in WORDS for letter in word})
MODEL = {
    "net_type": "pix2pix_turbo",
    "lora_rank_unet": RANK,
    "lora_rank_vae": RANK,
    "condition_on_face_embeds": False,
    "use_shared_attention": True,
    "train_vae": True,
    "use_shortcuts": False,
    "train_reference_networks": False,
    "use_adain": True,
    "train_input": False,
}
# the names of the adapted layers, from the authors' code
UNET_LAYERS = "to_k to_q to_v to_out.0 conv conv1 conv2 conv_shortcut conv_out proj_in proj_out ff.net.2 ff.net.0.proj"
VAE_LAYERS = "conv1 conv2 conv_in conv_shortcut conv conv_out to_k to_q to_v to_out.0"

State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def write_text_parts(folder: Path) -> None:
    """Writes a small text encoder and a tokenizer that spells every word, in the layout of sd-turbo."""
    vocabulary = ["!", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **names}
    for file, text in (
        ("vocab.json", json.dumps({token: number for number, token in enumerate(vocabulary)})),
        ("merges.txt", "#version: 0.2\n"),
        ("tokenizer_config.json", json.dumps(tokenizer)),
        ("special_tokens_map.json", json.dumps({"pad_token": "!", **names})),  # sd-turbo fills the prompt with "!"
    ):
        (folder / "tokenizer" / file).write_text(text)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=PROMPT,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="gelu",
        bos_token_id=len(vocabulary) - 2,
        eos_token_id=len(vocabulary) - 1,
        pad_token_id=0,
    )
    config.save_pretrained(folder / "text_encoder")


def prompt_ids() -> torch.Tensor:
    """Returns the token ids (1, 77) of the published prompt, spelled by hand."""
    ids = [2 * len(LETTERS) + 1]
    for word in WORDS:
        ids += [1 + LETTERS.index(letter) for letter in word[:-1]]
        ids.append(1 + len(LETTERS) + LETTERS.index(word[-1]))
    ids.append(2 * len(LETTERS) + 2)
    return torch.tensor([ids + [0] * (77 - len(ids))])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_mini_sd(tmp_path_factory.mktemp("sd-turbo"), UNET)
    write_text_parts(folder)
    return folder


def networks(base: Path) -> dict[str, Any]:
    """Returns the parts of the authors' model without adapters."""
    return {
        "unet": UNet2DConditionModel.from_pretrained(base / "unet"),
        "vae": AutoencoderKL.from_pretrained(base / "vae"),
        "original_unet": UNet2DConditionModel.from_pretrained(base / "unet"),
        "original_vae": AutoencoderKL.from_pretrained(base / "vae"),
        "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(base / "text_encoder")),
    }


def released_state(base: Path) -> State:
    """Returns random tensors with the names of the authors' checkpoint."""
    state: State = {}
    for part, network in networks(base).items():
        adapter = {"unet": "default", "vae": "vae_skip"}.get(part)
        adapted = {"unet": UNET_LAYERS, "vae": VAE_LAYERS}.get(part, "").split()
        for name, tensor in network.state_dict().items():
            layer, _, kind = name.rpartition(".")
            # transformers has dropped the level text_model since the release
            prefix = "net.text_encoder.text_model" if part == "text_encoder" else f"net.{part}"
            value = tensor + 0.02 * torch.randn_like(tensor)
            if not any(layer == one or layer.endswith(f".{one}") for one in adapted):
                state[f"{prefix}.{name}"] = value
                continue
            state[f"{prefix}.{layer}.base_layer.{kind}"] = value
            if kind == "weight":
                out, *rest = tensor.shape
                point = (1, 1) * (tensor.ndim == 4)
                state[f"{prefix}.{layer}.lora_A.{adapter}.weight"] = 0.1 * torch.randn(RANK, *rest)
                state[f"{prefix}.{layer}.lora_B.{adapter}.weight"] = 0.1 * torch.randn(out, RANK, *point)
    return state


@pytest.fixture(scope="module")
def state(base: Path) -> State:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        return released_state(base)


def write(folder: Path, state: State, **settings: Any) -> Path:
    """Writes a checkpoint as the authors' coach does: tensors, settings, and the state of the optimizer."""
    folder.mkdir(exist_ok=True)
    optimizer = {"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"lr": 5e-4, "params": [0]}]}
    cfg = {"model": MODEL | settings, "optim": {"scheduler_type": "constant", "learning_rate": 5e-4}}
    torch.save({"state_dict": state, "cfg": cfg, "optimizer": optimizer}, folder / FINAL)
    return folder


# the following functions compute the published operations from the tensors, without our code


def merged(state: State, part: str) -> State:
    """Returns the weights of a part, with half of each up @ down added (alpha is half of the rank)."""
    inside = {n.removeprefix(f"net.{part}."): t for n, t in state.items() if n.startswith(f"net.{part}.")}
    weights = {name.replace(".base_layer", ""): tensor for name, tensor in inside.items() if "lora_" not in name}
    for name, down in inside.items():
        if ".lora_A." in name:
            up, weight = inside[name.replace("lora_A", "lora_B")], f"{name.split('.lora_A')[0]}.weight"
            added = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1))
            weights[weight] = weights[weight] + 0.5 * added.reshape(weights[weight].shape)
    return {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}


class SharedAttention:
    """Is the attention of the authors in one layer, head by head. `seen` are the keys and values of the references."""

    def __init__(self, adain: bool, own: bool) -> None:
        self.adain, self.own = adain, own
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        keys, values = [attn.to_k(hidden_states)], [attn.to_v(hidden_states)]
        query, self.kept = attn.to_q(hidden_states), (keys[0], values[0])
        for key, value in self.seen:
            if self.adain:
                normal = (value - value.mean(1, keepdim=True)) / (value.std(1, keepdim=True) + 1e-5)
                value = normal * (values[0].std(1, keepdim=True) + 1e-5) + values[0].mean(1, keepdim=True)
            keys.append(key)
            values.append(value)
        if self.seen and not self.own:
            del keys[0], values[0]
        key, value = torch.cat(keys, 1), torch.cat(values, 1)
        heads = []
        for q, k, v in zip(*(t.chunk(attn.heads, -1) for t in (query, key, value)), strict=True):
            heads.append(torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1) @ v)
        return attn.to_out[0](torch.cat(heads, -1))


def low_pass(x: torch.Tensor, scale: float) -> torch.Tensor:
    """Scales the lowest frequencies, -1 and 0 in each direction, as FreeU in diffusers."""
    mask = torch.ones(x.shape[-2:])
    for row in (-1, 0):
        for column in (-1, 0):
            mask[row, column] = scale
    return torch.fft.ifft2(torch.fft.fft2(x) * mask).real


def run_unet(unet: Any, z: torch.Tensor, timestep: int, prompt: torch.Tensor) -> torch.Tensor:
    """Runs a UNet with FreeU (s1 .9, s2 .2, b1 1.4, b2 1.6), block by block."""
    emb = unet.time_embedding(unet.time_proj(torch.full((len(z),), timestep)))
    prompt = prompt.expand(len(z), -1, -1)
    h = unet.conv_in(z)
    skips = [h]
    for block in unet.down_blocks:
        more = {"encoder_hidden_states": prompt} if hasattr(block, "attentions") else {}
        h, new = block(hidden_states=h, temb=emb, **more)
        skips += new
    h = unet.mid_block(h, emb, encoder_hidden_states=prompt)
    for level, block in enumerate(unet.up_blocks):
        for layer, resnet in enumerate(block.resnets):
            skip = skips.pop()
            if level < 2:
                half = h.shape[1] // 2
                h = torch.cat([h[:, :half] * (1.4, 1.6)[level], h[:, half:]], 1)
                skip = low_pass(skip, (0.9, 0.2)[level])
            h = resnet(torch.cat([h, skip], 1), emb)
            if hasattr(block, "attentions"):
                h = block.attentions[layer](h, encoder_hidden_states=prompt).sample
        if block.upsamplers is not None:
            h = block.upsamplers[0](h)
    return unet.conv_out(F.silu(unet.conv_norm_out(h)))


def published(
    state: State, base: Path, lq: torch.Tensor, references: torch.Tensor, seed: int, adain: bool, own: bool
) -> torch.Tensor:
    """Returns the restored image of lq (1, 3, S, S) in 0..1. `references` is (K, 3, S, S) in 0..1."""
    parts = networks(base)
    for name, network in parts.items():
        network.load_state_dict(merged(state, name))
        network.eval()
    prompt = parts["text_encoder"](prompt_ids())[0]
    share = DDPMScheduler.from_pretrained(base, subfolder="scheduler").alphas_cumprod
    generator, latent = torch.Generator().manual_seed(seed), (1, 4, SIZE // 8, SIZE // 8)
    draws = [torch.randn(latent, generator=generator) for _ in range(4)]

    def encode(vae: Any, images: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        posterior = vae.encode(images * 2 - 1).latent_dist
        return (posterior.mean + posterior.std * draw) * 0.18215

    def noisy(z: torch.Tensor, draw: torch.Tensor, timestep: int) -> torch.Tensor:
        return share[timestep] ** 0.5 * z + (1 - share[timestep]) ** 0.5 * draw

    # the order of the draws: posterior of the input, posterior and noise of the references, noise of the input
    z = encode(parts["vae"], lq, draws[0])
    layers = [name for name, _ in parts["unet"].up_blocks.named_modules() if name.endswith("attn1")]
    shared = [SharedAttention(adain, own) for _ in layers]
    for name, attention in zip(layers, shared, strict=True):
        parts["original_unet"].up_blocks.get_submodule(name).set_processor(attention)
        parts["unet"].up_blocks.get_submodule(name).set_processor(attention)
    seen: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in layers]
    for reference in references:
        shown = noisy(encode(parts["original_vae"], reference[None], draws[1]), draws[2], 1)
        run_unet(parts["original_unet"], shown, 1, prompt)
        for kept, attention in zip(seen, shared, strict=True):
            assert attention.kept is not None
            kept.append(attention.kept)
    for kept, attention in zip(seen, shared, strict=True):
        attention.seen = kept
    z = noisy(z, draws[3], 249)
    noise = run_unet(parts["unet"], z, 249, prompt)
    clean = (z - (1 - share[249]) ** 0.5 * noise) / share[249] ** 0.5
    return parts["vae"].decode(clean / 0.18215).sample.clamp(-1, 1) / 2 + 0.5


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
    assert model.config.timestep == 249 and model.timesteps == (249,) and not model.training
    restored = run(model, lq, references)
    assert float((restored - published(state, base, lq, references, 5, adain, own)).abs().max()) < 1e-4
    if count == 2:  # each option, the seed and the references change the result, and the order does not
        for other in ((5, not adain, own), (5, adain, not own), (6, adain, own)):
            assert float((restored - published(state, base, lq, references, *other)).abs().max()) > 1e-3
        assert torch.allclose(run(model, lq, references.flip(0)), restored, atol=1e-5)
        assert torch.equal(run(model, lq, references), restored)


def test_an_image_without_references_does_not_disturb_a_batch(state: State, base: Path, tmp_path: Path) -> None:
    model = load_instantrestore(write(tmp_path / "weights", state), str(base))
    lq, references = torch.rand(2, 3, 64, 64), torch.rand(2, 2, 3, 64, 64)
    together = model(lq, references, torch.tensor([[True, False], [False, False]]), torch.zeros(2, 2, 0)).image
    assert torch.allclose(together[:1], run(model, lq[:1], references[0, :1]), atol=1e-5)
    assert torch.allclose(together[1:], run(model, lq[1:], references[1, :0]), atol=1e-5)


class EarlierTextModel(torch.nn.Module):
    """Is a text encoder with the part `text_model`, as in transformers 5.0."""

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
    """Is a pickle that creates a file when it is loaded."""

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
    # names that training on several GPUs gives, in a file without the optimizer
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
